package runner

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// runs32Bit asks the kernel for the personality of 32-bit programs, which it
// refuses where the processor lacks their instructions.
func runs32Bit() bool {
	const perLinux32 = 8
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	if errno != 0 {
		return false
	}
	_, _, errno = unix.Syscall(unix.SYS_PERSONALITY, perLinux32, 0, 0)
	_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, old, 0, 0)
	return errno == 0
}
