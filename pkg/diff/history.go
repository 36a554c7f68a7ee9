package diff

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
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

// ancestry reads how commits hang together.
type ancestry struct {
	objects *objects
	graph   *commitGraph // or nil
}

func (a *ancestry) close() error { return a.graph.close() }

func (a *ancestry) links(ctx context.Context, id oid) (links, error) {
	if err := ctx.Err(); err != nil {
		return links{}, err
	}
	found, ok, err := a.graph.links(id)
	if ok {
		return found, nil
	}
	if err != nil {
		a.graph = nil // what is damaged is not asked again
	}
	k, data, err := a.objects.read(ctx, id)
	if err == nil && k != kindCommit {
		err = damaged("%s is a %s, not a commit", id, k)
	}
	if err != nil {
		return links{}, err
	}
	return parseLinks(id, data)
}

// parseLinks reads of a commit object what a walk needs.
func parseLinks(id oid, data []byte) (links, error) {
	var l links
	for key, value := range headers(data) {
		switch string(key) {
		case "parent":
			parent, ok := parseID(value)
			if !ok {
				return l, fmt.Errorf("commit %s is malformed", short(id.String()))
			}
			l.parents = append(l.parents, parent)
		case "committer":
			l.time, _ = secondsOf(value)
			return l, nil
		}
	}
	return l, nil
}

// Marks of a commit in a walk over history.
const (
	fromBase = 1 << iota
	fromHead
	stale // an ancestor of a common ancestor
	common
)

type walked struct {
	links
	id     oid
	marks  int
	order  int // of the first visit, to break ties of time
	queued int // how often it is in the queue
}

// reading gives of a commit what a walk over history needs.
type reading func(context.Context, oid) (links, error)

// paint walks back from commits, the younger first, until only ancestors of
// common ancestors of base and any of the heads are left; git's
// paint_down_to_common. cut are the commits whose parents are not in the clone.
func paint(ctx context.Context, read reading, cut map[oid]bool, base oid, heads ...oid) (map[oid]*walked, error) {
	seen := map[oid]*walked{}
	var queue byTime
	fresh := 0 // in the queue and not stale
	visit := func(id oid, marks int) error {
		w := seen[id]
		if w == nil {
			l, err := read(ctx, id)
			if err != nil {
				return err
			}
			w = &walked{links: l, id: id, order: len(seen)}
			seen[id] = w
		}
		if w.marks&marks == marks {
			return nil
		}
		if w.marks&stale == 0 && marks&stale != 0 {
			fresh -= w.queued
		}
		w.marks |= marks
		w.queued++
		if w.marks&stale == 0 {
			fresh++
		}
		heap.Push(&queue, w)
		return nil
	}
	if err := visit(base, fromBase); err != nil {
		return nil, err
	}
	for _, head := range heads {
		if err := visit(head, fromHead); err != nil {
			return nil, err
		}
	}
	for fresh > 0 {
		w := heap.Pop(&queue).(*walked)
		w.queued--
		if w.marks&stale == 0 {
			fresh--
		}
		pass := w.marks & (fromBase | fromHead | stale)
		if pass == fromBase|fromHead {
			w.marks |= common
			pass |= stale
		}
		if cut[w.id] {
			continue
		}
		for _, p := range w.parents {
			if err := visit(p, pass); err != nil {
				return nil, err
			}
		}
	}
	return seen, nil
}

// relate finds how two commits hang together.
func relate(ctx context.Context, read reading, cut map[oid]bool, base, head oid) (relation, error) {
	seen, err := paint(ctx, read, cut, base, head)
	if err != nil {
		return relation{}, err
	}
	var rel relation
	var found []*walked
	for _, w := range seen {
		if w.marks&common != 0 && w.marks&stale == 0 {
			found = append(found, w)
		}
		if !cut[w.id] || len(w.parents) == 0 {
			continue
		}
		switch w.marks {
		case fromBase:
			rel.baseCut = append(rel.baseCut, w.id.String())
		case fromHead:
			rel.headCut = append(rel.headCut, w.id.String())
		}
	}
	slices.SortFunc(found, func(a, b *walked) int {
		return cmp.Or(cmp.Compare(b.time, a.time), a.order-b.order)
	})
	for _, w := range found {
		rel.ancestor = rel.ancestor || w.id == base
	}
	best, err := best(ctx, read, cut, found)
	if best != nil {
		rel.mergeBase = best.id.String()
	}
	return rel, err
}

// best gives the first of these common ancestors that none of the others leads
// to: clocks that go wrong can leave such.
func best(ctx context.Context, read reading, cut map[oid]bool, found []*walked) (*walked, error) {
	for i, w := range found {
		var others []oid
		for j, other := range found {
			if j != i {
				others = append(others, other.id)
			}
		}
		if len(others) == 0 {
			return w, nil
		}
		seen, err := paint(ctx, read, cut, w.id, others...)
		if err != nil {
			return nil, err
		}
		if seen[w.id].marks&fromHead == 0 {
			return w, nil
		}
	}
	return nil, nil
}

// byTime is a heap with the youngest commit first.
type byTime []*walked

func (q byTime) Len() int { return len(q) }
func (q byTime) Less(i, j int) bool {
	if q[i].time != q[j].time {
		return q[i].time > q[j].time
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
