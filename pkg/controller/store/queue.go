package store

import (
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

// Share is how many tasks of a submitter a controller has at a runner.
type Share struct {
	Runner, Submitter, Owner string
	N                        int
}

// Active counts the tasks that somebody has.
func (tx *Tx) Active() ([]Share, error) {
	return list(tx.session, "SELECT runner, submitter, owner, count(*) FROM tasks WHERE state IN "+active+" AND ready = 1 GROUP BY runner, submitter, owner",
		nil, func(scan func(dest ...any) error, s *Share) error {
			return scan(&s.Runner, &s.Submitter, &s.Owner, &s.N)
		})
}

// NextSubmitter gives the submitter after another, in the order of their
// names, who has tasks for a runner that could start; ErrNotFound.
func (tx *Tx) NextSubmitter(runner, after string) (name string, err error) {
	err = tx.row(`SELECT submitter FROM tasks WHERE state = 'queued' AND ready = 1 AND runner = ? AND submitter > ?
		ORDER BY submitter LIMIT 1`, []any{runner, after}, &name)
	return name, err
}

// Head gives the first tasks of a submitter that could start on a runner: by
// priority, then by age. A task that was told to wait for longer than a
// controller says is not waited for: the clock was turned back.
func (tx *Tx) Head(runner, submitter string, now time.Time, longest time.Duration, limit int) ([]Task, error) {
	return list(tx.session, "SELECT "+taskColumns+` FROM tasks WHERE state = 'queued' AND ready = 1 AND runner = ? AND submitter = ?
		AND (not_before <= ? OR not_before > ?) ORDER BY place, run, number LIMIT ?`,
		[]any{runner, submitter, micros(now), micros(now.Add(longest)), limit}, scanTask)
}

// Depth says how many tasks wait for a runner, or are under way.
type Depth struct {
	Runner string
	State  api.State
	Ready  bool
	N      int
	// Id of the run of the oldest.
	Oldest string
}

// Depths gives the depths of the queue.
func (tx *Tx) Depths() ([]Depth, error) {
	return list(tx.session, `SELECT runner, state, ready, count(*), min(run) FROM tasks
		WHERE state IN ('queued', 'starting', 'running', 'publishing') GROUP BY runner, state, ready`,
		nil, func(scan func(dest ...any) error, d *Depth) error {
			return scan(&d.Runner, &d.State, &d.Ready, &d.N, &d.Oldest)
		})
}
