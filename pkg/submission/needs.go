package submission

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/plan"
)

// arrange puts what images need before them: images that contexts name, and
// those that Dockerfiles are built on by the reference they are pushed to.
// Beside that the order is by name.
func (c *compiler) arrange() []*making {
	byRef := map[string]*making{}
	byName := map[string]*making{}
	for _, m := range c.making {
		byName[m.name] = m
		if m.to.repository == "" || !slices.ContainsFunc(m.builds, func(b made) bool { return b.Pushes() }) {
			continue
		}
		for _, tag := range append([]string{m.to.tag}, m.tags...) {
			ref := m.to.ref
			ref.Tag = tag
			byRef[ref.String()] = m
		}
	}
	for _, m := range c.making {
		for i := range m.builds {
			for _, base := range c.bases(&m.builds[i].Build) {
				ref, err := parse(base)
				if err != nil || ref.Digest != "" {
					continue
				}
				if ref.Tag == "" {
					ref.Tag = "latest"
				}
				if of := byRef[ref.String()]; of != nil && of != m && !slices.Contains(m.needs, of.name) {
					m.needs = append(m.needs, of.name)
				}
			}
		}
		slices.Sort(m.needs)
	}
	var order []*making
	done := map[string]bool{}
	left := slices.Sorted(maps.Keys(byName))
	for len(left) > 0 {
		var level []string
		for _, name := range left {
			if !slices.ContainsFunc(byName[name].needs, func(need string) bool { return byName[need] != nil && !done[need] }) {
				level = append(level, name)
			}
		}
		if len(level) == 0 {
			first := byName[left[0]]
			first.builds[0].at.err("circle", "", "these are built on each other: %s", strings.Join(left, ", "))
			return nil
		}
		for _, name := range level {
			done[name] = true
			order = append(order, byName[name])
		}
		left = slices.DeleteFunc(left, func(name string) bool { return done[name] })
	}
	return order
}

// bases gives the images that a build is built on, as far as that can be seen
// from here.
func (c *compiler) bases(b *plan.Build) []string {
	text := []byte(b.DockerfileInline)
	if len(text) == 0 {
		if c.root == "" {
			return nil
		}
		root, err := os.OpenRoot(c.root)
		if err != nil {
			return nil
		}
		defer root.Close()
		info, err := root.Stat(filepath.FromSlash(b.Dockerfile))
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
			return nil
		}
		if text, err = root.ReadFile(filepath.FromSlash(b.Dockerfile)); err != nil {
			return nil
		}
	}
	file, err := dockerfile.Parse(text)
	if err != nil {
		return nil // the engine says what is wrong, with its line
	}
	args := dockerfile.PlatformArgs(b.Platform, "linux/"+runtime.GOARCH)
	maps.Copy(args, b.Args)
	bases, err := file.Bases(args, b.Target)
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(bases))
	for _, base := range bases {
		out = append(out, base.Ref)
	}
	return out
}
