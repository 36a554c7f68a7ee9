package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

// grace is how long a cancelled process may take to end after SIGTERM.
const grace = 8 * time.Second

// command runs c on this machine, in a process group of its own, and waits for
// its end. What it started ends with it. A cancelled one is asked to end, and
// killed with everything below it after the grace time; the error is then the
// context's cause.
func command(ctx context.Context, c Command) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...) //nolint:noctx // the engine or the shell; all of its group is ended below
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return err
	}
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(c.Stdout, r)
		close(copied)
	}()

	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		// Steps of a Dockerfile run in groups of their own, and nothing tells
		// them that the engine is gone.
		below := descendants(cmd.Process.Pid)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		for _, pid := range below {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ended:
		case <-time.After(grace):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-stopped
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left running
	select {
	case <-copied:
	case <-time.After(time.Second): // somebody outside of the group holds it
	}
	_ = r.Close()
	<-copied
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// descendants gives the processes below pid that are in other groups, where
// /proc tells.
func descendants(pid int) []int {
	children := map[int][]int{}
	group := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// proc(5): pid (comm) state ppid pgrp …; comm may hold anything.
		s := string(b)
		fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		if len(fields) < 3 {
			continue
		}
		p, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, _ := strconv.Atoi(fields[1])
		group[p], _ = strconv.Atoi(fields[2])
		children[parent] = append(children[parent], p)
	}
	var out []int
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		queue = append(queue, children[p]...)
		if group[p] != pid {
			out = append(out, p)
		}
	}
	return out
}

// exitCoder is an error of a process that ended: exec.ExitError, and what
// sandboxes give.
type exitCoder interface {
	error
	ExitCode() int
}

// ending says how a program ended.
func ending(name string, err error) error {
	var e exitCoder
	if !errors.As(err, &e) {
		return fmt.Errorf("running %s: %w", name, err)
	}
	killed := e.ExitCode() == 128+int(syscall.SIGKILL)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status, ok := exit.Sys().(syscall.WaitStatus)
		killed = killed || ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	} else if e.ExitCode() < 0 {
		killed = strings.Contains(err.Error(), "killed")
	}
	if killed {
		return failure.WithHint(fmt.Errorf("%s was killed", name),
			"most likely for want of memory: give the build more (resources.memory), or less to do at once (engine_args: [--compressed-caching=false])")
	}
	return fmt.Errorf("%s failed: %w", name, err)
}
