package main

import (
	"os"

	"golang.org/x/term"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// progress shows a run on stderr: live on a terminal, unless asked for lines.
func (a *app) progress(metadata string) runner.Observer {
	o := runner.ProgressOptions{
		Format: runner.Format(a.logFormat), Logs: a.verbose,
		LogPath: func(id string) string { return plan.LogFile(metadata, id) },
	}
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && a.getenv("TERM") != "dumb" {
		o.Terminal = true
		o.Color = a.getenv("NO_COLOR") == ""
		o.Size = func() (columns, rows int) {
			columns, rows, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0, 0
			}
			return columns, rows
		}
	}
	return runner.NewProgress(a.stderr, o)
}
