package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// grace is how long a cancelled process may take to end after SIGTERM.
	grace = 8 * time.Second
	// reaping is how long what was killed may take to be gone.
	reaping = time.Second
)

// command runs c on this machine, in a process group of its own, and waits for
// its end. What it started ends with it, in whatever group or session: see
// leftovers. A cancelled one is asked to end, with everything below it, and
// killed after the grace time; the error is then the context's cause.
func command(ctx context.Context, c Command) error { return commandWithin(ctx, c, grace) }

func commandWithin(ctx context.Context, c Command, grace time.Duration) error {
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
	f := family{mark: c.mark}
	if f.adopts = adoptsOrphans(); f.adopts {
		f.others = children(os.Getpid())
	}
	done, err := Begin(cmd)
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return err
	}
	defer done()
	f.head = cmd.Process.Pid
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
		// them that the engine is to end.
		f.remember(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(grace):
			f.remember(syscall.SIGKILL)
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-stopped
	f.end()
	select {
	case <-copied:
	case <-time.After(reaping): // somebody else holds it
	}
	_ = r.Close()
	<-copied
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// begun are the processes that this one has started itself. While there are
// several, what it adopts may be of any of them, or be one of them.
var begun = struct {
	sync.Mutex
	pids map[int]bool
}{pids: map[int]bool{}}

// Begin starts a command that must not end with another one of this process. done
// is to be called once it was waited for.
func Begin(cmd *exec.Cmd) (done func(), err error) {
	begun.Lock() // who sees the process sees that it was begun
	defer begun.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	begun.pids[pid] = true
	return func() {
		begun.Lock()
		defer begun.Unlock()
		delete(begun.pids, pid)
	}, nil
}

// family is a command and all that it started.
type family struct {
	// Process and group that it began with.
	head int
	// What was seen below it, also if it is found nowhere else later.
	known []process
	// Whether processes whose parent is gone become this one's children, and
	// which of its children have nothing to do with the command.
	adopts bool
	others []process
	// Variable that the command and what it started have in their environment,
	// and no other process has; empty: none.
	mark string
}

// remember sends a signal to all of the family while its head is there.
func (f *family) remember(s syscall.Signal) {
	f.known = append(f.known, f.left()...)
	_ = syscall.Kill(-f.head, s)
	for _, p := range f.known {
		if p.group != f.head && p.is() {
			_ = syscall.Kill(p.pid, s)
		}
	}
}

// end kills what is left of the family once its head is gone.
func (f *family) end() {
	deadline := time.Now().Add(reaping)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		_ = syscall.Kill(-f.head, syscall.SIGKILL)
		left := f.left()
		if len(left) == 0 || time.Now().After(deadline) {
			return
		}
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		// A process that is being killed has no environment any more and another
		// parent already, and is still there.
		f.known = append(f.known, left...)
		time.Sleep(wait)
	}
}

// left gives what there is of the family beside its head: who is in its group
// or below one of it, who was seen there before or is in the group of one who
// was (forked while its parent was killed, nobody is above it), who has its
// mark, and whom this process adopted meanwhile.
func (f *family) left() []process {
	all := processes()
	begun.Lock()
	alone := len(begun.pids) == 0 || len(begun.pids) == 1 && begun.pids[f.head]
	begun.Unlock()
	self, own := os.Getpid(), syscall.Getpgrp()
	in := map[int]bool{f.head: true}
	groups := map[int]bool{f.head: true}
	for _, p := range f.known {
		groups[p.group] = true
	}
	delete(groups, own)
	var found []process
	take := func(p process) {
		in[p.pid] = true
		found = append(found, p)
	}
	for _, p := range all {
		switch {
		case p.pid == f.head || p.pid == self:
		case groups[p.group], slices.ContainsFunc(f.known, p.same),
			f.adopts && alone && p.parent == self && p.group != own && !slices.ContainsFunc(f.others, p.same),
			f.mark != "" && hasInEnvironment(p.pid, f.mark):
			take(p)
		}
	}
	for more := true; more; {
		more = false
		for _, p := range all {
			if in[p.parent] && !in[p.pid] && p.pid != self {
				take(p)
				more = true
			}
		}
	}
	return found
}

// process is a process that runs.
type process struct {
	pid, parent, group, session int
	start                       string // since boot; with the pid it is one process
	ticks                       int64  // of processor time, with those of children that it waited for
}

// same says whether q is the same process, whoever its parent is now.
func (p process) same(q process) bool { return p.pid == q.pid && p.start == q.start }

// is says whether the process is still there.
func (p process) is() bool {
	now, ok := stat(p.pid)
	return ok && p.same(now)
}

// processes gives all processes, where /proc tells.
func processes() []process {
	entries, _ := os.ReadDir("/proc")
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := stat(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

// children gives the processes that have this parent.
func children(parent int) []process {
	return slices.DeleteFunc(processes(), func(p process) bool { return p.parent != parent })
}

// stat reads /proc/PID/stat (proc_pid_stat(5)): pid (comm) state ppid pgrp session …,
// the start being the 22nd field; comm may hold anything.
func stat(pid int) (process, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" { // dead, and nobody has asked for its end
		return process{}, false
	}
	p := process{pid: pid, start: fields[19]}
	p.parent, _ = strconv.Atoi(fields[1])
	p.group, _ = strconv.Atoi(fields[2])
	p.session, _ = strconv.Atoi(fields[3])
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(f, 10, 64)
		p.ticks += n
	}
	return p, true
}

// hasInEnvironment says whether a process was started with a variable, given
// as NAME=VALUE.
func hasInEnvironment(pid int, variable string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if string(v) == variable {
			return true
		}
	}
	return false
}

// exitCoder is an error of a process that ended: exec.ExitError, and what
// sandboxes give.
type exitCoder interface {
	error
	ExitCode() int
}

// ending says how a program ended.
func ending(name string, err error) error {
	if _, ok := errors.AsType[exitCoder](err); !ok {
		return fmt.Errorf("running %s: %w", name, err)
	}
	if wasKilled(err) {
		return failure.WithHint(fmt.Errorf("%s was killed", name), "%s",
			firstOf(failure.Hint(err), "most likely for want of memory: give the build more (resources.memory)"))
	}
	return fmt.Errorf("%s failed: %w", name, err)
}

// wasKilled says whether a program was ended by SIGKILL, as the kernel does
// when there is no memory left.
func wasKilled(err error) bool {
	e, ok := errors.AsType[exitCoder](err)
	if !ok {
		return false
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status, ok := exit.Sys().(syscall.WaitStatus)
		return ok && status.Signaled() && status.Signal() == syscall.SIGKILL || e.ExitCode() == 128+int(syscall.SIGKILL)
	}
	return e.ExitCode() == 128+int(syscall.SIGKILL) || e.ExitCode() < 0 && strings.Contains(err.Error(), "killed")
}
