package diff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Entry is one file, symbolic link or submodule.
type Entry struct {
	// Path from the root, with slashes.
	Path string
	// Mode in octal as git writes it: 100644, 100755, 120000, 160000.
	Mode string
	// Object id in hex.
	Object string
}

// Entries lists what a revision holds, sorted by path. With rev "" it is the
// work tree: what git would record of it now. Files that differ from the head
// carry the id that they would have, files that are gone are left out, and
// those that are neither tracked nor ignored are there. What sparse checkout
// leaves out is listed as the index has it.
func (r *Repo) Entries(ctx context.Context, rev string) ([]Entry, error) {
	if rev != "" {
		c, err := r.Commit(ctx, rev)
		if err != nil {
			return nil, err
		}
		entries, err := r.backend.entries(ctx, c.Tree)
		if err != nil {
			return nil, fmt.Errorf("listing the files of %s: %w", quote.Text(rev), err)
		}
		return entries, nil
	}
	files, err := r.work(ctx)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	var touched []workFile
	for _, f := range files {
		switch {
		case f.gone:
		case f.touched:
			touched = append(touched, f)
		default:
			entries = append(entries, f.Entry)
		}
	}
	now, err := r.onDisk(ctx, touched)
	if err != nil {
		return nil, err
	}
	entries = append(entries, now...)
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	return entries, nil
}

// readFiles gives files as git would record them now, without those that are
// not there. The order is kept.
func (r *Repo) readFiles(ctx context.Context, files []workFile) ([]Entry, error) {
	if len(files) == 0 {
		return nil, nil
	}
	config, err := r.backend.config(ctx)
	if err != nil {
		return nil, err
	}
	modes := lastBool(config, "core.filemode", true)
	entries := make([]Entry, 0, len(files))
	var regular []int // of entries
	var paths []string
	for _, f := range files {
		e, err := r.entryOnDisk(ctx, f, modes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at %q in the work tree: %w", f.Path, err)
		}
		if e.Object == "" {
			regular, paths = append(regular, len(entries)), append(paths, f.Path)
		}
		entries = append(entries, e)
	}
	ids, err := r.backend.hashFiles(ctx, paths)
	if err != nil {
		return nil, err
	}
	if len(ids) != len(paths) {
		return nil, fmt.Errorf("hashing %d files: got %d hashes", len(paths), len(ids))
	}
	for i, id := range ids {
		entries[regular[i]].Object = id
	}
	return entries, nil
}

// entryOnDisk leaves Object empty for regular files.
func (r *Repo) entryOnDisk(ctx context.Context, f workFile, modes bool) (Entry, error) {
	name := filepath.Join(r.root, filepath.FromSlash(f.Path))
	info, err := os.Lstat(name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Path: f.Path, Mode: octal(modeFile)}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		e.Mode = octal(modeLink)
		target, err := os.Readlink(name)
		if err != nil {
			return Entry{}, err
		}
		e.Object, err = r.backend.hashBytes(ctx, []byte(target))
		return e, err
	case info.IsDir():
		e.Mode, e.Object = octal(modeGitlink), r.headOf(ctx, name)
		if e.Object == "" {
			e.Object = cmp.Or(f.Object, strings.Repeat("0", 40))
		}
		return e, ctx.Err()
	case !modes && (f.Mode == octal(modeFile) || f.Mode == octal(modeProgram)):
		e.Mode = f.Mode
	case modes && info.Mode()&0o100 != 0:
		e.Mode = octal(modeProgram)
	}
	return e, nil
}

// headOf is the commit that is checked out in a repository inside this one, or
// "" if it has none.
func (r *Repo) headOf(ctx context.Context, dir string) string {
	inner, err := open(ctx, dir, r.git)
	if err != nil {
		return ""
	}
	defer inner.Close() //nolint:errcheck // only read from
	if inner.root == r.root {
		return "" // a submodule that is not checked out
	}
	head, err := inner.Head(ctx)
	if err != nil {
		return ""
	}
	return head.Hash
}
