package runner

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Arguments of a pipegen that is run again inside new namespaces.
const (
	initArg     = "__sandbox"
	unmappedArg = "unmapped"
)

// Descriptors of a pipegen that is run again inside new namespaces.
const (
	ordersFD  = 3
	reportsFD = 4
)

// Main is what a program that uses a [Sandbox] or [Agents] calls before all
// else, with [os.Args]: if this process is the first inside a new sandbox, or
// stands above an agent, it does that work and gives the exit code; handled is
// false in every other process.
func Main(args []string) (handled bool, code int) {
	if len(args) > 3 && args[1] == superviseArg {
		return true, supervise(args[2], args[3:])
	}
	if len(args) < 2 || args[1] != initArg {
		return false, 0
	}
	if err := first(len(args) == 3 && args[2] == unmappedArg); err != nil {
		return true, 1
	}
	return true, 0
}

// first is the work of the first process in a sandbox. Its errors are reported
// through the pipe where there is one.
func first(unmapped bool) error {
	if os.Getpid() != 1 {
		err := errors.New("this command is pipegen's own: it runs inside new namespaces alone")
		_, _ = fmt.Fprintln(os.Stderr, "pipegen: "+err.Error())
		return err
	}
	if unmapped {
		// The ids of the user namespace come from outside. Only a program that is
		// started as its root, which is after that, has its capabilities.
		if n, err := syscall.Read(ordersFD, make([]byte, 1)); n != 1 {
			return fmt.Errorf("waiting for ids: %w", err)
		}
		return syscall.Exec("/proc/self/exe", []string{"pipegen", initArg}, nil)
	}
	// Whatever the caller's parents left open would lead out of the root.
	if err := unix.CloseRange(ordersFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing files: %w", err)
	}
	orders := os.NewFile(ordersFD, "orders")
	reports := gob.NewEncoder(os.NewFile(reportsFD, "reports"))
	var o order
	if err := gob.NewDecoder(orders).Decode(&o); err != nil {
		return fmt.Errorf("reading orders: %w", err)
	}
	go func() {
		// The pipe is written no more and ends with the process outside. With
		// this process everything inside ends.
		_, _ = io.Copy(io.Discard, orders)
		os.Exit(1)
	}()
	r, err := o.obey(func(r report) { _ = reports.Encode(r) })
	if err != nil {
		r = report{Failed: err.Error()}
	}
	return errors.Join(err, reports.Encode(r))
}

func (o order) obey(tell func(report)) (report, error) {
	if o.Remove != "" {
		return report{Exited: true}, os.RemoveAll(o.Remove)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return report{}, fmt.Errorf("leaving supplementary groups: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return report{}, fmt.Errorf("naming the host: %w", err)
	}
	syscall.Umask(0o022)
	if err := o.enterRoot(); err != nil {
		return report{}, err
	}
	// The command must not reach this program, a file of the host, through /proc/1.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return report{}, fmt.Errorf("hiding this process: %w", err)
	}
	if o.Probe {
		return report{Exited: true}, probeRoot()
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	pid, err := o.launch()
	if err != nil {
		return report{}, err
	}
	tell(report{Started: true})
	go func() {
		for s := range signals {
			if s, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(pid, s)
			}
		}
	}()
	return reap(pid)
}

// launch starts the command with no more privilege than a build needs.
func (o order) launch() (pid int, err error) {
	dir := o.Dir
	if dir == "" {
		dir = "/"
	}
	// Privileges belong to threads. This one is locked and never freed, so that
	// what it gives up is missing in its child alone.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = dropPrivileges(); err != nil {
			err = fmt.Errorf("dropping privileges: %w", err)
			return
		}
		pid, err = syscall.ForkExec(o.Argv[0], o.Argv, &syscall.ProcAttr{
			Dir: dir, Env: o.Env, Files: []uintptr{0, 1, 2},
			Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			err = fmt.Errorf("starting %s: %w", o.Argv[0], err)
		}
	}()
	<-done
	return pid, err
}

// kept are the capabilities that installing software takes: those of Docker
// without device nodes and the host's network.
var kept = map[uintptr]bool{
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FOWNER: true, unix.CAP_FSETID: true,
	unix.CAP_KILL: true, unix.CAP_SETGID: true, unix.CAP_SETUID: true, unix.CAP_SETPCAP: true,
	unix.CAP_SETFCAP: true, unix.CAP_SYS_CHROOT: true, unix.CAP_AUDIT_WRITE: true,
}

// dropPrivileges changes the calling thread: the program it starts has the kept
// capabilities, can gain none, and does not see the caller's keys.
func dropPrivileges() error {
	for c := uintptr(0); ; c++ {
		if kept[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the kernel's last
		}
		if err != nil {
			return err
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// reap waits for the command, and for every orphan that it leaves on the way.
func reap(pid int) (report, error) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return report{}, fmt.Errorf("waiting for the command: %w", err)
		case got == pid && ws.Signaled():
			return report{Exited: true, Code: -1, Signal: ws.Signal().String()}, nil
		case got == pid && ws.Exited():
			return report{Exited: true, Code: ws.ExitStatus()}, nil
		}
	}
}
