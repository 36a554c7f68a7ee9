package buildcontext

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// tree is a directory that an archive is written to. Every component of a
// path is looked at before it is entered, so that no symbolic link is ever
// followed.
type tree struct {
	bytesLeft, entriesLeft, dirsLeft int64
	// The directories that lead to where something was written last, the root
	// first.
	stack []place
	buf   []byte
	zeros []byte
}

// place is an open directory.
type place struct {
	path string
	root *os.Root
	self *os.File // the same
}

// writeTree writes what is in a tar to root.
func writeTree(in io.Reader, root *os.Root, maxBytes, maxFiles int64) error {
	const chunk = 256 << 10
	self, err := root.Open(".")
	if err != nil {
		return bare(err)
	}
	defer self.Close()
	t := &tree{
		bytesLeft: maxBytes, entriesLeft: maxFiles, dirsLeft: maxFiles, stack: []place{{".", root, self}},
		buf: make([]byte, chunk), zeros: make([]byte, chunk),
	}
	err = t.entries(tar.NewReader(in))
	if lerr := t.leave(1); err == nil {
		err = lerr
	}
	return err
}

func count(left *int64) error {
	if *left--; *left < 0 {
		return failure.WithHint(failure.Input("the archive has more files than allowed"), "leave out by .dockerignore what the build does not need")
	}
	return nil
}

// entry writes one entry.
func (t *tree) entry(name string, h *tar.Header, data io.Reader) error {
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return failure.Input("the root of the context is no directory")
		}
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		p, err := t.enter(name)
		if err != nil {
			return err
		}
		return bare(p.root.Chmod(".", fs.FileMode(h.Mode)&fs.ModePerm|0o700)) //nolint:gosec // a mask
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return t.file(name, h, data)
	case tar.TypeSymlink:
		if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) || len(h.Linkname) >= maxPath {
			return failure.Input("a symbolic link that leads nowhere")
		}
		p, err := t.enter(path.Dir(name))
		if err != nil {
			return err
		}
		base := path.Base(name)
		if err := p.root.Symlink(h.Linkname, base); err != nil {
			return taken(err)
		}
		return setTime(p, base)
	case tar.TypeLink:
		return t.link(name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return failure.Input("a device or a named pipe: contexts have files, directories and links alone")
	}
	return failure.Input("entries of type %q are not known", h.Typeflag)
}

func (t *tree) file(name string, h *tar.Header, data io.Reader) error {
	if t.bytesLeft -= h.Size; t.bytesLeft < 0 {
		return errTooLarge
	}
	p, err := t.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	f, err := p.root.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return taken(err)
	}
	err = t.copy(f, data, h.Size)
	if err == nil {
		err = bare(f.Chmod(fs.FileMode(h.Mode) & fs.ModePerm)) //nolint:gosec // a mask
	}
	if cerr := f.Close(); err == nil {
		err = bare(cerr)
	}
	if err != nil {
		return err
	}
	return setTime(p, base)
}

// copy writes a file's data. Where there are nothing but zeros it leaves holes.
func (t *tree) copy(f *os.File, data io.Reader, size int64) error {
	hole := false
	for left := size; left > 0; {
		chunk := t.buf[:min(left, int64(len(t.buf)))]
		if _, err := io.ReadFull(data, chunk); err != nil {
			return damaged(err)
		}
		left -= int64(len(chunk))
		if hole = bytes.Equal(chunk, t.zeros[:len(chunk)]); hole {
			if _, err := f.Seek(int64(len(chunk)), io.SeekCurrent); err != nil {
				return bare(err)
			}
			continue
		}
		if _, err := f.Write(chunk); err != nil {
			return bare(err)
		}
	}
	if hole {
		return bare(f.Truncate(size))
	}
	return nil
}

// link gives a regular file of the archive another name.
func (t *tree) link(name, old string) error {
	target, err := inside(old)
	if err != nil {
		return failure.Input("its link to %s: %w", quote.Text(shorten(old)), err)
	}
	p, err := t.find(path.Dir(target))
	if err != nil {
		return err
	}
	if p != nil {
		if info, err := p.root.Lstat(path.Base(target)); err != nil || !info.Mode().IsRegular() {
			p = nil
		}
	}
	if p == nil {
		return failure.Input("a link to %s, which is no file of the archive before it", quote.Text(shorten(old)))
	}
	if _, err := t.enter(path.Dir(name)); err != nil {
		return err
	}
	// No component of either is a symbolic link.
	if err := t.stack[0].root.Link(target, name); err != nil {
		return taken(err)
	}
	return nil
}

// enter opens a directory, and makes it and those above it where they are not
// there.
func (t *tree) enter(dir string) (*place, error) {
	p, err := t.walk(dir, true)
	if err == nil && p == nil {
		err = failure.Input("it is below what is no directory")
	}
	return p, err
}

// find opens a directory; nil if there is none.
func (t *tree) find(dir string) (*place, error) { return t.walk(dir, false) }

func (t *tree) walk(dir string, create bool) (*place, error) {
	depth := len(t.stack) - 1
	for ; depth > 0; depth-- {
		if _, ok := below(dir, t.stack[depth].path); ok || dir == t.stack[depth].path {
			break
		}
	}
	if err := t.leave(depth + 1); err != nil {
		return nil, err
	}
	here := &t.stack[depth]
	rest, ok := below(dir, here.path)
	if !ok {
		return here, nil
	}
	for name := range strings.SplitSeq(rest, "/") {
		info, err := here.root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && create:
			if err := t.mkdir(here, name); err != nil {
				return nil, err
			}
		case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
			return nil, nil //nolint:nilnil // nothing is there
		case err != nil:
			return nil, bare(err)
		}
		sub, err := here.root.OpenRoot(name)
		if err != nil {
			return nil, bare(err)
		}
		self, err := sub.Open(".")
		if err != nil {
			_ = sub.Close()
			return nil, bare(err)
		}
		t.stack = append(t.stack, place{path.Join(here.path, name), sub, self})
		here = &t.stack[len(t.stack)-1]
	}
	return here, nil
}

func (t *tree) mkdir(p *place, name string) error {
	if err := count(&t.dirsLeft); err != nil {
		return err
	}
	if err := p.root.Mkdir(name, 0o700); err != nil {
		return bare(err)
	}
	return bare(p.root.Chmod(name, 0o755)) // whatever the umask
}

// leave closes the open directories but the first keep ones. Each gets its time, which writing to it has changed.
func (t *tree) leave(keep int) error {
	var first error
	for len(t.stack) > keep {
		p := t.stack[len(t.stack)-1]
		if err := setTime(&p, "."); first == nil {
			first = err
		}
		_ = p.self.Close()
		_ = p.root.Close()
		t.stack = t.stack[:len(t.stack)-1]
	}
	return first
}

// taken is what is wrong when an entry cannot be made.
func taken(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return failure.Input("the archive has two entries of this name, or of names that differ in case alone")
	}
	return bare(err)
}
