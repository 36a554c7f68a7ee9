//go:build unix

package diff

import (
	"io/fs"

	"github.com/go-git/go-git/v5/plumbing/format/index"
	"golang.org/x/sys/unix"
)

// fileState is what the system says of a file, links not followed.
type fileState struct{ stat unix.Stat_t }

func stateOf(name string) (s fileState, err error) {
	for {
		if err = unix.Lstat(name, &s.stat); err != unix.EINTR {
			return s, err
		}
	}
}

// mode has of the permission bits those that git heeds.
func (s *fileState) mode() fs.FileMode {
	switch s.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return fs.FileMode(s.stat.Mode) & 0o777
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFDIR:
		return fs.ModeDir
	}
	return fs.ModeIrregular
}

// isAs says whether the file is as the index saw it: size, times and inode.
func (s *fileState) isAs(e *index.Entry) bool {
	same := func(t unix.Timespec, seconds int64, nanoseconds int) bool {
		return int64(t.Sec) == seconds && int(t.Nsec) == nanoseconds //nolint:unconvert // sizes differ between systems
	}
	return uint32(s.stat.Size) == e.Size && uint32(s.stat.Ino) == e.Inode && //nolint:gosec // the index keeps 32 bits of each
		same(s.stat.Mtim, e.ModifiedAt.Unix(), e.ModifiedAt.Nanosecond()) && same(s.stat.Ctim, e.CreatedAt.Unix(), e.CreatedAt.Nanosecond())
}
