package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// removals is how many tags are removed side by side.
const removals = 8

// Keep says which publications keep their key tags: those that any of its
// rules keeps. Without a rule all do.
type Keep struct {
	// Newest is how many of an image's publications; 0: no such rule.
	Newest int
	// Younger is how old a publication may be; 0: no such rule.
	Younger time.Duration
}

// ParseKeep reads rules: a number of publications, or an age as 30d, 6w or a
// duration as Go writes it (720h). Of several of a kind the larger counts.
func ParseKeep(rules []string) (Keep, error) {
	var k Keep
	for _, rule := range rules {
		if n, err := strconv.Atoi(rule); err == nil && n > 0 {
			k.Newest = max(k.Newest, n)
			continue
		}
		age, err := parseAge(rule)
		if err != nil || age <= 0 {
			return Keep{}, failure.WithHint(failure.Input("--keep %q is neither a number of publications nor an age", rule), "for example --keep 20 --keep 30d")
		}
		k.Younger = max(k.Younger, age)
	}
	return k, nil
}

func parseAge(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	for _, unit := range []struct {
		suffix string
		length time.Duration
	}{{"d", day}, {"w", 7 * day}} {
		if number, ok := strings.CutSuffix(s, unit.suffix); ok {
			n, err := strconv.Atoi(number)
			if err == nil && (n < 1 || n > 36500) {
				err = strconv.ErrRange
			}
			return time.Duration(n) * unit.length, err
		}
	}
	return time.ParseDuration(s)
}

// Removal is a tag that may go.
type Removal struct {
	Repository string       `json:"repository"`
	Tag        string       `json:"tag"`
	Kind       plan.TagKind `json:"kind"`
	Digest     string       `json:"digest"`
	Why        string       `json:"why"`

	// others are tags that name the same manifest.
	others []string
}

// Prunable gives the tags that may go: those of builds that the index of
// their publication holds, and key tags of publications that keep does not
// keep. Fixed and moving tags never go, and nothing that cannot be read. The
// inventory must have been made with Builds, and without Newest.
func (inv *Inventory) Prunable(keep Keep, now time.Time) []Removal {
	byName := map[string]*Tag{}
	named := map[string][]string{} // tags by digest
	for i := range inv.Tags {
		t := &inv.Tags[i]
		byName[t.Name] = t
		if t.Digest != "" {
			named[t.Digest] = append(named[t.Digest], t.Name)
		}
	}
	kept := inv.kept(keep, now)
	var out []Removal
	for _, t := range inv.Tags {
		why := ""
		switch t.Kind {
		case plan.Built:
			why = inv.joined(t, byName[t.Of])
		case plan.Keyed:
			if h := inv.manifests[t.Digest]; h != nil && kept != nil && !kept[t.Digest] && strings.HasPrefix(h.of.Key, t.Name[len(t.Name)-12:]) {
				why = "expired: published " + timestamp(h.of.Created)
			}
		}
		if why != "" && t.Problem == "" {
			others := slices.DeleteFunc(slices.Clone(named[t.Digest]), func(name string) bool { return name == t.Name })
			out = append(out, Removal{Repository: inv.Repository, Tag: t.Name, Kind: t.Kind, Digest: t.Digest, Why: why, others: others})
		}
	}
	return out
}

// joined says why the tag of a build is not needed any more; "" if it is.
func (inv *Inventory) joined(t Tag, fixed *Tag) string {
	if fixed == nil || t.Digest == "" {
		return "" // not published, or not yet
	}
	index := inv.manifests[fixed.Digest]
	switch {
	case index == nil:
		return ""
	case t.Digest == fixed.Digest:
		return "tag " + fixed.Name + " names the same image"
	case slices.Contains(inv.childrenOf(index), t.Digest):
		return "index " + fixed.Name + " holds it"
	}
	return ""
}

func (inv *Inventory) childrenOf(index *held) []string {
	var digests []string
	for _, child := range index.children {
		digests = append(digests, child.Digest.String())
	}
	return digests
}

// kept gives the digests whose key tags stay; nil: all.
func (inv *Inventory) kept(keep Keep, now time.Time) map[string]bool {
	if keep == (Keep{}) {
		return nil
	}
	kept := map[string]bool{}
	newest := 0
	for _, t := range inv.Tags { // the newest first
		if t.Digest == "" || kept[t.Digest] || t.Kind == plan.Built {
			continue
		}
		switch {
		case t.Created.IsZero(): // nobody knows how old it is
			kept[t.Digest] = true
		case newest < keep.Newest:
			newest++
			kept[t.Digest] = true
		case keep.Younger > 0 && now.Sub(t.Created) < keep.Younger:
			kept[t.Digest] = true
		case t.Kind == plan.Moving: // it is in use
			kept[t.Digest] = true
		}
	}
	return kept
}

// Remove removes tags, and tells of each: err is nil for one that is gone, and
// else says why it stays, such as that it names another manifest by now. Where
// the registry removes no tags by name, nothing is done. Where it removes the
// manifest with its tag, that is put back with all its tags, and nothing more is
// removed: an index would lose its child. The first removal in a repository is
// therefore made alone. What is left when ctx ends is not told of.
func Remove(ctx context.Context, c *registry.Client, list []Removal, tell func(Removal, error)) error {
	byRepository := map[string][]Removal{}
	var repositories []string
	for _, r := range list {
		if byRepository[r.Repository] == nil {
			repositories = append(repositories, r.Repository)
		}
		byRepository[r.Repository] = append(byRepository[r.Repository], r)
	}
	var failed []error
	for _, repository := range repositories {
		if err := removeFrom(ctx, c, byRepository[repository], tell); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

func removeFrom(ctx context.Context, c *registry.Client, list []Removal, tell func(Removal, error)) error {
	var mu sync.Mutex
	var refused int
	one := func(ctx context.Context, r Removal) error {
		err := remove(ctx, c, r)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errWhole) || errors.Is(err, registry.ErrUnsupported) {
			return err // nor will it do for the others
		}
		mu.Lock()
		defer mu.Unlock()
		tell(r, err)
		if err != nil {
			refused++
		}
		return nil
	}
	if err := one(ctx, list[0]); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	for _, r := range list[1:] {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return one(gctx, r) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d tags in %s were not removed", refused, len(list), list[0].Repository)
	}
	return nil
}

// errWhole says that a registry removes more than a tag.
var errWhole = errors.New("the registry removes a manifest with its tag")

// remove removes one tag, and sees to it that nothing else goes.
func remove(ctx context.Context, c *registry.Client, r Removal) error {
	ref := r.Repository + ":" + r.Tag
	held, raw, err := c.Get(ctx, ref)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil
	case err != nil:
		return err
	case held.Digest != r.Digest:
		return fmt.Errorf("%s names %s by now", r.Tag, held.Digest)
	}
	if err := c.Untag(ctx, ref); err != nil && (!errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrUnsupported)) {
		return err
	}
	if r.Kind == plan.Keyed && len(r.others) == 0 {
		return nil // nothing needs the manifest any more
	}
	at := r.Repository + "@" + r.Digest
	if _, err := c.Head(ctx, at); !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	// From here on what went must come back, whatever becomes of ctx.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err = c.Put(ctx, at, held.MediaType, raw)
	for _, tag := range append(r.others, r.Tag) {
		_, perr := c.Put(ctx, r.Repository+":"+tag, held.MediaType, raw)
		err = errors.Join(err, perr)
	}
	if err != nil {
		return fmt.Errorf("%w, and putting %s back failed: %w", errWhole, r.Digest, err)
	}
	return failure.WithHint(fmt.Errorf("%w: %s was put back", errWhole, r.Digest), "its own retention rules know which manifests an index holds: use those")
}
