package archive

import (
	"archive/tar"
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
