package diff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// Contents reads files of a revision, or with rev "" of the work tree. Paths
// with nothing there are not in the map; symbolic links are followed as FS
// does. Many files cost little more than one.
func (r *Repo) Contents(ctx context.Context, rev string, paths []string) (map[string][]byte, error) {
	fsys, err := r.FS(ctx, rev)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]byte, len(paths))
	one := func(path string) error {
		data, err := fs.ReadFile(fsys, path)
		switch {
		case err == nil:
			found[path] = data
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return err
		}
		return nil
	}
	if rev == "" {
		for _, p := range paths {
			if err := errors.Join(ctx.Err(), one(p)); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	c, err := r.Commit(ctx, rev)
	if err != nil {
		return nil, err
	}
	files, odd, err := r.descend(ctx, c.Tree, paths)
	if err != nil {
		return nil, fmt.Errorf("reading files of %s: %w", short(c.Hash), err)
	}
	ids := make([]string, len(files))
	for i, f := range files {
		ids[i] = f.at.id
	}
	contents, err := r.backend.readAll(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading files of %s: %w", short(c.Hash), err)
	}
	for i, f := range files {
		found[f.path] = contents[i]
	}
	for _, p := range odd {
		if err := one(p); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// descent is a path on its way down a tree.
type descent struct {
	path, rest string
	at         treeEntry
}

// descend takes all paths down together, so that the trees of a level are read
// at once. It gives the regular files at their ends; odd are the paths that
// meet something else than a directory or a file.
func (r *Repo) descend(ctx context.Context, root string, paths []string) (files []descent, odd []string, err error) {
	var way []descent
	for _, p := range paths {
		if fs.ValidPath(p) && p != "." {
			way = append(way, descent{p, p, treeEntry{mode: modeDir, id: root}})
		}
	}
	read := map[string]map[string]treeEntry{}
	for len(way) > 0 {
		var ids []string
		for _, d := range way {
			if _, known := read[d.at.id]; !known {
				read[d.at.id] = nil
				ids = append(ids, d.at.id)
			}
		}
		if err := r.readTrees(ctx, ids, read); err != nil {
			return nil, nil, err
		}
		next := way[:0]
		for _, d := range way {
			segment, rest, more := strings.Cut(d.rest, "/")
			e, ok := read[d.at.id][segment]
			switch {
			case !ok:
			case more && e.isDir():
				next = append(next, descent{d.path, rest, e})
			case !more && (e.mode == modeFile || e.mode == modeProgram):
				files = append(files, descent{path: d.path, at: e})
			case more && e.mode != modeLink:
			default:
				odd = append(odd, d.path)
			}
		}
		way = next
	}
	return files, odd, nil
}

func (r *Repo) readTrees(ctx context.Context, ids []string, into map[string]map[string]treeEntry) error {
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == emptyTree || id == emptyTree256 })
	all, err := r.backend.readAll(ctx, ids)
	if err != nil {
		return err
	}
	for i, id := range ids {
		entries, err := parseTree(all[i], len(id)/2)
		if err != nil {
			return fmt.Errorf("tree %s: %w", short(id), err)
		}
		into[id] = make(map[string]treeEntry, len(entries))
		for _, e := range entries {
			into[id][e.name] = e
		}
	}
	return nil
}
