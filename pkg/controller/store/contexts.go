package store

import "time"

// HasContext says whether a context is there, and its size.
func (tx *Tx) HasContext(digest string) (size int64, err error) {
	err = tx.row("SELECT size FROM contexts WHERE digest = ? AND state = 'there'", []any{digest}, &size)
	return size, err
}

// UseContext notes that a context is used; ErrNotFound if it is not there.
func (tx *Tx) UseContext(digest string, now time.Time) error {
	n, err := tx.changed("UPDATE contexts SET used = ? WHERE digest = ? AND state = 'there'", micros(now), digest)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// ContextLeaves says whether a context is being deleted.
func (tx *Tx) ContextLeaves(digest string) (bool, error) {
	var n int
	err := tx.row("SELECT count(*) FROM contexts WHERE digest = ? AND state = 'leaving'", []any{digest}, &n)
	return n > 0, err
}

// AddContext notes that a context is there.
func (tx *Tx) AddContext(digest string, size int64, now time.Time) error {
	err := tx.exec(`INSERT INTO contexts (digest, size, state, used) VALUES (?, ?, 'there', ?)
		ON CONFLICT (digest) DO UPDATE SET size = excluded.size, used = excluded.used`, digest, size, micros(now))
	return err
}

// DropContext forgets a context.
func (tx *Tx) DropContext(digest string) error {
	err := tx.exec("DELETE FROM contexts WHERE digest = ?", digest)
	return err
}

// LeavingContexts marks contexts that were not used since a time, by no run
// that has not ended either, as being deleted, and gives all that are. It locks
// the keys of those that it marks, and is for a transaction of its own.
func (tx *Tx) LeavingContexts(before time.Time, limit int) ([]string, error) {
	const unused = " used < ? AND state = 'there' AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.state IN ('queued', 'running') AND r.context = contexts.digest)"
	old, err := list(tx.session, "SELECT digest FROM contexts WHERE"+unused+" ORDER BY used LIMIT ?", []any{micros(before), limit}, scanString)
	if err != nil {
		return nil, err
	}
	keys := make([]Key, len(old))
	for i, digest := range old {
		keys[i] = OnContext(digest)
	}
	if err := tx.Lock(keys...); err != nil {
		return nil, err
	}
	for _, digest := range old {
		if err := tx.exec("UPDATE contexts SET state = 'leaving' WHERE digest = ? AND"+unused, digest, micros(before)); err != nil {
			return nil, err
		}
	}
	return list(tx.session, "SELECT digest FROM contexts WHERE state = 'leaving' ORDER BY used LIMIT ?", []any{limit}, scanString)
}
