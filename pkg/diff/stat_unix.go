//go:build unix

package diff

import (
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"golang.org/x/sys/unix"
)

// sameStat says whether a file is as the index saw it: size, times and inode.
func sameStat(e *index.Entry, name string) bool {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return false
	}
	same := func(t unix.Timespec, seconds int64, nanoseconds int) bool {
		return int64(t.Sec) == seconds && int(t.Nsec) == nanoseconds //nolint:unconvert // sizes differ between systems
	}
	return uint32(st.Size) == e.Size && uint32(st.Ino) == e.Inode && //nolint:gosec // the index keeps 32 bits of each
		same(st.Mtim, e.ModifiedAt.Unix(), e.ModifiedAt.Nanosecond()) && same(st.Ctim, e.CreatedAt.Unix(), e.CreatedAt.Nanosecond())
}
