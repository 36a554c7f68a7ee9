package config

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// PipegenFile is the file at the root of a repository where the settings of a repository are.
const PipegenFile = "pipegen.yaml"

// LoadPipegen reads pipegen.yaml alone, with its defaults filled in; one that
// is not there is all defaults. The error is Faults.
func LoadPipegen(fsys fs.FS) (Pipegen, error) {
	doc, _ := open(fsys, PipegenFile, true)
	p, _ := loadPipegen(fsys, doc, func(string) string { return "" })
	errs, _ := doc.faults.split()
	return p, errs.Err()
}

// ProjectName gives the name of the project in a directory from the text of
// its build-config.yaml alone: name, else that of the directory. The error is
// Faults when it cannot be read as YAML; what else is wrong with it is for Load
// to say.
func ProjectName(dir string, text []byte) (string, error) {
	// Most files give no name: looking for the word is a hundredth of parsing.
	// A backslash could spell it otherwise.
	if dir != "." && !hasWord(text, "name") && !bytes.ContainsRune(text, '\\') {
		return path.Base(dir), nil
	}
	file := path.Join(dir, BuildFile)
	if faults := unfit(file, int64(len(text)), text); faults != nil {
		return "", faults
	}
	doc := parse(file, text, false)
	if doc.root == nil {
		return "", doc.faults.Err()
	}
	p := Project{Dir: dir}
	layer(doc.root, &p.Config)
	p.fill(&p.Config)
	return p.Config.Name, nil
}

// hasWord says whether a word stands in text with nothing on either side that
// would make it part of a longer key.
func hasWord(text []byte, word string) bool {
	part := func(c byte) bool {
		return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	for {
		i := bytes.Index(text, []byte(word))
		if i < 0 {
			return false
		}
		end := i + len(word)
		if (i == 0 || !part(text[i-1])) && (end == len(text) || !part(text[end])) {
			return true
		}
		text = text[end-1:] // whose first byte is what stands before the rest
	}
}

// loadPipegen fills in pipegen.yaml from its document, judges it, and gives
// the defaults of all projects as they are written.
func loadPipegen(fsys fs.FS, doc *document, getenv func(string) string) (Pipegen, *yaml.Node) {
	var p Pipegen
	var defaults *yaml.Node
	if doc.root != nil {
		decode(doc, doc.root, &p)
		checker{doc: doc}.pipegen(&p)
		checker{doc: doc}.readPolicy(fsys, p.Publish.CreateRepository)
		if _, value := child(doc.root, "defaults"); value != nil && target(value).Kind == yaml.MappingNode {
			defaults = target(value)
		}
	}
	if layout := getenv("PIPEGEN_LAYOUT"); layout != "" {
		if !slices.Contains(layouts, layout) {
			doc.add(Fault{
				File: "PIPEGEN_LAYOUT", Severity: Error, Rule: "unknown-value",
				Message: "unknown layout " + show(layout), Hint: oneOf(layout, layouts),
			})
		}
		p.Layout = layout
	}
	if !slices.Contains(layouts, p.Layout) {
		p.Layout = "tag"
	}
	if doc.root != nil {
		checker{doc: doc}.also(&p)
	}
	if p.Ignore == nil {
		p.Ignore = []string{"**/README.md"}
	}
	if p.Publish.MediaType == "" {
		p.Publish.MediaType = "oci"
	}
	if p.Publish.Keys == nil {
		p.Publish.Keys = new(true)
	}
	return p, defaults
}

// pipegen judges the values of pipegen.yaml.
func (c checker) pipegen(p *Pipegen) {
	switch {
	case strings.Contains(p.Registry, "://"):
		c.fault("bad-registry", "write host/repository, without https://", at("registry"), "registry has a scheme")
	case strings.ContainsAny(p.Registry, " \t@") || strings.HasSuffix(p.Registry, "/") || strings.HasPrefix(p.Registry, "-"):
		c.fault("bad-registry", "write host/repository", at("registry"), "registry is no name of a repository")
	}
	c.choice(p.Layout, layouts, at("layout"))
	c.globs(p.Projects, "projects", false)
	c.globs(p.Ignore, "ignore", true)
	c.globs(p.RebuildAll, "rebuild_all", true)
	if p.Defaults != nil {
		c.below("defaults").build(p.Defaults)
	}
	seen := map[Platform]string{}
	for _, e := range c.entries("runners") {
		c.platform(e.key.Value, at("runners", e.key.Value), seen)
	}
	c.image(p.Images.Pipegen, at("images", "pipegen"))
	c.image(p.Images.Kaniko, at("images", "kaniko"))
	c.image(p.Images.BuildKit, at("images", "buildkit"))
	c.image(p.Images.Make, at("images", "make"))
	for _, system := range c.entries("overlays") {
		c.key(system.key, ciSystems)
		for _, job := range c.below("overlays").entries(system.key.Value) {
			c.key(job.key, jobKinds)
		}
	}
	c.daemons(p.BuildKit)
	c.below("server").server(p.Server)
	c.choice(p.Publish.MediaType, mediaTypes, at("publish", "media_type"))
	c.sign(p.Publish.Sign)
	c.ecr(&p.Publish)
	for i, host := range p.Publish.Insecure {
		if host == "" || strings.ContainsAny(host, "/ \t@") {
			c.fault("bad-registry", "write host or host:port", at("publish", "insecure", i), "%s is no host of a registry", show(host))
		}
	}
}

// key judges a key that must be one of a set.
func (c checker) key(key *yaml.Node, set []string) {
	if !slices.Contains(set, key.Value) {
		c.doc.fault(key, "unknown-key", oneOf(key.Value, set), "unknown key %s", show(key.Value))
	}
}
