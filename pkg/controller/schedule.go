package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// atOnce is how many tasks one look at the queue starts; more is another look.
const atOnce = 64

// schedule starts tasks as soon as there are places for them, until ctx ends.
func (c *Controller) schedule(ctx context.Context) {
	// For tasks that wait for a time, and those that other controllers queued.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = c.startSome(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("looking for tasks to start", "err", err)
			}
		}
		select {
		case <-c.wakes:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// startSome takes tasks from the queue for which there is a place and starts
// them; more: there may be others.
func (c *Controller) startSome(ctx context.Context) (more bool, err error) {
	if something, err := c.waiting(ctx); err != nil || !something {
		return false, err
	}
	var taken []*care
	drop := func() {
		for _, k := range taken {
			c.unregister(k)
		}
		taken = nil
	}
	// One controller at a time looks, so that limits hold.
	err = c.o.Store.Alone(ctx, []store.Key{"queue"}, c.changing(func(ch *change) error {
		drop() // what was undone
		chosen, full, err := c.choose(ch)
		if err != nil {
			return err
		}
		more = full
		keys := make([]store.Key, len(chosen))
		for i := range chosen {
			keys[i] = store.OnRun(chosen[i].Run)
		}
		if err := ch.Lock(keys...); err != nil {
			return err
		}
		ids := make([]string, len(chosen))
		for i := range chosen {
			ids[i] = chosen[i].ID
		}
		works, err := ch.Works(ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			i := slices.IndexFunc(works, func(w store.Work) bool { return w.Task.ID == id })
			if i < 0 || works[i].Task.State != api.Queued || !works[i].Task.Ready {
				continue // its run was stopped meanwhile
			}
			k, err := c.takeTask(ch, &works[i])
			taken = append(taken, k)
			if err != nil {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		drop()
		return false, err
	}
	for _, k := range taken {
		c.begin(k)
	}
	return more, nil
}

// queues are the runners of this controller, and none: that of publications.
func (c *Controller) queues() []string { return append(runners(c.o), "") }

// waiting says whether there is any task to start, places or not.
func (c *Controller) waiting(ctx context.Context) (something bool, err error) {
	err = c.o.Store.Ask(ctx, func(tx *store.Tx) (err error) { something, err = tx.Waits(c.queues()); return err })
	return something, err
}

// choose chooses the tasks to start now; full: there may be more.
func (c *Controller) choose(ch *change) (chosen []store.Task, full bool, err error) {
	queues := c.queues()
	shares, submitters, err := ch.Look(queues)
	if err != nil {
		return nil, false, err
	}
	q := queue{c: c, used: map[string]int{}, running: map[string]int{}}
	for _, s := range shares {
		// Other controllers have places of their own for what happens here.
		if s.Owner == c.o.Instance || s.Runner != "" && !slices.Contains(c.o.Local, s.Runner) {
			q.used[s.Runner] += s.N
		}
		if s.Runner != "" {
			q.running[s.Submitter] += s.N
		}
	}
	var heads []store.Head
	for i, runner := range queues {
		heads = append(heads, q.heads(runner, submitters[i])...)
	}
	all, err := ch.Heads(heads, ch.now, longestBackoff)
	if err != nil {
		return nil, false, err
	}
	for _, runner := range queues {
		first := map[string][]store.Task{}
		for i, h := range heads {
			if h.Runner == runner && len(all[i]) > 0 {
				first[h.Submitter] = all[i]
			}
		}
		tasks := q.take(runner, first)
		full = full || len(tasks) == atOnce
		chosen = append(chosen, tasks...)
	}
	return chosen, full, nil
}

// takeTask gives a task to this controller. The care is to be unregistered if
// the change is not made.
func (c *Controller) takeTask(ch *change, w *store.Work) (*care, error) {
	t := &w.Task
	k := newCare(t.ID, t.Build == "")
	k.work = w
	// Before anybody can see that it is this controller's.
	c.register(k)
	ch.know(w)
	t.Owner = c.o.Instance
	img, err := ch.begin(t)
	if err != nil {
		return k, err
	}
	if t.Build == "" {
		ch.say(t.Run, about(t, img.Name, api.Publishing), "info", "publishing")
		return k, ch.move(t, api.Publishing, "")
	}
	ch.say(t.Run, about(t, "", api.Starting), "info", "starting on %s%s", t.Runner, either(t.Attempt > 1, fmt.Sprintf(", attempt %d", t.Attempt), ""))
	var hash []byte
	k.token, hash = newToken()
	if err := ch.AddToken(hash, t.ID); err != nil {
		return k, err
	}
	return k, ch.move(t, api.Starting, "")
}

// newToken makes what an agent shows; only its hash is kept.
func newToken() (token string, hash []byte) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	token = base64.RawURLEncoding.EncodeToString(random[:])
	sum := sha256.Sum256([]byte(token))
	return token, sum[:]
}

// queue is one look at the queue.
type queue struct {
	c       *Controller
	used    map[string]int // places by runner
	running map[string]int // builds by submitter
}

// free is how many tasks a runner may start now.
func (q *queue) free(runner string) int {
	limits := &q.c.o.Limits
	free := atOnce
	if limit, ok := limits.Runner[runner]; ok {
		free = min(free, limit-q.used[runner])
	}
	if runner == "" {
		free = min(free, limits.Publishing-q.used[""])
	}
	return free
}

// heads gives those of the queue that may start on a runner, each submitter's.
func (q *queue) heads(runner string, submitters []store.Submitter) (heads []store.Head) {
	free := q.free(runner)
	for _, s := range submitters {
		places := free
		if quota := cmp.Or(s.Quota, q.c.o.Limits.Submitter); runner != "" && quota > 0 {
			places = min(places, quota-q.running[s.Name])
		}
		if places > 0 {
			heads = append(heads, store.Head{Runner: runner, Submitter: s.Name, Limit: places})
		}
	}
	return heads
}

// take chooses the tasks that a runner is to start now: by priority, then of
// those whose submitter has least running, then by age.
func (q *queue) take(runner string, heads map[string][]store.Task) []store.Task {
	free := q.free(runner)
	var taken []store.Task
	for len(taken) < free && len(heads) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(heads)), func(a, b string) int {
			s, t := &heads[a][0], &heads[b][0]
			return cmp.Or(cmp.Compare(t.Priority, s.Priority), cmp.Compare(q.running[a], q.running[b]),
				cmp.Compare(s.Run, t.Run), cmp.Compare(s.Number, t.Number))
		})
		taken = append(taken, heads[first][0])
		if runner != "" {
			q.running[first]++
		}
		if heads[first] = heads[first][1:]; len(heads[first]) == 0 {
			delete(heads, first)
		}
	}
	return taken
}
