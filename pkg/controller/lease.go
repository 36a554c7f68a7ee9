package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
)

// signsInLease is how many signs of life a controller gives in the time in which
// it must give one.
const signsInLease = 6

// enter takes this controller's name, and with it the tasks of an earlier
// process of that name.
func (c *Controller) enter(ctx context.Context) error {
	return c.o.Store.Write(ctx, nil, func(tx *store.Tx) error { return tx.Enter(c.o.Instance, c.epoch) })
}

// stayAlive gives signs of life, and takes over the tasks of controllers that
// give none, until ctx ends. How long a controller has been silent is measured
// by this one's clock alone: whether clocks agree does not matter.
func (c *Controller) stayAlive(ctx context.Context) error {
	type sight struct {
		store.Sign
		since time.Time
	}
	seen := map[string]sight{}
	for last := time.Now(); ; {
		var signs []store.Sign
		var owners []string
		mine := true
		err := c.o.Store.Write(ctx, nil, func(tx *store.Tx) (err error) {
			if mine, err = tx.Live(c.o.Instance, c.epoch); err != nil {
				return err
			}
			if signs, err = tx.Signs(); err != nil {
				return err
			}
			if !mine && !slices.ContainsFunc(signs, func(s store.Sign) bool { return s.Name == c.o.Instance }) {
				// It stood still for so long that others took over, and goes on as if new.
				c.log.Warn("this controller gave no sign of life, and others have taken over its tasks")
				mine, err = true, tx.Enter(c.o.Instance, c.epoch)
				if err != nil {
					return err
				}
			}
			owners, err = tx.Owners()
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrUnavailable):
			c.log.Warn("giving a sign of life", "err", err)
		case err != nil:
			return err
		case !mine:
			return failure.WithHint(fmt.Errorf("another controller has taken the name %q", c.o.Instance),
				"give each controller that shares the database a name of its own")
		}
		now := time.Now()
		if err != nil || now.Sub(last) > c.o.Limits.Lease/2 {
			clear(seen) // who could give no sign of life was not silent
		}
		last = now
		for _, s := range signs {
			before, ok := seen[s.Name]
			if !ok || before.Sign != s {
				seen[s.Name] = sight{s, now}
				continue
			}
			if s.Name != c.o.Instance && now.Sub(before.since) > c.o.Limits.Lease {
				c.takeOver(ctx, s.Name, &s)
			}
		}
		for _, owner := range owners {
			if !slices.ContainsFunc(signs, func(s store.Sign) bool { return s.Name == owner }) {
				c.takeOver(ctx, owner, nil) // it left
			}
		}
		if !pause(ctx, c.o.Limits.Lease/signsInLease) {
			return nil
		}
	}
}

// takeOver takes the tasks of another controller, unless it has given a sign of
// life since the one seen.
func (c *Controller) takeOver(ctx context.Context, from string, seen *store.Sign) {
	var n int64
	for _, runner := range append(runners(c.o), "") {
		for more := true; more; {
			some, err := c.takeSome(ctx, from, runner, seen)
			if err != nil {
				c.log.Warn("taking over the tasks of another controller", "controller", from, "err", err)
				return
			}
			seen = nil // it is gone
			n += some
			more = some > 0
		}
	}
	if n > 0 {
		c.log.Info("took over the tasks of another controller", "controller", from, "tasks", n)
		poke(c.pokes)
	}
}

// takeSome takes some tasks for a runner that another controller has. seen, if
// it is given, is the last sign of life of that one, after which there must be
// none.
func (c *Controller) takeSome(ctx context.Context, from, runner string, seen *store.Sign) (n int64, err error) {
	const runsAtOnce = 100
	err = c.o.Store.Alone(ctx, []store.Key{"controllers"}, func(tx *store.Tx) error {
		n = 0
		if seen != nil {
			if gone, err := tx.Bury(*seen); err != nil || !gone {
				return err
			}
		}
		runs, err := tx.Orphans(from, runner, runsAtOnce)
		if err != nil {
			return err
		}
		keys := make([]store.Key, len(runs))
		for i, run := range runs {
			keys[i] = store.OnRun(run)
		}
		if err := tx.Lock(keys...); err != nil {
			return err
		}
		for _, run := range runs {
			some, err := tx.TakeOver(run, from, c.o.Instance, runner)
			if err != nil {
				return err
			}
			n += some
		}
		return nil
	})
	return n, err
}
