package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

// Where the log of a run is.
const (
	LogRows    = "rows"    // in this database
	LogLeaving = "leaving" // in the blob store; the rows are being deleted
	LogBlob    = "blob"    // in the blob store
	LogExpired = "expired"
)

// Run is the row of a run.
type Run struct {
	ID                string
	State             api.State
	Reason            string
	Runner, Submitter string
	Priority          int
	Labels            map[string]string
	Context, Head     string
	RetryOf, Trace    string
	Created, Started  time.Time
	Finished          time.Time
	Timeout           time.Duration
	StopState         api.State // what it ends as, because it was told to; empty: it was not
	Images, Unended   int
	Lines             int64
	Log               string
	Serial            bool   // one image after another
	IdempotencyKey    string // empty: none
	IdempotencySeal   []byte
}

// Image is the row of an image of a run.
type Image struct {
	Run       string
	Position  int
	Name      string
	State     api.State
	Reason    string
	Published []byte // JSON; nil: not
	Missing   int    // needs that are not published
}

const runColumns = `id, state, reason, runner, submitter, priority, labels, context, head, retry_of, trace, created, started, finished,
	timeout, stop_state, images, unended, lines, log, idem_key, idem_seal, serial`

func scanRun(scan func(dest ...any) error, r *Run) error {
	to, read := runRow(r)
	return cmp.Or(scan(to...), read())
}

// runRow says where the columns of a row go, and what is to be done then.
func runRow(r *Run) (to []any, read func() error) {
	row := new(struct {
		labels                                      string
		created, started, finished, timeout, serial int64
		key                                         *string
	})
	return []any{
			&r.ID, &r.State, &r.Reason, &r.Runner, &r.Submitter, &r.Priority, &row.labels, &r.Context, &r.Head, &r.RetryOf, &r.Trace,
			&row.created, &row.started, &row.finished, &row.timeout, &r.StopState, &r.Images, &r.Unended, &r.Lines, &r.Log, &row.key, &r.IdempotencySeal, &row.serial,
		}, func() error {
			r.Created, r.Started, r.Finished = moment(row.created), moment(row.started), moment(row.finished)
			r.Timeout, r.Serial = time.Duration(row.timeout)*time.Microsecond, row.serial != 0
			if row.key != nil {
				r.IdempotencyKey = *row.key
			}
			if row.labels == "" || row.labels == "{}" {
				return nil
			}
			if err := json.Unmarshal([]byte(row.labels), &r.Labels); err != nil {
				return fmt.Errorf("labels of run %s: %w", r.ID, err)
			}
			return nil
		}
}

// AddRun adds a run with what it works with: its plan and, if there are any,
// its sealed secrets.
func (tx *Tx) AddRun(r *Run, plan, sealed []byte) error {
	labels := []byte("{}")
	if len(r.Labels) > 0 {
		var err error
		if labels, err = json.Marshal(r.Labels); err != nil {
			return err
		}
	}
	var key *string
	if r.IdempotencyKey != "" {
		key = &r.IdempotencyKey
	}
	if err := tx.exec("INSERT INTO runs ("+runColumns+") VALUES ("+marks(23)+")",
		r.ID, string(r.State), r.Reason, r.Runner, r.Submitter, r.Priority, string(labels), r.Context, r.Head, r.RetryOf, r.Trace,
		micros(r.Created), micros(r.Started), micros(r.Finished), r.Timeout.Microseconds(), string(r.StopState), r.Images, r.Unended, r.Lines,
		r.Log, key, r.IdempotencySeal, flag(r.Serial)); err != nil {
		return err
	}
	if err := tx.exec("INSERT INTO inputs (run, plan, sealed) VALUES (?, ?, ?)", r.ID, plan, sealed); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		if err := tx.exec("INSERT INTO labels (name, value, run) VALUES (?, ?, ?)", name, r.Labels[name], r.ID); err != nil {
			return err
		}
	}
	return nil
}

// Run gives a run; ErrNotFound.
func (tx *Tx) Run(id string) (r Run, err error) {
	err = one(tx.session, "SELECT "+runColumns+" FROM runs WHERE id = ?", []any{id}, scanRun, &r)
	return r, err
}

// RunByKey gives the run that a submitter asked for with an idempotency key; ErrNotFound.
func (tx *Tx) RunByKey(submitter, key string) (r Run, err error) {
	err = one(tx.session, "SELECT "+runColumns+" FROM runs WHERE submitter = ? AND idem_key = ?", []any{submitter, key}, scanRun, &r)
	return r, err
}

// SaveRun writes what changes of a run, but for where its log is.
func (tx *Tx) SaveRun(r *Run) error {
	if err := tx.about(r.ID); err != nil {
		return err
	}
	err := tx.exec("UPDATE runs SET state = ?, reason = ?, started = ?, finished = ?, stop_state = ?, unended = ?, lines = ? WHERE id = ?",
		string(r.State), r.Reason, micros(r.Started), micros(r.Finished), string(r.StopState), r.Unended, r.Lines, r.ID)
	return err
}

// Inputs gives what a run works with. sealed is nil if there is nothing; ErrNotFound once it expired.
func (tx *Tx) Inputs(run string) (plan, sealed []byte, err error) {
	err = tx.row("SELECT plan, sealed FROM inputs WHERE run = ?", []any{run}, &plan, &sealed)
	return plan, sealed, err
}

// Running gives the runs that have begun and not ended.
func (tx *Tx) Running() ([]Run, error) {
	return list(tx.session, "SELECT "+runColumns+" FROM runs WHERE state = 'running'", nil, scanRun)
}

const imageColumns = "run, position, name, state, reason, published, missing"

func scanImage(scan func(dest ...any) error, i *Image) error { return scan(imageRow(i)...) }

func imageRow(i *Image) []any {
	return []any{&i.Run, &i.Position, &i.Name, &i.State, &i.Reason, &i.Published, &i.Missing}
}

// AddImage adds an image of a run, and that it needs those at the positions given.
func (tx *Tx) AddImage(i *Image, needs []int) error {
	if err := tx.exec("INSERT INTO images ("+imageColumns+") VALUES ("+marks(7)+")",
		i.Run, i.Position, i.Name, string(i.State), i.Reason, i.Published, i.Missing); err != nil {
		return err
	}
	for _, need := range needs {
		if err := tx.exec("INSERT INTO needs (run, need, image) VALUES (?, ?, ?)", i.Run, need, i.Position); err != nil {
			return err
		}
	}
	return nil
}

// Image gives an image of a run; ErrNotFound.
func (tx *Tx) Image(run string, position int) (i Image, err error) {
	err = one(tx.session, "SELECT "+imageColumns+" FROM images WHERE run = ? AND position = ?", []any{run, position}, scanImage, &i)
	return i, err
}

// Images gives the images of a run in the order of its plan.
func (tx *Tx) Images(run string) ([]Image, error) {
	return list(tx.session, "SELECT "+imageColumns+" FROM images WHERE run = ? ORDER BY position", []any{run}, scanImage)
}

// ImagesOf gives the images of runs in the order of their plans, by run.
func (tx *Tx) ImagesOf(runs []string) (map[string][]Image, error) {
	images := map[string][]Image{}
	for args := range fifties(runs) {
		all, err := list(tx.session, "SELECT "+imageColumns+" FROM images WHERE run IN ("+marks(len(args))+") ORDER BY run, position", args, scanImage)
		if err != nil {
			return nil, err
		}
		for _, i := range all {
			images[i.Run] = append(images[i.Run], i)
		}
	}
	return images, nil
}

// fifties gives ids as the arguments of statements. All have one size, so that
// there is one statement: the last id fills up.
func fifties(ids []string) iter.Seq[[]any] {
	const size = 50
	return func(yield func([]any) bool) {
		for some := range slices.Chunk(ids, size) {
			args := make([]any, size)
			for i := range args {
				args[i] = some[min(i, len(some)-1)]
			}
			if !yield(args) {
				return
			}
		}
	}
}

// Dependents gives the images that need one.
func (tx *Tx) Dependents(run string, position int) ([]Image, error) {
	return list(tx.session, `SELECT i.run, i.position, i.name, i.state, i.reason, i.published, i.missing FROM needs n
		JOIN images i ON i.run = n.run AND i.position = n.image WHERE n.run = ? AND n.need = ? ORDER BY i.position`,
		[]any{run, position}, scanImage)
}

// Needed gives the images that one needs.
func (tx *Tx) Needed(run string, position int) ([]Image, error) {
	return list(tx.session, `SELECT i.run, i.position, i.name, i.state, i.reason, i.published, i.missing FROM needs n
		JOIN images i ON i.run = n.run AND i.position = n.need WHERE n.run = ? AND n.image = ? ORDER BY i.position`,
		[]any{run, position}, scanImage)
}

// SaveImage writes what changes of an image.
func (tx *Tx) SaveImage(i *Image) error {
	if err := tx.about(i.Run); err != nil {
		return err
	}
	err := tx.exec("UPDATE images SET state = ?, reason = ?, published = ?, missing = ? WHERE run = ? AND position = ?",
		string(i.State), i.Reason, i.Published, i.Missing, i.Run, i.Position)
	return err
}

// CancelImages ends the images of a run that have neither ended nor a task
// that an agent or a controller has.
func (tx *Tx) CancelImages(run, reason string) error {
	if err := tx.about(run); err != nil {
		return err
	}
	err := tx.exec(`UPDATE images SET state = 'cancelled', reason = ? WHERE run = ? AND state IN ('queued', 'running')
		AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.run = images.run AND t.image = images.position
			AND t.state IN ('starting', 'running', 'publishing'))`, reason, run)
	return err
}

// CountImages gives how many images of a run are in each state.
func (tx *Tx) CountImages(run string) (map[api.State]int, error) {
	count := map[api.State]int{}
	err := tx.rows("SELECT state, count(*) FROM images WHERE run = ? GROUP BY state", []any{run}, func(scan func(dest ...any) error) error {
		var state api.State
		var n int
		if err := scan(&state, &n); err != nil {
			return err
		}
		count[state] = n
		return nil
	})
	return count, err
}

// FirstFailed gives the first image of a run that failed; ErrNotFound.
func (tx *Tx) FirstFailed(run string) (i Image, err error) {
	err = one(tx.session, "SELECT "+imageColumns+" FROM images WHERE run = ? AND state = 'failed' ORDER BY position LIMIT 1",
		[]any{run}, scanImage, &i)
	return i, err
}

// FirstUnended gives the first image of a run that has not ended; ErrNotFound.
func (tx *Tx) FirstUnended(run string) (i Image, err error) {
	err = one(tx.session, "SELECT "+imageColumns+" FROM images WHERE run = ? AND state IN ('queued', 'running') ORDER BY position LIMIT 1",
		[]any{run}, scanImage, &i)
	return i, err
}

// Filter chooses runs. What is empty chooses all.
type Filter struct {
	States    []api.State
	Submitter string
	Image     string
	Labels    map[string]string
	// Id of a run; those after it, which are older, are chosen.
	After string
	Limit int
}

// runStates are the states of runs.
var runStates = []api.State{api.Queued, api.Running, api.Succeeded, api.Failed, api.Cancelled}

// Runs gives the newest runs that a filter chooses.
func (tx *Tx) Runs(f Filter) ([]Run, error) {
	states := f.States
	if len(states) == 0 && f.Submitter != "" && f.Image == "" && len(f.Labels) == 0 {
		states = runStates // each of them has its part of an index in the right order
	}
	if len(states) == 0 {
		return tx.runsIn("", f)
	}
	var all []Run
	for _, state := range states {
		some, err := tx.runsIn(state, f)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b Run) int { return strings.Compare(b.ID, a.ID) })
	all = slices.CompactFunc(all, func(a, b Run) bool { return a.ID == b.ID })
	return all[:min(len(all), f.Limit)], nil
}

// runsIn gives the newest runs in one state; empty: in any.
func (tx *Tx) runsIn(state api.State, f Filter) ([]Run, error) {
	from, order := "runs r", "r.id"
	var where []string
	var args []any
	and := func(clause string, a ...any) {
		where, args = append(where, clause), append(args, a...)
	}
	// Whatever chooses fewest leads, by the index that has its runs in order;
	// CROSS JOIN keeps SQLite from turning that round.
	names := slices.Sorted(maps.Keys(f.Labels))
	switch {
	case len(names) > 0:
		from, order = "labels l CROSS JOIN runs r", "l.run"
		and("r.id = l.run AND l.name = ? AND l.value = ?", names[0], f.Labels[names[0]])
		names = names[1:]
		if f.Image != "" {
			and("EXISTS (SELECT 1 FROM images i WHERE i.run = l.run AND i.name = ?)", f.Image)
		}
	case f.Image != "":
		from, order = "images i CROSS JOIN runs r", "i.run"
		and("r.id = i.run AND i.name = ?", f.Image)
	}
	for _, name := range names {
		and("EXISTS (SELECT 1 FROM labels m WHERE m.name = ? AND m.value = ? AND m.run = r.id)", name, f.Labels[name])
	}
	if state != "" {
		and("r.state = ?", string(state))
	}
	if f.Submitter != "" {
		and("r.submitter = ?", f.Submitter)
	}
	if f.After != "" {
		and(order+" < ?", f.After)
	}
	query := "SELECT " + of("r", runColumns) + " FROM " + from
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	return list(tx.session, query+" ORDER BY "+order+" DESC LIMIT ?", append(args, f.Limit), scanRun)
}
