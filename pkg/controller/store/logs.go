package store

import "errors"

// Chunk is a piece of a run's log.
type Chunk struct {
	Run   string
	First int64 // number of its first line
	Count int
	// Build that all its lines are of; empty: the controller's own.
	Build string
	Data  []byte
}

// SetLines says how many lines the log of a run has: whoever adds one gives it
// the next number.
func (tx *Tx) SetLines(run string, n int64) error {
	if err := tx.about(run); err != nil {
		return err
	}
	return tx.exec("UPDATE runs SET lines = ? WHERE id = ?", n, run)
}

// AddChunk adds a piece of a log.
func (tx *Tx) AddChunk(c *Chunk) error {
	err := tx.exec("INSERT INTO chunks (run, first, count, build, data) VALUES (?, ?, ?, ?, ?)", c.Run, c.First, c.Count, c.Build, c.Data)
	return err
}

// Received notes how much of a task's log is there; a sign of life.
func (tx *Tx) Received(task string, lines, bytes int64) error {
	err := tx.exec("UPDATE tasks SET lines = ?, bytes = ?, beat = beat + 1 WHERE id = ?", lines, bytes, task)
	return err
}

// Chunks gives pieces of a run's log from the one with the line from on, in
// order, as many as have together about size bytes and at least one.
func (tx *Tx) Chunks(run string, from int64, size int) ([]Chunk, error) {
	var first int64
	if from > 0 {
		// The piece that the line is in starts at it or before it.
		err := tx.row("SELECT first FROM chunks WHERE run = ? AND first <= ? ORDER BY first DESC LIMIT 1", []any{run, from}, &first)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	const few = 16 // at a time: how large they are is not known before
	var all []Chunk
	for more := true; more && size > 0; {
		some, err := list(tx.session, "SELECT run, first, count, build, data FROM chunks WHERE run = ? AND first >= ? ORDER BY first LIMIT ?",
			[]any{run, first, few}, func(scan func(dest ...any) error, c *Chunk) error {
				return scan(&c.Run, &c.First, &c.Count, &c.Build, &c.Data)
			})
		if err != nil {
			return nil, err
		}
		for _, c := range some {
			first = c.First + int64(c.Count)
			if first > from {
				all = append(all, c)
				size -= len(c.Data)
			}
		}
		more = len(some) == few
	}
	return all, nil
}

// LogState says where the log of a run is, how many lines it has, and whether
// the run has ended, so that there will be no more; ErrNotFound.
func (tx *Tx) LogState(run string) (where string, lines int64, ended bool, err error) {
	var finished int64
	err = tx.row("SELECT log, lines, finished FROM runs WHERE id = ?", []any{run}, &where, &lines, &finished)
	return where, lines, finished != 0, err
}

// LogEnd is how far the log of a run has come.
type LogEnd struct {
	Run   string
	Lines int64
	// Whether there will be no more.
	Ended bool
}

// LogEnds gives how far the logs of runs have come, of those that are there.
func (tx *Tx) LogEnds(runs []string) ([]LogEnd, error) {
	var all []LogEnd
	for args := range fifties(runs) {
		some, err := list(tx.session, "SELECT id, lines, finished <> 0 FROM runs WHERE id IN ("+marks(len(args))+")", args,
			func(scan func(dest ...any) error, e *LogEnd) error { return scan(&e.Run, &e.Lines, &e.Ended) })
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// LogIndex gives the index of a log in the blob store; ErrNotFound.
func (tx *Tx) LogIndex(run string) (index []byte, err error) {
	err = tx.row("SELECT log_index FROM runs WHERE id = ?", []any{run}, &index)
	return index, err
}

// SetLog says where the log of a run is, if it was at from until now.
func (tx *Tx) SetLog(run, from, to string, index []byte) (bool, error) {
	if err := tx.about(run); err != nil {
		return false, err
	}
	n, err := tx.changed("UPDATE runs SET log = ?, log_index = ? WHERE id = ? AND log = ?", to, index, run, from)
	return n == 1, err
}

// MoveLog is SetLog that leaves the index as it is.
func (tx *Tx) MoveLog(run, from, to string) error {
	if err := tx.about(run); err != nil {
		return err
	}
	return tx.exec("UPDATE runs SET log = ? WHERE id = ? AND log = ?", to, run, from)
}

// LogsAt gives ended runs whose logs are in a place, at most limit, those that ended first first.
func (tx *Tx) LogsAt(where string, limit int) ([]string, error) {
	return list(tx.session, "SELECT id FROM runs WHERE log = ? AND finished > 0 ORDER BY finished LIMIT ?", []any{where, limit}, scanString)
}

// DropChunks deletes up to limit pieces of a run's log from the database, and gives how many it deleted.
func (tx *Tx) DropChunks(run string, limit int) (int64, error) {
	if err := tx.about(run); err != nil {
		return 0, err
	}
	return tx.changed("DELETE FROM chunks WHERE run = ? AND first IN (SELECT first FROM chunks WHERE run = ? ORDER BY first LIMIT ?)", run, run, limit)
}

func scanString(scan func(dest ...any) error, s *string) error { return scan(s) }
