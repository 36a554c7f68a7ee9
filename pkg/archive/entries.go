package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

// directory makes a directory, or gives one that is there its metadata.
func (t *tree) directory(p *place, name string, h *tar.Header) error {
	base := path.Base(name)
	if info, err := p.root.Lstat(base); err != nil || !info.IsDir() {
		if err := p.free(base); err != nil {
			return err
		}
		if err := p.mkdir(base); err != nil {
			return err
		}
	}
	delete(t.locked, name)
	mode := t.mode(h)
	if !t.asRoot && mode&0o700 != 0o700 {
		if len(t.locked) < maxLocked {
			t.locked[name] = mode
		} else {
			t.note("directories", fmt.Sprintf("%s stays writable for its owner: there are too many directories that are not", quote.Text(name)))
		}
		mode |= 0o700
	}
	return t.describe(p, base, h, mode)
}

// describe gives a directory its owner, mode, attributes and time.
func (t *tree) describe(p *place, base string, h *tar.Header, mode fs.FileMode) error {
	if err := t.chown(h, func(uid, gid int) error { return p.root.Lchown(base, uid, gid) }); err != nil {
		return err
	}
	if err := p.root.Chmod(base, mode); err != nil {
		return bare(err)
	}
	if hasXattrs(h) {
		f, err := p.root.Open(base)
		if err != nil {
			return bare(err)
		}
		t.xattrs(f, h)
		_ = f.Close()
	}
	return chtimes(p, base, h.ModTime)
}

// file writes a file. Long runs of zeros become holes.
func (t *tree) file(p *place, base string, h *tar.Header, data io.Reader) error {
	const flags = os.O_CREATE | os.O_EXCL | os.O_WRONLY
	f, err := p.root.OpenFile(base, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := p.free(base); err != nil {
			return err
		}
		f, err = p.root.OpenFile(base, flags, 0o600)
	}
	if err != nil {
		return bare(err)
	}
	err = t.fill(f, data, h.Size)
	if err == nil {
		err = t.chown(h, f.Chown)
	}
	if err == nil {
		err = f.Chmod(t.mode(h))
	}
	t.xattrs(f, h)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return bare(err)
	}
	return chtimes(p, base, h.ModTime)
}

var zeros [128 << 10]byte

func (t *tree) fill(f *os.File, data io.Reader, size int64) error {
	var at int64
	hole := false
	for {
		n, err := io.ReadFull(data, t.buf)
		if hole = bytes.Equal(t.buf[:n], zeros[:n]) && n > 0 || n == 0 && hole; !hole && n > 0 {
			if _, err := f.WriteAt(t.buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case err == nil:
		case (errors.Is(err, io.EOF) && n == 0) || (errors.Is(err, io.ErrUnexpectedEOF) && n > 0):
			if at != size {
				return io.ErrUnexpectedEOF
			}
			if hole {
				return f.Truncate(at)
			}
			return nil
		default:
			return err
		}
	}
}

// link makes a hard link. The link in p is of this name.
func (t *tree) link(p *place, name, to string) error {
	source, err := inside(to)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	if source == name {
		return nil
	}
	for at := 0; ; {
		next := strings.IndexByte(source[at:], '/')
		if next < 0 {
			break
		}
		at += next
		if info, err := t.root.Lstat(source[:at]); err != nil || !info.IsDir() {
			return fmt.Errorf("hard link to %s, which is not there", quote.Text(shorten(to)))
		}
		at++
	}
	if info, err := t.root.Lstat(source); err != nil || info.IsDir() {
		return fmt.Errorf("hard link to %s, which is no file", quote.Text(shorten(to)))
	}
	if err := p.free(path.Base(name)); err != nil {
		return err
	}
	if err := t.root.Link(source, name); err != nil {
		return fmt.Errorf("hard link to %s: %w", quote.Text(shorten(to)), bare(err))
	}
	return nil
}

// node makes a device or a named pipe.
func (t *tree) node(p *place, name string, h *tar.Header) error {
	left := func(why string) error {
		t.note("devices and pipes", fmt.Sprintf("left out %s: %s", quote.Text(name), why))
		return nil
	}
	if !t.asRoot && h.Typeflag != tar.TypeFifo {
		return left("only root can make device nodes")
	}
	base := path.Base(name)
	if err := p.free(base); err != nil {
		return err
	}
	if err := mknod(p, base, h); err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
			return left(err.Error())
		}
		return err
	}
	if err := t.chown(h, func(uid, gid int) error { return p.root.Lchown(base, uid, gid) }); err != nil {
		return err
	}
	if err := p.root.Chmod(base, t.mode(h)); err != nil {
		return bare(err)
	}
	return chtimes(p, base, h.ModTime)
}

// own gives a symbolic link its owner and time.
func (t *tree) own(p *place, base string, h *tar.Header) error {
	if err := t.chown(h, func(uid, gid int) error { return p.root.Lchown(base, uid, gid) }); err != nil {
		return err
	}
	return chtimes(p, base, h.ModTime)
}

// chown gives an entry its owner. In a user namespace there may be no such
// user.
func (t *tree) chown(h *tar.Header, chown func(uid, gid int) error) error {
	if !t.asRoot {
		return nil
	}
	const most = 1<<32 - 2 // the one above means: leave it as it is
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > most || int64(h.Gid) > most {
		return fmt.Errorf("there is no owner %d:%d", h.Uid, h.Gid)
	}
	err := chown(h.Uid, h.Gid)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrInvalid) {
		t.note("owners", fmt.Sprintf("%s keeps this process's owner instead of %d:%d: %s", quote.Text(shorten(h.Name)), h.Uid, h.Gid, bare(err)))
		return nil
	}
	return bare(err)
}

// mode gives an entry's permissions. For others than root the bits that would
// change the user are of no use: the file belongs to the caller.
func (t *tree) mode(h *tar.Header) fs.FileMode {
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !t.asRoot {
		mode &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return mode
}

const xattrPrefix = "SCHILY.xattr."

func hasXattrs(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, xattrPrefix) {
			return true
		}
	}
	return false
}

// xattrs sets extended attributes, but for those by which an overlay file
// system would take the file for something else.
func (t *tree) xattrs(f *os.File, h *tar.Header) {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if err := setXattr(f, name, value); err != nil {
			t.note("extended attributes", fmt.Sprintf("%s lacks its attribute %s: %s", quote.Text(shorten(h.Name)), quote.Text(shorten(name)), err))
		}
	}
}
