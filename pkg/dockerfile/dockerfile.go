// Package dockerfile says what a Dockerfile builds on: the images that its
// stages refer to, where, and how the same file looks with those pinned.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/pipegen/pipegen/pkg/failure"
)

// File is a parsed Dockerfile.
type File struct {
	Graph
	text    []byte
	lacking []lacking
	written []destination
	// Whether any RUN mounts a secret, or a directory of the context.
	secrets, binds bool
	// Working directory of the stage that is read, as far as it is known: what
	// the base image sets is not.
	workdir string
}

// destination is where an instruction copies to.
type destination struct {
	line  int
	stage string
	path  string
}

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
	f := &File{text: bytes.Clone(text)}
	f.escape = byte(ast.EscapeToken) //nolint:gosec // \ or `
	for _, c := range args {
		for _, a := range c.Args {
			f.args = append(f.args, arg{firstLine(c.Location()), a.Key, a.Value})
		}
	}
	f.lackSyntax(text)
	for i, s := range stages {
		st := stage{ID: s.Name, Name: s.Name, From: ref{Line: firstLine(s.Location), By: byFrom, Text: s.BaseName, Platform: s.Platform}}
		if st.ID == "" {
			st.ID = fmt.Sprint(i)
		}
		f.workdir = ""
		f.lackFrom(st)
		for _, c := range s.Commands {
			f.add(&st, &st.Body, c, firstLine(c.Location()))
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
			b.Refs = append(b.Refs, ref{Line: line, By: byCopy, Text: c.From})
		}
		f.writes(st.ID, c.DestPath, line)
		f.lackCopy(st.ID, c, line)
	case *instructions.AddCommand:
		f.writes(st.ID, c.DestPath, line)
		f.lackAdd(st.ID, c, line)
	case *instructions.WorkdirCommand:
		f.workdir = below(f.workdir, c.Path)
	case *instructions.RunCommand:
		for i, m := range instructions.GetMounts(c) {
			if m.From != "" {
				b.Refs = append(b.Refs, ref{Line: line, By: byRun, Mount: i, Text: m.From})
			}
		}
		b.Runs = append(b.Runs, line)
		f.lackRun(st.ID, c, line)
	case *instructions.HealthCheckCommand:
		f.lackHealth(st.ID, c, line)
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
				f.add(st, &st.OnBuild, c, line)
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
