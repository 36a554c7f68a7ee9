//go:build !linux

package engine

import "syscall"

// isolated is for systems on which no daemon is started.
func isolated() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
