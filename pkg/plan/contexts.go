package plan

import (
	"maps"
	"slices"

	"github.com/pipegen/pipegen/pkg/config"
)

// contextEdges finds the named contexts of BuildKit that are images of this
// repository: those whose value is the name of one.
func (c *candidate) contextEdges(byName map[string]*candidate, add func(edge)) {
	for _, spec := range c.specs {
		if spec.Engine != "buildkit" {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Contexts)) {
			to := byName[spec.Contexts[name]]
			if to == nil || to == c {
				continue
			}
			if c.named == nil {
				c.named = map[string]*candidate{}
			}
			c.named[to.name] = to
			add(edge{to: to.name, detail: "contexts", fault: []any{"contexts", name}})
		}
	}
}

// contexts gives the named contexts of a build, with images of this repository
// as references to them. selected are the images of the plan.
func (c *candidate) contexts(in *Input, n naming, s *config.BuildConfig, selected map[string]bool) map[string]string {
	if s.Engine != "buildkit" || len(c.named) == 0 {
		return s.Contexts
	}
	out := maps.Clone(map[string]string(s.Contexts))
	for name, value := range out {
		if to := c.named[value]; to != nil {
			out[name] = "docker-image://" + to.repository + ":" + to.tagFor(in, n, selected[to.name])
		}
	}
	return out
}

// tagFor gives the tag by which another image means this one: that of this plan
// if it is in it, else one that moves with it, else the one of its content.
func (c *candidate) tagFor(in *Input, n naming, planned bool) string {
	moving := c.tags[min(1, len(c.tags)):]
	if n.dirty {
		moving = c.aliases
	}
	switch {
	case planned && len(c.tags) > 0:
		return c.tags[0]
	case len(moving) > 0:
		return moving[0]
	case in.publishesKeys():
		return n.keyTag(c.name, c.key)
	case len(c.tags) > 0:
		return c.tags[0]
	}
	return n.keyTag(c.name, c.key)
}
