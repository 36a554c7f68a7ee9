// Package client is what people and CI jobs use of a controller: it sends a
// context and a plan, follows what becomes of them, and shows runs.
package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Controller is what following a run asks; *api.Client is one.
type Controller interface {
	Run(ctx context.Context, id string) (api.Run, error)
	Logs(ctx context.Context, id string, q api.LogQuery, yield func(api.LogLine) error) (api.State, error)
}

// FollowOptions say how a run is followed.
type FollowOptions struct {
	// Is told what happens, as in a run on this machine.
	Observer runner.Observer
	// Default: time.Now.
	Now func() time.Time
}

// Follow tells what happens in a run, from its first line on, until it has
// ended, and gives how it ended. The verdict is the run's state alone. When ctx
// ends first, the run goes on, the observer is told of an interrupted run, and
// the error is the context's cause.
func Follow(ctx context.Context, c Controller, id string, o FollowOptions) (api.Run, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	run, err := c.Run(ctx, id)
	if err != nil {
		return run, err
	}
	f := &following{controller: c, o: o, id: id, images: map[string]*image{}, builds: map[string]*build{}}
	f.start(run)
	_, err = c.Logs(ctx, id, api.LogQuery{Follow: true}, func(l api.LogLine) error { return f.line(ctx, l) })
	if err == nil {
		if run, err = c.Run(ctx, id); err == nil && !run.State.Ended() {
			err = fmt.Errorf("the log of run %s has ended, but it is %s", id, run.State)
		}
	}
	s := f.finish(run, err)
	o.Observer.Observe(runner.Event{Time: o.Now(), Kind: runner.RunFinished, Plan: f.plan, Summary: &s, Elapsed: s.Elapsed})
	switch {
	case err != nil:
		return run, err
	case s.Cause != nil:
		return run, s.Cause
	}
	return run, s.Err()
}

// following is a run as it is told.
type following struct {
	controller Controller
	o          FollowOptions
	id         string

	plan    *plan.Plan // what the controller says of it: names and platforms
	created time.Time
	images  map[string]*image
	builds  map[string]*build
}

type image struct {
	*plan.Image
	told runner.State
	err  error
	why  string
}

type build struct {
	*plan.Build
	image   *image
	told    runner.State
	started time.Time
	summary runner.BuildSummary
}

// start tells of a run that begins.
func (f *following) start(run api.Run) {
	f.created = run.Created
	f.plan = &plan.Plan{Images: make([]plan.Image, 0, len(run.Images))} // which stays where it is
	for _, img := range run.Images {
		if img.State == api.Succeeded && len(img.Tasks) == 0 {
			continue // published before: others are built on it
		}
		f.plan.Images = append(f.plan.Images, plan.Image{Name: img.Name})
		at := &f.plan.Images[len(f.plan.Images)-1]
		for _, t := range img.Tasks {
			if known := len(at.Builds); t.Build != "" && (known == 0 || at.Builds[known-1].ID != t.Build) {
				at.Builds = append(at.Builds, plan.Build{ID: t.Build, Platform: t.Platform})
			}
		}
		in := &image{Image: at, told: runner.Queued}
		f.images[img.Name] = in
		for j := range at.Builds {
			b := &at.Builds[j]
			f.builds[b.ID] = &build{Build: b, image: in, told: runner.Queued, summary: runner.BuildSummary{ID: b.ID, Platform: b.Platform, State: runner.Queued}}
		}
	}
	f.o.Observer.Observe(runner.Event{Time: f.at(run.Created), Kind: runner.RunStarted, Plan: f.plan})
}

// at gives a time of the controller's, whose clock may be ahead, for showing.
func (f *following) at(t time.Time) time.Time {
	if now := f.o.Now(); t.After(now) {
		return now
	}
	return t
}

// line tells what a line of the log says.
func (f *following) line(ctx context.Context, l api.LogLine) error {
	if b, ok := f.builds[l.Build]; ok {
		f.build(b, l)
		return nil
	}
	if img, ok := f.images[l.Image]; ok && l.State != "" {
		return f.publication(ctx, img, l)
	}
	f.o.Observer.Observe(f.note(l))
	return nil
}

// note is a line about the run as a whole.
func (f *following) note(l api.LogLine) runner.Event {
	text := l.Message
	if l.Image != "" {
		text = l.Image + ": " + text
	}
	return runner.Event{Time: f.at(l.Time), Kind: runner.Note, Line: text, Warning: l.Level == "warning"}
}

func (f *following) build(b *build, l api.LogLine) {
	e := runner.Event{Time: f.at(l.Time), Image: b.image.Image, Build: b.Build}
	switch {
	case l.State == api.Queued && b.started.IsZero():
		e.Kind = runner.BuildQueued
	case l.State == api.Running && b.started.IsZero():
		b.told, b.started = runner.Building, l.Time
		e.Kind = runner.BuildStarted
	case l.State == api.Succeeded, l.State == api.Failed, l.State == api.Cancelled && !b.started.IsZero():
		f.built(b, l.State, l.Message, l.Time)
		return
	case l.State == api.Cancelled:
		return // its image tells
	default:
		e.Kind, e.Line = runner.LogLine, l.Message
	}
	f.o.Observer.Observe(e)
}

// built tells of a build's end.
func (f *following) built(b *build, s api.State, reason string, at time.Time) {
	if b.started.IsZero() {
		b.started = at
		f.o.Observer.Observe(runner.Event{Time: f.at(at), Kind: runner.BuildStarted, Image: b.image.Image, Build: b.Build})
	}
	e := runner.Event{Time: f.at(at), Kind: runner.BuildFinished, Image: b.image.Image, Build: b.Build, Elapsed: at.Sub(b.started)}
	switch s {
	case api.Succeeded:
		e.State = runner.Succeeded
	case api.Cancelled:
		e.State, e.Err = runner.Interrupted, errors.New(orElse(reason, "cancelled"))
	default:
		e.State, e.Err = runner.Failed, errors.New(orElse(reason, "failed"))
	}
	b.told = e.State
	b.summary.State, b.summary.Err, b.summary.Elapsed = e.State, e.Err, e.Elapsed
	f.o.Observer.Observe(e)
}

func (f *following) publication(ctx context.Context, img *image, l api.LogLine) error {
	e := runner.Event{Time: f.at(l.Time), Image: img.Image, Elapsed: l.Time.Sub(f.created)}
	switch l.State {
	case api.Publishing:
		e.Kind, img.told = runner.ImagePublishing, runner.Publishing
	case api.Succeeded:
		run, err := f.controller.Run(ctx, f.id)
		if err != nil {
			return err
		}
		for _, i := range run.Images {
			if i.Name == img.Name {
				e.Published = i.Published
			}
		}
		e.Kind, img.told = runner.ImagePublished, runner.Published
	case api.Lost: // tried again, or the image fails
		e = f.note(l)
	case api.Failed:
		img.err = errors.New(orElse(l.Message, "failed"))
		e.Kind, e.Err, img.told = runner.ImageFailed, img.err, runner.Failed
	case api.Cancelled:
		e.Kind, e.Reason, img.told = runner.ImageSkipped, l.Message, runner.Skipped
		img.why = l.Message
	default:
		return nil
	}
	f.o.Observer.Observe(e)
	return nil
}

// finish tells what the log did not, and sums up. interrupted is why following
// ended before the run did, if it did.
func (f *following) finish(run api.Run, interrupted error) runner.Summary {
	s := runner.Summary{Elapsed: f.o.Now().Sub(f.at(f.created)), Cause: interrupted}
	if run.Finished != nil {
		s.Elapsed = run.Finished.Sub(run.Created)
	}
	if interrupted == nil && run.State == api.Cancelled {
		s.Cause = failure.WithHint(fmt.Errorf("run %s: %s", f.id, orElse(run.Reason, "cancelled")), "pipegen retry %s does again what was not published", f.id)
	}
	for _, of := range run.Images {
		img, ok := f.images[of.Name]
		if !ok {
			continue
		}
		sum := runner.ImageSummary{Name: of.Name, Published: of.Published, Reason: of.Reason}
		var elapsed time.Duration
		for i := range img.Builds {
			b := f.builds[img.Builds[i].ID]
			t := last(of.Tasks, b.ID)
			if b.told == runner.Building || b.told == runner.Queued {
				if interrupted == nil && t.State.Ended() && t.State != api.Cancelled {
					f.built(b, t.State, t.Reason, ended(t, f.o.Now()))
				} else {
					b.summary.State = runner.Interrupted
				}
			}
			b.summary.Digest = t.Digest
			elapsed = max(elapsed, b.summary.Elapsed)
			sum.Builds = append(sum.Builds, b.summary)
		}
		sum.Elapsed = elapsed
		switch {
		case of.State == api.Succeeded:
			sum.State = runner.Published
			if sum.Published == nil {
				sum.Published = &plan.Published{Name: of.Name}
			}
		case of.State == api.Failed || of.State == api.Lost:
			sum.State, sum.Err = runner.Failed, img.err
			if sum.Err == nil {
				sum.Err = errors.New(orElse(of.Reason, "failed"))
			}
			if last(of.Tasks, "").Failure == api.ImmutableTag {
				sum.PublishErr = api.ErrImmutable
			}
		case of.State == api.Cancelled && run.State != api.Cancelled:
			sum.State = runner.Skipped
		default:
			sum.State = runner.Interrupted
		}
		s.Images = append(s.Images, sum)
	}
	return s
}

// last gives the latest attempt at a build.
func last(tasks []api.Task, id string) api.Task {
	var latest api.Task
	for _, t := range tasks {
		if t.Build == id && t.Attempt >= latest.Attempt {
			latest = t
		}
	}
	return latest
}

// ended gives when a task got its last state.
func ended(t api.Task, otherwise time.Time) time.Time {
	if n := len(t.History); n > 0 {
		return t.History[n-1].Time
	}
	return otherwise
}

func orElse(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}
