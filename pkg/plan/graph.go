package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
)

// levels sorts candidates so that each stands after what it is built on:
// level by level, names sorted within a level. Images that wait for each
// other are a fault that shows the whole circle.
func levels(cs []*candidate) ([][]*candidate, config.Faults) {
	byName := make(map[string]*candidate, len(cs))
	for _, c := range cs {
		byName[c.name] = c
	}
	depth := make(map[*candidate]int, len(cs))
	var faults config.Faults
	var path []*candidate
	var visit func(c *candidate) int
	visit = func(c *candidate) int {
		if d, done := depth[c]; done {
			return d
		}
		if i := slices.Index(path, c); i >= 0 {
			faults = append(faults, circle(path[i:]))
			return 0
		}
		path = append(path, c)
		d := 0
		for _, e := range c.edges {
			if to := byName[e.to]; to != nil {
				d = max(d, visit(to)+1)
			}
		}
		path = path[:len(path)-1]
		depth[c] = d
		return d
	}
	var out [][]*candidate
	for _, c := range cs {
		visit(c)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	for _, c := range cs {
		for len(out) <= depth[c] {
			out = append(out, nil)
		}
		out[depth[c]] = append(out[depth[c]], c)
	}
	for _, level := range out {
		slices.SortFunc(level, func(a, b *candidate) int { return strings.Compare(a.name, b.name) })
	}
	return out, nil
}

// circle is the fault of images that wait for each other, at the edge that
// closes the circle.
func circle(path []*candidate) config.Fault {
	words := make([]string, 0, len(path)+1)
	for _, c := range path {
		words = append(words, c.name)
	}
	words = append(words, path[0].name)
	last := path[len(path)-1]
	message := "images are built on each other in a circle: " + strings.Join(words, " → ")
	for _, e := range last.edges {
		if e.to != path[0].name {
			continue
		}
		if e.line > 0 {
			return config.Fault{File: e.file, Line: e.line, Column: 1, Severity: config.Error, Rule: "circle", Message: message,
				Hint: "build one of them on something else"}
		}
		return last.project.Fault("circle", message, "remove one of the dependencies", e.fault...)
	}
	return last.project.Fault("circle", message, "remove one of the dependencies")
}

// dependents selects everything that is built on something selected, level by
// level, and says on what.
func dependents(order [][]*candidate) {
	selected := map[string]bool{}
	for _, level := range order {
		for _, c := range level {
			for _, e := range c.edges {
				if selected[e.to] {
					c.reasons = append(c.reasons, Reason{Dependency, e.to})
				}
			}
			if len(c.reasons) > 0 {
				selected[c.name] = true
			}
		}
	}
}

// needless are the faults of images that are built on one that is not pushed.
func needless(cs []*candidate) config.Faults {
	silent := map[string]bool{}
	for _, c := range cs {
		if !c.pushes() {
			silent[c.name] = true
		}
	}
	var faults config.Faults
	for _, c := range cs {
		for _, e := range c.edges {
			if !silent[e.to] {
				continue
			}
			message := fmt.Sprintf("image %s is built on %s, which is not pushed", c.name, e.to)
			hint := "outputs of " + e.to + " lack image"
			if e.line > 0 {
				faults = append(faults, config.Fault{File: e.file, Line: e.line, Column: 1, Severity: config.Error, Rule: "not-pushed", Message: message, Hint: hint})
				continue
			}
			faults = append(faults, c.project.Fault("not-pushed", message, hint, e.fault...))
		}
	}
	return faults
}
