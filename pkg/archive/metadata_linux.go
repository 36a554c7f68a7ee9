package archive

import (
	"archive/tar"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// chtimes sets the time of what has a name in a directory, a symbolic link's
// own included.
func chtimes(p *place, name string, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(p.file.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func mknod(p *place, name string, h *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))         //nolint:gosec // the header's fields are as wide
	return unix.Mknodat(int(p.file.Fd()), name, kind|0o600, int(dev)) //nolint:gosec // so is the system's
}

func setXattr(f *os.File, name, value string) error {
	return unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0)
}
