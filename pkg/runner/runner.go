// Package runner runs plans: it starts builds in the order of what they need,
// many at once, publishes each image when its builds are done, and says what
// happened on the way and at the end. Where a build runs is a [Builder]'s
// affair; this package has the one for this machine, which gives each build a
// root of its own.
package runner

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
)

// Builder runs one build to its end. Cancelling ctx stops it.
type Builder interface {
	// Build writes the log to log, which is safe for concurrent use, and
	// returns when nothing of the build runs any more.
	Build(ctx context.Context, img *plan.Image, b *plan.Build, log io.Writer) (plan.Result, error)
}

// Publisher joins the results of an image's builds, in the order of the plan,
// under the image's tags.
type Publisher func(ctx context.Context, img *plan.Image, results []plan.Result) (plan.Published, error)

// Options say how a plan is run.
type Options struct {
	// Builds that run at once; 0 or less: as many as there are processors.
	Parallel int
	// Is told what happens; may be nil.
	Observer Observer
	// Default: time.Now.
	Now func() time.Time
}

// Execute runs a plan. Builds start as soon as all that their image needs is
// published and one of the places is free, in the order of the plan. An image
// is published when all its builds succeeded, while others still build.
//
// A build that fails costs its image alone: the image's other builds go on to
// their end, so that all that is wrong is known at once, the image is not
// published, images that need it are skipped, and the rest goes on. Cancelling
// ctx stops everything; Execute returns when all has stopped.
func Execute(ctx context.Context, p *plan.Plan, b Builder, publish Publisher, o Options) Summary {
	if o.Parallel <= 0 {
		o.Parallel = runtime.NumCPU()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &execution{
		plan: p, builder: b, publish: publish, now: o.Now, free: o.Parallel,
		observer: o.Observer, done: make(chan func()),
	}
	return e.run(ctx)
}

// execution is a plan that runs. Only the goroutine of run reads and writes
// its images; others hand it what they have to say as functions.
type execution struct {
	plan     *plan.Plan
	builder  Builder
	publish  Publisher
	now      func() time.Time
	observer Observer
	telling  sync.Mutex

	images []*imageRun
	queue  []*buildRun // in the order of the plan
	free   int         // places for builds
	active int         // goroutines that will send to done
	done   chan func()
}

type imageRun struct {
	*plan.Image
	ImageSummary
	builds     []*buildRun
	missing    int // needs that are not published
	unfinished int // builds that have not ended
	dependents []*imageRun
	started    time.Time
}

type buildRun struct {
	*plan.Build
	BuildSummary
	position int // in the plan
	image    *imageRun
	result   plan.Result
}

func (e *execution) run(ctx context.Context) Summary {
	started := e.now()
	e.tell(Event{Kind: RunStarted, Plan: e.plan})
	e.lay()
	for _, img := range e.images {
		if img.State == Queued && img.missing == 0 {
			e.admit(ctx, img)
		}
	}
	for {
		for len(e.queue) > 0 && e.free > 0 && ctx.Err() == nil {
			b := e.queue[0]
			e.queue = e.queue[1:]
			e.start(ctx, b)
		}
		if e.active == 0 {
			break
		}
		(<-e.done)()
		e.active--
	}
	for _, img := range e.images {
		switch {
		case img.State.ended():
		case ctx.Err() != nil:
			e.end(ctx, img, Interrupted)
		default: // planning refuses this; a plan from elsewhere must not hang
			e.skip(img, "needs itself by way of "+strings.Join(img.Needs, ", "))
		}
	}
	s := e.summary(ctx)
	s.Elapsed = e.now().Sub(started)
	e.tell(Event{Kind: RunFinished, Plan: e.plan, Summary: &s, Elapsed: s.Elapsed})
	return s
}

// lay makes the graph of the plan's images.
func (e *execution) lay() {
	byName := map[string]*imageRun{}
	position := 0
	for i := range e.plan.Images {
		img := &e.plan.Images[i]
		r := &imageRun{Image: img, ImageSummary: ImageSummary{Name: img.Name, State: Queued}, unfinished: len(img.Builds)}
		for j := range img.Builds {
			b := &img.Builds[j]
			r.builds = append(r.builds, &buildRun{
				Build: b, BuildSummary: BuildSummary{ID: b.ID, Platform: b.Platform, State: Queued}, position: position, image: r,
			})
			position++
		}
		byName[img.Name] = r
		e.images = append(e.images, r)
	}
	for _, r := range e.images {
		for _, name := range r.Needs {
			need, ok := byName[name]
			if !ok {
				e.skip(r, "needs "+name+", which is not in the plan")
				continue
			}
			r.missing++
			need.dependents = append(need.dependents, r)
			if need.State == Skipped {
				e.skip(r, "needs "+name+", which was skipped")
			}
		}
	}
}

// admit queues the builds of an image for which all is there that it needs.
func (e *execution) admit(ctx context.Context, img *imageRun) {
	img.State, img.started = Building, e.now()
	for _, b := range img.builds {
		i, _ := slices.BinarySearchFunc(e.queue, b, func(a, b *buildRun) int { return cmp.Compare(a.position, b.position) })
		e.queue = slices.Insert(e.queue, i, b)
		e.tell(Event{Kind: BuildQueued, Image: img.Image, Build: b.Build})
	}
	if len(img.builds) == 0 {
		e.built(ctx, img)
	}
}

// start runs a build.
func (e *execution) start(ctx context.Context, b *buildRun) {
	e.free--
	e.active++
	b.BuildSummary.State = Building
	e.tell(Event{Kind: BuildStarted, Image: b.image.Image, Build: b.Build})
	started := e.now()
	go func() {
		log := &lineWriter{emit: func(line string) {
			e.tell(Event{Kind: LogLine, Image: b.image.Image, Build: b.Build, Line: line})
		}}
		result, err := e.builder.Build(ctx, b.image.Image, b.Build, log)
		log.flush()
		e.done <- func() {
			e.free++
			b.Elapsed = e.now().Sub(started)
			ev := Event{Kind: BuildFinished, Image: b.image.Image, Build: b.Build, Elapsed: b.Elapsed, Err: err}
			switch {
			case err == nil:
				b.BuildSummary.State, b.Digest, b.result = Succeeded, result.Digest, result
				ev.Result = &b.result
			case ctx.Err() != nil:
				b.BuildSummary.State, b.Err = Interrupted, err
			default:
				b.BuildSummary.State, b.Err = Failed, err
			}
			ev.State = b.BuildSummary.State
			e.tell(ev)
			if b.image.unfinished--; b.image.unfinished == 0 {
				e.built(ctx, b.image)
			}
		}
	}()
}

// built goes on with an image whose builds have all ended.
func (e *execution) built(ctx context.Context, img *imageRun) {
	var failed []error
	results := make([]plan.Result, 0, len(img.builds))
	for _, b := range img.builds {
		switch b.BuildSummary.State {
		case Failed:
			failed = append(failed, b.Err)
		case Succeeded:
			results = append(results, b.result)
		}
	}
	switch {
	case len(failed) > 0:
		img.Err = joined(failed)
		e.end(ctx, img, Failed)
		return
	case ctx.Err() != nil:
		e.end(ctx, img, Interrupted)
		return
	}
	img.State = Publishing
	e.tell(Event{Kind: ImagePublishing, Image: img.Image})
	e.active++
	go func() {
		published, err := e.publish(ctx, img.Image, results)
		e.done <- func() {
			switch {
			case err == nil:
				img.Published = &published
				e.end(ctx, img, Published)
			case ctx.Err() != nil:
				e.end(ctx, img, Interrupted)
			default:
				img.Err, img.PublishErr = fmt.Errorf("publishing: %w", err), err
				e.end(ctx, img, Failed)
			}
		}
	}()
}

// end settles an image and goes on with those that need it.
func (e *execution) end(ctx context.Context, img *imageRun, state State) {
	img.State = state
	if !img.started.IsZero() {
		img.Elapsed = e.now().Sub(img.started)
	}
	switch state {
	case Published:
		e.tell(Event{Kind: ImagePublished, Image: img.Image, Published: img.Published, Elapsed: img.Elapsed})
		for _, d := range img.dependents {
			if d.missing--; d.missing == 0 && d.State == Queued {
				e.admit(ctx, d)
			}
		}
	case Failed:
		e.tell(Event{Kind: ImageFailed, Image: img.Image, Err: img.Err, Elapsed: img.Elapsed})
		for _, d := range img.dependents {
			e.skip(d, "needs "+img.Image.Name+", which failed")
		}
	case Interrupted:
		for _, b := range img.builds {
			if !b.BuildSummary.State.ended() {
				b.BuildSummary.State = Interrupted
			}
		}
	}
}

// skip settles an image that cannot be built, and all that need it.
func (e *execution) skip(img *imageRun, reason string) {
	if img.State.ended() {
		return
	}
	img.State, img.Reason = Skipped, reason
	for _, b := range img.builds {
		b.BuildSummary.State = Skipped
	}
	e.tell(Event{Kind: ImageSkipped, Image: img.Image, Reason: reason})
	for _, d := range img.dependents {
		e.skip(d, "needs "+img.Image.Name+", which was skipped")
	}
}

func (e *execution) tell(ev Event) {
	if e.observer == nil {
		return
	}
	e.telling.Lock()
	defer e.telling.Unlock()
	ev.Time = e.now()
	e.observer.Observe(ev)
}
