package config

import (
	"fmt"
	"path"
	"slices"

	"gopkg.in/yaml.v3"
)

// Project is a directory with a build-config.yaml.
type Project struct {
	// Dir is relative to the root of the repository, with slashes; "." is the
	// root itself. File is the build-config.yaml in it.
	Dir, File string
	// Config is the file over the defaults of pipegen.yaml, with every default
	// filled in, platforms in their normal form and paths cleaned. What a
	// platform sets for itself is not in it: see For.
	Config BuildConfig

	// What For gives, as Config.Platforms; nil when no platform sets anything
	// for itself.
	byPlatform []BuildConfig
	// Whether watch is written in the file itself.
	watches bool

	doc      *document
	defaults *document // root is the mapping below defaults, or nil
	images   Images
	daemons  bool // whether BuildKit has addresses
}

// ProjectImage is one image that a project yields.
type ProjectImage struct {
	Name string
	// Target is the stage of a targets entry. For a project without targets it
	// is that of the file, which a platform may set for itself (see For).
	Target         string
	AdditionalTags []string
	Platforms      []Platform
}

// Images gives the images of p: one, or one for each entry of targets, in
// their order.
func (p *Project) Images() []ProjectImage {
	platforms := make([]Platform, 0, len(p.Config.Platforms))
	for _, s := range p.Config.Platforms {
		if pl, err := ParsePlatform(s); err == nil {
			platforms = append(platforms, pl)
		}
	}
	if len(p.Config.Targets) == 0 {
		return []ProjectImage{{p.Config.Name, p.Config.Target, p.Config.AdditionalTags, platforms}}
	}
	images := make([]ProjectImage, len(p.Config.Targets))
	for i, t := range p.Config.Targets {
		image := ProjectImage{p.Config.Name + "-" + t.Name, t.Target, t.AdditionalTags, platforms}
		if image.Target == "" {
			image.Target = t.Name
		}
		if image.AdditionalTags == nil {
			image.AdditionalTags = p.Config.AdditionalTags
		}
		images[i] = image
	}
	return images
}

// For gives what holds for a platform: the defaults of pipegen.yaml, the file
// over them, and the overrides of the platform over both; every default is
// filled in and Overrides is empty. Paths are cleaned, and relative to the
// root of the upstream repository, or to p.Dir where there is none. What the
// result points to is shared and not to be changed.
func (p *Project) For(pl Platform) BuildConfig {
	if i := slices.Index(p.Config.Platforms, pl.String()); i >= 0 && i < len(p.byPlatform) {
		return p.byPlatform[i]
	}
	b := p.Config
	b.Overrides = nil
	return b
}

// Differs says whether what For gives differs between platforms.
func (p *Project) Differs() bool { return p.byPlatform != nil }

// layered is what For gives, from the files.
func (p *Project) layered(pl Platform) BuildConfig {
	var b BuildConfig
	// What a project says itself wins over every default, also over one that
	// is there for a platform.
	for _, doc := range []*document{p.defaults, p.doc} {
		layer(doc.tree(), &b)
		if _, own := doc.override(pl); own != nil {
			layer(own, &b)
		}
	}
	b.Overrides = nil
	p.fill(&b)
	return b
}

// override gives the mapping that a file has for a platform, and its key as
// it is written.
func (doc *document) override(pl Platform) (string, *yaml.Node) {
	for _, e := range (checker{doc: doc}).entries("overrides") {
		if p, err := ParsePlatform(e.key.Value); err == nil && p == pl {
			return e.key.Value, e.value
		}
	}
	return "", nil
}

// fill puts the defaults of the specification where nothing is said.
func (p *Project) fill(b *BuildConfig) {
	fallback := func(value *string, to string) {
		if *value == "" {
			*value = to
		}
	}
	if p.Dir != "." {
		fallback(&b.Name, path.Base(p.Dir))
	}
	fallback(&b.DockerfilePath, "Dockerfile")
	b.DockerfilePath = path.Clean(b.DockerfilePath)
	b.ContextPath = path.Clean(b.ContextPath)
	if b.UseLocalContext == nil {
		b.UseLocalContext = new(b.UpstreamRepo == "")
	}
	if b.Platforms == nil {
		b.Platforms = []string{"linux/amd64", "linux/arm64"}
	}
	platforms := make([]string, 0, len(b.Platforms))
	for _, s := range b.Platforms {
		if pl, err := ParsePlatform(s); err == nil {
			platforms = append(platforms, pl.String())
		}
	}
	b.Platforms = platforms
	fallback(&b.Engine, "kaniko")
	switch b.Engine {
	case "kaniko":
		fallback(&b.BuilderImage, p.images.Kaniko)
	case "buildkit":
		fallback(&b.BuilderImage, p.images.BuildKit)
		fallback(&b.Frontend, "dockerfile.v0")
	case "make":
		fallback(&b.BuilderImage, p.images.Make)
		fallback(&b.Command, "make clean release")
	}
	if len(b.Outputs) == 0 {
		b.Outputs = []string{"image"}
	}
	if b.Index == nil {
		b.Index = new(true)
	}
	fallback(&b.Runner, "ci")
	fallback(&b.Timeout, "1h")
}

// Fault gives a fault of p, of severity Error, at the position of a key path
// in its file such as ("depends_on", 0), or of the nearest parent that is
// there. A value that comes from the defaults of pipegen.yaml is said to.
func (p *Project) Fault(rule, message, hint string, path ...any) Fault {
	f := Fault{File: p.File, Severity: Error, Rule: rule, Message: message, Hint: hint}
	if p.doc == nil || p.doc.tree() == nil {
		return f
	}
	n, found := locate(p.doc.tree(), path)
	f.Line, f.Column = n.Line, n.Column
	if !found && p.defaults.root != nil {
		if n, found := locate(p.defaults.root, path); found {
			f.Message += fmt.Sprintf(" (from the defaults in %s:%d:%d)", p.defaults.file, n.Line, n.Column)
		}
	}
	return f
}
