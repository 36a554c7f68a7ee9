// Package logcopy copies the logs of runs to CloudWatch Logs, one stream for each
// run, a line as a JSON object. It reads what a controller has kept already: a
// copy that lags, or cannot be made, holds up no build and loses none of its log.
package logcopy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
)

// Source is the controller.
type Source interface {
	List(ctx context.Context, f controller.Filter) (api.RunList, error)
	Get(ctx context.Context, id string) (api.Run, error)
	Logs(ctx context.Context, id string, from int64, build string, follow bool, yield func(controller.LogChunk) error) error
}

// Options say what is copied, and where to.
type Options struct {
	Source Source
	// Runs fn unless another controller does so under this name; false: it did not.
	Lead func(ctx context.Context, name string, fn func(context.Context) error) (bool, error)
	// How AWS is signed in to, and the region.
	Config aws.Config
	// Log group, made if need be and allowed, and what names of streams begin with.
	Group, StreamPrefix string
	// Of a group that is made; 0: for ever.
	RetentionDays int32
	Logger        *slog.Logger

	// What tests wait less for.
	look, linger, patience time.Duration
}

const (
	// look is how long a run may go on before its copy begins.
	look = 3 * time.Second
	// lookBack is how long ago a run may have been made that is copied to its end
	// by a controller that takes over from another one.
	lookBack = 6 * time.Hour
	// linger is how long lines wait for more of them.
	linger = 2 * time.Second
	// patience is the longest pause between two attempts.
	patience = time.Minute
)

// Copier copies logs. One of all controllers that share a database does so.
type Copier struct {
	o      Options
	client *cloudwatchlogs.Client
	caller *amazon.Caller

	mu   sync.Mutex
	seen map[string]*copied   // by run
	told map[string]time.Time // when it was told last, by what is wrong
}

// copied is a run whose copy has begun.
type copied struct {
	created time.Time
	over    bool
}

// New gives a copier. It sends nothing.
func New(o Options) *Copier {
	for _, d := range []struct {
		to    *time.Duration
		usual time.Duration
	}{{&o.look, look}, {&o.linger, linger}, {&o.patience, patience}} {
		if *d.to == 0 {
			*d.to = d.usual
		}
	}
	c := &Copier{o: o, caller: amazon.NewCaller(o.Config), seen: map[string]*copied{}, told: map[string]time.Time{}}
	c.client = cloudwatchlogs.NewFromConfig(o.Config, func(co *cloudwatchlogs.Options) {
		co.Retryer = aws.NopRetryer{} // whoever calls tries again, for longer
	})
	return c
}

// Run copies until ctx ends.
func (c *Copier) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := c.o.Lead(ctx, "copy logs", func(ctx context.Context) error { c.lead(ctx); return nil })
		if err != nil && ctx.Err() == nil {
			c.tell("asking who copies logs", err)
		}
		pause(ctx, c.o.look)
	}
}

// lead looks for runs and has each copied, until ctx ends.
func (c *Copier) lead(ctx context.Context) {
	var copies sync.WaitGroup
	defer copies.Wait()
	clear(c.seen)
	began := time.Now()
	since := began.Add(-lookBack)
	for {
		next := time.Now()
		err := c.runs(ctx, since, func(r api.Run) {
			copies.Go(func() {
				c.copy(ctx, r.ID, r.Created.Before(began))
				c.mu.Lock()
				defer c.mu.Unlock()
				c.seen[r.ID].over = true
			})
		})
		switch {
		case err == nil:
			// Clocks of controllers differ, and what was queued may begin now.
			since = next.Add(-2 * time.Minute)
			c.forget(next.Add(-2 * lookBack))
		case ctx.Err() == nil:
			c.tell("looking for runs", err)
		}
		if !pause(ctx, c.o.look) {
			return
		}
	}
}

// runs gives those that were not given before: what runs, and what was made
// since a time.
func (c *Copier) runs(ctx context.Context, since time.Time, each func(api.Run)) error {
	for _, f := range []controller.Filter{{States: []api.State{api.Running}}, {}} {
		for {
			page, err := c.o.Source.List(ctx, f)
			if err != nil {
				return err
			}
			old := false
			for i := range page.Runs {
				r := page.Runs[i]
				if old = f.States == nil && r.Created.Before(since); old {
					break
				}
				if r.State == api.Queued {
					continue // it has nothing to say yet, and is found when it runs
				}
				c.mu.Lock()
				known := c.seen[r.ID] != nil
				if !known {
					c.seen[r.ID] = &copied{created: r.Created}
				}
				c.mu.Unlock()
				if !known {
					each(r)
				}
			}
			if old || page.Next == "" {
				break
			}
			f.After = page.Next
		}
	}
	return nil
}

// forget forgets runs that were copied and are too old to be found again.
func (c *Copier) forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, r := range c.seen {
		if r.over && r.created.Before(before) {
			delete(c.seen, id)
		}
	}
	for what, at := range c.told {
		if at.Before(before) {
			delete(c.told, what)
		}
	}
}

// tell says what is wrong, not more often than every few minutes.
func (c *Copier) tell(doing string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := doing + amazon.Code(err)
	if time.Since(c.told[what]) < 5*time.Minute {
		return
	}
	c.told[what] = time.Now()
	c.o.Logger.Warn("the copy of logs: "+doing, "error", explained(err))
}

var errStopped = errors.New("stopped")

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
