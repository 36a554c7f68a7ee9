package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// care is what this process does about a task that it looks after.
type care struct {
	task        string
	publication bool
	token       string
	work        *store.Work // as it was when it was taken; nil: an earlier process took it
	// Ends the launching or the publishing.
	ctx    context.Context //nolint:containedctx // of what this stands for
	cancel context.CancelFunc
	// Closed when nobody is starting its agent any more.
	launched chan struct{}

	// The controller's lock is theirs.
	begun    bool
	stopping bool
	told     string // what was said last of an agent that waits

	// Whether another process began it.
	adopted bool

	// The watch's alone. Times are of the monotonic clock.
	state    api.State
	beat     int64
	seen     time.Time // last sign of life
	deadline time.Time
}

func newCare(task string, publication bool) *care {
	return &care{task: task, publication: publication, launched: make(chan struct{})}
}

// begin starts the agent, or the publication, of a task that was taken.
func (c *Controller) begin(k *care) {
	c.mu.Lock()
	k.begun = true
	c.mu.Unlock()
	c.work.Go(func() {
		defer k.cancel()
		if k.publication {
			close(k.launched)
			c.publish(k)
			return
		}
		c.launch(k)
	})
}

// register notes that this process looks after a task.
func (c *Controller) register(k *care) {
	parent := c.running
	if k.publication { // which may be finished when the controller is told to stop
		parent = c.life
	}
	k.ctx, k.cancel = context.WithCancel(parent)
	c.mu.Lock()
	c.cares[k.task] = k
	c.mu.Unlock()
}

func (c *Controller) unregister(k *care) {
	k.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cares[k.task] == k {
		delete(c.cares, k.task)
	}
}

// launch starts the agent of a task.
func (c *Controller) launch(k *care) {
	defer close(k.launched)
	err := c.askForAgent(k)
	for errors.Is(err, ErrUnavailable) && pause(k.ctx, time.Second) {
		err = c.askForAgent(k)
	}
	switch {
	case err == nil || k.ctx.Err() != nil: // whoever ended it goes on with it
	case errors.Is(err, failure.ErrInput):
		c.tellToStop(k.task, api.Failed, reason(err))
	default:
		c.tellToStop(k.task, api.Lost, "its agent could not be started: "+reason(err))
	}
}

func (c *Controller) askForAgent(k *care) error {
	w := k.work
	if w == nil {
		w = new(store.Work)
		if err := c.o.Store.Ask(k.ctx, func(tx *store.Tx) (err error) { *w, err = tx.Work(k.task); return err }); err != nil {
			return err
		}
	}
	t, r := &w.Task, &w.Run
	p, err := c.plan(k.ctx, t.Run)
	if err != nil {
		return err
	}
	img, b, ok := p.Find(t.Build)
	l := c.o.Launchers[t.Runner]
	if !ok || l == nil {
		return failure.Input("there is no build %s, or no runner %s", t.Build, t.Runner)
	}
	missing, err := c.unbrought(k.ctx, t.Run, ownSecrets(img, b))
	if err != nil {
		return err
	}
	// An agent could only say that it was given nothing.
	if _, err := c.stored(k.ctx, r.Submitter, t.Runner, b); err != nil {
		return err
	}
	select {
	case c.launches <- struct{}{}:
		defer func() { <-c.launches }()
	case <-k.ctx.Done():
		return k.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(k.ctx, c.o.Limits.Start)
	defer cancel()
	return l.Start(ctx, runner.Launch{
		Task: t.ID, Run: t.Run, Build: t.Build, Platform: t.Platform, Engine: b.Engine, Attempt: t.Attempt, Image: b.BuilderImage, URL: c.o.URL, Token: k.token, Secrets: missing,
		Resources: b.Resources, Deadline: c.o.Now().Add(c.o.Limits.Start + t.Timeout),
		Labels: map[string]string{"image": img.Name, "submitter": r.Submitter, "traceparent": r.Trace},
	})
}

// unbrought gives those of some secrets that a run did not bring.
func (c *Controller) unbrought(ctx context.Context, run string, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	in, err := c.inputs(ctx, run)
	if err != nil {
		return nil, err
	}
	brought, err := c.unseal(in.sealed)
	return slices.DeleteFunc(names, func(name string) bool { _, ok := brought.Secrets[name]; return ok }), err
}

// reason is an error as the reason of a state: with its hint, safe for a log.
func reason(err error) string {
	return words(err.Error(), failure.Hint(err))
}

// longestReason is how many bytes of a reason are kept.
const longestReason = 2000

// words makes text from elsewhere a reason.
func words(text, hint string) string {
	if hint != "" {
		text += " (" + hint + ")"
	}
	text = quote.Text(text)
	if len(text) > longestReason {
		text, _, _ = breakAt(text, longestReason)
		text += "…"
	}
	return text
}

// tellToStop has a task end in a state once nothing of it runs any more. What
// was told first counts.
func (c *Controller) tellToStop(task string, state api.State, why string) {
	err := c.insist(onTask(task), func(ch *change) error {
		t, err := ch.Task(task)
		if err != nil || t.State.Ended() || t.StopState != "" || t.Owner != c.o.Instance {
			return err
		}
		t.StopState, t.Stop = state, why
		ch.After(func() { poke(c.pokes) })
		return ch.SaveTask(&t)
	})
	if err != nil {
		c.log.Error("stopping a task", "task", task, "err", err)
	}
}

// insist makes a change that must be made, however long the store is away, as
// long as this controller lives.
func (c *Controller) insist(keys []store.Key, fn func(*change) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.change(c.life, keys, fn)
		if !errors.Is(err, ErrUnavailable) || !pause(c.life, wait) {
			return err
		}
	}
}

// conclude ends a task of this controller of which nothing runs any more in a
// state; empty: as it was told to end. note adds to what is kept of it.
func (c *Controller) conclude(task string, state api.State, why string, note ...func(*store.Task)) {
	err := c.insist(onTask(task), func(ch *change) error {
		t, err := ch.Task(task)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil || t.State.Ended() || t.Owner != c.o.Instance {
			return err
		}
		if state == "" {
			return ch.end(&t, t.StopState, t.Stop)
		}
		for _, n := range note {
			n(&t)
		}
		return ch.end(&t, state, why)
	})
	if err != nil && c.life.Err() == nil {
		c.log.Error("ending a task", "task", task, "err", err)
	}
}

// halt ends the agent of a task that was told to stop, and the task with it.
func (c *Controller) halt(k *care, t store.Task) {
	k.cancel()
	<-k.launched
	if k.publication {
		return // it ends itself
	}
	began := time.Now()
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		ctx, cancel := context.WithTimeout(c.running, time.Minute)
		err := c.stopAgent(ctx, t.Runner, t.ID)
		cancel()
		if err == nil {
			c.conclude(t.ID, "", "")
			return
		}
		if c.running.Err() != nil {
			return
		}
		c.log.Warn("stopping an agent", "task", t.ID, "err", err)
		if time.Since(began) > c.o.Limits.Silence {
			// An agent whose task has ended is refused whatever it says.
			c.conclude(t.ID, t.StopState, t.Stop+"; its agent could not be stopped: "+reason(err))
		}
		if !pause(c.running, wait) {
			return
		}
	}
}

func (c *Controller) stopAgent(ctx context.Context, runnerName, task string) error {
	l := c.o.Launchers[runnerName]
	if l == nil {
		return fmt.Errorf("there is no runner %s", runnerName)
	}
	return l.Stop(ctx, task)
}

// forget has a launcher forget the agent of a task that has ended, some time
// after: it is about to exit by itself.
func (c *Controller) forget(runnerName, task string, after time.Duration) {
	time.AfterFunc(after, func() {
		ctx, cancel := context.WithTimeout(c.life, time.Minute)
		defer cancel()
		if err := c.stopAgent(ctx, runnerName, task); err != nil && c.life.Err() == nil {
			c.log.Warn("forgetting an agent", "task", task, "err", err)
		}
	})
}

// watchAgents hears from a launcher what becomes of agents, until ctx ends.
func (c *Controller) watchAgents(ctx context.Context, name string, l runner.Launcher) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		began := time.Now()
		err := l.Watch(ctx, func(s runner.AgentStatus) {
			switch {
			case s.State == runner.AgentExited:
				c.work.Go(func() { c.agentExited(name, s) })
			case s.Reason != "":
				c.work.Go(func() { c.agentWaits(s) })
			}
		})
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("watching agents", "runner", name, "err", err)
		if time.Since(began) > time.Minute {
			wait = time.Second
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// agentExited ends a task whose agent is gone, unless it said itself what became of it.
func (c *Controller) agentExited(runnerName string, s runner.AgentStatus) {
	over := false
	err := c.insist(onTask(s.Task), func(ch *change) error {
		t, err := ch.Task(s.Task)
		if errors.Is(err, ErrNotFound) {
			return nil // it may be another controller's, of another store
		}
		if err != nil {
			return err
		}
		if over = t.State.Ended() || t.Owner == c.o.Instance; !over || t.State.Ended() {
			return nil
		}
		if t.StopState != "" {
			return ch.end(&t, t.StopState, t.Stop)
		}
		why := s.Reason
		switch {
		case why != "":
		case s.ExitCode != nil:
			why = fmt.Sprintf("its agent exited with code %d and left no result", *s.ExitCode)
		default:
			why = "its agent is gone and left no result"
		}
		// What was never claimed has not begun to build.
		state := api.Failed
		if s.Infrastructure || t.State == api.Starting && !s.Hopeless || s.ExitCode == nil && s.Reason == "" {
			state = api.Lost
		}
		return ch.end(&t, state, words(why, s.Hint))
	})
	switch {
	case err != nil && c.life.Err() == nil:
		c.log.Error("ending a task whose agent is gone", "task", s.Task, "err", err)
	case err == nil && over:
		c.forget(runnerName, s.Task, 0)
	}
}

// agentWaits says in the run's log why an agent does not start yet, or what is
// wrong with one that runs.
func (c *Controller) agentWaits(s runner.AgentStatus) {
	c.mu.Lock()
	k := c.cares[s.Task]
	fresh := k != nil && k.told != s.Reason
	if fresh {
		k.told = s.Reason
	}
	c.mu.Unlock()
	if !fresh {
		return
	}
	err := c.change(c.life, onTask(s.Task), func(ch *change) error {
		t, err := ch.Task(s.Task)
		switch {
		case err != nil:
		case s.State == runner.AgentRunning && t.State == api.Running:
			ch.say(t.Run, subject{build: t.Build}, "warning", "%s", words(s.Reason, s.Hint))
		case s.State == runner.AgentPending && t.State == api.Starting:
			ch.say(t.Run, subject{build: t.Build}, "warning", "waits: %s", words(s.Reason, s.Hint))
		}
		return err
	})
	if err != nil && c.life.Err() == nil {
		c.log.Warn("noting why an agent waits", "task", s.Task, "err", err)
	}
}
