package archive

import (
	"os"

	"golang.org/x/sys/unix"
)

// exchange swaps two names at once, so that there is always something whole
// at path.
func exchange(tmp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	switch err {
	case nil:
		return nil
	case unix.EINVAL, unix.ENOSYS: // the file system, or the kernel, cannot
		return exchangeInSteps(tmp, path)
	}
	return &os.LinkError{Op: "rename", Old: tmp, New: path, Err: err}
}
