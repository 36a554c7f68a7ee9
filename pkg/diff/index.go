package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/index"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// work compares the index with the work tree, which it walks once. Files whose
// times and size are as the index has them are taken for unchanged, as git
// does. Conversions that .gitattributes asks for are not applied: a file that
// they alter counts as changed once its times differ.
func (s *store) work(ctx context.Context) ([]workFile, error) {
	idx, written, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	patterns, err := s.ignorePatterns()
	if err != nil {
		return nil, err
	}
	w := &walk{
		ctx: ctx, store: s, written: written, modes: lastBool(s.settings, "core.filemode", true),
		files: make(map[string]*workFile, len(idx.Entries)), entries: make(map[string]*index.Entry, len(idx.Entries)), dirs: map[string]bool{},
	}
	for _, e := range idx.Entries {
		if err := checkPath(e.Name); err != nil {
			return nil, err
		}
		unmerged := e.Stage != 0 // index.Merged is 1, and wrong
		if f := w.files[e.Name]; f != nil {
			continue // another side of the conflict
		}
		w.files[e.Name] = &workFile{
			Entry:    Entry{e.Name, octal(canonical(uint32(e.Mode))), e.Hash.String()},
			unmerged: unmerged, touched: unmerged, sparse: e.SkipWorktree, gone: !e.SkipWorktree,
		}
		w.entries[e.Name] = e
		for at := parent(e.Name); at != "" && !w.dirs[at]; at = parent(at) {
			w.dirs[at] = true
		}
	}
	if err := w.dir("", patterns, false); err != nil {
		return nil, err
	}
	files := make([]workFile, 0, len(w.files))
	for _, f := range w.files {
		files = append(files, *f)
	}
	slices.SortFunc(files, func(a, b workFile) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

func parent(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }

// readIndex also gives the time at which the index was written.
func (s *store) readIndex() (*index.Index, time.Time, error) {
	var idx index.Index
	name := filepath.Join(s.gitDir, "index")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &idx, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the index: %w", err)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the index: %w", err)
	}
	err = index.NewDecoder(bytes.NewReader(data)).Decode(&idx)
	switch {
	case errors.Is(err, index.ErrInvalidChecksum) && bytes.HasSuffix(data, make([]byte, 20)):
		// index.skipHash: git left the checksum out.
	case errors.Is(err, index.ErrUnknownExtension), errors.Is(err, index.ErrUnsupportedVersion):
		return nil, time.Time{}, failure.WithHint(failure.Input("the index of %s has a form that only git itself can read: %w", s.root, err), "install git")
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("reading the index: %w", err)
	}
	return &idx, info.ModTime(), nil
}

// walk goes through the work tree and notes what it finds in files.
type walk struct {
	ctx     context.Context
	store   *store
	written time.Time // of the index
	modes   bool
	files   map[string]*workFile
	entries map[string]*index.Entry
	dirs    map[string]bool // that hold files of the index
}

// dir walks one directory, "" or a path. In an ignored one, whatever the index
// does not have is ignored.
func (w *walk) dir(dir string, patterns []pattern, ignored bool) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	full := filepath.Join(w.store.root, filepath.FromSlash(dir))
	children, err := os.ReadDir(full)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !w.dirs[dir] {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the work tree: %w", err)
	}
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	if !ignored && slices.ContainsFunc(children, func(c fs.DirEntry) bool { return c.Name() == ".gitignore" && c.Type().IsRegular() }) {
		more, err := readIgnore(filepath.Join(full, ".gitignore"), dir)
		if err != nil {
			return err
		}
		patterns = append(slices.Clip(patterns), more...)
	}
	for _, c := range children {
		if c.Name() == ".git" {
			continue
		}
		if err := w.child(prefix+c.Name(), c, patterns, ignored); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) child(path string, c fs.DirEntry, patterns []pattern, ignored bool) error {
	f := w.files[path]
	switch {
	case f != nil && f.Mode == octal(modeGitlink):
		return w.submodule(f, c)
	case f != nil && !c.IsDir():
		return w.tracked(f)
	case c.IsDir():
		ignored = ignored || isIgnored(patterns, path, true)
		if !w.dirs[path] {
			if ignored {
				return nil
			}
			full := filepath.Join(w.store.root, filepath.FromSlash(path))
			if gitDir, err := gitDirOf(full); err != nil || gitDir != "" {
				if f == nil {
					w.files[path] = &workFile{Entry: Entry{Path: path}, touched: true}
				}
				return nil //nolint:nilerr // a broken .git file marks a repository as well
			}
		}
		return w.dir(path, patterns, ignored)
	case ignored || !c.Type().IsRegular() && c.Type() != fs.ModeSymlink || isIgnored(patterns, path, false):
		return nil
	}
	w.files[path] = &workFile{Entry: Entry{Path: path}, touched: true}
	return nil
}

// tracked looks at a file that the index has and that is no directory.
func (w *walk) tracked(f *workFile) error {
	state, err := stateOf(filepath.Join(w.store.root, filepath.FromSlash(f.Path)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at %s in the work tree: %w", quote.Text(f.Path), err)
	}
	e := w.entries[f.Path]
	f.gone, f.sparse = false, false
	mode, now := e.Mode, state.mode()
	switch {
	case now&fs.ModeSymlink != 0:
		mode = filemode.Symlink
	case !now.IsRegular():
		f.gone = true
	case e.Mode == filemode.Symlink, w.modes && now&0o100 == 0:
		mode = filemode.Regular
	case w.modes:
		mode = filemode.Executable
	}
	f.touched = f.touched || e.IntentToAdd || mode != e.Mode ||
		// Written no earlier than the index, it may have changed since within the same tick.
		!e.ModifiedAt.Before(w.written) || !state.isAs(e)
	return nil
}

// submodule looks at what is checked out where the index has a submodule.
func (w *walk) submodule(f *workFile, c fs.DirEntry) error {
	f.gone = false
	if !c.IsDir() {
		f.touched = true
		return nil
	}
	full := filepath.Join(w.store.root, filepath.FromSlash(f.Path))
	gitDir, err := gitDirOf(full)
	if err != nil {
		return err
	}
	if gitDir == "" {
		return nil // not checked out
	}
	inner, err := open(w.ctx, full, "")
	if err != nil {
		return err
	}
	defer inner.Close() //nolint:errcheck // only read from
	head, err := inner.Head(w.ctx)
	if err != nil {
		return nil //nolint:nilerr // without a commit it has nothing to compare
	}
	if head.Hash != f.Object {
		f.touched = true
		return nil
	}
	dirty, err := inner.Dirty(w.ctx)
	f.touched = f.touched || dirty
	return err
}
