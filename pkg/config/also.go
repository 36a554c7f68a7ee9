package config

import (
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/glob"
)

// Also is another registry, which images are copied to once they are
// published.
type Also struct {
	// The registry, and in layout tag the repository too.
	Registry string `yaml:"registry" json:"registry"`
	// Globs of the names of images; default: all images.
	Images []string `yaml:"images,omitempty" json:"images,omitempty"`
	// Globs of tags, without the image's name where that stands before them; default: all but key tags.
	Tags []string `yaml:"tags,omitempty" json:"tags,omitempty"`
}

// Means says whether an image goes there.
func (a *Also) Means(image string) bool {
	return len(a.Images) == 0 || slices.ContainsFunc(a.Images, func(g string) bool { return glob.Match(g, image) })
}

// Takes says whether a tag goes there, which is given without the image's
// name; key says that it is a key tag.
func (a *Also) Takes(tag string, key bool) bool {
	if len(a.Tags) == 0 {
		return !key
	}
	return slices.ContainsFunc(a.Tags, func(g string) bool { return glob.Match(g, tag) })
}

// also judges publish.also; the layout of p is known.
func (c checker) also(p *Pipegen) {
	c = c.below("publish", "also")
	all := map[string]bool{} // registries that all images go to
	for i, a := range p.Publish.Also {
		problem, hint := badCopy(a.Registry, p.Layout)
		switch {
		case a.Registry == "":
			c.fault("missing-key", "write registry: host/repository", at(i), "an entry of also has no registry")
		case problem != "":
			c.fault("bad-registry", hint, at(i, "registry"), "registry %s %s", show(a.Registry), problem)
		case a.Registry == p.Registry:
			c.fault("duplicate-registry", "remove the entry", at(i, "registry"), "%s is where images are published anyway", show(a.Registry))
		case all[a.Registry]:
			c.fault("duplicate-registry", "put entries with images first: the first that means an image counts", at(i, "registry"),
				"all images go to %s by an entry before", show(a.Registry))
		}
		all[a.Registry] = all[a.Registry] || a.Images == nil
		c.names(a.Images, i, "images")
		c.names(a.Tags, i, "tags")
	}
}

// names judges globs of names, of entry i.
func (c checker) names(globs []string, i int, key string) {
	if globs != nil && len(globs) == 0 {
		c.fault("empty", "remove the key for all", at(i, key), "%s is empty: nothing would be copied", key)
	}
	for j, g := range globs {
		if g == "" || !glob.Valid(g) || strings.Contains(g, "/") {
			c.fault("bad-glob", "such as base-*", at(i, key, j), "%s is no glob of %s", show(g), key)
		}
	}
}

// badCopy judges the registry of an entry.
func badCopy(registry, layout string) (problem, hint string) {
	const shape = "host/repository"
	host, path, _ := strings.Cut(registry, "/")
	parts := strings.Split(path, "/")
	switch {
	case strings.Contains(registry, "://"):
		return "has a scheme", "write " + shape + ", without https://"
	case strings.ContainsAny(registry, " \t@$") || strings.HasPrefix(registry, "-") || strings.Trim(host, ".:") == "":
		return "is no name of a repository", "write " + shape
	case host != "localhost" && !strings.ContainsAny(host, ".:"):
		return "does not begin with a host", "write docker.io/NAME for Docker Hub"
	case path == "" && (layout == "tag" || strings.HasSuffix(registry, "/")):
		return "has no repository, which all images share in layout tag", "write " + shape
	case path != "" && slices.ContainsFunc(parts, func(part string) bool { return !isComponent(part) }):
		return "is no name of a repository", "small letters and digits, with . _ or - between them, and no tag"
	case host == "public.ecr.aws" && layout == "tag" && len(parts) < 2:
		return "has an alias, but no repository", "write public.ecr.aws/ALIAS/NAME"
	case host == "public.ecr.aws" && path == "":
		return "has no alias", "write public.ecr.aws/ALIAS"
	}
	return "", ""
}

// unmeant warns of globs in publish.also that mean no image. What a project's
// own make leaves has names that only the build tells.
func (l *loader) unmeant(settings *document, projects []*Project) {
	if settings.root == nil || len(l.pipegen.Publish.Also) == 0 {
		return
	}
	var names []string
	for _, p := range projects {
		if !p.doc.known() || p.Config.Engine == "make" {
			return
		}
		for _, image := range p.Images() {
			names = append(names, image.Name)
		}
	}
	for i, a := range l.pipegen.Publish.Also {
		for j, g := range a.Images {
			if !glob.Valid(g) || slices.ContainsFunc(names, func(name string) bool { return glob.Match(g, name) }) {
				continue
			}
			n, _ := locate(settings.root, at("publish", "also", i, "images", j))
			f := Fault{File: settings.file, Line: n.Line, Column: n.Column, Severity: Warning, Rule: "no-match", Message: show(g) + " matches no image"}
			if near := Nearest(g, names); near != "" {
				f.Hint = "did you mean " + show(near) + "?"
			}
			l.faults = append(l.faults, f)
		}
	}
}
