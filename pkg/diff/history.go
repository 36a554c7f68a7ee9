package diff

import (
	"container/heap"
	"context"
	"slices"
)

// relation is how two commits hang together.
type relation struct {
	// Whether base is an ancestor of head, or head itself.
	ancestor bool
	// Best common ancestor, or "". In a clone that lacks history there may be a better one.
	mergeBase string
	// Commits that only head (or base) leads to and whose parents the clone lacks:
	// beyond them an ancestor may be that is not seen.
	headCut, baseCut []string
}

// Marks of a commit in a walk over history.
const (
	fromBase = 1 << iota
	fromHead
	stale // an ancestor of a common ancestor
	common
)

type walked struct {
	Commit
	marks int
	order int // of the first visit, to break ties of time
}

// relate walks back from both commits at once, the younger first, until only
// ancestors of common ancestors are left; git's paint_down_to_common. cut are
// the commits whose parents are not in the clone.
func relate(ctx context.Context, read func(context.Context, string) (Commit, error), cut map[string]bool, base, head string) (relation, error) {
	seen := map[string]*walked{}
	var queue byTime
	visit := func(id string, marks int) error {
		w := seen[id]
		if w == nil {
			c, err := read(ctx, id)
			if err != nil {
				return err
			}
			w = &walked{Commit: c, order: len(seen)}
			seen[id] = w
		}
		if w.marks&marks == marks {
			return nil
		}
		w.marks |= marks
		heap.Push(&queue, w)
		return nil
	}
	if err := visit(base, fromBase); err != nil {
		return relation{}, err
	}
	if err := visit(head, fromHead); err != nil {
		return relation{}, err
	}
	for slices.ContainsFunc(queue, func(w *walked) bool { return w.marks&stale == 0 }) {
		w := heap.Pop(&queue).(*walked)
		pass := w.marks & (fromBase | fromHead | stale)
		if pass == fromBase|fromHead {
			w.marks |= common
			pass |= stale
		}
		if cut[w.Hash] {
			continue
		}
		for _, p := range w.Parents {
			if err := visit(p, pass); err != nil {
				return relation{}, err
			}
		}
	}
	var rel relation
	var found []*walked
	for _, w := range seen {
		if w.marks&common != 0 && w.marks&stale == 0 {
			found = append(found, w)
		}
		if !cut[w.Hash] || len(w.Parents) == 0 {
			continue
		}
		switch w.marks {
		case fromBase:
			rel.baseCut = append(rel.baseCut, w.Hash)
		case fromHead:
			rel.headCut = append(rel.headCut, w.Hash)
		}
	}
	slices.SortFunc(found, func(a, b *walked) int {
		if c := b.Committed.Compare(a.Committed); c != 0 {
			return c
		}
		return a.order - b.order
	})
	for _, w := range found {
		rel.ancestor = rel.ancestor || w.Hash == base
	}
	best, err := independent(ctx, read, cut, found)
	if err == nil && len(best) > 0 {
		rel.mergeBase = best[0].Hash
	}
	return rel, err
}

// independent drops common ancestors that others lead to: clocks that go wrong
// can leave such.
func independent(ctx context.Context, read func(context.Context, string) (Commit, error), cut map[string]bool, found []*walked) ([]*walked, error) {
	if len(found) < 2 {
		return found, nil
	}
	reached := map[string]bool{}
	var open []string
	for _, w := range found {
		if !cut[w.Hash] {
			open = append(open, w.Parents...)
		}
	}
	for len(open) > 0 {
		id := open[len(open)-1]
		open = open[:len(open)-1]
		if reached[id] {
			continue
		}
		reached[id] = true
		c, err := read(ctx, id)
		if err != nil {
			return nil, err
		}
		if !cut[id] {
			open = append(open, c.Parents...)
		}
	}
	return slices.DeleteFunc(found, func(w *walked) bool { return reached[w.Hash] }), nil
}

// byTime is a heap with the youngest commit first.
type byTime []*walked

func (q byTime) Len() int { return len(q) }
func (q byTime) Less(i, j int) bool {
	if c := q[i].Committed.Compare(q[j].Committed); c != 0 {
		return c > 0
	}
	return q[i].order < q[j].order
}
func (q byTime) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *byTime) Push(w any)   { *q = append(*q, w.(*walked)) }
func (q *byTime) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
