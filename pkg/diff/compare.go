package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// treePair is two trees of one path. The zero id is a tree that is not there.
type treePair struct {
	prefix  string // of the names in it: the path and a slash, or ""
	was, is oid
}

// changes compares two trees, reading only those whose ids differ, level by
// level and each level on all processors. The result is in no order. A tree
// that cannot be read is an error.
func (o *objects) changes(ctx context.Context, base, head oid) ([]Change, error) {
	var changes []Change
	level := []treePair{{"", base, head}}
	for len(level) > 0 {
		found, below := make([][]Change, len(level)), make([][]treePair, len(level))
		err := o.reading(ctx, func() error {
			return inParallel(ctx, len(level), func(i int) (err error) {
				found[i], below[i], err = o.lookPair(level[i])
				return err
			})
		})
		if err != nil {
			return nil, err
		}
		changes, level = append(changes, slices.Concat(found...)...), slices.Concat(below...)
	}
	return changes, nil
}

// comparePair gives the files that differ, and the directories that do.
func (o *objects) comparePair(ctx context.Context, pair treePair) (found []Change, below []treePair, err error) {
	err = o.reading(ctx, func() error {
		found, below, err = o.lookPair(pair)
		return err
	})
	return found, below, err
}

// lookPair is comparePair within reading.
func (o *objects) lookPair(pair treePair) (found []Change, below []treePair, err error) {
	was, err := o.lookTree(pair.was)
	if err != nil {
		return nil, nil, err
	}
	is, err := o.lookTree(pair.is)
	if err != nil {
		return nil, nil, err
	}
	each := func(name []byte, old, now side) {
		path := pair.prefix + string(name)
		if old.mode == modeDir || now.mode == modeDir {
			below = append(below, treePair{path + "/", old.id, now.id})
			return
		}
		how := Modified
		switch {
		case old.mode == 0:
			how = Added
		case now.mode == 0:
			how = Deleted
		}
		found = append(found, Change{path, how})
	}
	err = compareTrees(was, is, each)
	if errors.Is(err, errOrder) {
		found, below = nil, nil
		if was, err = sortTree(was); err == nil {
			if is, err = sortTree(is); err == nil {
				err = compareTrees(was, is, each)
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("comparing tree %s with %s: %w", short(pair.was.String()), short(pair.is.String()), err)
	}
	return found, below, err
}

// tree reads a tree object; the empty one need not be there.
func (o *objects) tree(ctx context.Context, id oid) (tree []byte, err error) {
	err = o.reading(ctx, func() error {
		tree, err = o.lookTree(id)
		return err
	})
	return tree, err
}

// lookTree is tree within reading.
func (o *objects) lookTree(id oid) ([]byte, error) {
	if id == (oid{}) || id == emptyTreeID {
		return nil, nil
	}
	k, data, err := o.look(id)
	if err == nil && k != kindTree {
		err = damaged("%s is a %s, not a tree", id, k)
	}
	return data, err
}

var emptyTreeID = hashObject(kindTree, nil)

// side is what one of two trees has under a name; mode 0 is nothing.
type side struct {
	mode uint32
	id   oid
}

var errOrder = errors.New("malformed tree object: names are not in order")

// compareTrees goes through two tree objects side by side, both of which are
// sorted, and gives each name that they do not have in common. A file and a
// directory of one name come one after the other. The error is errOrder if an
// order shows that is not git's.
func compareTrees(was, is []byte, each func(name []byte, old, now side)) error {
	a, b := treeWalk{tree: was}, treeWalk{tree: is}
	for {
		skipCommon(&a, &b)
		if a.done() && b.done() {
			return nil
		}
		for _, w := range []*treeWalk{&a, &b} {
			if err := w.load(); err != nil {
				return err
			}
		}
		order := 0
		switch {
		case a.done():
			order = 1
		case b.done():
			order = -1
		default:
			order = inTreeOrder(a.name(), b.name(), a.now.mode, b.now.mode)
		}
		switch {
		case order < 0:
			each(a.name(), a.side(), side{})
			a.step()
		case order > 0:
			each(b.name(), side{}, b.side())
			b.step()
		default:
			if a.side() != b.side() {
				each(b.name(), a.side(), b.side())
			}
			a.step()
			b.step()
		}
	}
}

// treeWalk is a place in a tree object: where an entry begins, or its end.
type treeWalk struct {
	tree   []byte
	at     int
	before int // where the entry before this one begins, or at
	now    rawEntry
}

func (w *treeWalk) done() bool   { return w.at == len(w.tree) }
func (w *treeWalk) name() []byte { return w.tree[w.now.name : w.now.id-1] }
func (w *treeWalk) side() side   { return side{w.now.mode, oid(w.tree[w.now.id:w.now.end])} }
func (w *treeWalk) step()        { w.before, w.at = w.at, w.now.end }

// load reads the entry, which has to come after the one before it.
func (w *treeWalk) load() (err error) {
	if w.done() {
		return nil
	}
	if w.now, err = parseTreeEntry(w.tree, w.at, idSize); err != nil || w.before == w.at {
		return err
	}
	last, err := parseTreeEntry(w.tree, w.before, idSize)
	if err == nil && inTreeOrder(w.tree[last.name:last.id-1], w.name(), last.mode, w.now.mode) >= 0 {
		err = errOrder
	}
	return err
}

// skipCommon takes both past the entries that are the same byte for byte. What
// is in them does not matter.
func skipCommon(a, b *treeWalk) {
	for {
		x, y := a.tree[a.at:], b.tree[b.at:]
		name := bytes.IndexByte(x, 0)
		n := name + 1 + idSize
		if name < 0 || n > len(x) || n > len(y) || !bytes.Equal(x[:n], y[:n]) {
			return
		}
		a.before, b.before = a.at, b.at
		a.at, b.at = a.at+n, b.at+n
	}
}

// inTreeOrder compares names as git sorts them in a tree: a directory as if
// its name ended with a slash. A file and a directory of one name differ.
func inTreeOrder(a, b []byte, aMode, bMode uint32) int {
	n := min(len(a), len(b))
	if c := bytes.Compare(a[:n], b[:n]); c != 0 {
		return c
	}
	return int(after(a, n, aMode)) - int(after(b, n, bMode))
}

// after is the byte at i of a name, or what stands for its end.
func after(name []byte, i int, mode uint32) byte {
	switch {
	case i < len(name):
		return name[i]
	case mode == modeDir:
		return '/'
	}
	return 0
}

// sortTree gives a tree object with its entries in git's order. A name that is
// there twice is an error.
func sortTree(tree []byte) ([]byte, error) {
	var entries []rawEntry
	for at := 0; at < len(tree); {
		e, err := parseTreeEntry(tree, at, idSize)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
		at = e.end
	}
	name := func(e rawEntry) []byte { return tree[e.name : e.id-1] }
	slices.SortFunc(entries, func(a, b rawEntry) int { return inTreeOrder(name(a), name(b), a.mode, b.mode) })
	sorted := make([]byte, 0, len(tree))
	for i, e := range entries {
		if i > 0 && inTreeOrder(name(entries[i-1]), name(e), entries[i-1].mode, e.mode) == 0 {
			return nil, fmt.Errorf("malformed tree object: name %q is there twice", name(e))
		}
		sorted = append(sorted, tree[e.at:e.end]...)
	}
	return sorted, nil
}

// maxDepth is how deep directories may be; git's core.maxTreeDepth.
const maxDepth = 4096

// entries lists the files of a tree, sorted by path.
func (o *objects) entries(ctx context.Context, root oid) (entries []Entry, err error) {
	err = o.reading(ctx, func() error {
		entries, err = o.list(ctx, nil, "", root, 0)
		return err
	})
	if !slices.IsSortedFunc(entries, byPath) {
		slices.SortFunc(entries, byPath)
	}
	return entries, err
}

func byPath(a, b Entry) int { return strings.Compare(a.Path, b.Path) }

func (o *objects) list(ctx context.Context, into []Entry, prefix string, id oid, depth int) ([]Entry, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("tree %s: more than %d directories deep", short(id.String()), maxDepth)
	}
	tree, err := o.lookTree(id)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	parsed, err := parseTree(tree, idSize)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", short(id.String()), err)
	}
	for _, e := range parsed {
		if !e.isDir() {
			into = append(into, Entry{prefix + e.name, octal(e.mode), e.id})
			continue
		}
		below, _ := parseID(e.id)
		if into, err = o.list(ctx, into, prefix+e.name+"/", below, depth+1); err != nil {
			return nil, err
		}
	}
	return into, nil
}
