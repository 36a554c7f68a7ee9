//go:build !linux

package archive

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"time"
)

// chtimes sets the time of what has a name in a directory; symbolic links keep
// theirs.
func chtimes(p *place, name string, at time.Time) error {
	if info, err := p.root.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return bare(err)
	}
	return bare(p.root.Chtimes(name, at, at))
}

func mknod(*place, string, *tar.Header) error { return errors.ErrUnsupported }

func setXattr(*os.File, string, string) error { return errors.ErrUnsupported }
