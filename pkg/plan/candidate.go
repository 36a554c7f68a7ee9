package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
)

// candidate is an image of the configuration on its way into a plan.
type candidate struct {
	project    *config.Project
	name       string
	target     string
	platforms  []config.Platform
	specs      []*config.BuildConfig // as platforms; the same one for all of them if none differs
	repository string
	tags       []string
	aliases    []string // see Image.Aliases

	edges   []edge                // images that it is built on, sorted by name, each once
	named   map[string]*candidate // the images that named contexts are, by name
	reasons []Reason
	commit  string // of the upstream repository
	key     string
	inputs  []KeyInput

	weekly               *config.WeeklyEntry
	notMissing, notStale string // why these do not select it
	held                 string // digest under its key tag
	retag                string // that digest, if it is published again instead of built
}

// edge says that an image is built on another one, and who says so.
type edge struct {
	to     string
	detail string // depends_on, or FILE:LINE
	fault  []any  // path in the configuration, for an edge from there
	file   string // the Dockerfile, for an edge from there
	line   int
}

func candidates(cfg *config.Repository, n naming) []*candidate {
	var cs []*candidate
	for _, p := range cfg.Projects {
		for _, img := range p.Images() {
			c := &candidate{
				project: p, name: img.Name, target: img.Target, platforms: img.Platforms,
				repository: n.repository(img.Name), tags: n.tags(img.Name, img.AdditionalTags),
			}
			if n.dirty {
				c.aliases = n.moving(img.Name, img.AdditionalTags)
			}
			for i, pl := range img.Platforms {
				if i > 0 && !p.Differs() {
					c.specs = append(c.specs, c.specs[0])
					continue
				}
				spec := p.For(pl)
				if len(p.Config.Targets) > 0 {
					spec.Target = img.Target
				}
				spec.BuilderImage = firstOf(spec.BuilderImage, engineImage(cfg.Pipegen.Images, spec.Engine))
				c.specs = append(c.specs, &spec)
			}
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, func(a, b *candidate) int { return strings.Compare(a.name, b.name) })
	return cs
}

func (c *candidate) upstream() bool { return c.project.Config.UpstreamRepo != "" }

func (c *candidate) index() bool { return c.project.Config.Index == nil || *c.project.Config.Index }

// Arguments that pipegen gives every build; a Dockerfile that declares one
// with ARG can use it.
const registryArg = "PIPEGEN_REGISTRY"

// buildArgs are the arguments that decide what a Dockerfile is built on.
func buildArgs(spec *config.BuildConfig, pl config.Platform, registry string) map[string]string {
	args := map[string]string{
		"TARGETPLATFORM": pl.String(), "TARGETOS": pl.OS, "TARGETARCH": pl.Arch, "TARGETVARIANT": pl.Variant,
		registryArg: registry,
	}
	maps.Copy(args, spec.BuildArgs)
	return args
}

// findEdges finds what each candidate is built on: what depends_on names, and
// what FROM and COPY --from of a Dockerfile in this repository refer to by
// repository and tag. Unknown names in depends_on and a Dockerfile that does
// not parse are faults.
func findEdges(cs []*candidate, registry string, read dockerfiles) config.Faults {
	files := read.read(dockerfilesOf(cs))
	byName := map[string]*candidate{}
	byRef := map[string]*candidate{}
	for _, c := range cs {
		byName[c.name] = c
		for _, t := range slices.Concat(c.tags, c.aliases) {
			byRef[c.repository+":"+t] = c
		}
	}
	names := slices.Sorted(maps.Keys(byName))
	var faults config.Faults
	for _, c := range cs {
		seen := map[string]bool{}
		add := func(e edge) {
			if !seen[e.to] {
				seen[e.to] = true
				c.edges = append(c.edges, e)
			}
		}
		for i, name := range c.project.Config.DependsOn {
			if byName[name] == nil {
				hint := ""
				if near := config.Nearest(name, names); near != "" {
					hint = fmt.Sprintf("did you mean %q?", near)
				}
				faults = append(faults, c.project.Fault("unknown-image", fmt.Sprintf("depends_on: there is no image %q", name), hint, "depends_on", i))
				continue
			}
			add(edge{to: name, detail: "depends_on", fault: []any{"depends_on", i}})
		}
		c.contextEdges(byName, add)
		if c.upstream() {
			continue
		}
		faults = append(faults, c.dockerfileEdges(registry, files, byRef, add)...)
	}
	for _, c := range cs {
		slices.SortFunc(c.edges, func(a, b edge) int { return strings.Compare(a.to, b.to) })
	}
	return faults
}

// dockerfilesOf gives the Dockerfiles of this repository that candidates are
// built from.
func dockerfilesOf(cs []*candidate) []string {
	var files []string
	for _, c := range cs {
		if c.upstream() {
			continue
		}
		for _, spec := range c.specs {
			if spec.Engine != "make" {
				files = append(files, join(c.project.Dir, spec.DockerfilePath))
			}
		}
	}
	return files
}

func (c *candidate) dockerfileEdges(registry string, files map[string]parsed, byRef map[string]*candidate, add func(edge)) config.Faults {
	var faults config.Faults
	faulty := map[string]bool{}
	for i, spec := range c.specs {
		if spec.Engine == "make" {
			continue
		}
		file := join(c.project.Dir, spec.DockerfilePath)
		f := files[file]
		if f.err != nil {
			if !faulty[file] {
				faults = append(faults, dockerfileFault(c, file, f.err))
			}
			faulty[file] = true
			continue
		}
		if i > 0 && spec == c.specs[i-1] && f.graph.Portable() {
			continue
		}
		bases, err := f.graph.Bases(buildArgs(spec, c.platforms[i], registry), spec.Target)
		if err != nil {
			faults = append(faults, c.project.Fault("dockerfile", fmt.Sprintf("%s: %v", file, err), "", "target"))
			continue
		}
		for _, b := range bases {
			if to := byRef[b.Ref]; to != nil && to != c {
				add(edge{to: to.name, detail: fmt.Sprintf("%s:%d", file, b.Line), file: file, line: b.Line})
			}
		}
	}
	return faults
}

// dockerfileFault is a warning: the image is still planned, and its build
// will say the same.
func dockerfileFault(c *candidate, file string, err error) config.Fault {
	f := config.Fault{File: file, Line: 1, Column: 1, Severity: config.Warning, Rule: "dockerfile", Message: err.Error(),
		Hint: "image " + c.name + " is planned without what this Dockerfile is built on"}
	if syntax, ok := errors.AsType[*dockerfile.SyntaxError](err); ok {
		f.Line, f.Message = max(syntax.Line, 1), syntax.Msg
	}
	return f
}

// join joins slash paths; "." stands for the root.
func join(dir, p string) string {
	if dir == "." {
		return p
	}
	if p == "." {
		return dir
	}
	return dir + "/" + p
}
