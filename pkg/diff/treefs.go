package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// treeFS is the tree of a commit as a file system. A submodule is an empty
// directory, as in a checkout without submodules.
type treeFS struct {
	ctx   context.Context // an fs.FS has no other way to be cancelled
	trees *trees
	root  string
	time  time.Time
	blobs blobs
}

// blobs keeps small files: whoever asks whether one is there, and how large it
// is, reads it next.
type blobs struct {
	mu   sync.Mutex
	kept map[string][]byte
	size int
}

const (
	smallBlob = 16 << 10 // bytes
	keptBlobs = 32 << 20 // bytes in all
)

func (b *blobs) get(id string, read func() ([]byte, error)) ([]byte, error) {
	b.mu.Lock()
	data, ok := b.kept[id]
	b.mu.Unlock()
	if ok {
		return data, nil
	}
	data, err := read()
	if err != nil || len(data) > smallBlob {
		return data, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size += len(data); b.size <= keptBlobs {
		if b.kept == nil {
			b.kept = map[string][]byte{}
		}
		b.kept[id] = data
	}
	return data, nil
}

func newTreeFS(ctx context.Context, t *trees, c Commit) *treeFS {
	return &treeFS{ctx: ctx, trees: t, root: c.Tree, time: c.Committed}
}

var (
	errEscapes = errors.New("symbolic link leads out of the tree")
	errLoop    = errors.New("too many symbolic links")
)

// resolve finds a file; with follow, what a symbolic link at its end names.
func (t *treeFS) resolve(op, name string, follow bool) (treeEntry, error) {
	fail := func(err error) (treeEntry, error) {
		return treeEntry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	at, left := ".", name
	for links := 0; left != "."; {
		segment, rest, more := strings.Cut(left, "/")
		if !more {
			rest = "."
		}
		here := path.Join(at, segment)
		e, ok, err := t.trees.lookup(t.ctx, t.root, here)
		if err != nil {
			return fail(err)
		}
		if !ok {
			return fail(fs.ErrNotExist)
		}
		if e.mode != modeLink || rest == "." && !follow {
			at, left = here, rest
			continue
		}
		if links++; links > 40 {
			return fail(errLoop)
		}
		target, err := t.trees.backend.object(t.ctx, e.id)
		if err != nil {
			return fail(err)
		}
		// The link may lead upward, so the walk begins again at the top.
		next := path.Join(at, string(target))
		if path.IsAbs(string(target)) || next == ".." || strings.HasPrefix(next, "../") {
			return fail(errEscapes)
		}
		at, left = ".", path.Join(next, rest)
	}
	e, ok, err := t.trees.lookup(t.ctx, t.root, at)
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fail(err)
	}
	e.name = path.Base(name)
	return e, nil
}

func (t *treeFS) Open(name string) (fs.File, error) {
	e, err := t.resolve("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.isDir() || e.mode == modeGitlink {
		entries, err := t.children(name, e)
		return &openDir{info: t.info(e, 0), left: entries}, err
	}
	data, err := t.content("open", name, e)
	if err != nil {
		return nil, err
	}
	return &openFile{t.info(e, len(data)), *bytes.NewReader(data)}, nil
}

func (t *treeFS) ReadFile(name string) ([]byte, error) {
	e, err := t.resolve("open", name, true)
	if err != nil {
		return nil, err
	}
	data, err := t.content("read", name, e)
	return slices.Clone(data), err // the caller's to change
}

func (t *treeFS) content(op, name string, e treeEntry) ([]byte, error) {
	if e.isDir() || e.mode == modeGitlink {
		return nil, &fs.PathError{Op: op, Path: name, Err: errors.New("is a directory")}
	}
	data, err := t.blobs.get(e.id, func() ([]byte, error) { return t.trees.backend.object(t.ctx, e.id) })
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return data, nil
}

func (t *treeFS) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, true) }

func (t *treeFS) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, false) }

func (t *treeFS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	e, err := t.resolve(op, name, follow)
	if err != nil {
		return nil, err
	}
	return t.sized(op, name, e)
}

func (t *treeFS) sized(op, name string, e treeEntry) (fs.FileInfo, error) {
	if e.isDir() || e.mode == modeGitlink {
		return t.info(e, 0), nil
	}
	data, err := t.content(op, name, e)
	return t.info(e, len(data)), err
}

func (t *treeFS) ReadLink(name string) (string, error) {
	e, err := t.resolve("readlink", name, false)
	if err == nil && e.mode != modeLink {
		err = &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return "", err
	}
	target, err := t.content("readlink", name, e)
	return string(target), err
}

func (t *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := t.resolve("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !e.isDir() && e.mode != modeGitlink {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	return t.children(name, e)
}

func (t *treeFS) children(name string, e treeEntry) ([]fs.DirEntry, error) {
	if e.mode == modeGitlink {
		return nil, nil
	}
	_, list, err := t.trees.list(t.ctx, e.id)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	entries := make([]fs.DirEntry, len(list))
	for i, c := range list {
		entries[i] = &dirEntry{t, path.Join(name, c.name), c}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func (t *treeFS) info(e treeEntry, size int) fileInfo {
	return fileInfo{e.name, fileMode(e.mode), int64(size), t.time}
}

func fileMode(mode uint32) fs.FileMode {
	switch mode {
	case modeDir, modeGitlink:
		return fs.ModeDir | 0o755
	case modeLink:
		return fs.ModeSymlink | 0o777
	case modeProgram:
		return 0o755
	}
	return 0o644
}

// fileInfo implements fs.FileInfo.
type fileInfo struct {
	name string
	mode fs.FileMode
	size int64
	time time.Time
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return i.time }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

// dirEntry implements fs.DirEntry; the size is read when it is asked for.
type dirEntry struct {
	fs    *treeFS
	path  string
	entry treeEntry
}

func (d *dirEntry) Name() string               { return d.entry.name }
func (d *dirEntry) IsDir() bool                { return d.Type().IsDir() }
func (d *dirEntry) Type() fs.FileMode          { return fileMode(d.entry.mode).Type() }
func (d *dirEntry) Info() (fs.FileInfo, error) { return d.fs.sized("stat", d.path, d.entry) }
func (d *dirEntry) String() string             { return fs.FormatDirEntry(d) }

type openFile struct {
	info fileInfo
	bytes.Reader
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	info fileInfo
	left []fs.DirEntry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, fmt.Errorf("reading directory %s: %w", d.info.name, fs.ErrInvalid)
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.left) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.left) {
		n = len(d.left)
	}
	some := d.left[:n]
	d.left = d.left[n:]
	return some, nil
}
