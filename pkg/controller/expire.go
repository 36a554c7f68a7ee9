package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/store"
)

const (
	// expireEvery is how often to look for what has expired.
	expireEvery = time.Minute
	// sweepEvery is how many such looks there are to one for uploads that never ended.
	sweepEvery = 60
	// expireSome is how many things go in one transaction.
	expireSome = 100
	// keepTokens is how long after the end of its task a token still tells an agent that.
	keepTokens = time.Hour
	// abandoned is after what time an upload that did not end is removed.
	abandoned = 24 * time.Hour
)

// expire deletes what has been kept for long enough, until ctx ends.
func (c *Controller) expire(ctx context.Context) {
	for n := 0; ; n++ {
		var more bool
		_, err := c.o.Store.Lead(ctx, "expire", func(ctx context.Context) (err error) { more, err = c.expireOnce(ctx); return err })
		if n%sweepEvery == 0 {
			for _, prefix := range []string{"contexts/", "logs/"} {
				err = errors.Join(err, c.o.Blobs.Sweep(ctx, prefix, c.o.Now().Add(-abandoned)))
			}
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("deleting what has expired", "err", err)
		}
		if more && err == nil {
			continue
		}
		if !pause(ctx, expireEvery) {
			return
		}
	}
}

// expireOnce deletes some of what has expired; more: there may be more of it.
func (c *Controller) expireOnce(ctx context.Context) (more bool, err error) {
	now, limits := c.o.Now(), &c.o.Limits
	var inputs, tokens, contexts, logs, runs []string
	if err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if inputs, err = tx.ExpiredInputs(now.Add(-limits.KeepContexts), expireSome); err != nil {
			return err
		}
		if tokens, err = tx.ExpiredTokens(now.Add(-keepTokens), expireSome); err != nil {
			return err
		}
		if logs, err = tx.ExpiredLogs(now.Add(-limits.KeepLogs), expireSome); err != nil {
			return err
		}
		runs, err = tx.ExpiredRuns(now.Add(-limits.KeepRuns), expireSome)
		return err
	}); err != nil {
		return false, err
	}
	if err := c.o.Store.Alone(ctx, nil, func(tx *store.Tx) (err error) {
		for _, run := range inputs {
			if err := tx.DropInputs(run); err != nil {
				return err
			}
		}
		for _, task := range tokens {
			if err := tx.DropTokens(task); err != nil {
				return err
			}
		}
		if err := tx.DropGrants(now.Add(-keepSpent)); err != nil {
			return err
		}
		contexts, err = tx.LeavingContexts(now.Add(-limits.KeepContexts), expireSome)
		return err
	}); err != nil {
		return false, err
	}
	var faults []error
	for _, digest := range contexts {
		err := c.o.Blobs.Delete(ctx, contextKey(digest))
		if err == nil {
			err = c.o.Store.Write(ctx, onContext(digest), func(tx *store.Tx) error { return tx.DropContext(digest) })
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("context %s: %w", digest, err))
		}
	}
	for _, run := range logs {
		// First nobody reads it any more.
		err := c.o.Store.Write(ctx, onRun(run), func(tx *store.Tx) error {
			_, err := tx.SetLog(run, store.LogBlob, store.LogExpired, nil)
			return err
		})
		if err == nil {
			err = c.o.Blobs.Delete(ctx, logKey(run))
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("the log of run %s: %w", run, err))
		}
	}
	for _, run := range runs {
		err := c.o.Blobs.Delete(ctx, logKey(run))
		if err == nil {
			err = c.o.Store.Write(ctx, onRun(run), func(tx *store.Tx) error { return tx.DropRun(run) })
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("run %s: %w", run, err))
		}
	}
	more = max(len(inputs), len(tokens), len(contexts), len(logs), len(runs)) == expireSome
	return more, errors.Join(faults...)
}
