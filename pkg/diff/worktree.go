package diff

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"
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
	var base []Entry
	var files []workFile
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if tree != "" {
			base, err = r.backend.entries(both, tree)
		}
		return err
	})
	group.Go(func() (err error) {
		files, err = r.work(both)
		return err
	})
	if err := group.Wait(); err != nil {
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
