package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// How many requests run at once; the client bounds their rate.
	questions = 16
	// How long the others may still take once one has failed: a registry that
	// is down would keep each of them waiting.
	grace = 10 * time.Second
)

// UndecidedError says for which images registries did not tell what a selection
// has to know. Nothing is assumed of them.
type UndecidedError struct {
	// Missing or Stale.
	Selection ReasonKind
	// What was said instead, by image.
	Images map[string]error
}

// Error names the images, those with the same cause on one line.
func (e *UndecidedError) Error() string {
	byCause := map[string][]string{}
	for name, err := range e.Images {
		text := err.Error()
		_, ofBase := errors.AsType[baseError](err)
		if access, ok := errors.AsType[*registry.Error](err); ok && !ofBase {
			text = access.Cause()
		}
		byCause[text] = append(byCause[text], name)
	}
	lines := []string{fmt.Sprintf("--select %s: could not decide for %s", e.Selection, count(len(e.Images), "image"))}
	for _, cause := range slices.Sorted(maps.Keys(byCause)) {
		slices.Sort(byCause[cause])
		lines = append(lines, abridged(byCause[cause])+": "+cause)
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the causes, sorted by image.
func (e *UndecidedError) Unwrap() []error {
	causes := make([]error, 0, len(e.Images))
	for _, name := range slices.Sorted(maps.Keys(e.Images)) {
		causes = append(causes, e.Images[name])
	}
	return causes
}

// baseError is that of a base: it tells which one, whatever was built on it.
type baseError struct{ error }

func (e baseError) Error() string { return "base: " + e.error.Error() }
func (e baseError) Unwrap() error { return e.error }

// asking puts a selection's questions to registries.
type asking struct {
	client *registry.Client
	naming naming
	keys   bool // whether publications carry key tags
	docker bool // whether indexes are Docker lists
}

// checkAsking refuses a selection that needs what is not there.
func (s Selection) checkAsking(in *Input) error {
	if !s.Missing && !s.Stale {
		return nil
	}
	word := Stale
	if s.Missing {
		word = Missing
	}
	if in.Client == nil {
		return failure.WithHint(failure.Input("--select %s asks the registry, and none is set", word),
			"--registry, $PIPEGEN_REGISTRY, registry in pipegen.yaml, or $ECR_REGISTRY")
	}
	if s.Missing && !in.publishesKeys() {
		return failure.WithHint(failure.Input("--select missing looks for key tags, which publish.keys in %s turns off", config.PipegenFile),
			"remove publish.keys, or select something else")
	}
	return nil
}

// missing selects those whose content the registry lacks, one HEAD request an
// image.
func (a asking) missing(ctx context.Context, cs []*candidate) error {
	answers, err := each(ctx, cs, func(ctx context.Context, c *candidate) (registry.Descriptor, error) {
		if !c.pushes() {
			return registry.Descriptor{}, nil
		}
		return a.client.Head(ctx, c.repository+":"+a.naming.keyTag(c.name, c.key))
	})
	if err != nil {
		return err
	}
	undecided := &UndecidedError{Missing, map[string]error{}}
	for i, c := range cs {
		tag := a.naming.keyTag(c.name, c.key)
		switch err := answers[i].err; {
		case errors.Is(err, registry.ErrNotFound):
			c.reasons = append(c.reasons, Reason{Missing, tag + " is not in the registry"})
		case err != nil:
			undecided.Images[c.name] = err
		case !c.pushes():
			c.notMissing = "pushes no image"
		default:
			c.held, c.notMissing = answers[i].value.Digest, "published as "+tag
		}
	}
	return undecided.unlessEmpty()
}

func (e *UndecidedError) unlessEmpty() error {
	if len(e.Images) == 0 {
		return nil
	}
	return failure.WithHint(e, "is the registry reachable, and may this process read it? --select changed does without")
}

// pushes says whether anything of the image reaches a registry.
func (c *candidate) pushes() bool {
	return slices.ContainsFunc(c.specs, func(s *config.BuildConfig) bool { return slices.Contains(s.Outputs, "image") })
}

// stale selects those with a base that is another image now than the one they
// were built on. Each base is asked for once.
func (a asking) stale(ctx context.Context, cs []*candidate) error {
	undecided := &UndecidedError{Stale, map[string]error{}}
	published, err := each(ctx, cs, a.publication)
	if err != nil {
		return err
	}
	refs := map[string]bool{}
	for i, c := range cs {
		switch p, err := published[i].value, published[i].err; {
		case err != nil:
			undecided.Images[c.name] = err
		case p == nil:
			c.notStale = "not published yet, so built on nothing that could be stale"
		default:
			for _, b := range p.Bases {
				if ref, ok := movable(b.Ref); ok {
					refs[ref] = true
				}
			}
		}
	}
	asked := slices.Sorted(maps.Keys(refs))
	answers, err := each(ctx, asked, func(ctx context.Context, ref string) (registry.Descriptor, error) {
		return a.client.Head(ctx, ref)
	})
	if err != nil {
		return err
	}
	now := make(map[string]answer[registry.Descriptor], len(asked))
	for i, ref := range asked {
		now[ref] = answers[i]
	}
	for i, c := range cs {
		p := published[i].value
		if p == nil {
			continue
		}
		c.notStale = "no base moved"
		for _, b := range p.Bases {
			ref, ok := movable(b.Ref)
			if !ok {
				continue
			}
			switch is := now[ref]; {
			case is.err != nil:
				undecided.Images[c.name] = baseError{is.err}
			case is.value.Digest != b.Digest:
				c.reasons = append(c.reasons, Reason{Stale, fmt.Sprintf("%s is %s, was %s", b.Ref, abbreviated(is.value.Digest), abbreviated(b.Digest))})
			}
		}
	}
	return undecided.unlessEmpty()
}

// publication gives what is published of an image: with the present content,
// else under the first tag that moves. Nil: nothing is.
func (a asking) publication(ctx context.Context, c *candidate) (*Publication, error) {
	var tags []string
	if a.keys {
		tags = append(tags, a.naming.keyTag(c.name, c.key))
	}
	if len(c.tags) > 1 {
		tags = append(tags, c.tags[1])
	}
	for _, tag := range tags {
		p, err := ReadPublication(ctx, a.client, c.repository+":"+tag)
		if !errors.Is(err, registry.ErrNotFound) {
			return p, err
		}
	}
	return nil, nil //nolint:nilnil // as the comment says
}

// movable gives the reference to ask a registry for; one with a digest never
// moves.
func movable(base string) (string, bool) {
	ref, err := registry.ParseReference(base)
	if err != nil || ref.Digest != "" {
		return "", false
	}
	ref.Tag = cmp.Or(ref.Tag, "latest")
	return ref.String(), true
}

// abbreviated is a digest as people are shown it.
func abbreviated(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		return digest
	}
	return algorithm + ":" + hex[:min(len(hex), 12)]
}

// reuse finds the selected images whose content is published already: they get
// their tags, and are not built again. Whoever asks for an image to be built,
// or a base that moved, means a new one; so does a dependency that is built.
func (a asking) reuse(ctx context.Context, order [][]*candidate) error {
	built := map[string]bool{}
	for _, level := range order {
		var asked []*candidate
		for _, c := range level {
			if len(c.reasons) > 0 {
				built[c.name] = true
				if c.held != "" && !c.mustBuild(built) {
					asked = append(asked, c)
				}
			}
		}
		answers, err := each(ctx, asked, func(ctx context.Context, c *candidate) (*Publication, error) {
			return ReadPublication(ctx, a.client, c.repository+"@"+c.held)
		})
		if err != nil {
			return err
		}
		undecided := &UndecidedError{Missing, map[string]error{}}
		for i, c := range asked {
			switch p, err := answers[i].value, answers[i].err; {
			case errors.Is(err, registry.ErrNotFound):
			case err != nil:
				undecided.Images[c.name] = err
			// A tag has 48 bits of the key; the rest stands in the manifest.
			case p.Key == c.key && registry.IsIndex(p.MediaType) == c.index() && a.records(p.MediaType):
				c.retag, built[c.name] = c.held, false
			}
		}
		if err := undecided.unlessEmpty(); err != nil {
			return err
		}
	}
	return nil
}

// records says whether what is published again can say of which commit it is.
// Docker's lists and manifests have no place for that, and the labels of their
// images are of an older commit: a late pipeline would take moving tags back.
func (a asking) records(mediaType string) bool {
	switch types.MediaType(mediaType) {
	case types.DockerManifestList, types.DockerManifestSchema2:
		return false
	case types.OCIImageIndex:
		return !a.docker
	}
	return true
}

func (c *candidate) mustBuild(built map[string]bool) bool {
	return slices.ContainsFunc(c.reasons, Reason.forces) || slices.ContainsFunc(c.edges, func(e edge) bool { return built[e.to] })
}

type answer[T any] struct {
	value T
	err   error
}

// each asks a question of many at once. The error is that of ctx; all others
// stand in the answers, which are in the order of what was asked.
func each[Q, T any](ctx context.Context, asked []Q, ask func(context.Context, Q) (T, error)) ([]answer[T], error) {
	answers := make([]answer[T], len(asked))
	bounded, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var failed sync.Once
	var g errgroup.Group
	g.SetLimit(questions)
	for i, q := range asked {
		g.Go(func() error {
			a := &answers[i]
			if a.err = context.Cause(bounded); a.err == nil {
				a.value, a.err = ask(bounded, q)
			}
			if a.err != nil && !errors.Is(a.err, registry.ErrNotFound) {
				failed.Do(func() {
					time.AfterFunc(grace, func() { stop(fmt.Errorf("given up since another question failed: %w", a.err)) })
				})
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return answers, nil
}
