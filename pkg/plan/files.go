package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pipegen/pipegen/pkg/diff"
)

// list gives the paths of the files, and lets FS make use of what git knows of
// them.
func (c *Checkout) list(ctx context.Context) ([]string, error) {
	if c.entries == nil {
		var err error
		if c.entries, err = c.Repo.Entries(ctx, c.rev); err != nil {
			return nil, err
		}
		if c.rev == "" {
			c.FS = workFiles{c.FS, c.Repo.Root(), c.entries}
		} else {
			c.FS = commitFiles{c.FS, c.entries}
		}
	}
	if c.rev == "" {
		return c.Repo.Files(ctx, "")
	}
	paths := make([]string, len(c.entries))
	for i, e := range c.entries {
		paths[i] = e.Path
	}
	return paths, nil
}

// WorkTree gives the files of a work tree, with a short way to read those that
// git lists, and their paths, sorted.
func WorkTree(ctx context.Context, repo *diff.Repo) (fs.FS, []string, error) {
	fsys, err := repo.FS(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	c := Checkout{Repo: repo, FS: fsys}
	paths, err := c.list(ctx)
	return c.FS, paths, err
}

// regular finds the entry of a regular file.
func regular(sorted []diff.Entry, name string) (*diff.Entry, bool) {
	i, found := sort.Find(len(sorted), func(i int) int { return strings.Compare(name, sorted[i].Path) })
	if !found || sorted[i].Mode != "100644" && sorted[i].Mode != "100755" {
		return nil, false
	}
	return &sorted[i], true
}

// commitFiles is the tree of a commit: what the cache knows of its files need
// not be read. It implements config.Listed.
type commitFiles struct {
	fs.FS
	entries []diff.Entry // sorted by path
}

// Blob gives the hash of a regular file.
func (c commitFiles) Blob(name string) (string, bool) {
	e, ok := regular(c.entries, name)
	if !ok {
		return "", false
	}
	return e.Object, true
}

func (c commitFiles) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(c.FS, name) }
func (c commitFiles) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(c.FS, name) }
func (c commitFiles) ReadLink(name string) (string, error)       { return fs.ReadLink(c.FS, name) }
func (c commitFiles) ReadFile(name string) ([]byte, error)       { return fs.ReadFile(c.FS, name) }
func (c commitFiles) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(c.FS, name) }

// workFiles is the work tree, with a short way to the regular files that git
// lists: no symbolic link leads there. It implements config.Listed.
type workFiles struct {
	fs.FS
	root    string
	entries []diff.Entry // sorted by path
}

// Blob gives no hash: filters may make the text of a file another one than git
// has.
func (w workFiles) Blob(name string) (string, bool) {
	_, ok := regular(w.entries, name)
	return "", ok
}

// file is the name by which the operating system knows a file.
func (w workFiles) file(name string) string {
	return w.root + string(filepath.Separator) + filepath.FromSlash(name)
}

func (w workFiles) ReadFile(name string) ([]byte, error) {
	if _, ok := regular(w.entries, name); ok {
		if data, ok := readRegular(w.file(name)); ok {
			return data, nil
		}
	}
	// Nobody may be there to write to a named pipe.
	info, err := fs.Stat(w.FS, name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is no regular file")}
	case info.Size() > maxRead:
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("is larger than %d MiB", maxRead>>20)}
	}
	return fs.ReadFile(w.FS, name)
}

// maxRead is what a file may have that is read whole, in bytes.
const maxRead = 64 << 20

func (w workFiles) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(w.FS, name) }
func (w workFiles) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(w.FS, name) }
func (w workFiles) ReadLink(name string) (string, error)       { return fs.ReadLink(w.FS, name) }
func (w workFiles) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(w.FS, name) }
