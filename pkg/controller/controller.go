// Package controller keeps runs and their tasks: it takes plans, queues their
// builds, has runners start agents for them, collects logs and results,
// publishes images and clears up. All state is in a store; a controller that
// is killed at any moment goes on where it was when it starts again.
package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// Errors that callers tell apart. Wrong requests wrap failure.ErrInput.
var (
	ErrNotFound = store.ErrNotFound
	// The state of things does not allow it: an idempotency key that was used
	// for something else, a task that another agent has, a gap in a log, a run
	// that has ended.
	ErrConflict = errors.New("conflict")
	// It was there once, or is over.
	ErrGone = errors.New("gone")
	// The token is good for a number of runs, and has started them.
	ErrSpent = errors.New("the token is not good for another run")
	// The store cannot be used for now: locked, full, closed. Nothing was done;
	// the same may work later.
	ErrUnavailable = store.ErrUnavailable
)

// Controller is the core service. It is safe for concurrent use.
type Controller struct {
	o     Options
	log   *slog.Logger
	epoch string // of this process among those of its name

	codec   codec
	plans   planCache
	hub     hub
	uploads keyed // by digest
	claims  claims

	wakes   chan struct{} // there may be something to start
	pokes   chan struct{} // tasks were told to stop
	archive chan struct{} // a run has ended
	// Places for asking for agents.
	launches chan struct{}

	running context.Context // ends when nothing new is to be begun
	quit    context.CancelFunc
	life    context.Context // ends when nothing of this controller is to go on
	end     context.CancelFunc
	work    sync.WaitGroup // goroutines that start, stop and publish

	every time.Duration // between looks after tasks

	mu    sync.Mutex
	cares map[string]*care // tasks that this process looks after
}

// New makes a controller. Its methods work at once; tasks are started while
// Run runs.
func New(o Options) (*Controller, error) {
	switch {
	case o.Store == nil || o.Blobs == nil || o.Keys == nil || o.Publish == nil:
		return nil, errors.New("a controller needs a store, blobs, keys and a publisher")
	case len(o.Launchers) == 0:
		return nil, errors.New("a controller needs a runner")
	case o.Launchers[""] != nil:
		return nil, errors.New("a runner needs a name")
	}
	if o.Default == "" && len(o.Launchers) == 1 {
		o.Default = slices.Collect(maps.Keys(o.Launchers))[0]
	}
	if o.Launchers[o.Default] == nil {
		return nil, fmt.Errorf("the default runner %q is none of %s", o.Default, strings.Join(runners(o), ", "))
	}
	if o.Instance == "" {
		o.Instance = "controller"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	o.Limits = o.Limits.withDefaults()
	c := &Controller{
		o: o, log: o.Logger, epoch: rand.Text(), every: watchEvery, cares: map[string]*care{},
		wakes: make(chan struct{}, 1), pokes: make(chan struct{}, 1), archive: make(chan struct{}, 1),
		launches: make(chan struct{}, 16),
	}
	var err error
	if c.codec, err = newCodec(); err != nil {
		return nil, err
	}
	c.hub.poll = c.pollLogs
	c.life, c.end = context.WithCancel(context.Background())
	c.running, c.quit = context.WithCancel(c.life)
	return c, nil
}

func runners(o Options) []string { return slices.Sorted(maps.Keys(o.Launchers)) }

// grace is how long publications may go on when the controller is told to stop.
const grace = 20 * time.Second

// Run starts tasks, watches over them, publishes images and clears up until ctx
// ends. Then it starts nothing more, waits for publications, at most for 20
// seconds, and returns nil; agents that run go on, and find the controller that
// starts next. It may be called once. An error says that the store cannot be
// used, that another process has taken this one's name, or, as a
// failure.ErrInput, that this one does not have what those share that are there.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.end()
	err := c.agree(ctx)
	if err == nil {
		err = c.enter(ctx)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("starting the controller: %w", err)
	}
	var loops sync.WaitGroup
	var displaced error
	for _, loop := range []func(context.Context){c.schedule, c.watch, c.archiveLogs, c.expire} {
		loops.Go(func() { loop(ctx) })
	}
	for name, l := range c.o.Launchers {
		loops.Go(func() { c.watchAgents(ctx, name, l) })
	}
	loops.Go(func() {
		displaced = c.stayAlive(ctx)
		cancel()
	})
	<-ctx.Done()
	c.quit()
	loops.Wait()
	done := make(chan struct{})
	go func() {
		c.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(grace):
		c.end()
		<-done
	}
	if displaced != nil {
		return displaced
	}
	return c.o.Store.Write(context.WithoutCancel(ctx), nil, func(tx *store.Tx) error { return tx.Leave(c.o.Instance, c.epoch) })
}

// Ready says whether the store can be read and written.
func (c *Controller) Ready(ctx context.Context) error {
	if err := c.o.Store.Read(ctx, func(tx *store.Tx) error { _, err := tx.Signs(); return err }); err != nil {
		return err
	}
	return c.o.Store.Write(ctx, nil, func(*store.Tx) error { return nil })
}

// Queue says what waits, by runner.
func (c *Controller) Queue(ctx context.Context) (QueueStats, error) {
	var depths []store.Depth
	err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) {
		depths, err = tx.Depths()
		return err
	})
	if err != nil {
		return nil, err
	}
	stats := QueueStats{"": {}}
	for name := range c.o.Launchers {
		stats[name] = RunnerQueue{}
	}
	for _, d := range depths {
		q := stats[d.Runner]
		switch {
		case d.State != api.Queued:
			q.Active += d.N
		case d.Ready:
			q.Ready += d.N
			if t, ok := runTime(d.Oldest); ok {
				q.Oldest = max(0, c.o.Now().Sub(t))
			}
		default:
			q.Waiting += d.N
		}
		stats[d.Runner] = q
	}
	return stats, nil
}

// poke makes a channel's reader look, if it is not going to already.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
