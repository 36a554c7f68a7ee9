package store

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
)

// Key names what a transaction that writes is about. Of transactions that have
// a key in common, those of other processes included, one begins when the other
// has ended: what it reads of the matter stays true until it has written. Who
// changes anything of a run, its tasks and its log has [OnRun].
type Key string

// OnRun is the key of a run.
func OnRun(id string) Key { return Key("run " + id) }

// OnContext is the key of a context.
func OnContext(digest string) Key { return Key("context " + digest) }

// number is what a database knows a key by. Two keys may have the same: their
// transactions wait for each other without need.
func (k Key) number() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("pipegen " + k)) // never fails
	return int64(h.Sum64())                //nolint:gosec // all of its bits, whatever the sign
}

// numbers gives those of keys, each once, in the order in which everybody takes
// them: so nobody waits for who waits for him.
func numbers(keys []Key) []int64 {
	all := make([]int64, len(keys))
	for i, k := range keys {
		all[i] = k.number()
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Alone is [Store.Write] of a transaction that nobody shares: only there fn may
// take further keys, see [Tx.Lock].
func (s *Store) Alone(ctx context.Context, keys []Key, fn func(*Tx) error) error {
	return s.alone.do(ctx, keys, fn)
}

// Lock takes further keys, once in a transaction of [Store.Alone]. Others may
// have had them since it began: what it read of these matters it has to read again.
func (tx *Tx) Lock(keys ...Key) error {
	tx.keys = append(tx.keys, keys...)
	return tx.d.lock(tx.session, keys)
}

// about says that a transaction is about a run, which it is going to change. An
// error is a mistake of the program.
func (tx *Tx) about(run string) error {
	if slices.Contains(tx.keys, OnRun(run)) {
		return nil
	}
	return fmt.Errorf("run %s is changed in a transaction about %q", run, tx.keys)
}
