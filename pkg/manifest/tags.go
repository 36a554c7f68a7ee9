package manifest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// How often a tag is looked at until it shows what was written, and the
	// first pause between two looks, which doubles.
	looks     = 5
	firstLook = 100 * time.Millisecond
	// How often a tag is written when earlier publications overwrite it.
	moves = 5
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
// holds a later one; then it says why the tag was left.
func (w *writer) move(ctx context.Context, tag string) (kept string, err error) {
	for round := range moves {
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
			if order == later || order == equal && round > 0 {
				return reason, nil
			}
		}
		now, err := w.write(ctx, tag, held.Digest)
		if err != nil {
			return "", fmt.Errorf("tag %s: %w", tag, err)
		}
		if now == w.digest {
			return "", nil
		}
	}
	return "", fmt.Errorf("tag %s: other publishers overwrote it %d times", tag, moves)
}

// read reads what a tag holds; its bytes only where they are compared.
func (w *writer) read(ctx context.Context, tag string) (registry.Descriptor, []byte, error) {
	if w.options.AllowRollback {
		held, err := w.client.Head(ctx, w.ref(tag))
		return held, nil, err
	}
	return w.client.Get(ctx, w.ref(tag))
}

// write writes the tag and reads it back: its own digest, or that of another
// publisher. before is what the tag held.
func (w *writer) write(ctx context.Context, tag, before string) (now string, err error) {
	if _, err := w.client.Put(ctx, w.ref(tag), w.mediaType, w.raw); err != nil {
		return "", err
	}
	pause := firstLook
	for look := 1; ; look++ {
		held, err := w.client.Head(ctx, w.ref(tag))
		// A registry of several machines may show the old state for a while.
		stale := errors.Is(err, registry.ErrNotFound) || err == nil && held.Digest == before
		switch {
		case err == nil && !stale:
			return held.Digest, nil
		case !stale:
			return "", err
		case look == looks && err == nil:
			return "", fmt.Errorf("the registry still holds %s after %s was written", held.Digest, w.digest)
		case look == looks:
			return "", fmt.Errorf("it is not there after it was written: %w", err)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return "", context.Cause(ctx)
		case <-t.C:
		}
		pause *= 2
	}
}
