package diff

import (
	"context"
	"strconv"
	"testing"
	"time"
)

// Clocks that go wrong make common ancestors show up in the wrong order: y is
// the merge-base, x an ancestor of it that claims to be younger.
func TestMergeBaseDespiteClocks(t *testing.T) {
	commits := map[string]Commit{
		"base": {Parents: []string{"y", "x"}, Committed: time.Unix(200, 0)},
		"head": {Parents: []string{"y", "x"}, Committed: time.Unix(201, 0)},
		"y":    {Parents: []string{"m"}, Committed: time.Unix(2, 0)},
		"m":    {Parents: []string{"x"}, Committed: time.Unix(1, 0)},
		"x":    {Committed: time.Unix(100, 0)},
	}
	read := func(_ context.Context, id string) (Commit, error) {
		c := commits[id]
		c.Hash = id
		return c, nil
	}
	if rel, err := relate(t.Context(), read, nil, "base", "head"); err != nil || rel.mergeBase != "y" || rel.ancestor {
		t.Errorf("got %+v, %v", rel, err)
	}
}

func TestMergeBaseReadsNoMoreThanNeeded(t *testing.T) {
	reads := 0
	read := func(_ context.Context, id string) (Commit, error) {
		reads++
		n, err := strconv.Atoi(id)
		return Commit{Hash: id, Parents: []string{strconv.Itoa(n - 1)}, Committed: time.Unix(int64(n), 0)}, err
	}
	if rel, err := relate(t.Context(), read, nil, "999990", "1000000"); err != nil || !rel.ancestor || reads > 20 {
		t.Errorf("got %+v, %v after %d reads", rel, err, reads)
	}
}
