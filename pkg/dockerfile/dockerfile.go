// Package dockerfile says what a Dockerfile builds on: the images that its
// stages refer to, where, and how the same file looks with those pinned.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/pipegen/pipegen/pkg/failure"
)

// File is a parsed Dockerfile.
type File struct {
	text     []byte
	escape   byte
	args     []instructions.ArgCommand // before the first FROM
	stages   []stage
	findings []Finding
	written  []destination
}

// stage is one FROM and what follows it.
type stage struct {
	id   string // its name, or its number
	name string // in lower case; may be empty
	from ref
	body body
	// What stages that build on this one do first.
	onbuild body
	// As far as it is known: what the base image sets is not.
	workdir string
}

// destination is where an instruction copies to.
type destination struct {
	line  int
	stage string
	path  string
}

// body is what matters of a stage's instructions.
type body struct {
	refs []ref
	runs []int // lines
}

// ref is a place where an image or a stage is named.
type ref struct {
	line     int
	by       instruction
	mount    int // number of the --mount among those of its RUN
	text     string
	platform string
}

type instruction string

const (
	byFrom instruction = "from"
	byCopy instruction = "copy"
	byRun  instruction = "run"
)

// SyntaxError says that a text is no Dockerfile. It wraps failure.ErrInput.
type SyntaxError struct {
	// Line starts at 1; 0: the file as a whole.
	Line int
	Msg  string
}

// Error gives the message without the line: who knows the file's name says both.
func (e *SyntaxError) Error() string { return e.Msg }

// Is makes every syntax error failure.ErrInput.
func (e *SyntaxError) Is(target error) bool { return target == failure.ErrInput }

// Parse reads a Dockerfile as BuildKit does. Errors are *SyntaxError.
func Parse(text []byte) (*File, error) {
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, syntaxError(err)
	}
	stages, args, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, syntaxError(err)
	}
	if len(stages) == 0 {
		return nil, &SyntaxError{1, "no build stage: there is no FROM"}
	}
	f := &File{text: bytes.Clone(text), escape: byte(ast.EscapeToken), args: args} //nolint:gosec // \ or `
	for i, s := range stages {
		st := stage{id: s.Name, name: s.Name, from: ref{line: firstLine(s.Location), by: byFrom, text: s.BaseName, platform: s.Platform}}
		if st.id == "" {
			st.id = fmt.Sprint(i)
		}
		f.lackFrom(st)
		for _, c := range s.Commands {
			f.add(&st, &st.body, c, firstLine(c.Location()))
		}
		f.stages = append(f.stages, st)
	}
	return f, nil
}

// add takes from an instruction what matters: b is the body it belongs to.
func (f *File) add(st *stage, b *body, c instructions.Command, line int) {
	switch c := c.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			b.refs = append(b.refs, ref{line: line, by: byCopy, text: c.From})
		}
		f.writes(st, c.DestPath, line)
		f.lackCopy(st.id, c, line)
	case *instructions.AddCommand:
		f.writes(st, c.DestPath, line)
		f.lackAdd(st.id, c, line)
	case *instructions.WorkdirCommand:
		st.workdir = below(st.workdir, c.Path)
	case *instructions.RunCommand:
		for i, m := range instructions.GetMounts(c) {
			if m.From != "" {
				b.refs = append(b.refs, ref{line: line, by: byRun, mount: i, text: m.From})
			}
		}
		b.runs = append(b.runs, line)
		f.lackRun(st.id, c, line)
	case *instructions.OnbuildCommand:
		// What does not parse here fails where it is triggered, if ever.
		text := c.Expression
		if f.escape != parser.DefaultEscapeToken {
			text = fmt.Sprintf("# escape=%c\n%s", f.escape, text)
		}
		ast, err := parser.Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, n := range ast.AST.Children {
			if c, err := instructions.ParseCommand(n); err == nil {
				f.add(st, &st.onbuild, c, line)
			}
		}
	}
}

func firstLine(r []parser.Range) int {
	if len(r) == 0 {
		return 0
	}
	return r[0].Start.Line
}

func syntaxError(err error) *SyntaxError {
	e := &SyntaxError{Msg: err.Error()}
	if at, ok := errors.AsType[*parser.LocationError](err); ok {
		e.Msg = at.Error()
		if len(at.Locations) > 0 {
			e.Line = firstLine(at.Locations[0])
		}
	}
	return e
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
func (f *File) Bases(args map[string]string, target string) ([]Base, error) {
	g, err := f.resolve(args, target)
	if err != nil {
		return nil, err
	}
	return g.bases, nil
}

// Runs gives the line of the first RUN in a stage needed for target. Without
// one, any machine can build the file for any platform.
func (f *File) Runs(args map[string]string, target string) (line int, ok bool) {
	g, err := f.resolve(args, target)
	if err != nil || len(g.runs) == 0 {
		return 0, false
	}
	return slices.Min(g.runs), true
}

// Stages gives the names of the stages needed for target, in the order of the
// file; a stage without a name goes by its number. Errors are those of Bases.
func (f *File) Stages(args map[string]string, target string) ([]string, error) {
	g, err := f.resolve(args, target)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, s := range f.stages {
		if g.needed[i] {
			names = append(names, s.id)
		}
	}
	return names, nil
}

// PlatformArgs gives the arguments that a builder sets by itself: TARGET* for
// the platform that the image is for and BUILD* for that of the machine, both
// as os/arch[/variant].
func PlatformArgs(target, build string) map[string]string {
	args := map[string]string{}
	for prefix, platform := range map[string]string{"TARGET": target, "BUILD": build} {
		parts := append(strings.SplitN(platform, "/", 3), "", "")
		args[prefix+"PLATFORM"] = platform
		args[prefix+"OS"], args[prefix+"ARCH"], args[prefix+"VARIANT"] = parts[0], parts[1], parts[2]
	}
	return args
}

// environ holds the variables of a file's FROM instructions. It implements
// shell.EnvGetter.
type environ map[string]string

func (e environ) Get(name string) (string, bool) { v, ok := e[name]; return v, ok }

func (e environ) Keys() []string {
	keys := make([]string, 0, len(e))
	for k := range e {
		keys = append(keys, k)
	}
	return keys
}

// environ gives the variables that FROM sees. Arguments that no ARG declares
// count too, as Kaniko has it: a file that BuildKit refuses for them only
// yields a base more here.
func (f *File) environ(args map[string]string) (environ, error) {
	env := environ{}
	platform, ok := args["TARGETPLATFORM"]
	if !ok {
		platform = "linux/amd64"
	}
	maps.Copy(env, PlatformArgs(platform, platform))
	maps.Copy(env, args)
	lex := shell.NewLex(rune(f.escape))
	for _, c := range f.args {
		for _, a := range c.Args {
			if _, set := args[a.Key]; set || a.Value == nil {
				continue
			}
			v, _, err := lex.ProcessWord(*a.Value, env)
			if err != nil {
				return nil, &SyntaxError{firstLine(c.Location()), fmt.Sprintf("expanding ARG %s: %v", a.Key, err)}
			}
			env[a.Key] = v
		}
	}
	return env, nil
}
