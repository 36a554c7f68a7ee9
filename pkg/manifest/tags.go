package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// How often a tag is looked at until it shows what was written, and the
	// first pause between two looks, which doubles.
	looks     = 5
	firstLook = 100 * time.Millisecond
	// How often a tag is written when earlier publications overwrite it, and
	// how often when it does not seem to change at all.
	moves, stuck = 50, 3
	// The longest pause before it is written again.
	longestMove = time.Second
)

// writer puts tags on one manifest.
type writer struct {
	client    *registry.Client
	plan      *plan.Plan
	image     *plan.Image
	options   Options
	raw       []byte
	mediaType string
	digest    string
}

func (w *writer) ref(tag string) string { return w.image.Repository + ":" + tag }

// fix puts on a tag that belongs to this plan or content alone: what it holds
// is looked up, but not compared.
func (w *writer) fix(ctx context.Context, tag string) error {
	held, err := w.client.Head(ctx, w.ref(tag))
	switch {
	case err == nil && held.Digest == w.digest:
		return nil
	case err != nil && !errors.Is(err, registry.ErrNotFound):
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	now, err := w.write(ctx, tag, held.Digest)
	if err == nil && now != w.digest {
		err = fmt.Errorf("the registry holds %s after %s was written", now, w.digest)
	}
	if err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	return nil
}

// move puts on a tag that goes from publication to publication, unless it
// holds a later one; then it says why the tag was left. Of publishers that
// write one tag at the same time each goes on until it sees its own or a later
// publication there, so that the tag comes to rest.
func (w *writer) move(ctx context.Context, tag string) (kept string, err error) {
	first, still := "", 0
	for round := range moves {
		if err := wait(ctx, between(round)); err != nil {
			return "", err
		}
		held, raw, err := w.read(ctx, tag)
		switch {
		case err == nil && held.Digest == w.digest:
			return "", nil
		case err != nil && !errors.Is(err, registry.ErrNotFound):
			return "", fmt.Errorf("tag %s: %w", tag, err)
		case err == nil && !w.options.AllowRollback:
			order, reason, err := w.compare(ctx, held, raw)
			if err != nil {
				return "", fmt.Errorf("tag %s: %w", tag, err)
			}
			// One of the same rank that came between the reading and the
			// writing is as good: moving the tag again would have no end.
			if order == later || order == equal && round > 0 && held.Digest != first {
				return reason, nil
			}
		}
		if round == 0 {
			first = held.Digest
		}
		now, err := w.write(ctx, tag, held.Digest)
		if err != nil {
			return "", fmt.Errorf("tag %s: %w", tag, err)
		}
		if now == w.digest {
			return "", nil
		}
		// Either the writing had no effect, or whoever put there what it held
		// before found an earlier publication there and put it back.
		if now == held.Digest {
			still++
		}
		if still == stuck {
			return "", fmt.Errorf("tag %s: the registry still holds %s after %s was written", tag, now, w.digest)
		}
	}
	return "", fmt.Errorf("tag %s: other publishers overwrote it %d times", tag, moves)
}

// between gives the pause before a tag is written again. It is random, so that
// publishers who got in each other's way do so less the next time.
func between(round int) time.Duration {
	if round == 0 {
		return 0
	}
	return rand.N(min(10*time.Millisecond<<min(round, 10), longestMove)) //nolint:gosec // jitter
}

// read reads what a tag holds; its bytes only where they are compared.
func (w *writer) read(ctx context.Context, tag string) (registry.Descriptor, []byte, error) {
	if w.options.AllowRollback {
		held, err := w.client.Head(ctx, w.ref(tag))
		return held, nil, err
	}
	return w.client.Get(ctx, w.ref(tag))
}

// write writes the tag and reads it back: its own digest, that of another
// publisher, or, if that is still shown after a while, what the tag held before.
func (w *writer) write(ctx context.Context, tag, before string) (now string, err error) {
	if _, err := w.client.Put(ctx, w.ref(tag), w.mediaType, w.raw); err != nil {
		return "", err
	}
	pause := cmp.Or(w.options.firstLook, firstLook)
	for look := 1; ; look++ {
		held, err := w.client.Head(ctx, w.ref(tag))
		// A registry of several machines may show the old state for a while.
		stale := errors.Is(err, registry.ErrNotFound) || err == nil && held.Digest == before
		switch {
		case err == nil && (!stale || look == looks):
			return held.Digest, nil
		case !stale:
			return "", err
		case look == looks:
			return "", fmt.Errorf("it is not there after it was written: %w", err)
		}
		if err := wait(ctx, pause); err != nil {
			return "", err
		}
		pause *= 2
	}
}

// wait waits, or ends with the context.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
