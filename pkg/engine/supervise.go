package engine

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Supervise runs a program to its end, and ends all that it started whatever
// becomes of it: what loses its parent becomes a child of this process, which
// must do nothing else. When ctx ends the program alone is asked to end
// (SIGTERM); after the grace time everything is killed.
func Supervise(ctx context.Context, cmd *exec.Cmd, grace time.Duration) error {
	if err := AdoptOrphans(); err != nil {
		return err
	}
	f := family{adopts: true, others: children(os.Getpid())}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return err
	}
	f.head = cmd.Process.Pid
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(grace):
			f.remember(syscall.SIGKILL)
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-stopped
	// Of a program that was killed there may be some who have to end something
	// themselves, as the client of a container has.
	if ctx.Err() == nil && len(f.left()) > 0 {
		f.remember(syscall.SIGTERM)
		for limit := time.Now().Add(reaping); time.Now().Before(limit) && len(f.left()) > 0; {
			time.Sleep(20 * time.Millisecond)
		}
	}
	f.end()
	return err
}

// Process is a process of this machine, by what no other has for as long as the
// machine runs.
type Process struct {
	PID int `json:"pid"`
	// When it started, in ticks since boot.
	Start string `json:"start"`
}

// FindProcess gives the process that has a pid now, if any has.
func FindProcess(pid int) (Process, bool) {
	p, ok := stat(pid)
	return Process{pid, p.start}, ok
}

// Runs says whether the process is there, and not merely not waited for.
func (p Process) Runs() bool {
	now, ok := stat(p.PID)
	return ok && now.start == p.Start
}

// Signal sends it a signal, and to no other process that has its pid now.
func (p Process) Signal(s syscall.Signal) error {
	held, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer func() { _ = held.Release() }()
	if !p.Runs() {
		return os.ErrProcessDone
	}
	return held.Signal(s)
}

// Kill kills the process with all that is below it and, if it led a session, all
// that is in it, and whoever has a variable with a path below dir in the
// environment that it was started with. It says how many were left; who must be
// sure asks again until there are none.
func (p Process) Kill(dir string) (left int) {
	now, ok := stat(p.PID)
	again := ok && now.start != p.Start // the number: then nothing is left of its session
	all := processes()
	in := map[int]bool{}
	for _, q := range all {
		if !again && (q.pid == p.PID || q.session == p.PID) || knows(q.pid, dir) {
			in[q.pid] = true
		}
	}
	for more := true; more; {
		more = false
		for _, q := range all {
			if in[q.parent] && !in[q.pid] {
				in[q.pid], more = true, true
			}
		}
	}
	delete(in, os.Getpid())
	// It adopts what the others leave, so it goes last.
	for pid := range in {
		if pid != p.PID {
			left++
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if in[p.PID] {
		if left == 0 {
			_ = p.Signal(syscall.SIGKILL)
		}
		left++
	}
	return left
}

// knows says whether a process was started with a variable that begins with a
// path below dir.
func knows(pid int, dir string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(b, []byte("="+dir+"/"))
}

// LeadsSession says whether anything is left of the session that the process
// led.
func (p Process) LeadsSession() bool {
	if now, ok := stat(p.PID); ok {
		return now.start == p.Start
	}
	for _, q := range processes() {
		if q.session == p.PID {
			return true
		}
	}
	return false
}

// Usage is what a process and all that it started have taken.
type Usage struct {
	// Processor time, user and system.
	CPU time.Duration
	// Bytes of memory that they hold now, what they share counted more than once.
	Memory int64
	// Bytes that this process held at most, or one of those that it waited for.
	Peak int64
}

// UsageOf adds up what this process took, what those took that it waited for,
// and what runs below it.
func UsageOf() Usage {
	var u Usage
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) == nil {
			u.CPU += time.Duration(r.Utime.Nano() + r.Stime.Nano())
			u.Peak = max(u.Peak, int64(r.Maxrss)*maxrssUnit()) //nolint:unconvert // its type differs between systems
		}
	}
	all := processes()
	in := map[int]bool{os.Getpid(): true}
	u.Memory = resident(os.Getpid())
	for more := true; more; {
		more = false
		for _, p := range all {
			if in[p.parent] && !in[p.pid] {
				in[p.pid], more = true, true
				u.CPU += time.Duration(p.ticks) * (time.Second / ticksPerSecond)
				u.Memory += resident(p.pid)
			}
		}
	}
	return u
}

// maxrssUnit is what getrusage(2) counts memory in.
func maxrssUnit() int64 {
	if runtime.GOOS == "darwin" {
		return 1
	}
	return 1 << 10
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// resident gives the bytes of memory that a process holds (proc_pid_statm(5)).
func resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
