package plan

import (
	"slices"
	"testing"
)

// TestNamedContexts: a context that is an image of this repository is an edge
// of the graph, and in the plan a reference.
func TestNamedContexts(t *testing.T) {
	files := tree{
		"base":           "additional_tags: [latest]\nplatforms: [linux/amd64]",
		"plain":          "platforms: [linux/amd64]",
		"top":            "platforms: [linux/amd64]\nengine: buildkit\ncontexts: {a: base, b: plain, c: ../dir, top: top}",
		"top/Dockerfile": "FROM a\nCOPY --from=b / /\n",
		"kaniko":         "platforms: [linux/amd64]\ncontexts: {a: base}",
	}
	p := compute(t, input(t, files, "base/x"))
	if got, want := kinds(p), "base(changed=base/x) top(dependency=base)"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	top := p.Images[1]
	if !slices.Equal(top.Needs, []string{"base"}) {
		t.Errorf("needs %v", top.Needs)
	}
	got := top.Builds[0].Contexts
	const at = "docker-image://registry.example.com/images:"
	if got["a"] != at+p.Images[0].Tags[0] || got["c"] != "../dir" || got["top"] != "top" {
		t.Errorf("%v", got)
	}
	// One that is not planned is meant by its content, if it has no tag that moves.
	all := compute(t, withNames(input(t, files), "plain"))
	if key := all.Images[0].KeyTag; got["b"] != at+key {
		t.Errorf("got %s, want %s", got["b"], key)
	}
	p = compute(t, input(t, files, "top/x"))
	if got := p.Images[0].Builds[0].Contexts["a"]; got != at+"base-latest" {
		t.Errorf("got %s", got)
	}
}

func withNames(in Input, names ...string) Input {
	in.Selection = Selection{Names: names, Alone: true}
	return in
}
