package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// change is one transaction on the state of runs. What follows from it for
// others, log lines and events, becomes known when it is durable.
type change struct {
	*store.Tx
	c      *Controller
	now    time.Time
	runs   map[string]*keptRun
	images map[imageOf]*store.Image
	tasks  map[imageOf][]store.Task // of images, as they were read; once each
	said   []*speech                // by run, in the order in which they spoke first
}

// keptRun is a run as it is to be written at the end of a change.
type keptRun struct {
	store.Run
	changed bool // what else than its log
	longer  bool // its log
}

// imageOf says which image of which run.
type imageOf struct {
	run      string
	position int
}

// speech is what a change says in the log of a run.
type speech struct {
	run   string
	parts []remark
}

// remark is some lines about one subject.
type remark struct {
	about subject
	lines []api.TaskLine
}

// change runs fn in a transaction about what keys name, which may be run again;
// see [store.Store.Write].
func (c *Controller) change(ctx context.Context, keys []store.Key, fn func(*change) error) error {
	return c.o.Store.Write(ctx, keys, c.changing(fn))
}

// changing makes fn what a transaction runs.
func (c *Controller) changing(fn func(*change) error) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		ch := &change{Tx: tx, c: c, now: c.o.Now().UTC().Truncate(time.Microsecond), runs: map[string]*keptRun{}, images: map[imageOf]*store.Image{}, tasks: map[imageOf][]store.Task{}}
		if err := fn(ch); err != nil {
			return err
		}
		for _, s := range ch.said {
			for _, r := range s.parts {
				if err := ch.append(s.run, r.about.build, c.codec.encode(r.about, r.lines)); err != nil {
					return err
				}
			}
		}
		for _, r := range ch.runs {
			if err := ch.keep(r); err != nil {
				return err
			}
			if r.State.Ended() {
				tx.After(func() { c.hub.finish(r.ID) })
			}
		}
		return nil
	}
}

// onRun is the key of a run.
func onRun(id string) []store.Key { return []store.Key{store.OnRun(id)} }

// keep writes what has changed of a run.
func (ch *change) keep(r *keptRun) error {
	switch {
	case r.changed:
		return ch.SaveRun(&r.Run)
	case r.longer:
		return ch.SetLines(r.ID, r.Lines)
	}
	return nil
}

// kept gives a run; every caller in this change gets the same one.
func (ch *change) kept(id string) (*keptRun, error) {
	if r, ok := ch.runs[id]; ok {
		return r, nil
	}
	r, err := ch.Run(id)
	if err != nil {
		return nil, err
	}
	ch.runs[id] = &keptRun{Run: r}
	return ch.runs[id], nil
}

// run is kept for who only reads the run, or has it saved.
func (ch *change) run(id string) (*store.Run, error) {
	r, err := ch.kept(id)
	if err != nil {
		return nil, err
	}
	return &r.Run, nil
}

// save has a run written at the end of the change.
func (ch *change) save(run *store.Run) { ch.runs[run.ID].changed = true }

// image gives an image of a run; every caller in this change gets the same one.
func (ch *change) image(run string, position int) (*store.Image, error) {
	if img, ok := ch.images[imageOf{run, position}]; ok {
		return img, nil
	}
	img, err := ch.Image(run, position)
	if err != nil {
		return nil, err
	}
	return ch.same(&img), nil
}

// same gives what this change knows of an image that it has read, perhaps again.
func (ch *change) same(img *store.Image) *store.Image {
	of := imageOf{img.Run, img.Position}
	if known, ok := ch.images[of]; ok {
		return known
	}
	ch.images[of] = img
	return img
}

// task gives a task, and reads what it is of.
func (ch *change) task(id string) (*store.Task, error) {
	w, err := ch.Work(id)
	if err != nil {
		return nil, err
	}
	ch.know(&w)
	return &w.Task, nil
}

// taskOfImage is task for a task that is about to end: it reads the others of its
// image too.
func (ch *change) taskOfImage(id string) (*store.Task, error) {
	w, tasks, err := ch.WorkOfImage(runOf(id), id)
	if err != nil {
		return nil, err
	}
	ch.know(&w)
	ch.tasks[imageOf{w.Run.ID, w.Image.Position}] = tasks
	return &w.Task, nil
}

// others gives the tasks of an image one of which has just ended.
func (ch *change) others(ended *store.Task) ([]store.Task, error) {
	of := imageOf{ended.Run, ended.Image}
	tasks, ok := ch.tasks[of]
	if !ok {
		return ch.ImageTasks(ended.Run, ended.Image)
	}
	delete(ch.tasks, of)
	for i := range tasks {
		if tasks[i].ID == ended.ID {
			tasks[i] = *ended
		}
	}
	return tasks, nil
}

// know notes what a task is of.
func (ch *change) know(w *store.Work) {
	if ch.runs[w.Run.ID] == nil {
		ch.runs[w.Run.ID] = &keptRun{Run: w.Run}
	}
	ch.same(&w.Image)
}

// begin says that the run and the image of a task have begun, if they had not.
func (ch *change) begin(t *store.Task) (*store.Image, error) {
	run, err := ch.run(t.Run)
	if err != nil {
		return nil, err
	}
	img, err := ch.image(t.Run, t.Image)
	if err != nil {
		return nil, err
	}
	if run.State == api.Queued {
		run.State, run.Started = api.Running, later(ch.now, run.Created)
		ch.save(run)
	}
	if img.State == api.Queued {
		img.State = api.Running
		return img, ch.SaveImage(img)
	}
	return img, nil
}

// say adds a line of the controller's own to the log of a run.
func (ch *change) say(run string, about subject, level, format string, args ...any) {
	i := slices.IndexFunc(ch.said, func(s *speech) bool { return s.run == run })
	if i < 0 {
		i = len(ch.said)
		ch.said = append(ch.said, &speech{run: run})
	}
	s := ch.said[i]
	if n := len(s.parts); n == 0 || s.parts[n-1].about != about {
		s.parts = append(s.parts, remark{about: about})
	}
	last := &s.parts[len(s.parts)-1]
	last.lines = append(last.lines, api.TaskLine{Time: ch.now, Level: level, Message: fmt.Sprintf(format, args...)})
}

// append adds encoded lines to the log of a run.
func (ch *change) append(run, build string, pieces []piece) error {
	r, err := ch.kept(run)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		first := r.Lines
		r.Lines, r.longer = r.Lines+int64(p.count), true
		if err := ch.AddChunk(&store.Chunk{Run: run, First: first, Count: p.count, Build: build, Data: p.data}); err != nil {
			return err
		}
		ch.After(func() { ch.c.hub.push(run, build, first, p) })
	}
	return nil
}

// move brings a task to a state.
func (ch *change) move(t *store.Task, to api.State, reason string) error {
	from, since := t.State, t.Changed
	t.Move(to, ch.now, reason)
	if err := ch.SaveTask(t); err != nil {
		return err
	}
	return ch.tell(t, from, to, reason, t.Changed.Sub(since))
}

// tell tells metrics that a task came to a state.
func (ch *change) tell(t *store.Task, from, to api.State, reason string, elapsed time.Duration) error {
	run, err := ch.run(t.Run)
	if err != nil {
		return err
	}
	e := Event{
		Kind: TaskMoved, Time: ch.now, Run: t.Run, Trace: run.Trace, Task: t.ID, Build: t.Build, Runner: t.Runner, Submitter: t.Submitter,
		From: from, To: to, Reason: reason, Attempt: t.Attempt, Elapsed: elapsed,
	}
	ch.After(func() { ch.c.o.Observe(e) })
	return nil
}

// about says what a line is about that tells of a task and the state it came
// to; image is the name of the task's.
func about(t *store.Task, image string, state api.State) subject {
	if t.Build == "" {
		return subject{image: image, state: state}
	}
	return subject{build: t.Build, state: state}
}

// end ends a task, and does all that follows. One that was lost is tried
// again, if there is a point in that.
func (ch *change) end(t *store.Task, to api.State, reason string) error {
	run, err := ch.run(t.Run)
	if err != nil {
		return err
	}
	img, err := ch.image(t.Run, t.Image)
	if err != nil {
		return err
	}
	if err := ch.move(t, to, reason); err != nil {
		return err
	}
	limits := ch.c.o.Limits
	of := about(t, img.Name, to)
	switch {
	case to == api.Lost && t.Attempt < limits.Attempts && run.StopState == "" && !img.State.Ended():
		wait := backoff(limits.Backoff, t.Attempt)
		ch.say(t.Run, of, "warning", "lost: %s; trying again in %s (%d of %d)", reason, wait, t.Attempt+1, limits.Attempts)
		return ch.again(t, wait)
	case t.Build == "" && to != api.Succeeded: // its image tells
	case to == api.Lost:
		ch.say(t.Run, of, "error", "lost: %s", reason)
	case to == api.Failed:
		ch.say(t.Run, of, "error", "%s", reason)
	case to == api.Cancelled:
		ch.say(t.Run, of, "info", "%s", reason)
	case t.Build != "":
		ch.say(t.Run, of, "info", "succeeded%s", prefixed(": ", t.Digest))
	}
	ch.After(func() { poke(ch.c.wakes) }) // a place is free
	return ch.settle(run, img, t)
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// longestBackoff bounds the wait before another attempt.
const longestBackoff = 5 * time.Minute

func backoff(base time.Duration, attempt int) time.Duration {
	for range attempt - 1 {
		if base *= 2; base >= longestBackoff {
			break
		}
	}
	return min(base, longestBackoff)
}

// again queues the next attempt at a task.
func (ch *change) again(t *store.Task, wait time.Duration) error {
	next := store.Task{
		ID: taskID(t.Run, t.Number, t.Attempt+1), Run: t.Run, Number: t.Number, Attempt: t.Attempt + 1, Image: t.Image,
		Build: t.Build, Platform: t.Platform, Runner: t.Runner, Submitter: t.Submitter, Priority: t.Priority, Timeout: t.Timeout,
		Ready: true, NotBefore: ch.now.Add(wait),
	}
	next.Move(api.Queued, ch.now, "")
	// The scheduler looks every second; here for waits that are shorter.
	ch.After(func() { time.AfterFunc(min(wait, longestBackoff), func() { poke(ch.c.wakes) }) })
	return ch.AddTask(&next)
}

// settle goes on with an image one of whose tasks has ended.
func (ch *change) settle(run *store.Run, img *store.Image, ended *store.Task) error {
	if img.State.Ended() {
		return nil
	}
	tasks, err := ch.others(ended)
	if err != nil {
		return err
	}
	var publication *store.Task
	var failed, cancelled []string
	for i := range tasks {
		t := &tasks[i]
		switch {
		case t.Build == "":
			publication = t
		case !t.State.Ended():
			return nil
		case t.State == api.Failed || t.State == api.Lost:
			failed = append(failed, fmt.Sprintf("%s %s: %s", t.Build, t.State, strings.TrimPrefix(t.Reason, "build "+t.Build+": ")))
		case t.State == api.Cancelled:
			cancelled = append(cancelled, t.Reason)
		}
	}
	switch {
	case len(failed) > 0:
		return ch.endImage(run, img, api.Failed, strings.Join(failed, "; "))
	case len(cancelled) > 0:
		return ch.endImage(run, img, api.Cancelled, cancelled[0])
	case publication == nil || publication.State == api.Succeeded:
		return ch.endImage(run, img, api.Succeeded, "")
	case publication.State == api.Cancelled:
		return ch.endImage(run, img, api.Cancelled, publication.Reason)
	case publication.State.Ended():
		return ch.endImage(run, img, api.Failed, "publishing: "+publication.Reason)
	case run.StopState != "":
		return ch.endImage(run, img, api.Cancelled, run.Reason)
	case publication.Ready:
		return nil
	}
	publication.Ready = true
	ch.After(func() { poke(ch.c.wakes) })
	return ch.SaveTask(publication)
}

// endImage ends an image, and all that cannot go on without it; what waited
// for it may start.
func (ch *change) endImage(run *store.Run, img *store.Image, state api.State, reason string) error {
	type ending struct {
		img    *store.Image
		state  api.State
		reason string
	}
	for queue := []ending{{img, state, reason}}; len(queue) > 0; queue = queue[1:] {
		e := queue[0]
		if e.state != api.Succeeded {
			if err := ch.cancelQueued(run.ID, e.img.Position, either(e.state == api.Cancelled, e.reason, "its builds did not succeed")); err != nil {
				return err
			}
			ch.say(run.ID, subject{image: e.img.Name, state: e.state}, "warning", "%s", e.reason)
		}
		e.img.State, e.img.Reason = e.state, e.reason
		if err := ch.SaveImage(e.img); err != nil {
			return err
		}
		run.Unended--
		if run.Images == 1 {
			break
		}
		dependents, err := ch.Dependents(run.ID, e.img.Position)
		if err != nil {
			return err
		}
		for i := range dependents {
			d := ch.same(&dependents[i])
			switch {
			case d.State.Ended() || slices.ContainsFunc(queue, func(e ending) bool { return e.img.Position == d.Position }):
			case e.state == api.Succeeded:
				d.Missing--
				if err := ch.SaveImage(d); err != nil {
					return err
				}
				if d.Missing == 0 && !run.Serial {
					if err := ch.admit(d); err != nil {
						return err
					}
				}
			case e.state == api.Failed:
				queue = append(queue, ending{d, api.Cancelled, "needs " + e.img.Name + ", which failed"})
			default:
				queue = append(queue, ending{d, api.Cancelled, "needs " + e.img.Name + ", which was cancelled"})
			}
		}
	}
	switch {
	case run.Unended == 0:
		return ch.endRun(run)
	case run.Serial:
		if err := ch.admitNext(run.ID); err != nil {
			return err
		}
	}
	ch.save(run)
	return nil
}

func either(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}

// admit lets an image start: all that it needs is published.
func (ch *change) admit(img *store.Image) error {
	ch.After(func() { poke(ch.c.wakes) })
	return ch.Admit(img.Run, img.Position)
}

// admitNext lets the first image of a serial run start that has not ended. The
// order of plans has all that it needs before it.
func (ch *change) admitNext(run string) error {
	img, err := ch.FirstUnended(run)
	if err != nil {
		return err
	}
	return ch.admit(&img)
}

// cancelQueued ends the tasks of an image that are queued; image -1: of the run.
func (ch *change) cancelQueued(run string, image int, reason string) error {
	tasks, err := ch.CancelQueued(run, image, ch.now, reason)
	for i := range tasks {
		if err := ch.tell(&tasks[i], api.Queued, api.Cancelled, reason, ch.now.Sub(tasks[i].Changed)); err != nil {
			return err
		}
	}
	return err
}

// endRun ends a run whose images have all ended.
func (ch *change) endRun(run *store.Run) error {
	count, err := ch.countImages(run)
	if err != nil {
		return err
	}
	switch {
	case count[api.Failed]+count[api.Cancelled] == 0:
		run.State, run.Reason = api.Succeeded, ""
	case run.StopState != "":
		run.State = run.StopState
	case count[api.Failed] == 0:
		run.State = api.Cancelled
	default:
		img, err := ch.FirstFailed(run.ID)
		if err != nil {
			return err
		}
		run.State, run.Reason = api.Failed, img.Name+": "+img.Reason
		if more := count[api.Failed] - 1; more > 0 {
			run.Reason += fmt.Sprintf("; %d more failed", more)
		}
	}
	run.Finished = later(ch.now, run.Created, run.Started)
	level := "info"
	if run.State == api.Failed {
		level = "error"
	}
	ch.say(run.ID, subject{}, level, "the run %s%s", verdicts[run.State], prefixed(": ", run.Reason))
	e := Event{
		Kind: RunEnded, Time: ch.now, Run: run.ID, Trace: run.Trace, Runner: run.Runner, Submitter: run.Submitter, To: run.State,
		Reason: run.Reason, Elapsed: run.Finished.Sub(run.Created),
	}
	ch.After(func() {
		ch.c.o.Observe(e)
		ch.c.plans.drop(e.Run)
		poke(ch.c.archive)
	})
	ch.save(run)
	return nil
}

// countImages gives how many images of a run are in each state.
func (ch *change) countImages(run *store.Run) (map[api.State]int, error) {
	if img := ch.images[imageOf{run.ID, 0}]; run.Images == 1 && img != nil && img.State.Ended() {
		return map[api.State]int{img.State: 1}, nil
	}
	return ch.CountImages(run.ID)
}

var verdicts = map[api.State]string{api.Succeeded: "succeeded", api.Failed: "failed", api.Cancelled: "was cancelled"}

// later gives the last of some times: what ended did not end before it began,
// whatever the clock did.
func later(t time.Time, others ...time.Time) time.Time {
	for _, o := range others {
		if o.After(t) {
			t = o
		}
	}
	return t
}

// stop ends a run before its time: what is queued at once, what runs when its
// agent is gone.
func (ch *change) stop(run *store.Run, state api.State, why string) error {
	run.StopState, run.Reason = state, why
	ch.say(run.ID, subject{}, "warning", "%s", why)
	if err := ch.cancelQueued(run.ID, -1, why); err != nil {
		return err
	}
	if err := ch.StopTasks(run.ID, api.Cancelled, why); err != nil {
		return err
	}
	if err := ch.CancelImages(run.ID, why); err != nil {
		return err
	}
	count, err := ch.CountImages(run.ID)
	if err != nil {
		return err
	}
	run.Unended = count[api.Queued] + count[api.Running]
	ch.After(func() { poke(ch.c.pokes); poke(ch.c.wakes) })
	if run.Unended > 0 {
		ch.save(run)
		return nil
	}
	return ch.endRun(run)
}
