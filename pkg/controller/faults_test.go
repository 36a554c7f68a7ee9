package controller

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// task gives the latest attempt at a build of a run; without a build at the first publication.
func task(r api.Run, build string) (found api.Task) {
	for _, img := range r.Images {
		for _, t := range img.Tasks {
			if t.Build == build {
				found = t
			}
		}
		if found.ID != "" {
			break
		}
	}
	return found
}

func TestLostAgents(t *testing.T) {
	for name, c := range map[string]struct {
		// What the first attempt at app@amd64 does.
		first  func(a *agent) error
		change func(*Options)
		reason string
		states string // of the first attempt
	}{
		"infrastructure": {first: func(a *agent) error {
			if err := a.claim(); err != nil {
				return err
			}
			return a.Finish(a.ctx, a.Task, api.TaskResult{Error: "no space left", Hint: "more disk", Infrastructure: true})
		}, reason: "no space left (more disk)", states: "queued starting running lost"},
		"died": {first: func(a *agent) error {
			if err := a.claim(); err != nil {
				return err
			}
			return errors.New("killed by signal 9")
		}, reason: "killed by signal 9", states: "queued starting running lost"},
		"told to stop by others": {first: func(a *agent) error {
			if err := a.claim(); err != nil {
				return err
			}
			return a.Finish(a.ctx, a.Task, api.TaskResult{Cancelled: true})
		}, reason: "its agent was told to stop", states: "queued starting running lost"},
		"told to stop, as the launcher knows": {first: func(a *agent) error {
			if err := toldToStop(a); err != nil {
				return err
			}
			return errors.New("the node ran low on disk")
		}, reason: "the node ran low on disk", states: "queued starting running lost"},
		"told to stop on this machine": {first: toldToStop, change: func(o *Options) { o.Local = []string{"local"} },
			reason: api.ToldToStop, states: "queued starting running lost"},
		"never claimed": {first: func(*agent) error { return nil }, reason: "its agent exited with code 0 and left no result", states: "queued starting lost"},
		"never started": {first: func(a *agent) error { <-a.ctx.Done(); return nil }, change: func(o *Options) { o.Limits.Start = 50 * time.Millisecond },
			reason: "its agent did not start within 50ms", states: "queued starting lost"},
		"silent": {first: func(a *agent) error {
			if err := a.claim(); err != nil {
				return err
			}
			<-a.ctx.Done()
			return nil
		}, change: func(o *Options) { o.Limits.Silence = 100 * time.Millisecond }, reason: "its agent said nothing for 100ms", states: "queued starting running lost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var change []func(*Options)
			if c.change != nil {
				change = append(change, c.change)
			}
			w := newWorld(t, func(a *agent) error {
				if a.Build == "app@amd64" && strings.HasSuffix(a.Task, "-1") {
					return c.first(a)
				}
				return builds(a)
			}, change...)
			run := w.end(w.submit("app").ID)
			if run.State != api.Succeeded {
				t.Errorf("%s %s", run.State, run.Reason)
			}
			tasks := run.Images[0].Tasks
			if len(tasks) != 4 || tasks[0].State != api.Lost || tasks[0].Reason != c.reason || states(tasks[0]) != c.states || tasks[1].Attempt != 2 || tasks[1].State != api.Succeeded {
				t.Errorf("%+v", tasks)
			}
			said := false
			for _, l := range w.log(run.ID, true) {
				said = said || l.Build == "app@amd64" && l.State == api.Lost && l.Message == "lost: "+c.reason+"; trying again in 1ms (2 of 3)"
			}
			if !said {
				t.Error("the log does not say that it was lost")
			}
		})
	}
}

// toldToStop is an agent that somebody else has stopped.
func toldToStop(a *agent) error {
	if err := a.claim(); err != nil {
		return err
	}
	return a.Finish(a.ctx, a.Task, api.TaskResult{Error: api.ToldToStop, Infrastructure: true})
}

func TestAttemptsEnd(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		if a.Build == "app@amd64" {
			return errors.New("no node")
		}
		return builds(a)
	})
	run := w.end(w.submit("app").ID)
	if run.State != api.Failed || run.Reason != "app: app@amd64 lost: no node" || len(run.Images[0].Tasks) != 5 {
		t.Errorf("%s %q, %d tasks", run.State, run.Reason, len(run.Images[0].Tasks))
	}
}

func TestLauncherFails(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		state  api.State
		reason string
	}{
		"away":        {errors.New("connection refused"), api.Succeeded, ""},
		"wrong input": {failure.WithHint(failure.Input("9 CPU are too many"), "ask for 8"), api.Failed, "app: app@amd64 failed: 9 CPU are too many (ask for 8)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, builds)
			w.launcher.mu.Lock()
			w.launcher.startErr = func(l runner.Launch) error {
				if l.Build == "app@amd64" && strings.HasSuffix(l.Task, "-1") {
					return c.err
				}
				return nil
			}
			w.launcher.mu.Unlock()
			if run := w.end(w.submit("app").ID); run.State != c.state || run.Reason != c.reason {
				t.Errorf("%s %q", run.State, run.Reason)
			}
		})
	}
}

// An attempt begins only when nothing of the one before it runs any more, and
// what that still says is refused.
func TestLateReport(t *testing.T) {
	stuck := make(chan struct{})
	var old atomic.Pointer[agent]
	var running, together atomic.Int32
	w := newWorld(t, func(a *agent) error {
		if a.Build != "app@amd64" {
			return builds(a)
		}
		if running.Add(1) > 1 {
			together.Add(1)
		}
		defer running.Add(-1)
		if strings.HasSuffix(a.Task, "-1") {
			if err := a.claim(); err != nil {
				return err
			}
			old.Store(a)
			<-stuck // it hears nothing, not even SIGTERM
			return nil
		}
		return builds(a)
	}, func(o *Options) { o.Limits.Silence = 100 * time.Millisecond })
	run := w.submit("app")
	w.until(run.ID, func(api.Run) bool { return old.Load() != nil })
	time.Sleep(400 * time.Millisecond) // it is silent, and being stopped
	r, err := w.Get(t.Context(), run.ID)
	if err != nil || task(r, "app@amd64").Attempt != 1 {
		t.Errorf("the next attempt began beside a living agent: %+v", r)
	}
	close(stuck)
	run = w.end(run.ID)
	if run.State != api.Succeeded || task(run, "app@amd64").Attempt != 2 || together.Load() != 0 {
		t.Errorf("%s %s, together %d", run.State, run.Reason, together.Load())
	}
	a := old.Load()
	late := context.Background()
	if err := a.Finish(late, a.Task, api.TaskResult{Result: &plan.Result{ID: a.Build, Digest: digestOf("late")}}); !errors.Is(err, ErrGone) {
		t.Errorf("late result: %v", err)
	}
	if _, err := a.AppendLog(late, a.Task, api.TaskLog{From: 0, Lines: []api.TaskLine{{Message: "late"}}}); !errors.Is(err, ErrGone) {
		t.Errorf("late lines: %v", err)
	}
	if _, err := a.Claim(late, a.Task, api.Claim{Agent: a.name}); !errors.Is(err, ErrGone) {
		t.Errorf("late claim: %v", err)
	}
	if ack, err := a.Heartbeat(late, a.Task, api.Heartbeat{}); err != nil || !ack.Cancel {
		t.Errorf("late heartbeat: %+v %v", ack, err)
	}
	if _, _, err := w.OpenContext(late, a.Task, 0); !errors.Is(err, ErrGone) {
		t.Errorf("late context: %v", err)
	}
}

func TestClaimWinsOnce(t *testing.T) {
	var won, lost atomic.Int32
	w := newWorld(t, func(a *agent) error {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				other := *a
				other.name = fmt.Sprintf("%p", &other)
				switch err := other.claim(); {
				case err == nil:
					won.Add(1)
					if err := other.claim(); err != nil {
						t.Errorf("the same agent asks again: %v", err)
					}
					other.lines = 0
					if err := other.succeed(); err != nil {
						t.Error(err)
					}
					if err := other.succeed(); err != nil {
						t.Errorf("the same report again: %v", err)
					}
				case errors.Is(err, ErrConflict), errors.Is(err, ErrGone):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return nil
	})
	if run := w.end(w.submit("app").ID); run.State != api.Succeeded || won.Load() != 2 || lost.Load() != 14 {
		t.Errorf("%s, %d won, %d lost", run.State, won.Load(), lost.Load())
	}
}

func TestAgentsOutOfOrder(t *testing.T) {
	w := newWorld(t, func(a *agent) error { <-a.ctx.Done(); return nil })
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool { return task(r, "app@amd64").State == api.Starting })
	id := run.Images[0].Tasks[0].ID
	if _, err := w.AppendLog(t.Context(), id, api.TaskLog{}); !errors.Is(err, ErrConflict) {
		t.Errorf("lines before the claim: %v", err)
	}
	if _, err := w.Heartbeat(t.Context(), id, api.Heartbeat{}); !errors.Is(err, ErrConflict) {
		t.Errorf("heartbeat before the claim: %v", err)
	}
	if err := w.Finish(t.Context(), id, api.TaskResult{Error: "x"}); !errors.Is(err, ErrConflict) {
		t.Errorf("result before the claim: %v", err)
	}
	for what, call := range map[string]func(id string) error{
		"claim":     func(id string) error { _, err := w.Claim(t.Context(), id, api.Claim{Agent: "a"}); return err },
		"lines":     func(id string) error { _, err := w.AppendLog(t.Context(), id, api.TaskLog{}); return err },
		"heartbeat": func(id string) error { _, err := w.Heartbeat(t.Context(), id, api.Heartbeat{}); return err },
		"result":    func(id string) error { return w.Finish(t.Context(), id, api.TaskResult{Error: "x"}) },
		"context":   func(id string) error { _, _, err := w.OpenContext(t.Context(), id, 0); return err },
	} {
		if err := call("nosuchtask"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of no task: %v", what, err)
		}
	}
	if _, err := w.Claim(t.Context(), run.Images[0].Tasks[2].ID, api.Claim{Agent: "a"}); !errors.Is(err, ErrConflict) {
		t.Errorf("claiming a publication: %v", err)
	}
	for _, bad := range []api.TaskLog{{From: -1}} {
		if _, err := w.AppendLog(t.Context(), id, bad); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := w.Finish(t.Context(), id, api.TaskResult{Usage: &api.Usage{PeakMemory: -1}}); !errors.Is(err, failure.ErrInput) {
		t.Errorf("negative usage: %v", err)
	}
}

func TestCancel(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(a *agent) error
		change  func(w *Options)
		publish bool // hangs until it is cancelled
		at      func(r api.Run) bool
		state   string // history of app@amd64
	}{
		"queued": {do: builds, change: func(o *Options) { o.Limits.Runner = map[string]int{"local": 0} },
			at: func(api.Run) bool { return true }, state: "queued cancelled"},
		"starting": {do: func(a *agent) error { <-a.ctx.Done(); return nil },
			at: func(r api.Run) bool { return task(r, "app@amd64").State == api.Starting }, state: "queued starting cancelled"},
		"running": {do: stays,
			at: func(r api.Run) bool { return task(r, "app@amd64").State == api.Running }, state: "queued starting running cancelled"},
		"running, and the agent says nothing": {do: func(a *agent) error {
			if err := a.claim(); err != nil {
				return err
			}
			<-a.ctx.Done()
			return nil
		}, at: func(r api.Run) bool { return task(r, "app@amd64").State == api.Running }, state: "queued starting running cancelled"},
		"one build done": {do: func(a *agent) error {
			if a.Build == "app@amd64" {
				return builds(a)
			}
			return stays(a)
		}, at: func(r api.Run) bool {
			return task(r, "app@amd64").State == api.Succeeded && task(r, "app@arm64").State == api.Running
		}, state: "queued starting running succeeded"},
		"publishing": {do: builds, publish: true,
			at: func(r api.Run) bool { return task(r, "").State == api.Publishing }, state: "queued starting running succeeded"},
		"lost, waiting for another attempt": {do: func(a *agent) error { return errors.New("gone") }, change: func(o *Options) { o.Limits.Backoff = time.Hour },
			at:    func(r api.Run) bool { return task(r, "app@amd64").Attempt == 2 && task(r, "app@arm64").Attempt == 2 },
			state: "queued cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.do, func(o *Options) {
				if c.change != nil {
					c.change(o)
				}
				if c.publish {
					o.Publish = func(ctx context.Context, _ *plan.Plan, _ *plan.Image, _ []plan.Result, _ []api.Credential, _ func(level, msg string)) (plan.Published, error) {
						<-ctx.Done()
						return plan.Published{}, ctx.Err()
					}
				}
			})
			run := w.submit("app", "dep<app")
			w.until(run.ID, c.at)
			if _, err := w.Cancel(t.Context(), run.ID, "me", "no need"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Cancel(t.Context(), run.ID, "me", "again"); err != nil && !errors.Is(err, ErrConflict) {
				t.Errorf("cancelling again: %v", err)
			}
			run = w.end(run.ID)
			if run.State != api.Cancelled || run.Reason != "cancelled by me: no need" || run.Finished == nil {
				t.Errorf("%s %q", run.State, run.Reason)
			}
			for _, img := range run.Images {
				if img.State != api.Cancelled || img.Reason == "" {
					t.Errorf("image %s: %s %q", img.Name, img.State, img.Reason)
				}
				for _, task := range img.Tasks {
					if !task.State.Ended() {
						t.Errorf("task %+v", task)
					}
				}
			}
			if got := states(task(run, "app@amd64")); got != c.state {
				t.Errorf("states %q, want %q", got, c.state)
			}
			w.launcher.mu.Lock()
			for id, a := range w.launcher.agents {
				if a.ctx.Err() == nil && a.status.State != runner.AgentExited {
					t.Errorf("agent of %s still runs", id)
				}
			}
			w.launcher.mu.Unlock()
			if _, err := w.Cancel(t.Context(), run.ID, "me", ""); !errors.Is(err, ErrConflict) {
				t.Errorf("cancelling what has ended: %v", err)
			}
			if lines := w.messages(w.log(run.ID, true)); lines[len(lines)-1] != "the run was cancelled: cancelled by me: no need" {
				t.Errorf("the log ends with %q", lines[len(lines)-1])
			}
		})
	}
}

// An agent whose launcher cannot stop it does not hold the run for ever, and is
// stopped when that is possible again.
func TestStopFails(t *testing.T) {
	w := newWorld(t, stays, func(o *Options) { o.Limits.Silence = time.Second })
	w.launcher.mu.Lock()
	away := true
	w.launcher.stopErr = func(string) error {
		w.launcher.mu.Lock()
		defer w.launcher.mu.Unlock()
		if away {
			return errors.New("the API server is away")
		}
		return nil
	}
	w.launcher.mu.Unlock()
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool {
		return task(r, "app@amd64").State == api.Running && task(r, "app@arm64").State == api.Running
	})
	if _, err := w.Cancel(t.Context(), run.ID, "me", ""); err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	if got := task(run, "app@amd64"); run.State != api.Cancelled || !strings.Contains(got.Reason, "could not be stopped: the API server is away") {
		t.Errorf("%s %+v", run.State, got)
	}
	w.launcher.mu.Lock()
	away = false
	w.launcher.mu.Unlock()
	for range 1000 {
		w.launcher.mu.Lock()
		n := len(w.launcher.agents)
		w.launcher.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the agents were never stopped")
}

func TestTimeouts(t *testing.T) {
	t.Run("build", func(t *testing.T) {
		w := newWorld(t, func(a *agent) error {
			if a.Build == "app@amd64" {
				return stays(a)
			}
			return builds(a)
		})
		p := planOf("app")
		p.Images[0].Builds[0].Timeout = "100ms"
		run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: p}, Submitter: "x"})
		if err != nil {
			t.Fatal(err)
		}
		run = w.end(run.ID)
		if got := task(run, "app@amd64"); run.State != api.Failed || got.State != api.Failed || got.Reason != "it took longer than 100ms" || got.Attempt != 1 {
			t.Errorf("%s %+v", run.State, got)
		}
	})
	t.Run("run", func(t *testing.T) {
		w := newWorld(t, stays)
		run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("app", "dep<app"), Timeout: "300ms"}, Submitter: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if run = w.end(run.ID); run.State != api.Failed || run.Reason != "the run took longer than 300ms" {
			t.Errorf("%s %q", run.State, run.Reason)
		}
	})
}

func TestPublishing(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		state    api.State
		attempts int
	}{
		"verdict":   {errors.New("the tag is immutable"), api.Failed, 1},
		"temporary": {fmt.Errorf("pushing: %w", ErrUnavailable), api.Succeeded, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			w := newWorld(t, builds, func(o *Options) {
				real := o.Publish
				o.Publish = func(ctx context.Context, p *plan.Plan, img *plan.Image, results []plan.Result, creds []api.Credential, log func(level, msg string)) (plan.Published, error) {
					if len(results) != 2 || results[0].ID != "app@amd64" || len(creds) != 1 {
						t.Errorf("%+v %+v", results, creds)
					}
					if n.Add(1) == 1 {
						return plan.Published{}, c.err
					}
					return real(ctx, p, img, results, creds, log)
				}
			})
			run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("app"), Credentials: []api.Credential{{Registry: "r"}}}, Submitter: "x"})
			if err != nil {
				t.Fatal(err)
			}
			if run = w.end(run.ID); run.State != c.state || int(n.Load()) != c.attempts {
				t.Errorf("%s %q after %d attempts", run.State, run.Reason, n.Load())
			}
		})
	}
}

// A controller that stops leaves its agents alone, and the next one goes on.
func TestRestart(t *testing.T) {
	goOn := make(chan struct{})
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		if err := a.say("before"); err != nil {
			return err
		}
		<-goOn
		if err := a.say("after"); err != nil {
			return err
		}
		return a.succeed()
	})
	run := w.submit("app")
	w.until(run.ID, func(api.Run) bool {
		n := 0
		for _, l := range w.log(run.ID, false) {
			if l.Message == "before" {
				n++
			}
		}
		return n == 2
	})
	w.restart()
	close(goOn)
	run = w.end(run.ID)
	if run.State != api.Succeeded || len(w.launcher.started()) != 2 || task(run, "app@amd64").Attempt != 1 {
		t.Errorf("%s, started %v", run.State, w.launcher.started())
	}
}

// What was killed between taking a task and starting its agent, or while
// publishing, is done by the next one; what had an agent has no second.
func TestTakenUp(t *testing.T) {
	w := newWorld(t, builds)
	w.stop()
	run := w.submit("app", "other", "third")
	tasks := map[string]string{}
	err := w.change(t.Context(), onRun(run.ID), func(ch *change) error {
		for i := range run.Images {
			ts, err := ch.ImageTasks(run.ID, i)
			if err != nil {
				return err
			}
			for j := range ts {
				tasks[ts[j].Build] = ts[j].ID
				ts[j].Owner = "one"
				switch {
				case ts[j].Build == "":
					if i == 2 {
						ts[j].Ready = true
						if err := ch.move(&ts[j], api.Publishing, ""); err != nil {
							return err
						}
					}
				case i == 2: // done already
					ts[j].Result = []byte(`{"id":"` + ts[j].Build + `"}`)
					err = ch.move(&ts[j], api.Succeeded, "")
				default:
					err = ch.move(&ts[j], api.Starting, "")
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Other's had come to an agent.
	for _, b := range []string{"other@amd64", "other@arm64"} {
		if err := w.launcher.Start(t.Context(), runner.Launch{Task: tasks[b], Run: run.ID, Build: b}); err != nil {
			t.Fatal(err)
		}
	}
	w.start()
	run = w.end(run.ID)
	if run.State != api.Succeeded || len(w.launcher.started()) != 4 {
		t.Errorf("%s %s, started %v", run.State, run.Reason, w.launcher.started())
	}
}

// second starts another controller on the same database.
func (w *world) second(name string) (c *Controller, stop func() error) {
	w.t.Helper()
	st, err := store.Open(w.t.Context(), w.where)
	if err != nil {
		w.t.Fatal(err)
	}
	o := w.options
	o.Store, o.Instance = st, name
	if c, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	c.every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return errors.Join(<-done, st.Close()) })
	w.t.Cleanup(func() { _ = stop() })
	return c, stop
}

// Two controllers share the work; readers at one see what agents tell the other.
func TestTwoControllers(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		<-release
		if err := a.say("built"); err != nil {
			return err
		}
		return a.succeed()
	})
	other, _ := w.second("two")
	run := w.submit("app")
	lines := make(chan []api.LogLine, 1)
	go func() {
		var all []api.LogLine
		err := other.Logs(t.Context(), run.ID, 0, "", true, func(c LogChunk) error {
			some, err := decode(c)
			all = append(all, some...)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		lines <- all
	}()
	time.Sleep(50 * time.Millisecond)
	close(release)
	if run = w.end(run.ID); run.State != api.Succeeded {
		t.Errorf("%s %s", run.State, run.Reason)
	}
	if got, want := w.messages(<-lines), w.messages(w.log(run.ID, true)); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the other one read %q, want %q", got, want)
	}
	if len(w.launcher.started()) != 2 {
		t.Errorf("started %v", w.launcher.started())
	}
}

// What a controller has that dies without a word is taken over, once.
func TestTakeOver(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		<-release
		return a.succeed()
	}, func(o *Options) { o.Limits.Lease = 300 * time.Millisecond; o.Limits.Silence = 400 * time.Millisecond })
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool {
		return task(r, "app@amd64").State == api.Running && task(r, "app@arm64").State == api.Running
	})
	w.stop()
	// As if it had not said that it leaves.
	if err := w.options.Store.Write(t.Context(), nil, func(tx *store.Tx) error { return tx.Enter("one", "dead") }); err != nil {
		t.Fatal(err)
	}
	c, _ := w.second("two")
	w.launcher.controller(c)
	w.until(run.ID, func(api.Run) bool {
		var owned []store.Task
		if err := w.options.Store.Read(t.Context(), func(tx *store.Tx) (err error) { owned, err = tx.Owned("two"); return err }); err != nil {
			t.Error(err)
		}
		return len(owned) == 2
	})
	close(release)
	if run = w.end(run.ID); run.State != api.Succeeded {
		t.Errorf("%s %s", run.State, run.Reason)
	}
}

func TestNameTaken(t *testing.T) {
	w := newWorld(t, builds, func(o *Options) { o.Limits.Lease = 100 * time.Millisecond })
	w.submit("app")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := New(func() Options { o := w.options; o.Instance = "same"; return o }())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	_, _ = w.second("same")
	if err := <-done; err == nil || !strings.Contains(err.Error(), `taken the name "same"`) {
		t.Errorf("%v", err)
	}
}

// Times never go backwards, and no limit is hit, when the clock is put right.
func TestClockJumps(t *testing.T) {
	var jump atomic.Int64
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		jump.Add(int64(-time.Hour))
		time.Sleep(50 * time.Millisecond)
		if err := a.say("an hour ago"); err != nil {
			return err
		}
		jump.Add(int64(26 * time.Hour))
		time.Sleep(50 * time.Millisecond)
		if err := a.say("tomorrow"); err != nil {
			return err
		}
		return a.succeed()
	}, func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())).Round(0) }
		o.Limits.Silence, o.Limits.Start = 10*time.Second, 10*time.Second
	})
	for range 3 {
		run := w.end(w.submit("app").ID)
		if run.State != api.Succeeded || run.Finished.Before(run.Created) || run.Started.Before(run.Created) {
			t.Errorf("%+v", run)
		}
		for _, task := range run.Images[0].Tasks {
			for i := 1; i < len(task.History); i++ {
				if task.History[i].Time.Before(task.History[i-1].Time) {
					t.Errorf("%s: %+v", task.ID, task.History)
				}
			}
			if task.Attempt != 1 {
				t.Errorf("%+v", task)
			}
		}
		jump.Add(int64(-49 * time.Hour))
	}
}

// A wait for another attempt does not last for an hour longer because the clock
// was put back by one.
func TestClockPutBackDuringBackoff(t *testing.T) {
	var jump atomic.Int64
	w := newWorld(t, func(a *agent) error {
		if strings.HasSuffix(a.Task, "-1") {
			jump.Store(int64(-time.Hour))
			return errors.New("gone")
		}
		return builds(a)
	}, func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		o.Limits.Backoff = 50 * time.Millisecond
	})
	if run := w.end(w.submit("app").ID); run.State != api.Succeeded {
		t.Errorf("%+v", run)
	}
}

// Waiting reasons of launchers are told once.
func TestWaitingAgent(t *testing.T) {
	w := newWorld(t, func(a *agent) error { <-a.ctx.Done(); return nil })
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool { return task(r, "app@amd64").State == api.Starting })
	for range 3 {
		w.agentWaits(runner.AgentStatus{Task: run.Images[0].Tasks[0].ID, State: runner.AgentPending, Reason: "no node", Hint: "add one"})
	}
	n := 0
	for _, m := range w.messages(w.log(run.ID, false)) {
		if m == "waits: no node (add one)" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told %d times", n)
	}
}

// An agent that never began and never will fails its task: no other attempt is made.
func TestHopelessAgent(t *testing.T) {
	w := newWorld(t, func(a *agent) error { <-a.ctx.Done(); return nil })
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool { return task(r, "app@amd64").State == api.Starting })
	w.agentExited("local", runner.AgentStatus{Task: run.Images[0].Tasks[0].ID, State: runner.AgentExited, Reason: "the image does not exist", Hint: "see its name", Hopeless: true})
	var got api.Task
	w.until(run.ID, func(r api.Run) bool { got = task(r, "app@amd64"); return got.State.Ended() })
	if got.State != api.Failed || got.Attempt != 1 || got.Reason != "the image does not exist (see its name)" {
		t.Errorf("%+v", got)
	}
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	sealed := make([][]byte, 8)
	for i := range sealed { // only one of them makes it
		wg.Go(func() {
			s, err := KeyFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			sealed[i] = s.Seal([]byte("secret"))
		})
	}
	wg.Wait()
	s, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range sealed {
		if plain, err := s.Open(one); err != nil || string(plain) != "secret" || strings.Contains(string(one), "secret") {
			t.Errorf("%q %v", plain, err)
		}
		one[len(one)-1] ^= 1
		if _, err := s.Open(one); err == nil {
			t.Error("what was changed can be opened")
		}
	}
	other, err := KeyFile(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(s.Seal([]byte("x"))); err == nil || failure.Hint(err) == "" {
		t.Errorf("another key: %v", err)
	}
}

// While another process has the database locked, what comes waits, for longer
// than the database itself does, and nothing is lost.
func TestDatabaseLocked(t *testing.T) {
	begin, locked := make(chan struct{}), make(chan struct{})
	w := newWorldOn(t, filepath.Join(t.TempDir(), "pipegen.db"), func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		<-locked
		for i := range 5 {
			if err := a.say(fmt.Sprint("line ", i)); err != nil {
				return err
			}
		}
		return a.succeed()
	})
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool {
		return task(r, "app@amd64").State == api.Running && task(r, "app@arm64").State == api.Running
	})
	other, err := sql.Open("sqlite", w.where+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	tx, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Close() }()
	if _, err := tx.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(begin)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := w.Submit(ctx, Submission{Request: api.RunRequest{Plan: planOf("other")}, Submitter: "x"}); !errors.Is(err, ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a run while the database is locked: %v", err)
		}
	}()
	<-begin
	close(locked)
	time.Sleep(1500 * time.Millisecond)
	if r, err := w.Get(t.Context(), run.ID); err != nil || r.State != api.Running { // reading goes on
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := tx.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	for _, build := range []string{"app@amd64", "app@arm64"} {
		if got := of(build, w.log(run.ID, true)); strings.Join(got, " ") != "line 0 line 1 line 2 line 3 line 4" || task(run, build).Attempt != 1 {
			t.Errorf("%s: %q", build, got)
		}
	}
}
