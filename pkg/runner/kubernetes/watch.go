package kubernetes

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/pkg/runner"
)

// trouble is what the cluster says of an agent that has not begun, or why
// Start waits.
type trouble struct {
	reason, message, hint string
}

// observe starts the watches that all tasks share, until ctx ends: of Jobs and
// pods by their label, and of warnings in the namespace.
func (l *Launcher) observe(ctx context.Context) {
	ours := func(o *metav1.ListOptions) { o.LabelSelector = managedBy + "=" + itself }
	failed := func(what string) func(context.Context, error) {
		return func(ctx context.Context, err error) {
			if ctx.Err() == nil && !expired(err) {
				l.log.Warn("watching the cluster", "what", what, "err", err)
			}
		}
	}
	jobs := &informer[batchv1.Job, *batchv1.Job]{
		objects: l.client.jobs(l.namespace), narrow: ours, failed: failed("jobs"), synced: make(chan struct{}),
		seen: func(j *batchv1.Job) { l.sawJob(j, false) }, gone: func(j *batchv1.Job) { l.sawJob(j, true) },
	}
	pods := &informer[corev1.Pod, *corev1.Pod]{
		objects: l.client.pods(l.namespace), narrow: ours, failed: failed("pods"), synced: make(chan struct{}),
		seen: func(p *corev1.Pod) { l.sawPod(p, false) }, gone: func(p *corev1.Pod) { l.sawPod(p, true) },
	}
	warnings := &informer[corev1.Event, *corev1.Event]{
		objects: l.client.events(l.namespace), failed: failed("events"), synced: make(chan struct{}), seen: l.sawEvent,
		narrow: func(o *metav1.ListOptions) { o.FieldSelector = "type=" + corev1.EventTypeWarning },
	}
	l.synced = []<-chan struct{}{jobs.synced, pods.synced}
	var watches sync.WaitGroup
	for _, run := range []func(context.Context){jobs.run, pods.run, warnings.run} {
		watches.Go(func() { run(ctx) })
	}
	done := make(chan struct{})
	l.done = done
	go func() {
		watches.Wait()
		close(done)
	}()
}

// slim takes away what nobody looks at: thousands of objects are kept.
func slim(o metav1.Object) {
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *batchv1.Job:
		o.Spec.Template = corev1.PodTemplateSpec{}
	case *corev1.Pod:
		for i := range o.Spec.Containers {
			c := &o.Spec.Containers[i]
			o.Spec.Containers[i] = corev1.Container{Name: c.Name, Image: c.Image, ImagePullPolicy: c.ImagePullPolicy, Resources: c.Resources}
		}
		o.Spec.Volumes, o.Spec.Tolerations = nil, nil
	}
}

func (l *Launcher) sawJob(j *batchv1.Job, gone bool) {
	task := j.Labels[taskLabel]
	if task == "" || task != j.Name {
		return
	}
	l.saw(task, gone, func(r *record) {
		if gone && r.job != nil && r.job.UID != j.UID {
			return // another of this name has come since
		}
		r.hadJob, r.job, r.unseen = true, j, time.Time{}
		if gone {
			r.job = nil
		}
	})
}

func (l *Launcher) sawPod(p *corev1.Pod, gone bool) {
	task := p.Labels[taskLabel]
	if task == "" {
		return
	}
	l.saw(task, gone, func(r *record) {
		r.pods[p.UID] = p
		if gone {
			delete(r.pods, p.UID)
			r.last, r.went = p, l.now()
		}
	})
}

// saw updates what is known; what goes of which nothing is known was forgotten.
func (l *Launcher) saw(task string, gone bool, change func(*record)) {
	if !gone {
		l.update(task, change)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.records[task]; r != nil {
		l.alter(task, r, change)
	}
}

// troubles are the reasons of warnings that explain why an agent does not begin
// or may have been lost.
var troubles = []string{"FailedCreate", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedCreatePodContainer", nodeNotReady}

const nodeNotReady = "NodeNotReady"

func (l *Launcher) sawEvent(e *corev1.Event) {
	if !slices.Contains(troubles, e.Reason) {
		return
	}
	task := e.InvolvedObject.Name
	switch e.InvolvedObject.Kind {
	case "Job":
	case "Pod": // TASK-xxxxx
		task = task[:max(strings.LastIndexByte(task, '-'), 0)]
	default:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Events of others are of no interest; what matters comes again.
	if r := l.records[task]; r != nil {
		l.alter(task, r, func(r *record) { r.trouble = &trouble{reason: e.Reason, message: e.Message} })
	}
}

// Watch tells what becomes of agents until ctx ends. A cluster that does not
// answer is waited for. There can be one Watch at a time.
func (l *Launcher) Watch(ctx context.Context, report func(runner.AgentStatus)) error {
	if !l.wholeView(ctx) {
		return ctx.Err()
	}
	l.mu.Lock()
	for task, r := range l.records { // a new watcher has been told nothing
		r.told = runner.AgentStatus{}
		l.dirty[task] = true
	}
	l.mu.Unlock()
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		for _, s := range l.news() {
			report(s)
		}
		select {
		case <-l.wake:
		case <-tick.C:
			l.mu.Lock()
			for task, r := range l.records {
				if r.told.State == runner.AgentPending || r.last != nil {
					l.dirty[task] = true
				}
			}
			maps.DeleteFunc(l.stopped, func(_ string, when time.Time) bool { return time.Since(when) > stopTime })
			l.mu.Unlock()
			l.seek(ctx)
		case <-l.done:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// news gives what changed since it was told last, and forgets agents of which
// nothing is left to tell.
func (l *Launcher) news() []runner.AgentStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []runner.AgentStatus
	for _, task := range slices.Sorted(maps.Keys(l.dirty)) {
		delete(l.dirty, task)
		r := l.records[task]
		if r == nil || r.stopping {
			continue
		}
		if s := l.status(task, r); !s.Equal(r.told) && r.told.State != runner.AgentExited {
			r.told = s
			all = append(all, s)
		}
		if r.gone() && r.told.State == runner.AgentExited {
			delete(l.records, task)
		}
	}
	return all
}
