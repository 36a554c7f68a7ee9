package ecs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/pipegen/pipegen/pkg/runner"
)

// look keeps what is known of tasks up to date until ctx ends.
func (l *Launcher) look(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		err := l.refresh(ctx, types.DesiredStatusRunning)
		if first && err == nil {
			// What ended while nobody looked; ECS remembers it for an hour.
			if err = l.refresh(ctx, types.DesiredStatusStopped); err != nil && !transient(err) {
				l.log.Warn("tasks that have ended cannot be listed", "err", explain("listing tasks", err))
				err = nil
			}
		}
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			l.log.Warn("tasks cannot be listed", "err", explain("listing tasks", err))
		}
		pause(ctx, l.every)
	}
	if ctx.Err() != nil {
		return
	}
	close(l.listed)
	for relist := time.Now().Add(l.listEvery); ; {
		if !pause(ctx, l.every) {
			return
		}
		if time.Now().After(relist) {
			relist = time.Now().Add(l.listEvery)
			if err := l.refresh(ctx, types.DesiredStatusRunning); err != nil && ctx.Err() == nil {
				l.log.Warn("tasks cannot be listed", "err", explain("listing tasks", err))
			}
		}
		if err := l.describe(ctx, l.live()); err != nil && ctx.Err() == nil {
			l.log.Warn("tasks cannot be looked at", "err", explain("describing tasks", err))
		}
		l.expire()
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// live gives the tasks of ECS that have not ended.
func (l *Launcher) live() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var arns []string
	for _, r := range l.records {
		if r.arn != "" && !r.gone && !ended(r.task) {
			arns = append(arns, r.arn)
		}
	}
	slices.Sort(arns)
	return arns
}

func ended(t *types.Task) bool { return t != nil && aws.ToString(t.LastStatus) == "STOPPED" }

// expire forgets tasks that ended long ago: the controllers that they were for
// would have.
func (l *Launcher) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for task, r := range l.records {
		if r.told.State == runner.AgentExited && time.Since(r.asked) > keepStopped {
			if at := r.task; at == nil || at.StoppedAt == nil || l.now().Sub(*at.StoppedAt) > keepStopped {
				l.forget(task)
			}
		}
	}
}

// refresh learns of the tasks that controllers of this family have started and
// that are not known yet.
func (l *Launcher) refresh(ctx context.Context, state types.DesiredStatus) error {
	select {
	case l.refreshing <- struct{}{}:
		defer func() { <-l.refreshing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return l.eachUnknown(ctx, state, l.saw)
}

// eachTask gives all tasks of this family.
func (l *Launcher) eachTask(ctx context.Context, state types.DesiredStatus, each func(*types.Task)) error {
	arns, err := l.list(ctx, state)
	if err != nil {
		return err
	}
	return l.eachOf(ctx, arns, each, func(string) {})
}

func (l *Launcher) eachUnknown(ctx context.Context, state types.DesiredStatus, each func(*types.Task)) error {
	arns, err := l.list(ctx, state)
	if err != nil {
		return err
	}
	l.mu.Lock()
	arns = slices.DeleteFunc(arns, func(arn string) bool { return l.arns[arn] != "" })
	l.mu.Unlock()
	return l.eachOf(ctx, arns, each, func(string) {})
}

func (l *Launcher) list(ctx context.Context, state types.DesiredStatus) ([]string, error) {
	var arns []string
	pages := sdk.NewListTasksPaginator(l.client, &sdk.ListTasksInput{Cluster: &l.s.Cluster, StartedBy: &l.s.Family, DesiredStatus: state})
	for pages.HasMorePages() {
		var page *sdk.ListTasksOutput
		if err := l.persist(ctx, func(ctx context.Context) (err error) { page, err = pages.NextPage(ctx); return err }); err != nil {
			return nil, err
		}
		arns = append(arns, page.TaskArns...)
	}
	return arns, nil
}

// eachOf gives tasks by their ARNs, a hundred with one call, and those that ECS
// does not know.
func (l *Launcher) eachOf(ctx context.Context, arns []string, each func(*types.Task), missing func(arn string)) error {
	var failures []error
	for some := range slices.Chunk(arns, batch) {
		var out *sdk.DescribeTasksOutput
		err := l.persist(ctx, func(ctx context.Context) (err error) {
			out, err = l.client.DescribeTasks(ctx, &sdk.DescribeTasksInput{Cluster: &l.s.Cluster, Tasks: some, Include: []types.TaskField{types.TaskFieldTags}})
			return err
		})
		if err != nil {
			failures = append(failures, err)
			continue
		}
		for i := range out.Tasks {
			each(&out.Tasks[i])
		}
		for _, f := range out.Failures {
			if aws.ToString(f.Reason) == "MISSING" {
				missing(aws.ToString(f.Arn))
			}
		}
	}
	return errors.Join(failures...)
}

// describe brings what is known of tasks up to date.
func (l *Launcher) describe(ctx context.Context, arns []string) error {
	return l.eachOf(ctx, arns, l.saw, l.lost)
}

// saw notes how a task of ECS is.
func (l *Launcher) saw(t *types.Task) {
	arn := aws.ToString(t.TaskArn)
	l.mu.Lock()
	task := l.arns[arn]
	if task == "" {
		task = tag(t.Tags, taskTag)
	}
	r := l.records[task]
	skip := task == "" || !taskName.MatchString(task) || r != nil && r.arn == arn && older(t, r.task) ||
		// Of two for one task, which should not be, the one that lives counts.
		r != nil && r.arn != "" && r.arn != arn && (!ended(r.task) || ended(t))
	if !skip && r != nil && r.arn == arn && unchanged(r.task, t) {
		skip, r.task, r.missing = true, t, time.Time{}
	}
	l.mu.Unlock()
	if skip {
		return
	}
	l.update(task, func(r *record) { r.arn, r.task, r.missing = arn, t, time.Time{} })
}

// older says whether a is from before b: events and answers may cross.
func older(a, b *types.Task) bool { return b != nil && a.Version < b.Version && a.Version != 0 }

func unchanged(a, b *types.Task) bool {
	return a != nil && a.Version == b.Version && aws.ToString(a.LastStatus) == aws.ToString(b.LastStatus) && aws.ToString(a.DesiredStatus) == aws.ToString(b.DesiredStatus) && a.StopCode == b.StopCode
}

// lost notes that ECS does not know a task, which it may say of one that it has
// only just started.
func (l *Launcher) lost(arn string) {
	l.mu.Lock()
	task := l.arns[arn]
	for id, r := range l.records { // the answer may have the short name
		if task == "" && r.arn != "" && strings.HasSuffix(r.arn, "/"+arn[strings.LastIndexByte(arn, '/')+1:]) {
			task = id
		}
	}
	l.mu.Unlock()
	if task == "" {
		return
	}
	l.update(task, func(r *record) {
		if r.missing.IsZero() {
			r.missing = time.Now()
		}
		r.gone = time.Since(r.asked) > l.unseenFor
	})
}

// Watch tells what becomes of agents until ctx ends. An AWS that does not
// answer is waited for. There can be one Watch at a time.
func (l *Launcher) Watch(ctx context.Context, report func(runner.AgentStatus)) error {
	select {
	case <-l.listed:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return ctx.Err()
	}
	l.mu.Lock()
	for task, r := range l.records { // a new watcher has been told nothing
		r.told = runner.AgentStatus{}
		l.dirty[task] = true
	}
	l.mu.Unlock()
	tick := time.NewTicker(max(l.every, time.Millisecond))
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
				if r.told.State == runner.AgentPending { // for too long, maybe
					l.dirty[task] = true
				}
			}
			l.mu.Unlock()
		case <-l.done:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// news gives what changed since it was told last.
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
	}
	return all
}
