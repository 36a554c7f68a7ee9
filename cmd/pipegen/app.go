package main

// The rules of pipegen's output:
//
//   - Data goes to stdout, everything else to stderr, so that a pipe gets data
//     alone. A file named by -o is written whole or not at all.
//   - A message is a line "pipegen: what happened", lower case, no full stop.
//     An error may be followed by a line "hint: what to do".
//   - A fault of the configuration is a line FILE:LINE:COLUMN: message, all of
//     them at once.
//   - With --log-format json every message is a JSON object on a line.
//   - What comes from configuration, git or the network is shown through
//     package quote.
//   - Exit codes: 0 done, 1 failed, 2 the input or configuration is wrong,
//     3 a published immutable tag holds something else, 4 there is something
//     to do (diff and plan with --exit-code), 130 interrupted.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
)

// app is one invocation of pipegen.
type app struct {
	stdout, stderr io.Writer
	getenv         func(string) string

	dir       string
	logFormat string
	quiet     bool
	verbose   bool
	network   network

	handed bool   // the environment was handed over already
	bundle string // file with the certificates to trust; empty: the system's

	observer runner.Observer // shows a run that is followed now; else nil
}

func newApp(stdout, stderr io.Writer) *app {
	return &app{stdout: stdout, stderr: stderr, getenv: os.Getenv, logFormat: "simple"}
}

// errSomething is what diff and plan return for --exit-code.
var errSomething = errors.New("there is something to do")

// execute runs the command line and gives the exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	defer a.untrust()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errSomething) {
		if ctx.Err() != nil {
			a.say("error", "interrupted", "")
			return 130
		}
		a.report(err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var immutable *registry.ImmutableError
	var faults config.Faults
	var unreached *unreachedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &unreached):
		return unreached.code
	case errors.Is(err, errSomething):
		return 4
	case errors.As(err, &immutable), errors.Is(err, api.ErrImmutable):
		return 3
	case errors.Is(err, failure.ErrInput), errors.As(err, &faults):
		return 2
	default:
		return 1
	}
}

// report shows an error and its hint. Faults have a line each.
func (a *app) report(err error) {
	if faults, ok := errors.AsType[config.Faults](err); ok {
		for _, f := range faults {
			a.fault(f)
		}
		return
	}
	a.say("error", err.Error(), failure.Hint(err))
}

func (a *app) fault(f config.Fault) {
	if a.logFormat == "json" {
		a.object(map[string]any{"level": f.Severity, "file": f.File, "line": f.Line, "column": f.Column, "rule": f.Rule, "message": f.Message, "hint": f.Hint})
		return
	}
	fmt.Fprintln(a.stderr, faultText(f))
}

// faultText is a fault for people; a hint stands on a line of its own.
func faultText(f config.Fault) string {
	f.File, f.Message, f.Hint = quote.Text(f.File), quote.Text(f.Message), quote.Text(f.Hint)
	return f.String()
}

func (a *app) say(level, message, hint string) {
	if a.logFormat == "json" {
		o := map[string]any{"level": level, "message": message}
		if hint != "" {
			o["hint"] = hint
		}
		a.object(o)
		return
	}
	if level == "warning" {
		message = "warning: " + message
	}
	for i, line := range strings.Split(quote.URL(message), "\n") {
		prefix := "pipegen: "
		if i > 0 {
			prefix = "  "
		}
		fmt.Fprintln(a.stderr, prefix+quote.Text(line))
	}
	if hint != "" {
		fmt.Fprintln(a.stderr, "hint: "+quote.Text(quote.URL(hint)))
	}
}

func (a *app) object(o map[string]any) {
	if data, err := json.Marshal(o); err == nil {
		fmt.Fprintf(a.stderr, "%s\n", data)
	}
}

// note tells what a user may want to know, unless asked to be quiet.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		a.say("info", fmt.Sprintf(format, args...), "")
	}
}

// parseCache is the directory where plans keep what they read out of files;
// "" where nothing is kept.
func (a *app) parseCache() string {
	dir, err := a.cacheDir()
	if err != nil || a.getenv("PIPEGEN_CACHE") == "off" {
		return ""
	}
	return filepath.Join(dir, "parse")
}

func (a *app) warn(message string) { a.say("warning", message, "") }

func (a *app) warnings(faults config.Faults) {
	for _, f := range faults {
		if f.Severity == config.Warning {
			a.fault(f)
		}
	}
}

// write writes data to stdout, or whole to the file that -o names.
func (a *app) write(file string, data []byte) error {
	return a.writeWith(file, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// writeWith is write for what is too large to be in memory at once.
func (a *app) writeWith(file string, write func(io.Writer) error) error {
	buffered := func(w io.Writer) error {
		b := bufio.NewWriter(w)
		return errors.Join(write(b), b.Flush())
	}
	if file == "" || file == "-" {
		return buffered(a.stdout)
	}
	return writeFileWith(file, buffered)
}

// writeFile writes to a temporary name beside the file and renames it. What is
// no regular file (a pipe, /dev/stdout) is written to as it is.
func writeFile(file string, data []byte) error {
	return writeFileWith(file, func(w io.Writer) error { _, err := w.Write(data); return err })
}

func writeFileWith(file string, write func(io.Writer) error) error {
	if err := replace(file, write); err != nil {
		if perr, ok := errors.AsType[*fs.PathError](err); ok {
			err = perr.Err // the temporary name says nothing to the user
		}
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

func replace(file string, write func(io.Writer) error) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err = errors.Join(write(tmp), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// format checks the value of -f.
func format(value string, among ...string) error {
	if slices.Contains(among, value) {
		return nil
	}
	err := failure.Input("-f %q: this command writes %s", value, strings.Join(among, ", "))
	if near := config.Nearest(value, among); near != "" {
		return failure.WithHint(err, "did you mean %q?", near)
	}
	return err
}

// exactArgs and noArgs are cobra's, as errors of the input.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return failure.WithHint(failure.Input("%s takes %s", cmd.CommandPath(), what), "%s --help", cmd.CommandPath())
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return failure.WithHint(failure.Input("%s takes no arguments, but got %q", cmd.CommandPath(), args[0]), "%s --help", cmd.CommandPath())
	}
	return nil
}
