package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

// Task is the row of a task.
type Task struct {
	ID, Run         string
	Number, Attempt int
	Image           int    // position of the image in the plan
	Build, Platform string // empty: a publication
	Runner          string // empty: a publication
	Submitter       string
	Priority        int
	State           api.State
	Ready           bool      // all that it needs is there
	NotBefore       time.Time // it starts no earlier
	Reason          string
	Digest          string
	Usage           *api.Usage
	Result          []byte // JSON of a plan.Result
	Owner           string // controller that looks after it
	Agent           string // that claimed it
	Beat            int64  // signs of life of its agent
	StopState       api.State
	Stop            string    // why
	Changed         time.Time // when it came to its state
	Timeout         time.Duration
	Deadline        time.Time // set by the claim
	Lines, Bytes    int64     // of its log that are there

	history string
}

// History gives all states that the task has had, in order.
func (t *Task) History() ([]api.Transition, error) {
	var h []api.Transition
	err := json.Unmarshal([]byte("["+t.history+"]"), &h)
	return h, err
}

// Move brings the task to a state. Its times never go backwards, whatever the
// clock does.
func (t *Task) Move(to api.State, now time.Time, reason string) {
	if now.Before(t.Changed) {
		now = t.Changed
	}
	t.State, t.Reason, t.Changed = to, reason, now.UTC()
	piece := transition(to, t.Changed, reason)
	if t.history != "" {
		t.history += ","
	}
	t.history += piece
}

func transition(to api.State, now time.Time, reason string) string {
	// Strings and times alone: this cannot fail.
	b, _ := json.Marshal(api.Transition{State: to, Time: now.Truncate(time.Microsecond), Reason: reason})
	return string(b)
}

const taskColumns = `id, run, number, attempt, image, build, platform, runner, submitter, place, state, ready, not_before, reason, history,
	digest, cpu, memory, result, owner, agent, beat, stop_state, stop, changed, timeout, deadline, lines, bytes`

func scanTask(scan func(dest ...any) error, t *Task) error {
	to, read := taskRow(t)
	if err := scan(to...); err != nil {
		return err
	}
	read()
	return nil
}

// taskRow says where the columns of a row go, and what is to be done then.
func taskRow(t *Task) (to []any, read func()) {
	row := new(struct{ ready, notBefore, cpu, memory, changed, timeout, deadline int64 })
	return []any{
			&t.ID, &t.Run, &t.Number, &t.Attempt, &t.Image, &t.Build, &t.Platform, &t.Runner, &t.Submitter, &t.Priority, &t.State,
			&row.ready, &row.notBefore, &t.Reason, &t.history, &t.Digest, &row.cpu, &row.memory, &t.Result, &t.Owner, &t.Agent, &t.Beat,
			&t.StopState, &t.Stop, &row.changed, &row.timeout, &row.deadline, &t.Lines, &t.Bytes,
		}, func() {
			t.Priority, t.Ready = -t.Priority, row.ready != 0
			t.NotBefore, t.Changed, t.Deadline = moment(row.notBefore), moment(row.changed), moment(row.deadline)
			t.Timeout = time.Duration(row.timeout) * time.Microsecond
			if row.cpu != 0 || row.memory != 0 {
				t.Usage = &api.Usage{CPUSeconds: float64(row.cpu) / 1e6, PeakMemory: row.memory}
			}
		}
}

// Work is a task with what it is of.
type Work struct {
	Task  Task
	Run   Run
	Image Image
}

func scanWork(scan func(dest ...any) error, w *Work) error {
	task, readTask := taskRow(&w.Task)
	run, readRun := runRow(&w.Run)
	if err := scan(slices.Concat(task, run, imageRow(&w.Image))...); err != nil {
		return err
	}
	readTask()
	return readRun()
}

var workQuery = "SELECT " + of("t", taskColumns) + ", " + of("r", runColumns) + ", " + of("i", imageColumns) + ` FROM tasks t
	JOIN runs r ON r.id = t.run JOIN images i ON i.run = t.run AND i.position = t.image WHERE t.id`

// of gives columns of a table that has another name.
func of(table, columns string) string {
	return table + "." + strings.Join(strings.FieldsFunc(columns, func(r rune) bool { return strings.ContainsRune(", \n\t", r) }), ", "+table+".")
}

// Work gives a task with what it is of; ErrNotFound.
func (tx *Tx) Work(id string) (w Work, err error) {
	err = one(tx.session, workQuery+" = ?", []any{id}, scanWork, &w)
	return w, err
}

// Works gives those of some tasks that are there, with what they are of.
func (tx *Tx) Works(ids []string) ([]Work, error) {
	const few = 8
	var all []Work
	var faults error
	if len(ids) <= few {
		for _, id := range ids {
			faults = errors.Join(faults, tx.ask(workQuery+" = ?", []any{id}, appending(&all, scanWork)))
		}
		return all, errors.Join(faults, tx.flush())
	}
	for args := range fifties(ids) {
		faults = errors.Join(faults, tx.ask(workQuery+" IN ("+marks(len(args))+")", args, appending(&all, scanWork)))
	}
	return all, errors.Join(faults, tx.flush())
}

// usage is how the usage of a task is kept.
func (t *Task) usage() (cpu, memory int64) {
	if t.Usage == nil {
		return 0, 0
	}
	return int64(t.Usage.CPUSeconds * 1e6), t.Usage.PeakMemory
}

// AddTask adds a task.
func (tx *Tx) AddTask(t *Task) error {
	cpu, memory := t.usage()
	err := tx.exec("INSERT INTO tasks ("+taskColumns+") VALUES ("+marks(29)+")",
		t.ID, t.Run, t.Number, t.Attempt, t.Image, t.Build, t.Platform, t.Runner, t.Submitter, -t.Priority, string(t.State),
		flag(t.Ready), micros(t.NotBefore), t.Reason, t.history, t.Digest, cpu, memory, t.Result, t.Owner, t.Agent, t.Beat,
		string(t.StopState), t.Stop, micros(t.Changed), t.Timeout.Microseconds(), micros(t.Deadline), t.Lines, t.Bytes)
	return err
}

// SaveTask writes what changes of a task, but for its log and signs of life.
func (tx *Tx) SaveTask(t *Task) error {
	if err := tx.about(t.Run); err != nil {
		return err
	}
	cpu, memory := t.usage()
	err := tx.exec(`UPDATE tasks SET state = ?, ready = ?, not_before = ?, reason = ?, history = ?, digest = ?, cpu = ?, memory = ?,
		result = ?, owner = ?, agent = ?, stop_state = ?, stop = ?, changed = ?, deadline = ? WHERE id = ?`,
		string(t.State), flag(t.Ready), micros(t.NotBefore), t.Reason, t.history, t.Digest, cpu, memory,
		t.Result, t.Owner, t.Agent, string(t.StopState), t.Stop, micros(t.Changed), micros(t.Deadline), t.ID)
	return err
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Task gives a task; ErrNotFound.
func (tx *Tx) Task(id string) (t Task, err error) {
	err = one(tx.session, "SELECT "+taskColumns+" FROM tasks WHERE id = ?", []any{id}, scanTask, &t)
	return t, err
}

// Tasks gives the tasks of a run in the order of its plan, earlier attempts first.
func (tx *Tx) Tasks(run string) ([]Task, error) {
	return list(tx.session, "SELECT "+taskColumns+" FROM tasks WHERE run = ? ORDER BY image, number, attempt", []any{run}, scanTask)
}

const imageTasks = "SELECT " + taskColumns + " FROM tasks WHERE run = ? AND image = "

// ImageTasks gives the tasks of an image in the order of its plan, the
// publication last, each in its latest attempt.
func (tx *Tx) ImageTasks(run string, image int) ([]Task, error) {
	all, err := list(tx.session, imageTasks+"? ORDER BY number, attempt", []any{run, image}, scanTask)
	return latestOf(all), err
}

// WorkOfImage is Work, with the tasks of the image; see [Tx.ImageTasks].
func (tx *Tx) WorkOfImage(run, id string) (w Work, tasks []Task, err error) {
	err = tx.ask(imageTasks+"(SELECT image FROM tasks WHERE id = ?) ORDER BY number, attempt", []any{run, id}, appending(&tasks, scanTask))
	if err == nil {
		w, err = tx.Work(id)
	}
	return w, latestOf(tasks), err
}

// latestOf leaves of the tasks of an image the latest attempts.
func latestOf(all []Task) []Task {
	latest := all[:0]
	for i, t := range all {
		if i+1 == len(all) || all[i+1].Number != t.Number {
			latest = append(latest, t)
		}
	}
	return latest
}

// Admit lets the builds of an image start, or the publication of one that has no builds.
func (tx *Tx) Admit(run string, image int) error {
	if err := tx.about(run); err != nil {
		return err
	}
	err := tx.exec(`UPDATE tasks SET ready = 1 WHERE run = ? AND image = ? AND state = 'queued' AND (build <> '' OR NOT EXISTS (
		SELECT 1 FROM tasks b WHERE b.run = tasks.run AND b.image = tasks.image AND b.build <> ''))`, run, image)
	return err
}

// CancelQueued ends the tasks of a run that are queued and gives them. With an
// image of 0 or more only its own are.
func (tx *Tx) CancelQueued(run string, image int, now time.Time, reason string) ([]Task, error) {
	if err := tx.about(run); err != nil {
		return nil, err
	}
	where, args := "run = ? AND state = 'queued'", []any{run}
	if image >= 0 {
		where, args = where+" AND image = ?", append(args, image)
	}
	queued, err := list(tx.session, "SELECT "+taskColumns+" FROM tasks WHERE "+where, args, scanTask)
	if err != nil || len(queued) == 0 {
		return nil, err
	}
	err = tx.exec(`UPDATE tasks SET state = 'cancelled', reason = ?, history = history || ?,
		changed = CASE WHEN changed > ? THEN changed ELSE ? END WHERE `+where,
		append([]any{reason, "," + transition(api.Cancelled, now.UTC(), reason), micros(now), micros(now)}, args...)...)
	return queued, err
}

// active are the states of tasks that somebody has.
const active = "('starting', 'running', 'publishing')"

// StopTasks tells the tasks of a run that agents or controllers have to stop.
func (tx *Tx) StopTasks(run string, state api.State, why string) error {
	if err := tx.about(run); err != nil {
		return err
	}
	err := tx.exec("UPDATE tasks SET stop_state = ?, stop = ? WHERE run = ? AND state IN "+active+" AND stop_state = ''",
		string(state), why, run)
	return err
}

// Beat notes a sign of life of a task's agent, and what it uses if it says so.
func (tx *Tx) Beat(id string, u *api.Usage) error {
	if u == nil {
		err := tx.exec("UPDATE tasks SET beat = beat + 1 WHERE id = ?", id)
		return err
	}
	err := tx.exec("UPDATE tasks SET beat = beat + 1, cpu = ?, memory = ? WHERE id = ?", int64(u.CPUSeconds*1e6), u.PeakMemory, id)
	return err
}

// Owned gives the tasks that a controller looks after and that have not ended.
func (tx *Tx) Owned(owner string) ([]Task, error) {
	return list(tx.session, "SELECT "+taskColumns+" FROM tasks WHERE owner = ? AND state IN "+active, []any{owner}, scanTask)
}

// AddToken lets whoever holds the token with this hash act for a task.
func (tx *Tx) AddToken(hash []byte, task string) error {
	err := tx.exec("INSERT INTO tokens (hash, task) VALUES (?, ?)", hash, task)
	return err
}

// TaskOf gives the task that a token is for; ErrNotFound.
func (tx *Tx) TaskOf(hash []byte) (task string, err error) {
	err = tx.row("SELECT task FROM tokens WHERE hash = ?", []any{hash}, &task)
	return task, err
}
