package submission

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/quote"
)

// composeNames are the settings that compose files have by other names, below
// a service.
var composeNames = map[string][]any{
	"kaniko.destination":  {"image"},
	"kaniko.context-path": {"build", "context"},
	"kaniko.dockerfile":   {"build", "dockerfile"},
	"kaniko.build-args":   {"build", "args"},
	"kaniko.cache.repo":   {"build", "cache_to"},
	"arch":                {"build", "platforms"},
	"platform":            {"x-pipegen", "platform"},
	"engine":              {"x-pipegen", "engine"},
	"cpu":                 {"x-pipegen", "cpu"},
	"memory":              {"x-pipegen", "memory"},
	"pre-script":          {"x-pipegen", "pre-script"},
	"post-script":         {"x-pipegen", "post-script"},
}

// service makes the image of a service over the global settings; nil: it is
// wrong, and said so.
func (c *compiler) service(f *composeFile, name string, svc types.ServiceConfig) *making {
	at := &origin{place: place{f.doc, []any{"services", name}}, names: composeNames, lower: c.globals}
	s := c.global
	s.Kaniko.BuildArgs = maps.Clone(s.Kaniko.BuildArgs)
	w := c.bakes(f, name, svc, at)
	c.pipegens(svc, at, &s)
	context, ok := c.composeContext(f, &w, at)
	if !ok {
		return nil
	}
	s.Kaniko.ContextPath = context
	c.composeDockerfile(f, &w, &s, at)
	if len(w.args) > 0 && s.Kaniko.BuildArgs == nil {
		s.Kaniko.BuildArgs = config.Pairs{}
	}
	maps.Copy(s.Kaniko.BuildArgs, w.args)
	w.outputs(&s)

	tags := w.tags.values
	if svc.Image != "" {
		s.Kaniko.Destination = svc.Image
	} else if len(tags) > 0 {
		s.Kaniko.Destination = tags[0]
	}
	push := s.Kaniko.NoPush == nil || !*s.Kaniko.NoPush
	if push && s.Kaniko.Destination == "" {
		at.err("missing-key", "image: HOST/PATH:TAG", "service %s has no image, so there is nothing to push to", name)
		return nil
	}
	to, ok := c.destination(s.Kaniko.Destination, push, at.at("kaniko", "destination"))
	platforms, known := c.platforms(&w, svc, &s, at)
	if !ok {
		return nil
	}
	if !known { // but the rest is judged too
		platforms = []config.Platform{{OS: "linux", Arch: "amd64"}}
	}
	m := &making{name: name, detail: "service " + name, to: to, tags: c.moreTags(&w, to)}
	for _, pl := range platforms {
		b := c.build(&s, at, pl, to, w.inline)
		w.apply(c, &b, f)
		m.builds = append(m.builds, made{Build: b, at: at})
	}
	return m
}

// composeContext gives the context relative to the packed directory.
func (c *compiler) composeContext(f *composeFile, w *wants, at *origin) (string, bool) {
	place := at.at("kaniko", "context-path")
	dir := w.context
	if strings.Contains(dir, "://") || strings.HasPrefix(dir, "git@") || strings.HasPrefix(dir, "github.com/") {
		place.err("bad-path", "clone it, and submit from the clone: --repo DIR", "the context is a URL, and what is built is the packed directory")
		return "", false
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(f.dir, dir)
	}
	rel, ok := c.relative(dir)
	if !ok {
		place.err("outside", "pack a directory that holds it: --repo DIR", "the context %s is not in %s, which is packed", f.shown(dir), c.shownRoot())
	}
	return rel, ok
}

// composeDockerfile sets the Dockerfile: of the service, or, if it names none,
// the global one.
func (c *compiler) composeDockerfile(f *composeFile, w *wants, s *settings, at *origin) {
	named := f.doc.Has("services", at.path[1], "build", "dockerfile") || w.dockerfile != "Dockerfile"
	if w.inline != "" || w.dockerfile == "" || !named && s.Kaniko.Dockerfile != "" {
		return
	}
	s.Kaniko.Dockerfile = w.dockerfile
	if filepath.IsAbs(w.dockerfile) {
		rel, ok := c.relative(w.dockerfile)
		if !ok {
			at.at("kaniko", "dockerfile").err("outside", "pack a directory that holds it: --repo DIR", "the Dockerfile %s is not in %s, which is packed", f.shown(w.dockerfile), c.shownRoot())
		}
		s.Kaniko.Dockerfile = originalContext + "/" + rel
	}
}

// shown gives a path for a message: relative to the compose file if that is
// shorter.
func (f *composeFile) shown(p string) string {
	if rel, err := filepath.Rel(f.dir, p); err == nil && len(rel) < len(p) {
		p = rel
	}
	return quote.Text(p)
}

// relative gives a path below the packed directory, with slashes.
func (c *compiler) relative(p string) (string, bool) {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		p = real
	}
	rel, err := filepath.Rel(c.root, p)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// platforms gives what a service is built for: what it says itself, the global
// architecture, or this machine's.
func (c *compiler) platforms(w *wants, svc types.ServiceConfig, s *settings, at *origin) ([]config.Platform, bool) {
	names, where := w.platforms.values, w.platforms.place
	switch {
	case len(names) > 0:
	case svc.Platform != "":
		names, where = []string{svc.Platform}, at.below("platform")
	case s.Arch != "" || s.Kaniko.CustomPlatform != "":
		pl, ok := c.platform(s, at)
		return []config.Platform{pl}, ok
	default:
		names, where = []string{c.Arch}, at.place
	}
	var out []config.Platform
	all := true
	for i, name := range names {
		here := where
		if len(names) > 1 {
			here = where.below(i)
		}
		pl, ok := parsePlatform(name, here)
		if ok && slices.Contains(out, pl) {
			here.err("duplicate-platform", "", "%s is there twice", pl)
		}
		out, all = append(out, pl), all && ok
	}
	return out, all
}

// moreTags gives the tags beside the destination's. They are in the same
// repository, since an image has one.
func (c *compiler) moreTags(w *wants, to target) []string {
	var out []string
	for i, tag := range w.tags.values {
		here := w.tags.place.below(i)
		more, ok := c.destination(tag, true, here)
		switch {
		case !ok:
		case to.repository == "" || more.ref.Repository() != to.ref.Repository():
			here.err("other-repository", "one service has one repository; copy the image afterwards, or write another service", "the tag %q is in another repository than %q", tag, to.repository)
		case more.tag != to.tag && !slices.Contains(out, more.tag):
			out = append(out, more.tag)
		}
	}
	return out
}

// contexts puts images in the place of services that others are built from.
func (c *compiler) contexts(f *composeFile, byName map[string]*making) {
	for _, m := range c.making {
		for i := range m.builds {
			b := &m.builds[i]
			for _, name := range slices.Sorted(maps.Keys(b.Contexts)) {
				of, ok := strings.CutPrefix(b.Contexts[name], types.ServicePrefix)
				if !ok {
					continue
				}
				other := byName[of]
				if other == nil || !slices.ContainsFunc(other.builds, func(b made) bool { return b.Pushes() }) {
					b.at.below("build", "additional_contexts").err("bad-context", "", "the context %s is service %s, which pushes no image", name, of)
					continue
				}
				b.Contexts[name] = "docker-image://" + other.to.repository + ":" + other.to.tag
				if !slices.Contains(m.needs, of) {
					m.needs = append(m.needs, of)
				}
			}
		}
	}
}

// pipegens takes the settings that compose files have no words for from
// x-pipegen, of the service or of its build.
func (c *compiler) pipegens(svc types.ServiceConfig, at *origin, s *settings) {
	texts := map[string]*string{"engine": &s.Engine, "platform": &s.Platform, "cpu": &s.CPU, "memory": &s.Memory}
	scripts := map[string]**string{"pre-script": &s.PreScript, "post-script": &s.PostScript}
	known := slices.Sorted(maps.Keys(texts))
	known = append(known, slices.Sorted(maps.Keys(scripts))...)
	for _, level := range []struct {
		extensions types.Extensions
		path       []any
	}{{svc.Extensions, []any{"x-pipegen"}}, {svc.Build.Extensions, []any{"build", "x-pipegen"}}} {
		value, there := level.extensions["x-pipegen"]
		if !there {
			continue
		}
		here := at.below(level.path...)
		all, ok := value.(map[string]any)
		if !ok {
			here.err("wrong-type", "", "x-pipegen wants a map")
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			text, ok := scalar(all[key])
			if _, isText := texts[key]; !isText && scripts[key] == nil {
				here.below(key).err("unknown-key", oneOf(key, known), "unknown key %q", key)
				continue
			}
			if !ok {
				here.below(key).err("wrong-type", "", "%s wants text", key)
				continue
			}
			if to := texts[key]; to != nil {
				*to = text
			} else {
				*scripts[key] = &text
			}
		}
	}
}

// scalar gives a text, number or truth value as text.
func scalar(v any) (string, bool) {
	switch v.(type) {
	case string, int, int64, uint64, float64, bool:
		return fmt.Sprint(v), true
	}
	return "", false
}
