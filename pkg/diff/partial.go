package diff

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

// wholeReader is a reader of clones that lack objects on purpose: what is
// missing is fetched when it is asked for, in bulk.
type wholeReader struct {
	*reader
	// fetch gets objects, and with a tree all trees below it. It gives errWhole
	// when all objects should be there.
	fetch func(ctx context.Context, ids []string) error
	time  time.Duration // that one fetch may take
}

var (
	errWhole   = errors.New("the clone lacks nothing on purpose")
	errLeftOut = fmt.Errorf("what this partial clone left out is %w", ErrMissing)
)

// isPartial says whether objects were left out when a clone was made.
func isPartial(settings map[string][]string) bool {
	for key := range settings {
		if key == "extensions.partialclone" || strings.HasPrefix(key, "remote.") && strings.HasSuffix(key, ".promisor") {
			return true
		}
	}
	return false
}

func (w *wholeReader) object(ctx context.Context, id string) (data []byte, err error) {
	err = w.complete(ctx, func() (err error) {
		data, err = w.reader.object(ctx, id)
		return err
	}, func() ([]string, error) { return []string{id}, nil })
	return data, err
}

// readAll leaves nil what is missing where nothing can be fetched.
func (w *wholeReader) readAll(ctx context.Context, ids []string) (all [][]byte, err error) {
	var missing []string
	err = w.complete(ctx, func() (err error) {
		all, err = w.reader.readAll(ctx, ids)
		missing = nil
		seen := map[string]bool{}
		for i, id := range ids {
			if err == nil && all[i] == nil && !seen[id] {
				missing, seen[id] = append(missing, id), true
			}
		}
		if len(missing) > 0 {
			err = ErrMissing
		}
		return err
	}, func() ([]string, error) { return missing, nil })
	if err == ErrMissing { //nolint:errorlint // as it is above: the caller is to see which
		err = nil
	}
	return all, err
}

func (w *wholeReader) changes(ctx context.Context, base, head string) (changes []Change, err error) {
	err = w.complete(ctx, func() (err error) {
		changes, err = w.reader.changes(ctx, base, head)
		return err
	}, func() ([]string, error) { return w.lacking(ctx, base, head) })
	return changes, err
}

func (w *wholeReader) entries(ctx context.Context, tree string) (entries []Entry, err error) {
	err = w.complete(ctx, func() (err error) {
		entries, err = w.reader.entries(ctx, tree)
		return err
	}, func() ([]string, error) { return w.lacking(ctx, "", tree) })
	return entries, err
}

// complete reads, and again after fetching what lacking gives while something
// is missing.
func (w *wholeReader) complete(ctx context.Context, read func() error, lacking func() ([]string, error)) error {
	for range 16 {
		err := read()
		if !errors.Is(err, ErrMissing) {
			return err
		}
		ids, listErr := lacking()
		if listErr != nil || len(ids) == 0 {
			return errors.Join(err, listErr)
		}
		limited, cancel := timeLimit(ctx, w.time)
		fetchErr := because(limited, w.fetch(limited, ids))
		cancel()
		switch {
		case errors.Is(fetchErr, errWhole):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case fetchErr != nil:
			return failure.WithHint(fmt.Errorf("%w, and fetching it failed: %w", errLeftOut, fetchErr),
				"see that the remote can be reached, or clone without --filter")
		}
	}
	return read()
}

// lacking gives the trees that are missing for a comparison.
func (w *wholeReader) lacking(ctx context.Context, base, head string) ([]string, error) {
	was, err := treeID(base)
	if err != nil {
		return nil, err
	}
	is, err := treeID(head)
	if err != nil {
		return nil, err
	}
	var missing []string
	seen := map[oid]bool{}
	for level := []treePair{{"", was, is}}; len(level) > 0; {
		var next []treePair
		for _, pair := range level {
			_, below, err := w.objects.comparePair(ctx, pair)
			if err == nil {
				next = append(next, below...)
				continue
			}
			if !errors.Is(err, ErrMissing) {
				return nil, err
			}
			for _, id := range []oid{pair.was, pair.is} {
				if _, err := w.objects.tree(ctx, id); errors.Is(err, ErrMissing) && !seen[id] {
					missing, seen[id] = append(missing, id.String()), true
				}
			}
		}
		level = next
	}
	return missing, nil
}
