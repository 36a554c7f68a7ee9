package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// process is a command that is measured.
type process struct {
	name string // for people
	dir  string
	env  []string
	argv []string
	// How often it runs.
	rounds int
	// What is done before each run; may be nil.
	before func() error
	// How many lines it must print; 0: any number.
	lines int
	// Whether memory is that of the whole tree of processes, each at its peak.
	tree bool
}

// sample is what one run took. Memory is the largest of the process and those
// that it waited for, or of a tree the sum; CPU that of all of them.
type sample struct {
	wall, cpu   time.Duration
	memory, own int64 // bytes; own: of a tree's pipegen
}

// result is the median of each figure, or why there is none.
type result struct {
	sample
	err error
}

// run runs the process once.
func (p *process) run(ctx context.Context) (sample, error) {
	if p.before != nil {
		if err := p.before(); err != nil {
			return sample{}, err
		}
	}
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var stdout lines
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Start()
	if err != nil {
		return sample{}, err
	}
	peaks := func() (all, own int64) { return 0, 0 }
	if p.tree {
		peaks = watchTree(cmd.Process.Pid)
	}
	err = cmd.Wait()
	s := sample{wall: time.Since(start)}
	all, own := peaks()
	if err != nil {
		first, _, _ := strings.Cut(stderr.String(), "\n")
		return s, fmt.Errorf("%w: %s", err, first)
	}
	if got := int(stdout); p.lines > 0 && got != p.lines {
		return s, fmt.Errorf("prints %d lines, not %d", got, p.lines)
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.memory = usage.Maxrss << 10
	}
	if p.tree {
		s.memory, s.own = all, own
	}
	return s, nil
}

// lines counts the lines that are written to it. What they say is not kept: the
// memory of a new process is not less than what the one that starts it has.
type lines int

func (n *lines) Write(b []byte) (int, error) {
	*n += lines(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// measure runs each process once to warm up, then all of them in turns, so
// that what else the machine does meets all alike. One that fails is not run
// again.
func measure(ctx context.Context, processes []*process) (map[*process]result, error) {
	results := make(map[*process]result, len(processes))
	samples := make(map[*process][]sample, len(processes))
	most := 0
	watched := term.IsTerminal(int(os.Stderr.Fd()))
	show := func(format string, args ...any) {
		if watched {
			fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
		}
	}
	defer show("")
	for _, p := range processes {
		show("%s", p.name)
		_, err := p.run(ctx)
		results[p] = result{err: err}
		most = max(most, p.rounds)
	}
	for round := range most {
		for _, p := range processes {
			if round >= p.rounds || results[p].err != nil {
				continue
			}
			show("%d/%d %s", round+1, p.rounds, p.name)
			s, err := p.run(ctx)
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			results[p] = result{err: err}
			samples[p] = append(samples[p], s)
		}
	}
	for p, s := range samples {
		if results[p].err == nil {
			results[p] = result{sample: median(s)}
		}
	}
	return results, ctx.Err()
}

func median(samples []sample) sample {
	return sample{
		wall:   middle(samples, func(s sample) time.Duration { return s.wall }),
		cpu:    middle(samples, func(s sample) time.Duration { return s.cpu }),
		memory: middle(samples, func(s sample) int64 { return s.memory }),
		own:    middle(samples, func(s sample) int64 { return s.own }),
	}
}

func middle[T cmp.Ordered](samples []sample, figure func(sample) T) T {
	all := make([]T, len(samples))
	for i, s := range samples {
		all[i] = figure(s)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// environment is that of the measured processes. An empty path hides git, an
// empty cache switches pipegen's off.
func environment(path, cache string) []string {
	env := []string{
		"PATH=" + path, "HOME=" + os.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_OPTIONAL_LOCKS=0",
	}
	if cache == "" {
		return append(env, "PIPEGEN_CACHE=off")
	}
	return append(env, "XDG_CACHE_HOME="+cache)
}
