//go:build unix

package plan

import (
	"errors"
	"syscall"
)

// readRegular reads a regular file; false: it is none, or cannot be read. It
// does without what os.ReadFile does for files that a program waits for, which
// is half of what a small file costs.
func readRegular(name string) ([]byte, bool) {
	fd, err := retry(func() (int, error) {
		return syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, false
	}
	defer syscall.Close(fd) //nolint:errcheck // only read from
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size > maxRead {
		return nil, false
	}
	// A read that leaves room has come to the end.
	data := make([]byte, 0, st.Size+1)
	for len(data) <= maxRead {
		n, err := retry(func() (int, error) { return syscall.Read(fd, data[len(data):cap(data)]) })
		if err != nil {
			return nil, false
		}
		if data = data[:len(data)+n]; len(data) < cap(data) {
			return data, true
		}
		data = append(data, 0)[:len(data)]
	}
	return nil, false
}

func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
