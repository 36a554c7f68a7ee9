package engine

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AdoptOrphans makes processes whose parent is gone children of this one, so
// that the end of a build finds them too: for a process that does one build and
// nothing else.
func AdoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// adoptsOrphans says whether AdoptOrphans was called, or this is the first
// process of a container.
func adoptsOrphans() bool {
	var on int32
	//nolint:gosec // the kernel writes the answer there
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&on)), 0, 0, 0)
	return err == nil && on != 0 || os.Getpid() == 1
}
