//go:build unix

package diff

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// together makes a program end with all that it started: git leaves behind what
// talks to the remote when it is stopped itself. What it gives ends the rest
// after that. What may ask a person stays where the terminal knows it.
func together(cmd *exec.Cmd, mayAsk bool) (end func()) {
	if mayAsk {
		if tty, err := os.Open("/dev/tty"); err == nil {
			tty.Close()
			return func() {}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	signal := func(s syscall.Signal) error {
		err := syscall.Kill(-cmd.Process.Pid, s)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	// Interrupted, git removes its lock files.
	cmd.Cancel = func() error { return signal(syscall.SIGINT) }
	return func() {
		if cmd.Process != nil {
			_ = signal(syscall.SIGKILL) // mostly there is nothing left
		}
	}
}
