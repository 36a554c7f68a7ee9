//go:build unix

package diff

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int64) (mapped, error) {
	if size > math.MaxInt {
		return mapped{}, errors.New("too large to be mapped into memory")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return mapped{}, fmt.Errorf("mapping %s into memory: %w", f.Name(), err)
	}
	return mapped{data, func() error { return unix.Munmap(data) }}, nil
}
