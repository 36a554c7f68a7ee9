package manifest

import (
	"context"
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

// compare says whether what a tag holds was published for a later commit than
// this plan's, and why.
func (w *writer) compare(ctx context.Context, held registry.Descriptor, raw []byte) (order, string, error) {
	theirs, err := plan.PublicationOf(ctx, w.client, w.image.Repository, held, raw)
	if err != nil {
		return unknown, "", err
	}
	if theirs.Commit == "" && w.image.Source == nil {
		theirs.Commit = theirs.Revision
	}
	if theirs.Commit != "" && theirs.Commit != w.plan.Head {
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
func (w *writer) compareCommits(ctx context.Context, theirs *plan.Publication) (order, string, error) {
	ours := w.plan.Head
	if ancestor := w.options.Ancestor; ancestor != nil {
		yes, err := ancestor(ctx, ours, theirs.Commit)
		if err == nil && yes {
			return later, fmt.Sprintf("it holds commit %s, a descendant of %s", short(theirs.Commit), short(ours)), nil
		}
		if err == nil {
			yes, err = ancestor(ctx, theirs.Commit, ours)
		}
		if ctx.Err() != nil {
			return unknown, "", context.Cause(ctx)
		}
		if err == nil && yes {
			return earlier, "", nil
		}
	}
	if theirs.Committed.IsZero() || w.plan.Committed.IsZero() {
		return equal, "", nil
	}
	// Recorded times have whole seconds.
	switch d := theirs.Committed.Compare(w.plan.Committed.Truncate(time.Second)); {
	case d > 0:
		return later, fmt.Sprintf("it holds commit %s of %s, this one is of %s", short(theirs.Commit), timestamp(theirs.Committed), timestamp(w.plan.Committed)), nil
	case d < 0:
		return earlier, "", nil
	}
	return equal, "", nil
}

// rank compares publications whose commits do not tell: by the numbers of
// their pipelines, then by the time of their plans.
func rank(theirs *plan.Publication, p *plan.Plan) (order, string) {
	if theirs.Commit == "" && theirs.Created.IsZero() {
		return unknown, ""
	}
	a, errA := strconv.ParseUint(theirs.Pipeline, 10, 64)
	b, errB := strconv.ParseUint(p.Pipeline, 10, 64)
	if errA == nil && errB == nil && a != b {
		if a > b {
			return later, fmt.Sprintf("it holds what pipeline %d published, this one is %d", a, b)
		}
		return earlier, ""
	}
	if !theirs.Created.IsZero() {
		switch d := theirs.Created.Compare(p.Created.Truncate(time.Second)); {
		case d > 0:
			return later, fmt.Sprintf("it holds what was planned at %s, this plan is of %s", timestamp(theirs.Created), timestamp(p.Created))
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
