package diff

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// inherited variables would point git at another repository than the one that
// was found; see git rev-parse --local-env-vars. Configuration that comes by
// environment is kept: CI systems pass credentials that way.
var inherited = []string{
	"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
	"GIT_PREFIX", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_NAMESPACE", "GIT_CONFIG",
	"GIT_INTERNAL_SUPER_PREFIX", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
}

func gitEnv(environ []string) []string {
	// Whatever git fetches ends when nothing comes for half a minute.
	env := []string{"GIT_HTTP_LOW_SPEED_LIMIT=1", "GIT_HTTP_LOW_SPEED_TIME=30"}
	for _, e := range environ {
		if name, _, _ := strings.Cut(e, "="); !slices.Contains(inherited, name) {
			env = append(env, e)
		}
	}
	return append(env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "GIT_NO_REPLACE_OBJECTS=1")
}

// patience is how long a git process may take to end when told to.
const patience = time.Second

func (g *gitProgram) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, g.program, append(slices.Clone(g.leading), args...)...)
	cmd.Env = g.env
	// Interrupted, git ends the processes it started and removes its lock files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	return cmd
}

func (g *gitProgram) catFile(env string) *exec.Cmd {
	cmd := g.command(context.Background(), "cat-file", "--batch")
	cmd.Env = append(slices.Clone(g.env), env)
	return cmd
}

// run gives what git prints. Its exit code can be asked of the error with
// errors.As and *exec.ExitError.
func (g *gitProgram) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	return g.finish(ctx, g.command(ctx, args...), stdin, args)
}

// runRemote is run for commands that talk to the remote: nothing that they
// started outlives ctx.
func (g *gitProgram) runRemote(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	config, err := g.config(ctx)
	if err != nil {
		return nil, err
	}
	_, err = addressOf(config, g.root, os.Getenv)
	cmd := g.command(ctx, args...)
	end := together(cmd, err != nil) // ssh may ask for a passphrase
	out, err := g.finish(ctx, cmd, stdin, args)
	if ctx.Err() != nil {
		end()
	}
	return out, err
}

func (g *gitProgram) finish(ctx context.Context, cmd *exec.Cmd, stdin []byte, args []string) ([]byte, error) {
	var complaint excerpt
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("git %s: %w", commandName(args), ctx.Err())
	}
	if err != nil {
		return out, fmt.Errorf("git %s: %w", commandName(args), g.explain(err, complaint.String()))
	}
	return out, nil
}

// commandName is the first argument that is no configuration.
func commandName(args []string) string {
	for len(args) > 2 && args[0] == "-c" {
		args = args[2:]
	}
	return args[0]
}

// explained is a failure of git with the line that says why.
type explained struct {
	line string
	err  error
}

func (e explained) Error() string { return e.line }
func (e explained) Unwrap() error { return e.err }

// explain makes an error of what git said. With LC_ALL=C its messages are
// stable enough to tell three cases apart; all others are passed on.
func (g *gitProgram) explain(err error, complaint string) error {
	line := quote.Text(quote.URL(telling(complaint)))
	if line == "" {
		line = err.Error()
	}
	err = explained{line, err}
	switch {
	case strings.Contains(complaint, "dubious ownership"):
		return failure.WithHint(failure.Input("%s belongs to another user, so git refuses it: %w", g.root, err),
			"if you trust it: git config --global --add safe.directory %s", quote.Shell(g.root))
	case strings.Contains(complaint, "must be run in a work tree"):
		return failure.WithHint(failure.Input("%s is a bare repository: %w", g.root, err), "pipegen needs a work tree")
	case slices.ContainsFunc([]string{"unable to read", "Could not read", "bad object", "could not fetch", "missing object", "promisor remote"},
		func(s string) bool { return strings.Contains(complaint, s) }):
		return fmt.Errorf("%w: an object is %w", err, ErrMissing)
	}
	return err
}

// telling is the line of git's complaint that says why it failed.
func telling(complaint string) string {
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	for _, prefix := range []string{"fatal: ", "error: "} {
		for _, line := range lines {
			if text, ok := strings.CutPrefix(line, prefix); ok {
				return text
			}
		}
	}
	return lines[0]
}

// excerpt keeps the beginning of what is written to it.
type excerpt struct{ bytes.Buffer }

func (e *excerpt) Write(p []byte) (int, error) {
	e.Buffer.Write(p[:min(len(p), max(0, 8<<10-e.Len()))])
	return len(p), nil
}
