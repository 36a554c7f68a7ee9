package store

import (
	"errors"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

// Share is how many tasks of a submitter a controller has at a runner.
type Share struct {
	Runner, Submitter, Owner string
	N                        int
}

// Submitter is one who has tasks that could start.
type Submitter struct {
	Name string
	// How many tasks at once, if something is said of it; see [Tx.Quota].
	Quota int
}

// Look says how many tasks somebody has, and for each runner who has tasks that
// could start.
func (tx *Tx) Look(runners []string) (shares []Share, submitters [][]Submitter, err error) {
	err = tx.ask("SELECT runner, submitter, owner, count(*) FROM tasks WHERE state IN "+active+" AND ready = 1 GROUP BY runner, submitter, owner",
		nil, appending(&shares, func(scan func(dest ...any) error, s *Share) error {
			return scan(&s.Runner, &s.Submitter, &s.Owner, &s.N)
		}))
	submitters = make([][]Submitter, len(runners))
	for i, runner := range runners {
		// From one submitter to the next, however many tasks each has.
		const next = "SELECT min(submitter) FROM tasks WHERE state = 'queued' AND ready = 1 AND runner = ?"
		err = errors.Join(err, tx.ask("WITH RECURSIVE names (name) AS ("+next+" UNION ALL SELECT ("+next+` AND submitter > names.name)
			FROM names WHERE names.name IS NOT NULL) SELECT names.name, coalesce(quotas.tasks, 0) FROM names
			LEFT JOIN quotas ON quotas.submitter = names.name WHERE names.name IS NOT NULL`,
			[]any{runner, runner}, appending(&submitters[i], func(scan func(dest ...any) error, s *Submitter) error {
				return scan(&s.Name, &s.Quota)
			})))
	}
	return shares, submitters, errors.Join(err, tx.flush())
}

// Waits says whether there is any task for one of some runners that could start.
func (tx *Tx) Waits(runners []string) (bool, error) {
	args := make([]any, len(runners))
	for i, r := range runners {
		args[i] = r
	}
	var one int
	err := tx.row("SELECT 1 FROM tasks WHERE state = 'queued' AND ready = 1 AND runner IN ("+marks(len(args))+") LIMIT 1", args, &one)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Head chooses the first tasks of a submitter that could start on a runner.
type Head struct {
	Runner, Submitter string
	Limit             int
}

// Heads gives the tasks of each head: by priority, then by age. A task that was
// told to wait for longer than a controller says is not waited for: the clock
// was turned back.
func (tx *Tx) Heads(heads []Head, now time.Time, longest time.Duration) ([][]Task, error) {
	all := make([][]Task, len(heads))
	var faults error
	for i, h := range heads {
		faults = errors.Join(faults, tx.ask("SELECT "+taskColumns+` FROM tasks WHERE state = 'queued' AND ready = 1 AND runner = ? AND submitter = ?
			AND (not_before <= ? OR not_before > ?) ORDER BY place, run, number LIMIT ?`,
			[]any{h.Runner, h.Submitter, micros(now), micros(now.Add(longest)), h.Limit}, appending(&all[i], scanTask)))
	}
	return all, errors.Join(faults, tx.flush())
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
			var ready int64
			err := scan(&d.Runner, &d.State, &ready, &d.N, &d.Oldest)
			d.Ready = ready != 0
			return err
		})
}
