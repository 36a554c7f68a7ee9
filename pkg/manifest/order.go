package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// order is where a publication stands to this one.
type order int

const (
	unknown order = iota // it says nothing of itself
	earlier
	equal
	later
)

// publication is what a tag's manifest says of the publication that put it
// there.
type publication struct {
	commit             string
	committed, created time.Time
	pipeline           string
}

// compare says whether what a tag holds was published for a later commit than
// this plan's, and why.
func (w *writer) compare(ctx context.Context, held registry.Descriptor, raw []byte) (order, string, error) {
	theirs, err := w.publication(ctx, held, raw)
	if err != nil {
		return unknown, "", err
	}
	if theirs.commit != "" && theirs.commit != w.plan.Head {
		o, reason, err := w.compareCommits(ctx, theirs)
		if err != nil || o != equal {
			return o, reason, err
		}
	}
	o, reason := rank(theirs, w.plan)
	return o, reason, nil
}

// compareCommits compares by ancestry; where that is not known, or the two
// have grown apart, by the time of the commits.
func (w *writer) compareCommits(ctx context.Context, theirs publication) (order, string, error) {
	ours := w.plan.Head
	if ancestor := w.options.Ancestor; ancestor != nil {
		yes, err := ancestor(ctx, ours, theirs.commit)
		if err == nil && yes {
			return later, fmt.Sprintf("it holds commit %s, a descendant of %s", short(theirs.commit), short(ours)), nil
		}
		if err == nil {
			yes, err = ancestor(ctx, theirs.commit, ours)
		}
		if ctx.Err() != nil {
			return unknown, "", context.Cause(ctx)
		}
		if err == nil && yes {
			return earlier, "", nil
		}
	}
	if theirs.committed.IsZero() || w.plan.Committed.IsZero() {
		return equal, "", nil
	}
	// Recorded times have whole seconds.
	switch d := theirs.committed.Compare(w.plan.Committed.Truncate(time.Second)); {
	case d > 0:
		return later, fmt.Sprintf("it holds commit %s of %s, this one is of %s", short(theirs.commit), timestamp(theirs.committed), timestamp(w.plan.Committed)), nil
	case d < 0:
		return earlier, "", nil
	}
	return equal, "", nil
}

// rank compares publications whose commits do not tell: by the numbers of
// their pipelines, then by the time of their plans.
func rank(theirs publication, p *plan.Plan) (order, string) {
	if theirs.commit == "" && theirs.created.IsZero() {
		return unknown, ""
	}
	a, errA := strconv.ParseUint(theirs.pipeline, 10, 64)
	b, errB := strconv.ParseUint(p.Pipeline, 10, 64)
	if errA == nil && errB == nil && a != b {
		if a > b {
			return later, fmt.Sprintf("it holds what pipeline %d published, this one is %d", a, b)
		}
		return earlier, ""
	}
	if !theirs.created.IsZero() {
		switch d := theirs.created.Compare(p.Created.Truncate(time.Second)); {
		case d > 0:
			return later, fmt.Sprintf("it holds what was planned at %s, this plan is of %s", timestamp(theirs.created), timestamp(p.Created))
		case d < 0:
			return earlier, ""
		}
	}
	return equal, "another publication of the same rank took it meanwhile"
}

func short(commit string) string {
	if len(commit) > 7 {
		commit = commit[:7]
	}
	return quote.Text(commit)
}

// publication reads the annotations of what a tag holds, or, where it has
// none of pipegen's (a bare manifest, a Docker list), the labels of its first
// image. What cannot be read says nothing.
func (w *writer) publication(ctx context.Context, held registry.Descriptor, raw []byte) (publication, error) {
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return publication{}, nil //nolint:nilerr // a manifest of somebody else's
	}
	if m.Annotations[CommitAnnotation] != "" {
		return parsePublication(m.Annotations), nil
	}
	if registry.IsIndex(held.MediaType) {
		f, err := flatten(raw)
		if err != nil || len(f.images) == 0 {
			return publication{}, nil //nolint:nilerr // as above
		}
		_, raw, err = w.client.Get(ctx, w.image.Repository+"@"+f.images[0].Digest.String())
		if err != nil {
			return publication{}, unlessGone(err)
		}
	}
	config, err := w.client.Config(ctx, w.image.Repository, raw)
	if err != nil {
		return publication{}, unlessGone(err)
	}
	if config.Labels[CommitAnnotation] != "" {
		return parsePublication(config.Labels), nil
	}
	p := publication{created: parseTime(config.Labels[ociCreated])}
	// The revision of an image from an upstream repository is a commit there.
	if w.image.Source == nil {
		p.commit = config.Labels[ociRevision]
	}
	return p, nil
}

// unlessGone keeps errors of the connection: an image that is not there, or
// is no image, says nothing, but what could not be asked might have.
func unlessGone(err error) error {
	var e *registry.Error
	if errors.Is(err, registry.ErrNotFound) || errors.As(err, &e) && e.Status == 0 && e.Unwrap() == nil {
		return nil
	}
	return err
}

func parsePublication(a map[string]string) publication {
	return publication{
		commit:    a[CommitAnnotation],
		committed: parseTime(a[CommittedAnnotation]),
		created:   parseTime(a[CreatedAnnotation]),
		pipeline:  a[PipelineAnnotation],
	}
}

// parseTime gives the zero time for what is none.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t
}
