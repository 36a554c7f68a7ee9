package diff

import (
	"context"
	"encoding/binary"
	"testing"
)

// numbered is an id made of a number.
func numbered(n int) (id oid) {
	binary.BigEndian.PutUint32(id[:], uint32(n))
	return id
}

// Clocks that go wrong make common ancestors show up in the wrong order: y is
// the merge-base, x an ancestor of it that claims to be younger.
func TestMergeBaseDespiteClocks(t *testing.T) {
	base, head, x, y, m := numbered(1), numbered(2), numbered(3), numbered(4), numbered(5)
	commits := map[oid]links{
		base: {[]oid{y, x}, 200},
		head: {[]oid{y, x}, 201},
		y:    {[]oid{m}, 2},
		m:    {[]oid{x}, 1},
		x:    {nil, 100},
	}
	read := func(_ context.Context, id oid) (links, error) { return commits[id], nil }
	if rel, err := relate(t.Context(), read, nil, base, head); err != nil || rel.mergeBase != y.String() || rel.ancestor {
		t.Errorf("got %+v, %v", rel, err)
	}
}

func TestMergeBaseReadsNoMoreThanNeeded(t *testing.T) {
	reads := 0
	read := func(_ context.Context, id oid) (links, error) {
		reads++
		n := int(binary.BigEndian.Uint32(id[:]))
		return links{[]oid{numbered(n - 1)}, int64(n)}, nil
	}
	if rel, err := relate(t.Context(), read, nil, numbered(999990), numbered(1000000)); err != nil || !rel.ancestor || reads > 20 {
		t.Errorf("got %+v, %v after %d reads", rel, err, reads)
	}
	// Two best common ancestors, as merges crosswise leave them.
	reads = 0
	crossed := func(ctx context.Context, id oid) (links, error) {
		n := int(binary.BigEndian.Uint32(id[:]))
		if n == 1000000 || n == 999999 {
			reads++
			return links{[]oid{numbered(999998), numbered(999997)}, int64(n)}, nil
		}
		if n == 999998 {
			reads++
			return links{[]oid{numbered(999996)}, int64(n)}, nil
		}
		return read(ctx, id)
	}
	if rel, err := relate(t.Context(), crossed, nil, numbered(999999), numbered(1000000)); err != nil || rel.ancestor || rel.mergeBase != numbered(999998).String() || reads > 40 {
		t.Errorf("got %+v, %v after %d reads", rel, err, reads)
	}
}
