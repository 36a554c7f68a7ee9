package main

import (
	"os"

	"golang.org/x/term"

	"github.com/pipegen/pipegen/pkg/runner"
)

// progress shows a run on stderr: live on a terminal, unless asked for lines.
// logs says whether a terminal shows every line of the logs, too, and whole
// where the log of a build is.
func (a *app) progress(logs bool, whole func(build string) string) runner.Observer {
	o := runner.ProgressOptions{Format: runner.Format(a.logFormat), Logs: logs, LogPath: whole}
	if f, ok := a.terminal(); ok {
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

// terminal gives stderr if it is one that can be redrawn.
func (a *app) terminal() (*os.File, bool) {
	f, ok := a.stderr.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd())) && a.getenv("TERM") != "dumb"
}
