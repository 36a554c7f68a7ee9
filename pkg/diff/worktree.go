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
)

// workFile is a path that the index or the work tree holds.
type workFile struct {
	// As the index has it; an untracked file has a Path only.
	Entry
	gone     bool // the index has it, the work tree has not
	touched  bool // what is in the work tree may differ from the index, or is not in it
	unmerged bool // the index holds the sides of a conflict
	sparse   bool // left out of the work tree by sparse checkout
}

func (f workFile) tracked() bool { return f.Mode != "" }

// Dirty says whether there is anything that the head does not hold: staged or
// unstaged changes, or files that are neither tracked nor ignored.
func (r *Repo) Dirty(ctx context.Context) (bool, error) {
	tree := ""
	head, err := r.backend.commit(ctx, "HEAD")
	if err == nil {
		tree = head.Tree
	} else if !errors.Is(err, ErrMissing) {
		return false, err
	}
	changes, err := r.workChanges(ctx, tree, true)
	return len(changes) > 0, err
}

// workChanges compares a tree with the work tree. With staged, what only the
// index holds counts too.
func (r *Repo) workChanges(ctx context.Context, tree string, staged bool) ([]Change, error) {
	base, err := r.treeEntries(ctx, tree)
	if err != nil {
		return nil, err
	}
	files, err := r.backend.work(ctx)
	if err != nil {
		return nil, err
	}
	var changes []Change
	var unsure []workFile
	add := func(path string, kind Kind) { changes = append(changes, Change{path, kind}) }
	was := map[string]Entry{}
	for len(base) > 0 || len(files) > 0 {
		order := 0
		switch {
		case len(base) == 0:
			order = 1
		case len(files) == 0:
			order = -1
		default:
			order = cmp.Compare(base[0].Path, files[0].Path)
		}
		if order < 0 {
			add(base[0].Path, Deleted)
			base = base[1:]
			continue
		}
		f := files[0]
		files = files[1:]
		if order > 0 {
			if !f.gone || staged {
				add(f.Path, Added)
			}
			continue
		}
		b := base[0]
		base = base[1:]
		switch {
		case f.gone:
			add(f.Path, Deleted)
		case !f.touched && f.Entry == b:
		case !f.touched, f.unmerged, staged && f.Entry != b, f.Mode == octal(modeGitlink), b.Mode == octal(modeGitlink):
			add(f.Path, Modified)
		default:
			was[f.Path] = b
			unsure = append(unsure, f)
		}
	}
	now, err := r.onDisk(ctx, unsure)
	if err != nil {
		return nil, err
	}
	for _, e := range now {
		if was[e.Path] != e {
			add(e.Path, Modified)
		}
		delete(was, e.Path)
	}
	for path := range was {
		add(path, Deleted) // went away meanwhile
	}
	sortChanges(changes)
	return changes, nil
}

func (r *Repo) treeEntries(ctx context.Context, tree string) ([]Entry, error) {
	if tree == "" {
		return nil, nil
	}
	return r.backend.entries(ctx, tree)
}

// onDisk gives files as git would record them now, without those that are not
// there. The order is kept.
func (r *Repo) onDisk(ctx context.Context, files []workFile) ([]Entry, error) {
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

// Entries lists what a revision or, with rev "", the work tree holds; see Entry.
func (r *Repo) Entries(ctx context.Context, rev string) ([]Entry, error) {
	if rev != "" {
		c, err := r.Commit(ctx, rev)
		if err != nil {
			return nil, err
		}
		entries, err := r.backend.entries(ctx, c.Tree)
		if err != nil {
			return nil, fmt.Errorf("listing the files of %s: %w", rev, err)
		}
		return entries, nil
	}
	files, err := r.backend.work(ctx)
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

// lastBool reads a boolean of git's configuration; see git-config(1), --type=bool.
func lastBool(config map[string][]string, key string, otherwise bool) bool {
	values := config[key]
	if len(values) == 0 {
		return otherwise
	}
	switch strings.ToLower(values[len(values)-1]) {
	case "", "false", "no", "off", "0":
		return false
	}
	return true
}
