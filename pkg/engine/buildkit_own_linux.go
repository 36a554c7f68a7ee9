package engine

import (
	"os"
	"syscall"
)

// isolated keeps a daemon's mounts to itself, and lets it end with this process
// even if that is killed.
func isolated() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() == 0 {
		a.Unshareflags = syscall.CLONE_NEWNS
	}
	return a
}
