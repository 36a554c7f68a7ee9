package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/runner"
)

const (
	// watchEvery is how often to look after tasks.
	watchEvery = time.Second
	// watchRuns is how many such looks there are to one after the time of runs.
	watchRuns = 5
)

// watch looks after the tasks that this controller has: it ends what was told
// to stop, what does not start or is silent for too long, and takes up what an
// earlier process left, until ctx ends. Time is measured by the monotonic clock
// of this process: it does no harm if clocks differ, or are put right.
func (c *Controller) watch(ctx context.Context) {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	runs := map[string]time.Time{}
	for n := 0; ; n++ {
		err := c.look(ctx)
		if err == nil && n%watchRuns == 0 {
			err = c.lookAtRuns(ctx, runs, n == 0)
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("looking after tasks", "err", err)
		}
		select {
		case <-tick.C:
		case <-c.pokes:
		case <-ctx.Done():
			return
		}
	}
}

// look looks at each task once.
func (c *Controller) look(ctx context.Context) error {
	// Tasks that this process took before, and that are there if they have not ended.
	c.mu.Lock()
	known := map[string]*care{}
	for id, k := range c.cares {
		if k.begun {
			known[id] = k
		}
	}
	c.mu.Unlock()
	var owned []store.Task
	if err := c.o.Store.Ask(ctx, func(tx *store.Tx) (err error) { owned, err = tx.Owned(c.o.Instance); return err }); err != nil {
		return err
	}
	now := time.Now()
	for i := range owned {
		t := &owned[i]
		delete(known, t.ID)
		c.mu.Lock()
		k := c.cares[t.ID]
		c.mu.Unlock()
		if k == nil {
			k = c.takeUp(t)
		}
		if k != nil {
			c.lookAt(k, t, now)
		}
	}
	for _, k := range known {
		c.unregister(k)
	}
	return nil
}

// takeUp goes on with a task that another process has begun.
func (c *Controller) takeUp(t *store.Task) *care {
	if t.State == api.Publishing {
		// Nobody publishes it now; doing so again does no harm.
		err := c.change(c.life, onTask(t.ID), func(ch *change) error {
			t, err := ch.Task(t.ID)
			if err != nil || t.State != api.Publishing || t.Owner != c.o.Instance {
				return err
			}
			if t.StopState != "" {
				return ch.end(&t, t.StopState, t.Stop)
			}
			t.Owner = ""
			ch.After(func() { poke(c.wakes) })
			return ch.move(&t, api.Queued, "its controller is gone")
		})
		if err != nil {
			c.log.Warn("publishing again", "task", t.ID, "err", err)
		}
		return nil
	}
	k := newCare(t.ID, false)
	k.adopted = true
	c.register(k)
	c.mu.Lock()
	k.begun = true
	c.mu.Unlock()
	if t.State == api.Running || t.StopState != "" {
		close(k.launched)
		return k
	}
	l, task := c.o.Launchers[t.Runner], *t
	c.work.Go(func() { c.findAgain(k, task, l) })
	return k
}

// findAgain looks for the agent of a task that an earlier process took, and
// starts one if that had not come to it.
func (c *Controller) findAgain(k *care, t store.Task, l runner.Launcher) {
	if l == nil {
		close(k.launched)
		c.tellToStop(t.ID, api.Failed, "this controller has no runner "+t.Runner)
		return
	}
	for {
		s, err := l.Find(k.ctx, t.ID)
		switch {
		case errors.Is(err, runner.ErrNoAgent):
			// Whichever agent comes first may claim it: the hash of an earlier token stays.
			var hash []byte
			k.token, hash = newToken()
			if err = c.insist(onTask(t.ID), func(ch *change) error {
				now, err := ch.Task(t.ID)
				if err != nil || now.State != api.Starting {
					return err
				}
				return ch.AddToken(hash, t.ID)
			}); err == nil {
				c.launch(k)
				return
			}
		case err == nil && s.State == runner.AgentExited:
			close(k.launched)
			c.agentExited(t.Runner, s)
			return
		case err == nil:
			close(k.launched)
			return
		}
		if k.ctx.Err() == nil {
			c.log.Warn("looking for an agent", "task", t.ID, "err", err)
		}
		if !pause(k.ctx, 5*time.Second) {
			close(k.launched)
			return
		}
	}
}

// lookAt looks at one task.
func (c *Controller) lookAt(k *care, t *store.Task, now time.Time) {
	if k.state != t.State || k.beat != t.Beat {
		if k.state != t.State {
			k.deadline = now.Add(t.Timeout)
			if k.adopted {
				k.deadline = now.Add(left(t.Changed, t.Timeout, c.o.Now()))
			}
		}
		k.state, k.beat, k.seen = t.State, t.Beat, now
	}
	limits := &c.o.Limits
	quiet := now.Sub(k.seen)
	switch {
	case t.StopState != "":
		c.mu.Lock()
		fresh := !k.stopping
		k.stopping = true
		c.mu.Unlock()
		if fresh {
			stopped := *t
			c.work.Go(func() { c.halt(k, stopped) })
		}
	case t.State == api.Starting && quiet > limits.Start:
		c.tellToStop(t.ID, api.Lost, fmt.Sprintf("its agent did not start within %s", limits.Start))
	case t.State == api.Running && now.After(k.deadline):
		c.tellToStop(t.ID, api.Failed, fmt.Sprintf("it took longer than %s", t.Timeout))
	case t.State == api.Running && quiet > limits.Silence:
		c.tellToStop(t.ID, api.Lost, fmt.Sprintf("its agent said nothing for %s", limits.Silence))
	}
}

// left gives what is left of the time of something that another process saw
// begin, as far as clocks can be believed.
func left(began time.Time, limit time.Duration, now time.Time) time.Duration {
	return min(max(began.Add(limit).Sub(now), 0), limit)
}

// lookAtRuns ends runs whose time is over. ends has when that is, by the
// monotonic clock; first: they began before this process.
func (c *Controller) lookAtRuns(ctx context.Context, ends map[string]time.Time, first bool) error {
	var running []store.Run
	if err := c.o.Store.Ask(ctx, func(tx *store.Tx) (err error) { running, err = tx.Running(); return err }); err != nil {
		return err
	}
	now := time.Now()
	gone := maps.Clone(ends)
	for i := range running {
		r := &running[i]
		delete(gone, r.ID)
		if _, ok := ends[r.ID]; !ok {
			ends[r.ID] = now.Add(r.Timeout)
			if first {
				ends[r.ID] = now.Add(left(r.Started, r.Timeout, c.o.Now()))
			}
		}
		if r.StopState != "" || now.Before(ends[r.ID]) {
			continue
		}
		if err := c.change(ctx, onRun(r.ID), func(ch *change) error {
			run, err := ch.run(r.ID)
			if err != nil || run.State.Ended() || run.StopState != "" {
				return err
			}
			return ch.stop(run, api.Failed, fmt.Sprintf("the run took longer than %s", run.Timeout))
		}); err != nil {
			return err
		}
	}
	for id := range gone {
		delete(ends, id)
	}
	return nil
}
