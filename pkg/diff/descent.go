package diff

import (
	"context"
	"slices"
	"strings"
)

// descend compares two trees, reading only those whose ids differ. A tree that
// cannot be read is an error.
func descend(ctx context.Context, b backend, prefix, base, head string, each func(path string, kind Kind)) error {
	if base == head {
		return nil
	}
	was, err := readTree(ctx, b, base)
	if err != nil {
		return err
	}
	is, err := readTree(ctx, b, head)
	if err != nil {
		return err
	}
	all := func(e treeEntry, kind Kind) error {
		if !e.isDir() {
			each(prefix+e.name, kind)
			return nil
		}
		if kind == Deleted {
			return descend(ctx, b, prefix+e.name+"/", e.id, "", each)
		}
		return descend(ctx, b, prefix+e.name+"/", "", e.id, each)
	}
	// Both are sorted, so what is in one only shows by the order.
	for _, entries := range [][]treeEntry{was, is} {
		if !slices.IsSortedFunc(entries, inTreeOrder) {
			slices.SortFunc(entries, inTreeOrder)
		}
	}
	for len(was) > 0 || len(is) > 0 {
		var order int
		switch {
		case len(was) == 0:
			order = 1
		case len(is) == 0:
			order = -1
		default:
			order = inTreeOrder(was[0], is[0])
		}
		switch {
		case order < 0:
			err, was = all(was[0], Deleted), was[1:]
		case order > 0:
			err, is = all(is[0], Added), is[1:]
		default:
			if was[0].isDir() {
				err = descend(ctx, b, prefix+is[0].name+"/", was[0].id, is[0].id, each)
			} else if was[0] != is[0] {
				each(prefix+is[0].name, Modified)
			}
			was, is = was[1:], is[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inTreeOrder compares names as git sorts them in a tree: a directory as if
// its name ended with a slash. A file and a directory of one name differ.
func inTreeOrder(a, b treeEntry) int {
	n := min(len(a.name), len(b.name))
	if c := strings.Compare(a.name[:n], b.name[:n]); c != 0 {
		return c
	}
	return int(a.after(n)) - int(b.after(n))
}

// after is the byte at i of the name, or what stands for its end.
func (e treeEntry) after(i int) byte {
	switch {
	case i < len(e.name):
		return e.name[i]
	case e.isDir():
		return '/'
	}
	return 0
}
