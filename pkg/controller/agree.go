package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
)

// common is something that all controllers of a shared database must have, with
// a value in the database by which each sees whether it does.
type common struct {
	name string // of the setting
	// mark makes a value, and whatever belongs to it.
	mark func(ctx context.Context) ([]byte, error)
	// same says whether this controller has what a value stands for.
	same func(ctx context.Context, value []byte) (bool, error)
	// What is wrong if it does not, and what to do.
	wrong, hint string
}

// sealedMark is what the key of all controllers seals.
const sealedMark = "pipegen"

func (c *Controller) commons() []common {
	return []common{{
		name: "key",
		mark: func(context.Context) ([]byte, error) { return c.o.Keys.Seal([]byte(sealedMark)), nil },
		same: func(_ context.Context, value []byte) (bool, error) {
			plain, err := c.o.Keys.Open(value)
			return err == nil && string(plain) == sealedMark, nil
		},
		wrong: "the key for secrets is not the one of the controllers that share the database",
		hint:  "give all controllers the same --key-file",
	}, {
		name: "blobs",
		mark: func(ctx context.Context) ([]byte, error) {
			name := "controllers/" + strings.ToLower(rand.Text())
			return []byte(name), c.o.Blobs.Put(ctx, name, strings.NewReader(name), int64(len(name)))
		},
		same: func(ctx context.Context, value []byte) (bool, error) {
			_, err := c.o.Blobs.Stat(ctx, string(value))
			if errors.Is(err, blob.ErrNotFound) {
				return false, nil
			}
			return err == nil, err
		},
		wrong: "contexts and logs are kept elsewhere than those of the controllers that share the database",
		hint:  "give all controllers the same S3_BUCKET, or a directory that all of them have: --blobs",
	}}
}

// agree makes sure that this controller has what those have that share the
// database. What is another's and nobody uses any more it replaces.
func (c *Controller) agree(ctx context.Context) error {
	if !c.o.Store.Shared() {
		return nil
	}
	for _, what := range c.commons() {
		if err := c.agreeOn(ctx, what); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) agreeOn(ctx context.Context, what common) error {
	for {
		var value []byte
		err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) { value, err = tx.Setting(what.name); return err })
		if errors.Is(err, ErrNotFound) {
			if err = c.settle(ctx, what, nil); err == nil {
				continue // whoever was first
			}
		}
		if errors.Is(err, errUnsettled) {
			c.log.Warn("other controllers cannot see yet whether they have what this one has", "what", what.name, "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		same, err := what.same(ctx, value)
		switch {
		case err != nil:
			c.log.Warn("it is not known whether this controller has what the others have", "what", what.name, "err", err)
			return nil
		case same:
			return nil
		}
		others, err := c.others(ctx)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return failure.WithHint(failure.Input("%s: %s", what.wrong, strings.Join(others, ", ")), "%s", what.hint)
		}
		c.log.Warn("what was kept or sealed before by other controllers cannot be read by this one", "what", what.name)
		if err := c.settle(ctx, what, value); err != nil {
			return err
		}
	}
}

// errUnsettled says that the mark of something could not be made.
var errUnsettled = errors.New("leaving a mark for other controllers")

// settle has a new value in the place of another one, if that is there still.
func (c *Controller) settle(ctx context.Context, what common, before []byte) error {
	value, err := what.mark(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return c.o.Store.Write(ctx, []store.Key{"settings"}, func(tx *store.Tx) error {
		now, err := tx.Setting(what.name)
		if err != nil && !errors.Is(err, ErrNotFound) || string(now) != string(before) {
			return err
		}
		return tx.Set(what.name, value)
	})
}

// others gives the controllers that are alive beside this one, which takes as
// long as each of them has to give a sign of life.
func (c *Controller) others(ctx context.Context) (alive []string, err error) {
	signs := func() (beats map[string]int64, err error) {
		err = c.o.Store.Read(ctx, func(tx *store.Tx) error {
			all, err := tx.Signs()
			beats = map[string]int64{}
			for _, s := range all {
				if s.Name != c.o.Instance {
					beats[s.Name] = s.Beat
				}
			}
			return err
		})
		return beats, err
	}
	before, err := signs()
	if err != nil || len(before) == 0 {
		return nil, err
	}
	for until := time.Now().Add(c.o.Limits.Lease/signsInLease + time.Second); time.Now().Before(until) && len(alive) == 0; {
		if !pause(ctx, 200*time.Millisecond) {
			return nil, ctx.Err()
		}
		now, err := signs()
		if err != nil {
			return nil, err
		}
		for name, beat := range now {
			if was, ok := before[name]; !ok || beat != was {
				alive = append(alive, name)
			}
		}
	}
	return alive, nil
}
