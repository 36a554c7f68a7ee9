// Command bench measures pipegen against git on a repository of 10,000 projects
// and prints a table. It measures whole processes, in turns, so that what else
// the machine does meets all alike, and gives medians.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// rounds is how often each command runs.
const rounds = 15

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context) error {
	binary, err := filepath.Abs("bin/pipegen")
	if err != nil {
		return err
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	repo, err := repository(ctx, git)
	if err != nil {
		return err
	}
	b := bench{repo, environment(os.Getenv("PATH")), environment("")}
	few := [2]string{"base", "few"}
	many := [2]string{"base", "many"}
	commands := []command{
		{"pipegen --version", b.with, []string{binary, "--version"}},
		{"git diff, 10 changed", b.with, gitDiff(git, few)},
		{"pipegen diff, 10 changed", b.with, pipegenDiff(binary, few)},
		{"pipegen diff without git, 10 changed", b.without, pipegenDiff(binary, few)},
		{"git diff, 2,000 changed", b.with, gitDiff(git, many)},
		{"pipegen diff, 2,000 changed", b.with, pipegenDiff(binary, many)},
		{"pipegen diff without git, 2,000 changed", b.without, pipegenDiff(binary, many)},
	}
	if err := b.check(ctx, commands); err != nil {
		return err
	}
	medians, err := b.measure(ctx, commands)
	if err != nil {
		return err
	}
	report(commands, medians)
	return nil
}

func gitDiff(git string, revs [2]string) []string {
	return []string{git, "diff", "--name-only", revs[0], revs[1]}
}

func pipegenDiff(binary string, revs [2]string) []string {
	return []string{binary, "diff", "--base", revs[0], "--head", revs[1], "-f", "names"}
}

type command struct {
	name string
	env  []string
	argv []string
}

type bench struct {
	dir           string
	with, without []string
}

func (b bench) run(ctx context.Context, c command) (string, time.Duration, error) {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = b.dir, c.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w\n%s", c.name, err, stderr.String())
	}
	return string(out), took, nil
}

// check runs every command once, and sees that the diffs name the projects that
// were changed.
func (b bench) check(ctx context.Context, commands []command) error {
	for _, c := range commands {
		out, _, err := b.run(ctx, c)
		if err != nil {
			return err
		}
		want := 10
		if strings.HasSuffix(c.name, "2,000 changed") {
			want = manyChanged
		}
		if lines := strings.Count(out, "\n"); strings.Contains(c.name, "diff") && lines != want {
			return fmt.Errorf("%s: prints %d lines, not %d", c.name, lines, want)
		}
	}
	return nil
}

func (b bench) measure(ctx context.Context, commands []command) ([]time.Duration, error) {
	samples := make([][]time.Duration, len(commands))
	for range rounds {
		for i, c := range commands {
			_, took, err := b.run(ctx, c)
			if err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], took)
		}
	}
	medians := make([]time.Duration, len(commands))
	for i, s := range samples {
		slices.Sort(s)
		medians[i] = s[len(s)/2]
	}
	return medians, nil
}

// report prints the table and which goals were met. The start of the process
// counts on its own, so the diffs are compared without it.
func report(commands []command, medians []time.Duration) {
	fmt.Printf("10,000 projects, 60,000 files; medians of %d runs of whole processes\n\n", rounds)
	for i, c := range commands {
		fmt.Printf("%-42s %8.1f ms\n", c.name, milliseconds(medians[i]))
	}
	version := medians[0]
	fmt.Println()
	goal("pipegen --version", milliseconds(version), 20, "ms")
	ratio := func(name string, ours, gits int, limit float64) {
		goal(name, float64(medians[ours]-version)/float64(medians[gits]), limit, "× git")
	}
	ratio("diff less start, 10 changed", 2, 1, 2)
	ratio("diff less start, 2,000 changed", 5, 4, 2)
	ratio("diff without git less start, 10 changed", 3, 1, 12)
	ratio("diff without git less start, 2,000 changed", 6, 4, 12)
}

func goal(name string, got, limit float64, unit string) {
	verdict := "MET"
	if got > limit {
		verdict = "MISSED"
	}
	fmt.Printf("%-42s %6.1f %s, goal %.0f: %s\n", name, got, unit, limit, verdict)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// environment is that of the measured processes. An empty path hides git.
func environment(path string) []string {
	return []string{"PATH=" + path, "HOME=" + os.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null"}
}

// cacheDir is where the repository is kept between runs.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errors.New("finding the cache directory: set HOME or XDG_CACHE_HOME")
	}
	return filepath.Join(dir, "pipegen", "bench"), nil
}
