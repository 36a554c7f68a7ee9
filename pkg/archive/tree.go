package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/quote"
)

// errAbsent says that a path is not there, or leads through something that is
// no directory.
var errAbsent = errors.New("there is no such directory")

// tree is a file system that is being written. Every component of a path is
// looked at before it is entered, so that no symbolic link is ever followed.
type tree struct {
	root   *os.Root
	asRoot bool
	say    func(string)
	notes  map[string]int // how often something was left out, by kind

	here *place      // entered last
	top  *tar.Header // of the root itself
	// Directories that their owner may not change; they get their modes at
	// the end.
	locked map[string]fs.FileMode
	buf    []byte
}

// place is a directory of the tree.
type place struct {
	path string
	root *os.Root
	file *os.File
	// What is written into a directory changes its time; leaving it brings the
	// time back.
	time time.Time
}

// maxLocked bounds the memory for locked.
const maxLocked = 100_000

// maxNotes is how many lines there are of one kind.
const maxNotes = 10

func newTree(dir string, asRoot bool, say func(string)) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if say == nil {
		say = func(string) {}
	}
	return &tree{
		root: root, asRoot: asRoot, say: say, notes: map[string]int{},
		locked: map[string]fs.FileMode{}, buf: make([]byte, 128<<10),
	}, nil
}

func (t *tree) close() {
	_ = t.leave()
	_ = t.root.Close()
}

// note says what was left out, unless it was said often enough.
func (t *tree) note(kind, line string) {
	if t.notes[kind]++; t.notes[kind] <= maxNotes {
		t.say(line)
	}
}

// open opens a directory whose name in its parent is that of no link.
func open(parent *os.Root, name, full string) (*place, error) {
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, bare(err)
	}
	file, err := root.Open(".")
	if err != nil {
		_ = root.Close()
		return nil, bare(err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = root.Close()
		_ = file.Close()
		return nil, bare(err)
	}
	return &place{full, root, file, info.ModTime()}, nil
}

func (p *place) close() error {
	err := chtimes(p, ".", p.time)
	_ = p.file.Close()
	_ = p.root.Close()
	return err
}

func (t *tree) leave() error {
	if t.here == nil {
		return nil
	}
	p := t.here
	t.here = nil
	return p.close()
}

// enter opens a directory, and makes it and those above it where they are not
// there. What is no directory makes way.
func (t *tree) enter(dir string) (*place, error) { return t.walk(dir, true) }

// find opens a directory; errAbsent if it is not there.
func (t *tree) find(dir string) (*place, error) { return t.walk(dir, false) }

func (t *tree) walk(dir string, create bool) (*place, error) {
	if t.here != nil && t.here.path == dir {
		return t.here, nil
	}
	if err := t.leave(); err != nil {
		return nil, err
	}
	p, err := open(t.root, ".", ".")
	if err != nil {
		return nil, err
	}
	t.here = p
	if dir == "." {
		return p, nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		info, err := p.root.Lstat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, bare(err)
		}
		if err != nil || !info.IsDir() {
			if !create {
				return nil, errAbsent
			}
			if err := p.free(name); err != nil {
				return nil, err
			}
			if err := p.mkdir(name); err != nil {
				return nil, err
			}
		}
		next, err := open(p.root, name, path.Join(p.path, name))
		if err != nil {
			return nil, err
		}
		if err := p.close(); err != nil {
			return nil, err
		}
		p, t.here = next, next
	}
	return p, nil
}

// mkdir makes a directory that no layer describes.
func (p *place) mkdir(name string) error {
	if err := p.root.Mkdir(name, 0o755); err != nil {
		return bare(err)
	}
	return bare(p.root.Chmod(name, 0o755)) // whatever the umask
}

// free removes what has the name.
func (p *place) free(name string) error {
	_, err := p.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = p.root.RemoveAll(name)
	}
	return bare(err)
}

// remove removes what a path names, if it is there.
func (t *tree) remove(name string) error {
	p, err := t.find(path.Dir(name))
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.free(path.Base(name))
}

// clear removes all in a directory, if it is there.
func (t *tree) clear(dir string) error {
	p, err := t.find(dir)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	for {
		f, err := p.root.Open(".")
		if err != nil {
			return bare(err)
		}
		entries, err := f.ReadDir(256)
		_ = f.Close()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return bare(err)
		}
		for _, e := range entries {
			if err := p.root.RemoveAll(e.Name()); err != nil {
				return bare(err)
			}
		}
	}
}

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

// finish gives directories the modes and times that they could not have while
// they were written to.
func (t *tree) finish() error {
	// Longer paths first: what is below before what is above.
	for _, name := range slices.SortedFunc(maps.Keys(t.locked), func(a, b string) int { return len(b) - len(a) }) {
		p, err := t.find(path.Dir(name))
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return err
		}
		if info, err := p.root.Lstat(path.Base(name)); err == nil && info.IsDir() {
			if err := p.root.Chmod(path.Base(name), t.locked[name]); err != nil {
				return bare(err)
			}
		}
	}
	p, err := t.find(".")
	if err != nil {
		return err
	}
	if t.top == nil {
		err = bare(p.root.Chmod(".", 0o755))
	} else {
		mode := t.mode(t.top)
		if !t.asRoot {
			mode |= 0o700 // or the caller could do nothing with it
		}
		err = t.describe(p, ".", t.top, mode)
		p.time = t.top.ModTime
	}
	if err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(t.notes)) {
		if more := t.notes[kind] - maxNotes; more > 0 {
			t.say(fmt.Sprintf("%d more %s", more, kind))
		}
	}
	return t.leave()
}

// bare gives a system's error without path, which would be that of a
// temporary directory.
func bare(err error) error {
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return withoutPath(err)
}
