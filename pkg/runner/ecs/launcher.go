// Package ecs runs agents as tasks of Amazon ECS, one for each task of a
// controller, on Fargate or on instances. Tasks are started with a client token
// of their own, found again by what started them and by their tags, and looked
// at a hundred at once. Nothing about them is secret: agents show who they are
// by the role that ECS gives them. It keeps nothing that it could not find again.
package ecs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Options say how agents run on ECS.
type Options struct {
	// Of AWS; see [Connect].
	Config aws.Config
	// What the server's file says, as [config.Server.OnECS] gives it, with the URL.
	Settings config.ServerECS
	// Whether agents may send their token over plain HTTP.
	Insecure bool
	Logger   *slog.Logger
	// Default: time.Now.
	Now func() time.Time
}

// Launcher runs agents as tasks of ECS. It implements [runner.Launcher] and
// [runner.Identifier].
type Launcher struct {
	client   *sdk.Client
	queue    *sqs.Client // nil: nobody sends events
	s        config.ServerECS
	cfg      aws.Config
	settings string // hash of what definitions have in common
	insecure bool
	log      *slog.Logger
	now      func() time.Time
	sts      string         // address of STS
	http     aws.HTTPClient // asks it

	definitions definitions
	listed      chan struct{} // closed when what was running at first is known
	wake        chan struct{}
	done        chan struct{} // closed when nobody looks at tasks any more
	refreshing  chan struct{} // held by who lists

	mu      sync.Mutex
	records map[string]*record // by task
	arns    map[string]string  // tasks by the ARN of theirs on ECS
	dirty   map[string]bool    // tasks to look at

	// What tests wait less for.
	wait, every, listEvery, capacityWait, unseenFor time.Duration
}

// record is what is known of a task's agent.
type record struct {
	arn  string
	task *types.Task // as it was seen last; nil: it was only just started
	// When ECS was asked for it, and since when ECS does not know it.
	asked, missing time.Time
	gone           bool
	// Why Start waits, and what is to be said of where it starts.
	waits trouble
	note  string
	// What was reported last.
	told     runner.AgentStatus
	stopping bool
	changed  chan struct{} // closed at a change
}

// trouble is why something waits, and what to do about it.
type trouble struct{ message, hint string }

const (
	// One request may take so long.
	requestTime = 30 * time.Second
	// Tasks are looked at so often, and with events so seldom.
	pollEvery, pollSeldom = 5 * time.Second, time.Minute
	// How often tasks of other controllers are looked for.
	relistEvery = time.Minute
	// Most tasks of one call.
	batch = 100
	// What ECS has just started it may not know for so long.
	settleTime = time.Minute
	// Ended tasks that nobody asks for are forgotten after so long, as ECS does.
	keepStopped = time.Hour
	// mostOverrides is what ECS takes as overrides, in characters.
	mostOverrides = 8192
)

// New makes a launcher, which looks at tasks until ctx ends. An AWS that does
// not answer is waited for. Errors are of the settings and wrap
// failure.ErrInput.
func New(ctx context.Context, o Options) (*Launcher, error) {
	l, err := newLauncher(o)
	if err != nil {
		return nil, err
	}
	l.begin(ctx)
	return l, nil
}

func newLauncher(o Options) (*Launcher, error) {
	l := &Launcher{
		client: sdk.NewFromConfig(o.Config), s: o.Settings, cfg: o.Config, insecure: o.Insecure, log: o.Logger, now: o.Now, http: identityClient(o.Config),
		definitions: definitions{all: map[string]*known{}},
		listed:      make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{}), refreshing: make(chan struct{}, 1),
		records: map[string]*record{}, arns: map[string]string{}, dirty: map[string]bool{},
		wait: 500 * time.Millisecond, every: pollEvery, listEvery: relistEvery, capacityWait: 10 * time.Second, unseenFor: settleTime,
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	if o.Settings.EventQueue != "" {
		l.queue, l.every = sqs.NewFromConfig(o.Config), pollSeldom
	}
	var err error
	if l.sts, err = stsEndpoint(o.Config); err != nil {
		return nil, err
	}
	if l.settings, err = settingsHash(&o.Settings, l.sts, o.Insecure); err != nil {
		return nil, failure.Input("server.ecs: %w", err)
	}
	if want, err := request(o.Settings.Resources); err != nil {
		return nil, fmt.Errorf("server.ecs.resources: %w", err)
	} else if place(o.Settings.Capacity[0].Provider).isFargate() {
		if _, err := onFargate(want); err != nil {
			return nil, fmt.Errorf("server.ecs.resources: %w", err)
		}
	}
	return l, nil
}

// begin has tasks looked at until ctx ends.
func (l *Launcher) begin(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { l.look(ctx) })
	if l.queue != nil {
		work.Go(func() { l.listen(ctx) })
	}
	go func() {
		work.Wait()
		close(l.done)
	}()
}

// taskName is a DNS label, as tasks of controllers have it.
var taskName = lazyregexp.New(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Find says how the task's agent is.
func (l *Launcher) Find(ctx context.Context, task string) (runner.AgentStatus, error) {
	if s, known := l.known(task); known {
		return s, nil
	}
	if err := l.refresh(ctx, types.DesiredStatusRunning); err != nil {
		return runner.AgentStatus{}, explain("looking for the agent of "+task, err)
	}
	s, known := l.known(task)
	if !known {
		return s, runner.ErrNoAgent
	}
	return s, nil
}

func (l *Launcher) known(task string) (runner.AgentStatus, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[task]
	if r == nil || r.arn == "" {
		return runner.AgentStatus{}, false
	}
	return l.status(task, r), true
}

// Stop stops the task of ECS and returns when its container is no more.
func (l *Launcher) Stop(ctx context.Context, task string) error {
	l.mu.Lock()
	r := l.records[task]
	if r != nil {
		r.stopping = true
	}
	l.mu.Unlock()
	if r == nil || r.arn == "" {
		if err := l.refresh(ctx, types.DesiredStatusRunning); err != nil {
			return explain("looking for the agent of "+task, err)
		}
	}
	l.mu.Lock()
	if r = l.records[task]; r == nil || r.arn == "" {
		l.forget(task)
		l.mu.Unlock()
		return nil
	}
	r.stopping = true
	arn, ended := r.arn, l.status(task, r).State == runner.AgentExited
	l.mu.Unlock()
	if !ended {
		err := l.persist(ctx, func(ctx context.Context) error {
			_, err := l.client.StopTask(ctx, &sdk.StopTaskInput{Cluster: &l.s.Cluster, Task: &arn, Reason: aws.String("pipegen: the task was stopped, or has ended")})
			return err
		})
		switch {
		case notFound(err):
			l.update(task, func(r *record) { r.gone = true })
		case err != nil:
			return explain("stopping the task "+arn, err)
		}
	}
	return l.waitUntilGone(ctx, task)
}

// notFound says that ECS does not know a task any more.
func notFound(err error) bool {
	e, ok := errors.AsType[*types.InvalidParameterException](err)
	return ok && regexp.MustCompile(`task was not found`).MatchString(e.ErrorMessage())
}

func (l *Launcher) waitUntilGone(ctx context.Context, task string) error {
	for pause := l.wait; ; pause = min(2*pause, pollEvery) {
		l.mu.Lock()
		r := l.records[task]
		if r == nil || l.status(task, r).State == runner.AgentExited {
			l.forget(task)
			l.mu.Unlock()
			return nil
		}
		changed, arn := r.changed, r.arn
		l.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(pause):
			if err := l.describe(ctx, []string{arn}); err != nil && ctx.Err() == nil {
				l.log.Warn("looking at a task that is stopped", "task", task, "err", explain("describing it", err))
			}
		case <-ctx.Done():
			return failure.WithHint(fmt.Errorf("the task %s is not stopped yet: %w", arn, ctx.Err()), "aws ecs describe-tasks --cluster %s --tasks %s", l.s.Cluster, arn)
		case <-l.done:
			return fmt.Errorf("waiting for the end of the agent of %s: the launcher has ended", task)
		}
	}
}

// forget drops what is known of a task; the caller holds the lock.
func (l *Launcher) forget(task string) {
	if r := l.records[task]; r != nil {
		delete(l.arns, r.arn)
		delete(l.records, task)
	}
	delete(l.dirty, task)
}

// update changes what is known of a task's agent and has it looked at.
func (l *Launcher) update(task string, change func(*record)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[task]
	if r == nil {
		r = &record{changed: make(chan struct{}), asked: time.Now()}
		l.records[task] = r
	}
	before := r.arn
	change(r)
	if r.arn != before {
		delete(l.arns, before)
		l.arns[r.arn] = task
	}
	close(r.changed)
	r.changed = make(chan struct{})
	l.dirty[task] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// insist makes a request until it is answered for good, and tells meanwhile why
// the agent waits. The error is AWS's own.
func (l *Launcher) insist(ctx context.Context, task, what string, do func(context.Context) error) error {
	return l.again(ctx, do, func(err error) {
		said := trouble{}
		if err != nil {
			e := explain(what, err)
			said = trouble{e.Error(), failure.Hint(e)}
		}
		l.mu.Lock()
		r := l.records[task]
		same := r == nil || r.waits == said
		l.mu.Unlock()
		if !same {
			l.update(task, func(r *record) { r.waits = said })
		}
	})
}

// persist is insist for what no agent waits for.
func (l *Launcher) persist(ctx context.Context, do func(context.Context) error) error {
	return l.again(ctx, do, func(error) {})
}

// again makes a request as long as it may be answered otherwise the next time,
// with pauses that grow and differ.
func (l *Launcher) again(ctx context.Context, do func(context.Context) error, tell func(error)) error {
	for pause := l.wait; ; pause = min(2*pause, 30*l.wait) {
		request, cancel := context.WithTimeout(ctx, requestTime)
		err := do(request)
		cancel()
		if err == nil {
			tell(nil)
			return nil
		}
		if ctx.Err() != nil || !transient(err) {
			return err
		}
		tell(err)
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // no secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
