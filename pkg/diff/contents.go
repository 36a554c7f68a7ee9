package diff

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Contents reads files of a revision, or with rev "" of the work tree. Paths
// with nothing there are not in the map; as for git there is nothing beyond a
// symbolic link. A link at the end of a path is followed as FS does. Many files
// cost little more than one.
func (r *Repo) Contents(ctx context.Context, rev string, paths []string) (map[string][]byte, error) {
	if rev == "" {
		return r.workContents(ctx, paths)
	}
	found := make(map[string][]byte, len(paths))
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
		ids[i] = f.id
	}
	contents, err := r.backend.readAll(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading files of %s: %w", short(c.Hash), err)
	}
	for i, f := range files {
		found[f.path] = bytes.Clone(contents[i]) // the caller's to change
	}
	if len(odd) == 0 {
		return found, nil
	}
	fsys := newTreeFS(ctx, newTrees(r.backend), c)
	for _, p := range odd {
		data, err := fsys.ReadFile(p)
		if err != nil && !nothingThere(err) {
			return nil, err
		}
		if err == nil {
			found[p] = data
		}
	}
	return found, nil
}

func (r *Repo) workContents(ctx context.Context, paths []string) (map[string][]byte, error) {
	root, err := os.OpenRoot(r.root)
	if err != nil {
		return nil, fmt.Errorf("opening the work tree: %w", err)
	}
	defer root.Close()
	found := make(map[string][]byte, len(paths))
	plain := map[string]bool{".": true} // whether all on the way to a directory are directories
	var isPlain func(dir string) bool
	isPlain = func(dir string) bool {
		is, known := plain[dir]
		if !known && isPlain(path.Dir(dir)) {
			info, err := root.Lstat(filepath.FromSlash(dir))
			is = err == nil && info.IsDir()
		}
		plain[dir] = is
		return is
	}
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if checkPath(p) != nil || !isPlain(path.Dir(p)) {
			continue
		}
		data, err := root.ReadFile(filepath.FromSlash(p))
		if err != nil && !nothingThere(err) {
			return nil, err
		}
		if err == nil {
			found[p] = data
		}
	}
	return found, nil
}

func nothingThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// descent is a path on its way down from a tree.
type descent struct {
	path, rest string
	id         string // of what it has come to, a tree or at last a file
}

// name is what is wanted of the tree, and whether the path goes on below.
func (d descent) name() (name, rest string, more bool) { return strings.Cut(d.rest, "/") }

// descend takes all paths down together, so that the trees of a level are read
// at once. It gives the regular files at their ends; odd are the paths that
// meet something else than a directory or a file.
func (r *Repo) descend(ctx context.Context, root string, paths []string) (files []descent, odd []string, err error) {
	var way []descent
	for _, p := range paths {
		if checkPath(p) == nil {
			way = append(way, descent{p, p, root})
		}
	}
	for len(way) > 0 {
		// Side by side are those that want something of the same tree.
		slices.SortFunc(way, func(a, b descent) int { return strings.Compare(a.id, b.id) })
		var ids []string
		for i, d := range way {
			if i == 0 || d.id != way[i-1].id {
				ids = append(ids, d.id)
			}
		}
		trees, err := r.readTrees(ctx, ids)
		if err != nil {
			return nil, nil, err
		}
		var next []descent
		for i, id := range ids {
			n := 1
			for n < len(way) && way[n].id == id {
				n++
			}
			err := pick(trees[i], len(id)/2, way[:n], func(d descent, mode uint32, id []byte) {
				_, rest, more := d.name()
				below := descent{d.path, rest, hex.EncodeToString(id)}
				switch {
				case more && mode == modeDir:
					next = append(next, below)
				case !more && (mode == modeFile || mode == modeProgram):
					files = append(files, below)
				case !more:
					odd = append(odd, d.path)
				}
			})
			if err != nil {
				return nil, nil, fmt.Errorf("tree %s: %w", short(id), err)
			}
			way = way[n:]
		}
		way = next
	}
	return files, odd, nil
}

// readTrees reads trees; the empty one need not be there.
func (r *Repo) readTrees(ctx context.Context, ids []string) ([][]byte, error) {
	isEmpty := func(id string) bool { return id == emptyTree || id == emptyTree256 }
	if slices.ContainsFunc(ids, isEmpty) {
		return make([][]byte, len(ids)), nil // it is the root, and so the only one
	}
	return r.backend.readAll(ctx, ids)
}

// pick goes through a tree object once and calls found for each entry that
// someone wants.
func pick(tree []byte, idLen int, wanted []descent, found func(d descent, mode uint32, id []byte)) error {
	var byName map[string][]descent
	first, _, _ := wanted[0].name()
	if len(wanted) > 1 {
		byName = make(map[string][]descent, len(wanted))
		for _, d := range wanted {
			name, _, _ := d.name()
			byName[name] = append(byName[name], d)
		}
	}
	for at := 0; at < len(tree); {
		e, err := parseTreeEntry(tree, at, idLen)
		if err != nil {
			return err
		}
		at = e.end
		name := tree[e.name : e.id-1]
		if byName != nil {
			for _, d := range byName[string(name)] {
				found(d, e.mode, tree[e.id:e.end])
			}
		} else if string(name) == first {
			found(wanted[0], e.mode, tree[e.id:e.end])
			return nil
		}
	}
	return nil
}
