// Package agent does one task of a controller: it claims it, brings the context,
// has the build done, streams the log, says that it lives, and reports what
// came of it. A controller that is away for a while delays what it is told and
// nothing else.
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// claiming is how long a controller is waited for before there is a task.
	claiming = 10 * time.Minute
	// downloading is how long a context is waited for while nothing of it comes.
	downloading = 5 * time.Minute
	// reporting is how long a controller is waited for that is to be told what
	// came of the task, even past its deadline.
	reporting = 2 * time.Minute
	// leaving is the same for an agent that was told to stop.
	leaving = 20 * time.Second
	// asking is how long a controller is asked whether it is the one that has the
	// agent told to stop.
	asking = 2 * time.Second
	// Of the log: most bytes that travel at once, and how long an eighth of them is
	// waited for.
	batchBytes, batchTime = 512 << 10, 100 * time.Millisecond
)

// Work is a build that is to be done.
type Work struct {
	// The plan, with the build's image and what it needs alone.
	Plan  *plan.Plan
	Image *plan.Image
	Build *plan.Build
	// The unpacked context, free to write to; empty if the build needs none.
	Root string
	// Directories for results, with what the image needs as published, and for
	// temporary files.
	MetadataDir, TempDir string
	// The task's credentials of registries.
	Logins []registry.Login
	// The task's secrets, then the environment.
	Getenv func(string) string
	// Whether to read what AWS keeps of the build's secrets by the role of this
	// machine.
	ReadStored bool
	// Takes the log; an engine.LineWriter.
	Log interface {
		Write(p []byte) (int, error)
		WriteLines(p []byte, cut []int) error
	}
}

// Options are what an agent works with.
type Options struct {
	// Reaches the controller, with the task's token.
	Client *api.Client
	Task   string
	// Of pipegen.
	Version string
	// Directory for this task alone, made if need be. What is in it at the
	// end is removed.
	Dir string
	// Do does the build. When ctx ends, it returns once nothing of the build runs
	// any more. An error that is not the build's fault is a Fault.
	Do func(ctx context.Context, w Work) (plan.Result, error)
	// Gives what the task has taken so far; nil: nobody knows.
	Usage func() api.Usage
	// Environment of the build, under its secrets.
	Getenv func(string) string
	// Why the place where it runs tells an agent to stop, if there is one reason.
	Interrupted string
	// Is told what an operator may want to know; may be nil.
	Note func(string)
	// Default: time.Now.
	Now func() time.Time

	// What tests wait less for.
	leaving, reporting time.Duration
}

// fault is an error that is not the build's.
type fault struct{ error }

func (f fault) Unwrap() error { return f.error }

// Fault says of an error that the build has not caused it, so that another
// attempt may do better. Nil stays nil.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	return fault{err}
}

// Why a build is stopped.
var (
	errInterrupted = errors.New(api.ToldToStop)
	errDisowned    = errors.New("the controller has given the task up")
	errLate        = errors.New("the run's time is over")
)

// errCancelled is the controller's wish.
type errCancelled struct{ reason string }

func (e errCancelled) Error() string {
	if e.reason == "" || strings.HasPrefix(e.reason, "cancelled") {
		return cmp.Or(e.reason, "cancelled")
	}
	return "cancelled: " + e.reason
}

// Run does the task. It returns nil once the controller has its result, whatever
// that is; an error says that there was no task, or that nobody could be told.
// When ctx ends the build is stopped, the controller is told, and the error
// wraps the cause.
func Run(ctx context.Context, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	if o.leaving == 0 {
		o.leaving = leaving
	}
	if o.reporting == 0 {
		o.reporting = reporting
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("making the agent's directory: %w", err)
	}
	t := &task{o: o, client: o.Client, claim: api.Claim{Agent: rand.Text(), Version: o.Version}}
	var err error
	if t.Assignment, t.ahead, err = o.Client.Patient(claiming).Claim(ctx, o.Task, t.claim); err != nil {
		return fmt.Errorf("claiming task %s: %w", o.Task, err)
	}
	t.client = t.client.Traced(t.Trace)
	// Of a second and the answer's time nothing can be said.
	if t.ahead.Abs() < 3*time.Second {
		t.ahead = 0
	}
	return t.run(ctx)
}

// task is a task that was claimed.
type task struct {
	api.Assignment
	o      Options
	client *api.Client
	claim  api.Claim
	ahead  time.Duration // the controller's clock, of this one's

	spool *spool
	log   *logger
	stop  context.CancelCauseFunc // ends the build
}

// interruption is why the agent is told to stop: the controller's wish, if it
// says so.
func (t *task) interruption(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	if wish := t.wish(ctx, t.client.Patient(asking)); wish != nil {
		return wish
	}
	if t.o.Interrupted == "" {
		return errInterrupted
	}
	return fmt.Errorf("%w: %s", errInterrupted, t.o.Interrupted)
}

// now is the time by the controller's clock.
func (t *task) now() time.Time { return t.o.Now().Add(t.ahead).UTC() }

func (t *task) run(ctx context.Context) error {
	t.spool = newSpool(t.o.Dir, t.LogFrom)
	defer t.spool.close()
	limit := t.LogBytes
	if limit <= 0 {
		limit = 1 << 30
	}
	t.log = newLogger(t.spool, limit, t.now)
	t.spool.overflowed = func(err error) {
		t.o.Note("the log cannot be kept on disk, so the build may have to wait for the controller: " + err.Error())
	}

	// What talks to the controller goes on while the build is stopped.
	talk, hush := context.WithCancelCause(context.WithoutCancel(ctx))
	defer hush(nil)
	build, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	t.stop = stop
	defer context.AfterFunc(ctx, func() { stop(t.interruption(talk)) })()
	// What is stopped must not wait until there is room for what it has to say.
	defer context.AfterFunc(build, t.spool.hurry)()
	var late <-chan time.Time
	if !t.Deadline.IsZero() {
		timer := time.NewTimer(t.Deadline.Add(-t.ahead).Sub(t.o.Now()))
		defer timer.Stop()
		late = timer.C
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-late:
			stop(errLate)
		case <-over:
		}
	}()
	var talking sync.WaitGroup
	defer func() {
		hush(nil)
		talking.Wait()
	}()
	sent := make(chan error, 1)
	talking.Go(func() { sent <- t.send(talk) })
	talking.Go(func() { t.beat(talk) })

	result, err := t.build(build)
	if err != nil && build.Err() != nil {
		err = context.Cause(build)
	}
	report := t.report(result, err)
	t.log.close()
	t.spool.end()
	if n := t.spool.missing(); n > 0 {
		t.o.Note(fmt.Sprintf("%d lines of the log are lost: there was no room for them while the controller was away", n))
	}
	if errors.Is(err, errDisowned) {
		return fmt.Errorf("task %s: %w", t.Task, err)
	}
	// The controller is told until it knows, even of what came too late.
	patience := t.o.reporting
	if !t.Deadline.IsZero() {
		patience = max(patience, t.Deadline.Add(-t.ahead).Sub(t.o.Now()))
	}
	limitTalk := time.AfterFunc(patience, func() { hush(errors.New("the controller could not be told in time")) })
	defer limitTalk.Stop()
	defer context.AfterFunc(ctx, func() { limitTalk.Reset(t.o.leaving) })()
	// A log that the controller does not take is no reason to say nothing of the rest.
	if err := <-sent; err != nil && (talk.Err() != nil || disowns(err)) {
		return fmt.Errorf("task %s: sending its log: %w", t.Task, err)
	}
	report.LogLines = t.spool.sent()
	if err := t.finish(talk, report); err != nil {
		return fmt.Errorf("task %s: reporting its result: %w", t.Task, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// build prepares all that the build needs and has it done.
func (t *task) build(ctx context.Context) (plan.Result, error) {
	img, b, err := t.find()
	if err != nil {
		t.log.say("error", "failed: %v", err)
		return plan.Result{}, err
	}
	host, _ := os.Hostname()
	t.log.say("info", "pipegen %s on %s (%s/%s), attempt %d", t.o.Version, host, runtime.GOOS, runtime.GOARCH, t.Attempt)
	w := Work{
		Plan: t.Plan, Image: img, Build: b, Log: t.log, Getenv: t.getenv, ReadStored: t.ReadStored,
		Root: filepath.Join(t.o.Dir, "context"), MetadataDir: filepath.Join(t.o.Dir, "metadata"), TempDir: filepath.Join(t.o.Dir, "tmp"),
	}
	defer func() {
		for _, dir := range []string{w.Root, w.MetadataDir, w.TempDir} {
			if err := archive.RemoveAll(dir); err != nil {
				t.o.Note("removing what the build left: " + err.Error())
			}
		}
	}()
	if err := t.prepare(ctx, w); err != nil {
		if ctx.Err() == nil {
			t.log.say("error", "failed: %v", err)
		}
		return plan.Result{}, err
	}
	for _, c := range t.Credentials {
		w.Logins = append(w.Logins, registry.Login(c))
	}
	result, err := t.o.Do(ctx, w)
	if err == nil && result.Digest != "" {
		t.log.say("info", "built %s: %s", result.ID, strings.TrimPrefix(result.Ref+"@"+result.Digest, "@"))
	}
	return result, err
}

// find gives the build of the assignment, and refuses one that reaches for files
// of this machine.
func (t *task) find() (*plan.Image, *plan.Build, error) {
	if t.Plan == nil || t.Plan.Version != plan.Version {
		return nil, nil, failure.WithHint(failure.Input("the plan is of another version of pipegen than this agent's, %s", t.o.Version), "run controller and agents at the same version")
	}
	img, b, ok := t.Plan.Find(t.Build)
	if !ok {
		return nil, nil, failure.Input("the plan has no build %q", t.Build)
	}
	return img, b, nil
}

func (t *task) getenv(name string) string {
	if v, ok := t.Secrets[name]; ok {
		return v
	}
	return t.o.Getenv(name)
}

// report says of the build what the controller is to know.
func (t *task) report(result plan.Result, err error) api.TaskResult {
	var r api.TaskResult
	if t.o.Usage != nil {
		u := t.o.Usage()
		r.Usage = &u
	}
	if err == nil {
		r.Result = &result
		return r
	}
	r.Error, r.Hint = err.Error(), failure.Hint(err)
	_, r.Cancelled = errors.AsType[errCancelled](err)
	_, r.Infrastructure = errors.AsType[fault](err)
	r.Infrastructure = r.Infrastructure || errors.Is(err, errInterrupted) || isFull(err)
	return r
}
