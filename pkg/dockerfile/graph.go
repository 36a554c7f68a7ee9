package dockerfile

import (
	"errors"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/packed"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Graph is what a Dockerfile builds on, as far as that can be told before
// arguments and target are known. It is small, and can be kept in a cache: see
// [Graph.Append] and [DecodeGraph].
type Graph struct {
	escape byte
	args   []arg // before the first FROM
	stages []stage
}

// The fields of these are exported for package packed.
type (
	// arg is an ARG before the first FROM.
	arg struct {
		Line    int
		Key     string
		Default *string
	}
	// stage is one FROM and what follows it.
	stage struct {
		ID   string // its name, or its number
		Name string // in lower case; may be empty
		From ref
		Body body
		// What stages that build on this one do first.
		OnBuild body
	}
	// body is what matters of a stage's instructions.
	body struct {
		Refs []ref
		Runs []int // lines
	}
	// ref is a place where an image or a stage is named.
	ref struct {
		Line     int
		By       instruction
		Mount    int // number of the --mount among those of its RUN
		Text     string
		Platform string
	}
)

type instruction int

const (
	byFrom instruction = iota
	byCopy
	byRun
)

// packedGraph is the form of a Graph in a cache.
type packedGraph struct {
	Escape int
	Args   []arg
	Stages []stage
}

// Append appends a form of g to b that DecodeGraph reads; ok is false for a
// Dockerfile that is too large for it.
func (g *Graph) Append(b []byte) (_ []byte, ok bool) {
	return packed.Append(b, packedGraph{int(g.escape), g.args, g.stages})
}

// DecodeGraph reads what Append of the same pipegen wrote. The result shares
// the memory of data.
func DecodeGraph(data string) (*Graph, error) {
	var p packedGraph
	if err := packed.Decode(data, &p); err != nil {
		return nil, err
	}
	if p.Escape != '\\' && p.Escape != '`' || len(p.Stages) == 0 {
		return nil, errors.New("not a Dockerfile's graph")
	}
	return &Graph{byte(p.Escape), p.Args, p.Stages}, nil //nolint:gosec // \ or `
}

// Base is an image that a Dockerfile refers to.
type Base struct {
	// Reference with all variables expanded, as written otherwise.
	Ref string
	// Line of the instruction, from 1.
	Line int
	// Name of the stage that refers to it, or its number.
	Stage string
	// Whether the stage that is built starts from it, by way of other stages or
	// at once.
	Final bool
	// What FROM --platform says, expanded; may be empty.
	Platform string

	at ref
}

// Bases gives the images that FROM, COPY --from and RUN --mount from= name in
// the stages needed for target, in the order of the file; stages and scratch
// are no images. target "" is the last stage. Of args the platform arguments
// (see [PlatformArgs]) decide what TARGETARCH and its like expand to; without
// any, that is linux/amd64, so that one file gives the same everywhere.
//
// An unknown target is failure.ErrInput; a reference that cannot be expanded
// is a *SyntaxError.
func (g *Graph) Bases(args map[string]string, target string) ([]Base, error) {
	n, err := g.resolve(args, target)
	if err != nil {
		return nil, err
	}
	return n.bases, nil
}

// Portable says that no name depends on the arguments for platforms, so that
// Bases is the same for all of them.
func (g *Graph) Portable() bool {
	depends := func(text string) bool { return strings.Contains(text, "TARGET") || strings.Contains(text, "BUILD") }
	for _, a := range g.args {
		if a.Default != nil && depends(*a.Default) {
			return false
		}
	}
	for i := range g.stages {
		s := &g.stages[i]
		if depends(s.From.Text) || depends(s.From.Platform) {
			return false
		}
		for _, refs := range [][]ref{s.Body.Refs, s.OnBuild.Refs} {
			if slices.ContainsFunc(refs, func(r ref) bool { return depends(r.Text) }) {
				return false
			}
		}
	}
	return true
}

// Runs gives the line of the first RUN in a stage needed for target. Without
// one, any machine can build the file for any platform.
func (g *Graph) Runs(args map[string]string, target string) (line int, ok bool) {
	n, err := g.resolve(args, target)
	if err != nil || len(n.runs) == 0 {
		return 0, false
	}
	return slices.Min(n.runs), true
}

// Stages gives the names of the stages needed for target, in the order of the
// file; a stage without a name goes by its number. Errors are those of Bases.
func (g *Graph) Stages(args map[string]string, target string) ([]string, error) {
	n, err := g.resolve(args, target)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, s := range g.stages {
		if n.needed[i] {
			names = append(names, s.ID)
		}
	}
	return names, nil
}

func (g *Graph) target(name string) (int, error) {
	if name == "" {
		return len(g.stages) - 1, nil
	}
	if i, ok := g.named(name, len(g.stages)); ok {
		return i, nil
	}
	var names []string
	for _, s := range g.stages {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	err := failure.Input("there is no stage %q", name)
	if len(names) == 0 {
		return 0, failure.WithHint(err, "no stage of this Dockerfile has a name")
	}
	return 0, failure.WithHint(err, "the stages are: %s", strings.Join(names, ", "))
}

// named finds the last stage of this name before the stage with number before.
func (g *Graph) named(name string, before int) (int, bool) {
	for i := before - 1; i >= 0; i-- {
		if g.stages[i].Name != "" && strings.EqualFold(g.stages[i].Name, name) {
			return i, true
		}
	}
	return 0, false
}
