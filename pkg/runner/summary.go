package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
)

// State says how far an image or a build is.
type State string

// The states: of builds all but Publishing and Published, of images all but
// Succeeded.
const (
	Queued      State = "queued"
	Building    State = "building"
	Succeeded   State = "succeeded"
	Publishing  State = "publishing"
	Published   State = "published"
	Failed      State = "failed"
	Skipped     State = "skipped"
	Interrupted State = "interrupted"
)

func (s State) ended() bool {
	return s != Queued && s != Building && s != Publishing
}

// Summary says what became of a plan.
type Summary struct {
	// In the order of the plan.
	Images  []ImageSummary
	Elapsed time.Duration
	// Why the run was interrupted; nil if it was not.
	Cause error
}

// ImageSummary says what became of an image.
type ImageSummary struct {
	Name string
	// Published, Failed, Skipped or Interrupted.
	State State
	// Why it was skipped.
	Reason string
	// Why it failed: what its builds or the publisher gave.
	Err error
	// Digest and tags; nil unless State is Published.
	Published *plan.Published
	// In the order of the plan.
	Builds []BuildSummary
	// From when its builds were queued.
	Elapsed time.Duration
	// What the publisher gave, if that is why it failed.
	PublishErr error
}

// BuildSummary says what became of a build.
type BuildSummary struct {
	ID, Platform string
	// Succeeded, Failed, Skipped or Interrupted.
	State State
	Err   error
	// Digest of what was built; empty unless State is Succeeded.
	Digest  string
	Elapsed time.Duration
}

// Err gives nil if everything was published. An interrupted run gives an error
// that wraps the context's error and its cause; else the error says which
// images failed, and wraps those of the publisher, which matter to exit codes.
// Errors of builds are not wrapped: one wrong Dockerfile does not make the
// whole of the input wrong.
func (s Summary) Err() error {
	if s.Cause != nil {
		if errors.Is(s.Cause, context.Canceled) || errors.Is(s.Cause, context.DeadlineExceeded) {
			return fmt.Errorf("interrupted: %w", s.Cause)
		}
		return fmt.Errorf("interrupted: %w (%w)", s.Cause, context.Canceled)
	}
	var failed, skipped []string
	var published []error
	for _, img := range s.Images {
		switch img.State {
		case Failed:
			failed = append(failed, img.Name)
			if img.PublishErr != nil {
				published = append(published, img.PublishErr)
			}
		case Skipped:
			skipped = append(skipped, img.Name)
		}
	}
	if len(failed)+len(skipped) == 0 {
		return nil
	}
	var parts []string
	if len(failed) > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d images failed: %s", len(failed), len(s.Images), strings.Join(failed, ", ")))
	}
	if len(skipped) > 0 {
		parts = append(parts, "skipped: "+strings.Join(skipped, ", "))
	}
	return incomplete{strings.Join(parts, "; "), errors.Join(published...)}
}

type incomplete struct {
	text  string
	cause error
}

func (e incomplete) Error() string { return e.text }
func (e incomplete) Unwrap() error { return e.cause }

func (e *execution) summary(ctx context.Context) Summary {
	var s Summary
	for _, img := range e.images {
		sum := img.ImageSummary
		for _, b := range img.builds {
			sum.Builds = append(sum.Builds, b.BuildSummary)
		}
		if sum.State == Interrupted {
			s.Cause = context.Cause(ctx)
		}
		s.Images = append(s.Images, sum)
	}
	return s
}

// joined gives errors as one, on one line.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return several(errs)
}

type several []error

func (s several) Error() string {
	texts := make([]string, len(s))
	for i, e := range s {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

func (s several) Unwrap() []error { return s }
