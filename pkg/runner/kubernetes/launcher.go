// Package kubernetes runs agents as Jobs of a Kubernetes cluster, one for each
// task, named by it. It sends a cluster three requests a task, and hears of
// everything else by watches that all tasks share. It keeps nothing that it
// could not find again.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Options say how agents run on Kubernetes.
type Options struct {
	// Of the cluster; see [Connect].
	Client *Client
	// Namespace of agents.
	Namespace string
	// What the server's file says.
	Settings config.ServerKubernetes
	// Whether agents may send their token over plain HTTP.
	Insecure bool
	Logger   *slog.Logger
	// Default: time.Now.
	Now func() time.Time
}

// Launcher runs agents as Jobs. It implements [runner.Launcher].
//
// The token of a task is in a Secret that belongs to the Job and is mounted as
// a file. The Job comes first and the Secret second, so that neither is left
// behind: a pod whose Secret is not there yet waits for it. An agent that has not
// begun may lack its Secret, as when the controller ended between the two, so
// Find says of it that there is none, and Start adds what is missing. So a
// launcher need not be allowed to read Secrets.
type Launcher struct {
	client    *Client
	namespace string
	s         config.ServerKubernetes
	template  *corev1.PodTemplateSpec
	keep      time.Duration
	insecure  bool
	log       *slog.Logger
	now       func() time.Time

	synced []<-chan struct{} // closed when the watches have seen all there was
	wake   chan struct{}
	done   <-chan struct{} // closed when the watches have ended

	mu      sync.Mutex
	records map[string]*record   // by task
	dirty   map[string]bool      // tasks to look at
	stopped map[string]time.Time // tasks whose agents Stop ended, and when

	// What tests wait less for.
	wait, every, fullFor, unseenFor time.Duration
}

// record is what is known of a task's agent.
type record struct {
	job     *batchv1.Job
	hadJob  bool      // and if there is none now, it was deleted
	unseen  time.Time // since when only a request told of it, and not the watch
	pods    map[types.UID]*corev1.Pod
	last    *corev1.Pod // the last of them that went, and when
	went    time.Time
	trouble *trouble
	// Why Start waits.
	waits trouble
	// What was reported last.
	told     runner.AgentStatus
	stopping bool
	deleted  bool          // asked for
	changed  chan struct{} // closed at a change of Job or pods
}

// sees notes a Job that a request gave, unless the watch has.
func (r *record) sees(j *batchv1.Job) {
	if !r.hadJob {
		r.job, r.hadJob, r.unseen = j, true, time.Now()
	}
}

// gone says that nothing is there.
func (r *record) gone() bool { return r.job == nil && len(r.pods) == 0 }

const (
	// One request may take so long.
	requestTime = 30 * time.Second
	// Pending agents are looked at so often, whatever happens.
	lookEvery = 10 * time.Second
	// A full quota of Jobs is waited for so long.
	quotaTime = time.Minute
	// An API server that was away may refuse everything for so long.
	startingTime = 15 * time.Second
	// An agent that has ended may be stopped again for so long.
	stopTime = 5 * time.Minute
)

// New makes a launcher, whose watches go on until ctx ends. A cluster that does
// not answer is waited for. Errors are of the settings and wrap
// failure.ErrInput.
func New(ctx context.Context, o Options) (*Launcher, error) {
	l, err := newUnwatched(o)
	if err != nil {
		return nil, err
	}
	l.observe(ctx)
	return l, nil
}

func newUnwatched(o Options) (*Launcher, error) {
	l := &Launcher{
		client: o.Client, namespace: o.Namespace, s: o.Settings, insecure: o.Insecure, log: o.Logger, now: o.Now, keep: keep,
		wake: make(chan struct{}, 1), records: map[string]*record{}, dirty: map[string]bool{}, stopped: map[string]time.Time{},
		wait: 500 * time.Millisecond, every: lookEvery, fullFor: quotaTime, unseenFor: requestTime,
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	if o.Settings.Keep != "" {
		var err error
		if l.keep, err = time.ParseDuration(o.Settings.Keep); err != nil {
			return nil, failure.Input("server.kubernetes.keep: %w", err)
		}
	}
	var err error
	if l.template, err = podTemplate(o.Settings); err != nil {
		return nil, err
	}
	if _, err := o.Settings.Resources.Amounts(); err != nil {
		return nil, fmt.Errorf("server.kubernetes.resources: %w", err)
	}
	return l, nil
}

// Start makes the Job of a task and the Secret with its token, or what there is
// not of them. An API server that does not answer is waited for until ctx ends,
// a quota of objects that is full for a minute. What the cluster refuses in any
// case wraps failure.ErrInput.
func (l *Launcher) Start(ctx context.Context, launch runner.Launch) error {
	if len(validation.IsDNS1123Label(launch.Task)) > 0 {
		return failure.Input("%q is no id of a task", launch.Task)
	}
	j, err := l.job(launch)
	if err != nil {
		return err
	}
	l.update(launch.Task, func(r *record) { r.deleted = false }) // what is said of it from now on counts
	var made *batchv1.Job
	err = l.insist(ctx, launch.Task, "making the Job", func(ctx context.Context) (err error) {
		made, err = create(ctx, l.client.jobs(l.namespace), j, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			made, err = l.jobOf(ctx, launch.Task)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.update(launch.Task, func(r *record) { r.sees(made) })
	if finished(made) != nil || made.DeletionTimestamp != nil {
		return nil
	}
	secret := l.secret(made, launch.Token)
	return l.insist(ctx, launch.Task, "making the Secret with its token", func(ctx context.Context) error {
		_, err := create(ctx, l.client.secrets(l.namespace), secret, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// jobOf gives the Job of a task as it was seen last, or else is.
func (l *Launcher) jobOf(ctx context.Context, task string) (*batchv1.Job, error) {
	l.mu.Lock()
	r := l.records[task]
	if r != nil && r.job != nil {
		defer l.mu.Unlock()
		return r.job, nil
	}
	l.mu.Unlock()
	j := new(batchv1.Job)
	err := l.client.jobs(l.namespace).get(ctx, task, j)
	if err == nil && j.Labels[taskLabel] != task {
		return nil, failure.Input("there is a Job %s/%s that is not pipegen's", l.namespace, task)
	}
	return j, err
}

// insist makes a request until it is answered for good, and tells meanwhile why
// the agent waits.
func (l *Launcher) insist(ctx context.Context, task, what string, do func(context.Context) error) error {
	began := time.Now()
	var away time.Time // when it did not answer last
	for wait := l.wait; ; wait = min(2*wait, 30*l.wait) {
		request, cancel := context.WithTimeout(ctx, requestTime)
		err := do(request)
		cancel()
		full := isQuota(err)
		// One that has just started knows no roles yet.
		early := apierrors.IsForbidden(err) && !full && time.Since(away) < startingTime
		switch {
		case err == nil:
			l.update(task, func(r *record) { r.waits = trouble{} })
			return nil
		case errors.Is(err, failure.ErrInput):
			return err
		case ctx.Err() != nil, !full && !early && !transient(err), full && time.Since(began) > l.fullFor:
			return explain(what, l.namespace, err)
		}
		if !full && !early {
			away = time.Now()
		}
		said := explain(what, l.namespace, err)
		l.update(task, func(r *record) { r.waits = trouble{message: said.Error(), hint: failure.Hint(said)} })
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			wait = max(wait, min(time.Duration(seconds)*time.Second, requestTime))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return said
		}
	}
}

// Find says how the task's agent is. Of one that has not begun it says
// [runner.ErrNoAgent]: it may lack its token.
func (l *Launcher) Find(ctx context.Context, task string) (runner.AgentStatus, error) {
	if !l.wholeView(ctx) {
		return runner.AgentStatus{}, fmt.Errorf("looking for the agent of %s: the cluster could not be listed: %w", task, ctx.Err())
	}
	s, known := l.known(task)
	if !known {
		// It may have been made a moment ago.
		request, cancel := context.WithTimeout(ctx, requestTime)
		defer cancel()
		j, err := l.jobOf(request, task)
		switch {
		case apierrors.IsNotFound(err):
			return s, runner.ErrNoAgent
		case err != nil:
			return s, explain("looking for the Job", l.namespace, err)
		}
		l.update(task, func(r *record) { r.sees(j) })
		s, _ = l.known(task)
	}
	if s.State == runner.AgentPending {
		return s, runner.ErrNoAgent
	}
	return s, nil
}

func (l *Launcher) known(task string) (runner.AgentStatus, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[task]
	if r == nil || r.gone() && r.last == nil && !r.hadJob {
		return runner.AgentStatus{}, false
	}
	return l.status(task, r), true
}

// wholeView waits until everything that the cluster has was seen.
func (l *Launcher) wholeView(ctx context.Context) bool {
	for _, synced := range l.synced {
		select {
		case <-synced:
			continue // also if ctx has ended
		default:
		}
		select {
		case <-synced:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Stop deletes the Job of a task and returns when its pod is gone and with it
// the Secret. To stop again what it has stopped costs no request.
func (l *Launcher) Stop(ctx context.Context, task string) error {
	l.mu.Lock()
	_, known := l.records[task]
	_, gone := l.stopped[task]
	l.mu.Unlock()
	if gone && !known {
		return nil
	}
	asked := false
	l.update(task, func(r *record) { r.stopping, asked = true, r.deleted })
	if asked {
		return l.waitUntilGone(ctx, task)
	}
	foreground := metav1.DeletePropagationForeground // the Job goes when its pod is gone
	for wait := l.wait; ; wait = min(2*wait, 30*l.wait) {
		request, cancel := context.WithTimeout(ctx, requestTime)
		err := l.client.jobs(l.namespace).delete(request, task, metav1.DeleteOptions{PropagationPolicy: &foreground})
		cancel()
		if err == nil || apierrors.IsNotFound(err) {
			break
		}
		if !transient(err) || ctx.Err() != nil {
			return explain("deleting the Job", l.namespace, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return explain("deleting the Job", l.namespace, err)
		}
	}
	l.update(task, func(r *record) { r.deleted = true })
	return l.waitUntilGone(ctx, task)
}

func (l *Launcher) waitUntilGone(ctx context.Context, task string) error {
	if !l.wholeView(ctx) {
		return fmt.Errorf("waiting for the end of the agent of %s: the cluster could not be listed: %w", task, ctx.Err())
	}
	for {
		l.mu.Lock()
		r := l.records[task]
		if r == nil || r.gone() {
			delete(l.records, task)
			delete(l.dirty, task)
			l.stopped[task] = time.Now()
			l.mu.Unlock()
			return nil
		}
		changed, where := r.changed, nodeOf(r)
		l.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(l.unseenFor):
			l.seek(ctx)
		case <-ctx.Done():
			return failure.WithHint(fmt.Errorf("the pod of %s is still there%s: %w", task, where, ctx.Err()), "see that its node is Ready, or delete the pod with kubectl delete pod --force if the node is lost")
		case <-l.done:
			return fmt.Errorf("waiting for the end of the agent of %s: the launcher has ended", task)
		}
	}
}

// seek asks for Jobs that the watch should have shown long ago: those that came
// and went while it was broken it never will.
func (l *Launcher) seek(ctx context.Context) {
	l.mu.Lock()
	var unseen []string
	for task, r := range l.records {
		if r.job != nil && !r.unseen.IsZero() && time.Since(r.unseen) > l.unseenFor {
			r.unseen = time.Now()
			unseen = append(unseen, task)
		}
	}
	l.mu.Unlock()
	for _, task := range unseen {
		request, cancel := context.WithTimeout(ctx, requestTime)
		err := l.client.jobs(l.namespace).get(request, task, new(batchv1.Job))
		cancel()
		if apierrors.IsNotFound(err) {
			l.update(task, func(r *record) { r.job = nil })
		}
	}
}

func nodeOf(r *record) string {
	for _, p := range r.pods {
		if p.Spec.NodeName != "" {
			return " on node " + p.Spec.NodeName
		}
	}
	return ""
}

// update changes what is known of a task's agent and has it looked at.
func (l *Launcher) update(task string, change func(*record)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[task]
	if r == nil {
		r = &record{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{})}
		l.records[task] = r
	}
	l.alter(task, r, change)
}

// alter is update for who holds the lock.
func (l *Launcher) alter(task string, r *record, change func(*record)) {
	change(r)
	close(r.changed)
	r.changed = make(chan struct{})
	l.dirty[task] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Permissions are what a launcher is allowed to do in its namespace, and nothing
// more: resources of an API group with their verbs.
var Permissions = []Permission{
	{Group: "batch", Resource: "jobs", Verbs: []string{"create", "get", "list", "watch", "delete"}},
	{Group: "", Resource: "pods", Verbs: []string{"list", "watch"}},
	{Group: "", Resource: "secrets", Verbs: []string{"create"}},
	{Group: "", Resource: "events", Verbs: []string{"list", "watch"}},
}

// Permission is what may be done with resources.
type Permission struct {
	Group, Resource string
	Verbs           []string
}

func (p Permission) String() string { return strings.Join(p.Verbs, ", ") + " " + p.resource() }

func (p Permission) resource() string {
	if p.Group == "" {
		return p.Resource
	}
	return p.Resource + "." + p.Group
}
