//go:build unix

package runner

import (
	"os"
	"os/exec"
	"syscall"
)

// lock opens path, a directory or a file that is made if need be, and locks it
// for this process. Without wait a lock that another process holds is an error.
// Closing the file, or the end of the process, releases it.
func lock(path string, wait bool) (*os.File, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR { //nolint:errorlint // a bare errno
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// ownGroup keeps the terminal's Ctrl-C from a program, which is ended in order
// instead.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
