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

// enter takes this controller's name, and with it the tasks of an earlier
// process of that name.
func (c *Controller) enter(ctx context.Context) error {
	return c.o.Store.Write(ctx, func(tx *store.Tx) error { return tx.Enter(c.o.Instance, c.epoch) })
}

// stayAlive gives signs of life, and takes over the tasks of controllers that
// give none, until ctx ends. How long a controller has been silent is measured
// by this one's clock alone: whether clocks agree does not matter.
func (c *Controller) stayAlive(ctx context.Context) error {
	type sight struct {
		beat  int64
		since time.Time
	}
	seen := map[string]sight{}
	for {
		var signs []store.Sign
		var owners []string
		mine := true
		err := c.o.Store.Write(ctx, func(tx *store.Tx) (err error) {
			if mine, err = tx.Live(c.o.Instance, c.epoch); err != nil {
				return err
			}
			if signs, err = tx.Signs(); err != nil {
				return err
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
		for _, s := range signs {
			last, ok := seen[s.Name]
			if !ok || last.beat != s.Beat {
				seen[s.Name] = sight{s.Beat, now}
				continue
			}
			if s.Name != c.o.Instance && now.Sub(last.since) > c.o.Limits.Lease {
				c.takeOver(ctx, s.Name, &s)
			}
		}
		for _, owner := range owners {
			if !slices.ContainsFunc(signs, func(s store.Sign) bool { return s.Name == owner }) {
				c.takeOver(ctx, owner, nil) // it left
			}
		}
		if !pause(ctx, c.o.Limits.Lease/6) {
			return nil
		}
	}
}

// takeOver takes the tasks of another controller, unless it has given a sign of
// life since the one seen.
func (c *Controller) takeOver(ctx context.Context, from string, seen *store.Sign) {
	var n int64
	err := c.o.Store.Write(ctx, func(tx *store.Tx) error {
		if seen != nil {
			if gone, err := tx.Bury(*seen); err != nil || !gone {
				return err
			}
		}
		for _, runner := range append(runners(c.o), "") {
			some, err := tx.TakeOver(from, c.o.Instance, runner)
			if err != nil {
				return err
			}
			n += some
		}
		return nil
	})
	if err != nil {
		c.log.Warn("taking over the tasks of another controller", "controller", from, "err", err)
		return
	}
	if n > 0 {
		c.log.Info("took over the tasks of another controller", "controller", from, "tasks", n)
		poke(c.pokes)
	}
}
