package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

const (
	// signedFor is how long addresses of contexts are good.
	signedFor = 15 * time.Minute
	// exiting is how long an agent may take to exit that has reported.
	exiting = 30 * time.Second
	// hearsay is how long a launcher may take to say why an agent was told to
	// stop that has said that it was.
	hearsay = 15 * time.Second
)

// TaskOf gives the task of the agent that holds the token with this SHA-256;
// ErrNotFound. Whether the task still goes on the methods for agents say.
func (c *Controller) TaskOf(ctx context.Context, tokenHash []byte) (taskID string, err error) {
	err = c.o.Store.Ask(ctx, func(tx *store.Tx) error { taskID, err = tx.TaskOf(tokenHash); return err })
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("the task of this token: %w", ErrNotFound)
	}
	return taskID, err
}

// Token gives a token to the agent of a task that waits to be claimed, for a
// proof of who it is. [runner.ErrUnidentified]: it is not that agent;
// ErrConflict: an agent has the task, or its agents bring tokens; ErrGone: it
// has ended, or is about to.
func (c *Controller) Token(ctx context.Context, task string, proof map[string]string) (string, error) {
	may := func(t *store.Task) error {
		switch {
		case t.State.Ended():
			return fmt.Errorf("%w: task %s has ended: %s", ErrGone, task, t.State)
		case t.StopState != "":
			return fmt.Errorf("%w: task %s is being stopped: %s", ErrGone, task, t.Stop)
		case t.State != api.Starting:
			return fmt.Errorf("%w: task %s is %s: nobody waits for its agent", ErrConflict, task, t.State)
		}
		return nil
	}
	var t store.Task
	err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) { t, err = tx.Task(task); return err })
	if err != nil {
		return "", fmt.Errorf("task %s: %w", quote.Text(task), err)
	}
	if err := may(&t); err != nil {
		return "", err
	}
	l, ok := c.o.Launchers[t.Runner].(runner.Identifier)
	if !ok {
		return "", fmt.Errorf("%w: agents on %s are started with a token", ErrConflict, t.Runner)
	}
	if err := l.Identify(ctx, task, proof); err != nil {
		if errors.Is(err, runner.ErrUnidentified) {
			return "", err
		}
		c.log.Warn("an agent cannot be identified for now", "task", task, "err", err)
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	token, hash := newToken()
	return token, c.change(ctx, onTask(task), func(ch *change) error {
		t, err := ch.Task(task)
		if err != nil {
			return err
		}
		if err := may(&t); err != nil {
			return err
		}
		return ch.AddToken(hash, task)
	})
}

// Claim gives a task to an agent. It is given once: only the agent that has it
// may ask again. ErrConflict: another one has it; ErrGone: it has ended, or is
// about to.
func (c *Controller) Claim(ctx context.Context, task string, cl api.Claim) (api.Assignment, error) {
	var none api.Assignment
	if cl.Agent == "" || len(cl.Agent) > 256 || len(cl.Version) > 256 {
		return none, failure.Input("a claim needs the name of the agent, of at most 256 bytes")
	}
	var t *store.Task
	var r store.Run
	var needed []store.Image
	var size int64
	err := c.change(ctx, onTask(task), func(ch *change) (err error) {
		if t, err = ch.task(task); err != nil {
			return fmt.Errorf("task %s: %w", quote.Text(task), err)
		}
		switch {
		case t.State.Ended():
			return fmt.Errorf("%w: task %s has ended: %s", ErrGone, task, t.State)
		case t.StopState != "":
			return fmt.Errorf("%w: task %s is being stopped: %s", ErrGone, task, t.Stop)
		case t.State == api.Running && t.Agent != cl.Agent:
			return fmt.Errorf("%w: another agent has task %s", ErrConflict, task)
		case t.State != api.Starting && t.State != api.Running || t.Build == "":
			return fmt.Errorf("%w: task %s is %s and not for an agent", ErrConflict, task, t.State)
		}
		run, err := ch.run(t.Run)
		if err != nil {
			return err
		}
		r, needed = *run, nil
		if r.Images > 1 {
			if needed, err = ch.Needed(t.Run, t.Image); err != nil {
				return err
			}
		}
		if r.Context != "" {
			if size, err = ch.HasContext(r.Context); err != nil {
				return fmt.Errorf("context %s: %w", r.Context, err)
			}
		}
		if t.State == api.Running {
			return nil
		}
		t.Agent = cl.Agent
		t.Deadline = ch.now.Add(min(t.Timeout, max(r.Started.Add(r.Timeout).Sub(ch.now), 0)))
		ch.say(t.Run, about(t, "", api.Running), "info", "running%s", prefixed(", agent ", quote.Text(cl.Version)))
		return ch.move(t, api.Running, "")
	})
	if err != nil {
		return none, err
	}
	c.claims.put(task, claimed{t.Build, t.Changed, t.Lines})
	return c.assign(ctx, t, &r, needed, size)
}

// assign makes what an agent is given.
func (c *Controller) assign(ctx context.Context, t *store.Task, r *store.Run, needed []store.Image, size int64) (a api.Assignment, err error) {
	in, err := c.inputs(ctx, t.Run)
	if err != nil {
		return a, err
	}
	p, err := in.plan.Slice(t.Build)
	if err != nil {
		return a, err
	}
	img, b, _ := p.Find(t.Build)
	secret, err := c.unseal(in.sealed)
	if err != nil {
		return a, err
	}
	a = api.Assignment{
		Task: t.ID, Run: t.Run, Build: t.Build, Attempt: t.Attempt, Plan: p, Credentials: secret.Credentials, Deadline: t.Deadline,
		HeartbeatSeconds: max(1, int(math.Round(c.o.Limits.Heartbeat.Seconds()))), LogFrom: t.Lines, LogBytes: max(c.o.Limits.LogBytes-t.Bytes, 1), Trace: r.Trace,
	}
	for _, name := range secretsOf(img, b) {
		if value, ok := secret.Secrets[name]; ok {
			if a.Secrets == nil {
				a.Secrets = map[string]string{}
			}
			a.Secrets[name] = value
		}
	}
	a.ReadStored = c.agentsRead(t.Runner)
	kept, err := c.stored(ctx, r.Submitter, t.Runner, b)
	if err != nil {
		return a, err
	}
	if a.Secrets == nil {
		a.Secrets = kept
	}
	maps.Copy(a.Secrets, kept)
	for i := range needed {
		if needed[i].Published == nil {
			continue // it pushes nothing
		}
		var pub plan.Published
		if err := json.Unmarshal(needed[i].Published, &pub); err != nil {
			return a, fmt.Errorf("image %s: %w", needed[i].Name, err)
		}
		a.Published = append(a.Published, pub)
	}
	if r.Context == "" || img.Source != nil {
		return a, nil
	}
	a.Context = &api.ContextSource{Digest: r.Context, Size: size}
	a.Context.SignedURL, err = c.o.Blobs.SignGet(ctx, contextKey(r.Context), signedFor)
	if errors.Is(err, blob.ErrNotSigned) {
		a.Context.SignedURL, err = api.SignedURL{URL: "/v1/tasks/" + t.ID + "/context"}, nil
	}
	return a, err
}

// secretsOf gives the names of the variables that a build and its source take secrets from.
func secretsOf(img *plan.Image, b *plan.Build) []string {
	names := ownSecrets(img, b)
	if img.Source != nil && img.Source.Auth == nil {
		names = append(names, plan.OwnGitLab...)
	}
	return names
}

// ownSecrets gives those of them that the configuration names.
func ownSecrets(img *plan.Image, b *plan.Build) []string {
	names := b.Credentials()
	if img.Source != nil && img.Source.Auth != nil {
		names = append(names, img.Source.Auth.TokenEnv, img.Source.Auth.SSHKeyEnv)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// Heartbeat notes that an agent lives, and says whether it is to stop. ErrConflict:
// nobody claimed the task.
func (c *Controller) Heartbeat(ctx context.Context, task string, h api.Heartbeat) (ack api.HeartbeatAck, err error) {
	if h.Usage != nil && !(h.Usage.CPUSeconds >= 0 && h.Usage.CPUSeconds < 1e12 && h.Usage.PeakMemory >= 0) {
		return ack, failure.Input("the usage is less than nothing")
	}
	err = c.o.Store.Write(ctx, onTask(task), func(tx *store.Tx) error {
		t, err := tx.Task(task)
		switch {
		case err != nil:
			return fmt.Errorf("task %s: %w", quote.Text(task), err)
		case t.State.Ended():
			ack = api.HeartbeatAck{Cancel: true, Reason: fmt.Sprintf("the task has ended: %s", t.State)}
			return nil
		case t.State != api.Running:
			return fmt.Errorf("%w: task %s is %s, nobody claimed it", ErrConflict, task, t.State)
		}
		ack = api.HeartbeatAck{Cancel: t.StopState != "", Reason: t.Stop}
		return tx.Beat(task, h.Usage)
	})
	return ack, err
}

var imageDigest = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

// Finish ends a task as its agent reports. The same report may come again.
// ErrConflict: lines of its log are missing, or nobody claimed it; ErrGone: it
// ended in another way, and the report is refused.
func (c *Controller) Finish(ctx context.Context, task string, r api.TaskResult) error {
	return c.finish(ctx, task, r, false)
}

// finish is Finish. Unless it is final, the end of an agent that was told to
// stop waits for what the launcher hears of who did that, and why.
func (c *Controller) finish(ctx context.Context, task string, r api.TaskResult, final bool) error {
	if r.Usage != nil && !(r.Usage.CPUSeconds >= 0 && r.Usage.CPUSeconds < 1e12 && r.Usage.PeakMemory >= 0) {
		return failure.Input("the usage is less than nothing")
	}
	wrong, err := c.wrongResult(ctx, task, r.Result)
	if err != nil {
		return err
	}
	var runnerName string
	waits := false
	err = c.change(ctx, onTask(task), func(ch *change) error {
		waits = false
		t, err := ch.taskOfImage(task)
		if err != nil {
			return fmt.Errorf("task %s: %w", quote.Text(task), err)
		}
		state, why, result, err := verdict(t, &r, wrong)
		switch {
		case err != nil:
			return err
		case t.State.Ended() && t.State == state && t.Reason == why && string(t.Result) == string(result) && t.Agent != "":
			return nil // said again
		case t.State.Ended():
			return fmt.Errorf("%w: task %s has ended: %s", ErrGone, task, t.State)
		case t.State != api.Running:
			return fmt.Errorf("%w: task %s is %s, nobody claimed it", ErrConflict, task, t.State)
		case r.LogLines > t.Lines:
			return fmt.Errorf("%w: the log of task %s has %d of %d lines", ErrConflict, task, t.Lines, r.LogLines)
		case !final && state == api.Lost && r.Error == api.ToldToStop && !slices.Contains(c.o.Local, t.Runner):
			waits = true
			return nil
		}
		t.Result = result
		if result != nil {
			t.Digest = r.Result.Digest
		}
		if r.Usage != nil {
			t.Usage = r.Usage
		}
		runnerName = t.Runner
		return ch.end(t, state, why)
	})
	c.claims.drop(task)
	if err == nil && waits {
		c.work.Go(func() {
			if !pause(c.running, hearsay) {
				return
			}
			// As a rule it has ended meanwhile.
			if err := c.finish(c.running, task, r, true); err != nil && !errors.Is(err, ErrGone) && c.running.Err() == nil {
				c.log.Warn("ending a task whose agent was told to stop", "task", task, "err", err)
			}
		})
	}
	if err == nil && runnerName != "" {
		c.forget(runnerName, task, exiting)
	}
	return err
}

// verdict says what a report means for a task; wrong is what is wrong with its result.
func verdict(t *store.Task, r *api.TaskResult, wrong string) (state api.State, why string, result []byte, err error) {
	if r.Result != nil && r.Error == "" && !r.Cancelled && !r.Infrastructure {
		if wrong != "" {
			return api.Failed, wrong, nil, nil
		}
		result, err = json.Marshal(r.Result)
		return api.Succeeded, "", result, err
	}
	why = words(r.Error, r.Hint)
	switch {
	case t.StopState != "":
		return t.StopState, t.Stop, nil, nil
	case r.Cancelled: // but not by this controller
		return api.Lost, either(why == "", "its agent was told to stop", why), nil, nil
	case r.Infrastructure:
		return api.Lost, either(why == "", "its agent could not go on", why), nil, nil
	}
	return api.Failed, either(why == "", "its agent gave no reason", why), nil, nil
}

// wrongResult says what is wrong with the result of a task; empty: nothing.
func (c *Controller) wrongResult(ctx context.Context, task string, r *plan.Result) (string, error) {
	if r == nil {
		return "", nil
	}
	t, err := c.claimed(ctx, task)
	if err != nil {
		return "", fmt.Errorf("task %s: %w", quote.Text(task), err)
	}
	p, err := c.plan(ctx, runOf(task))
	if err != nil {
		return "", err
	}
	_, b, ok := p.Find(t.build)
	switch {
	case !ok || r.ID != t.build:
		return "its agent reported the result of another build, " + quote.Text(r.ID), nil
	case b.Pushes() && !imageDigest.MatchString(r.Digest):
		return "its agent reported no digest of what was pushed", nil
	}
	return "", nil
}

// Cancel ends a run: what is queued at once, what runs as soon as nothing of it
// runs any more; until then the run is running, and its reason says what is
// going on. Cancelling again does nothing. ErrConflict: the run has ended.
func (c *Controller) Cancel(ctx context.Context, id, by, reason string) (api.Run, error) {
	err := c.change(ctx, onRun(id), func(ch *change) error {
		run, err := ch.run(id)
		switch {
		case err != nil:
			return fmt.Errorf("run %s: %w", quote.Text(id), err)
		case run.State.Ended():
			return fmt.Errorf("%w: run %s has ended: %s", ErrConflict, id, run.State)
		case run.StopState != "":
			return nil
		}
		return ch.stop(run, api.Cancelled, words("cancelled by "+by+prefixed(": ", reason), ""))
	})
	if err != nil {
		return api.Run{}, err
	}
	return c.Get(ctx, id)
}
