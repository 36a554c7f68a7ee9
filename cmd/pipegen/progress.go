package main

import (
	"fmt"

	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

type lines struct{ a *app }

func (a *app) progress() runner.Observer { return lines{a} }

func (l lines) Observe(e runner.Event) {
	switch {
	case e.Kind == runner.LogLine:
		fmt.Fprintf(l.a.stderr, "[%s] %s\n", e.Build.ID, quote.Text(e.Line))
	case e.Build != nil:
		fmt.Fprintf(l.a.stderr, "[%s] %s %v\n", e.Build.ID, e.Kind, e.Err)
	case e.Image != nil:
		fmt.Fprintf(l.a.stderr, "[%s] %s %v %s\n", e.Image.Name, e.Kind, e.Err, e.Reason)
	}
}
