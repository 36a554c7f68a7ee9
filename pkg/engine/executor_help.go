package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// maxHelp bounds what is read of an executor's help text.
	maxHelp = 256 << 10
	// helpTime is how long an executor may take to say it.
	helpTime = 30 * time.Second
)

// understand asks an executor what it understands, or takes what the same file
// said before: the answer is kept below the cache directory.
func understand(ctx context.Context, p *Prepared) (*dialect, error) {
	kept := helpFile(p)
	if text, err := os.ReadFile(kept); kept != "" && err == nil {
		if d, err := parseHelp(string(text)); err == nil {
			return d, nil
		}
	}
	text, err := help(ctx, p)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	const hint = "KANIKO_EXECUTOR names the program"
	if err != nil {
		return nil, failure.WithHint(failure.Input("kaniko's executor %s cannot be run: %w%s", quote.Text(executorName(p)), err, said(text)), hint)
	}
	d, err := parseHelp(text)
	if err != nil {
		return nil, failure.WithHint(failure.Input("%s is no executor of kaniko: %w%s", quote.Text(executorName(p)), err, said(text)), hint)
	}
	if kept != "" && os.MkdirAll(filepath.Dir(kept), 0o755) == nil {
		_ = writeAtomically(kept, []byte(text)) // it would be asked again
	}
	return d, nil
}

// said quotes the first line of what a program wrote, if any.
func said(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return ""
	}
	return fmt.Sprintf(" (it says: %s)", quote.Text(line[:min(len(line), 200)]))
}

// executorName is the executor's path on this machine, as far as it is known.
func executorName(p *Prepared) string {
	if p.Job.Sandbox != nil {
		return firstOf(p.Job.Executor, p.Program)
	}
	return p.Program
}

// helpFile is where the help text of an executor is kept; empty: nowhere.
func helpFile(p *Prepared) string {
	path := executorName(p)
	fi, err := os.Stat(path)
	if err != nil || p.Job.CacheDir == "" {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", path, fi.Size(), fi.ModTime().UnixNano()))
	return filepath.Join(p.Job.CacheDir, "executors", fmt.Sprintf("%x", sum[:16]))
}

// help runs an executor where builds run, with --help: it then looks at nothing
// else and changes nothing.
func help(ctx context.Context, p *Prepared) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helpTime, errors.New("it did not end"))
	defer cancel()
	out := &bounded{}
	c := Command{Argv: []string{p.Program, "--help"}, Env: kanikoEnv(p), Dir: "/", Stdout: out, Stderr: out}
	run := command
	if p.Job.Sandbox != nil {
		run = p.Job.Sandbox.Run
	}
	err := run(ctx, c)
	return string(out.text), err
}

// bounded keeps the first of what is written to it.
type bounded struct {
	mu   sync.Mutex
	text []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p[:min(len(p), maxHelp-len(b.text))]...)
	return len(p), nil
}
