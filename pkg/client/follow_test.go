package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// told is a controller with one run, whose log ends where it ends.
type told struct {
	run   api.Run // as it is at the end
	lines []api.LogLine
	// What reading the log gives at its end.
	err error
	// Is called before a line.
	before func(seq int64)
}

func (c *told) Run(context.Context, string) (api.Run, error) { return c.run, nil }

func (c *told) Logs(ctx context.Context, _ string, q api.LogQuery, yield func(api.LogLine) error) (api.State, error) {
	for i, l := range c.lines {
		l.Seq = int64(i)
		if c.before != nil {
			c.before(l.Seq)
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if l.Seq < q.From {
			continue
		}
		if err := yield(l); err != nil {
			return "", err
		}
	}
	return c.run.State, c.err
}

// second gives a line so many seconds after the run was made.
func second(n int, l api.LogLine) api.LogLine {
	l.Time = noon.Add(time.Duration(n) * time.Second)
	return l
}

func task(build string, attempt int, s api.State, reason string, at int) api.Task {
	return api.Task{
		Build: build, Platform: "linux/" + build[strings.Index(build, "@")+1:], Attempt: attempt, State: s, Reason: reason,
		History: []api.Transition{{State: s, Time: noon.Add(time.Duration(at) * time.Second)}},
	}
}

func follow(t *testing.T, c Controller) (string, api.Run, error) {
	t.Helper()
	var out strings.Builder
	run, err := Follow(t.Context(), c, "r1", FollowOptions{
		Observer: runner.NewProgress(&out, runner.ProgressOptions{Format: runner.Plain}),
		Now:      func() time.Time { return noon.Add(time.Hour) },
	})
	return out.String(), run, err
}

func TestFollow(t *testing.T) {
	end := noon.Add(9 * time.Second)
	c := &told{
		run: api.Run{
			ID: "r1", State: api.Failed, Created: noon, Finished: &end,
			Images: []api.RunImage{
				{Name: "app", State: api.Succeeded, Published: &plan.Published{Name: "app", Repository: "r/app", Tags: []string{"v1", "latest"}, Digest: "sha256:1"}, Tasks: []api.Task{
					task("app@amd64", 1, api.Succeeded, "", 4), task("app@arm64", 1, api.Lost, "the agent is silent", 3), task("app@arm64", 2, api.Succeeded, "", 6), {State: api.Succeeded, Attempt: 1},
				}},
				{Name: "bad", State: api.Failed, Reason: "bad@amd64 failed", Tasks: []api.Task{task("bad@amd64", 1, api.Failed, "RUN false: exit status 1", 5), {State: api.Cancelled}}},
				{Name: "top", State: api.Cancelled, Reason: "needs bad, which failed", Tasks: []api.Task{task("top@amd64", 1, api.Cancelled, "", 5)}},
			},
		},
		lines: []api.LogLine{
			second(0, api.LogLine{Message: "run r1 of ci"}),
			second(0, api.LogLine{Build: "app@amd64", State: api.Starting, Message: "starting on local"}),
			second(1, api.LogLine{Build: "app@amd64", State: api.Running, Message: "running"}),
			second(1, api.LogLine{Build: "app@arm64", State: api.Running, Message: "running"}),
			second(2, api.LogLine{Build: "app@amd64", Message: "BUILD FAILED, says a test \x1b[31mthat passes"}),
			second(3, api.LogLine{Build: "app@arm64", State: api.Lost, Message: "lost: the agent is silent; trying again (2 of 3)"}),
			second(3, api.LogLine{Build: "bad@amd64", State: api.Running}),
			second(4, api.LogLine{Build: "app@amd64", State: api.Succeeded}),
			second(5, api.LogLine{Build: "bad@amd64", Message: "+ false"}),
			second(5, api.LogLine{Build: "bad@amd64", State: api.Failed, Message: "RUN false: exit status 1"}),
			second(5, api.LogLine{Image: "bad", State: api.Failed, Message: "bad@amd64 failed"}),
			second(5, api.LogLine{Image: "top", State: api.Cancelled, Message: "needs bad, which failed"}),
			second(4, api.LogLine{Build: "app@arm64", State: api.Running}),
			second(6, api.LogLine{Build: "app@arm64", State: api.Succeeded}),
			second(6, api.LogLine{Image: "app", State: api.Publishing}),
			second(7, api.LogLine{Image: "app", State: api.Succeeded}),
		},
	}
	out, run, err := follow(t, c)
	if err == nil || !strings.Contains(err.Error(), "1 of 3 images failed: bad; skipped: top") || run.State != api.Failed {
		t.Errorf("run %s, error %v", run.State, err)
	}
	want := `pipegen: run r1 of ci
[app@amd64] starting on local
[app@amd64] building for linux/amd64
[app@arm64] building for linux/arm64
[app@amd64] BUILD FAILED, says a test \x1b[31mthat passes
[app@arm64] lost: the agent is silent; trying again (2 of 3)
[bad@amd64] building for linux/amd64
[app@amd64] built in 3.0s
[bad@amd64] + false
[bad@amd64] failed after 2.0s: RUN false: exit status 1
[bad]       not published: bad@amd64 failed
[top]       skipped: needs bad, which failed
[app@arm64] running
[app@arm64] built in 5.0s
[app]       publishing
[app]       published r/app:v1, latest
`
	if !strings.HasPrefix(out, strings.Replace(want, "[app@arm64] running\n", "[app@arm64] \n", 1)) {
		t.Errorf("it shows\n%s\nwant\n%s", out, want)
	}
	for _, s := range []string{"✗ bad@amd64 failed after 2.0s", "│ + false", "1 published, 1 failed, 1 skipped in 9.0s"} {
		if !strings.Contains(out, s) {
			t.Errorf("it does not show %q:\n%s", s, out)
		}
	}
}

// The verdict is the run's state, whatever the log says and however it ends.
func TestFollowVerdict(t *testing.T) {
	image := func(s api.State) []api.RunImage {
		return []api.RunImage{{Name: "app", State: s, Tasks: []api.Task{task("app@amd64", 1, s, "because", 1)}}}
	}
	tests := map[string]struct {
		run  api.Run
		err  error
		want string // of the error; empty: none
	}{
		"succeeded though the log speaks of failure": {run: api.Run{State: api.Succeeded, Images: image(api.Succeeded)}},
		"failed though the log says nothing":         {run: api.Run{State: api.Failed, Images: image(api.Failed)}, want: "1 of 1 images failed: app"},
		"lost for good":                              {run: api.Run{State: api.Failed, Images: image(api.Lost)}, want: "1 of 1 images failed: app"},
		"cancelled":                                  {run: api.Run{State: api.Cancelled, Reason: "cancelled by ann: too late", Images: image(api.Cancelled)}, want: "cancelled by ann: too late"},
		"the log ends before the run":                {run: api.Run{State: api.Running, Images: image(api.Running)}, want: "the log of run r1 has ended, but it is running"},
		"the log cannot be read":                     {run: api.Run{State: api.Running, Images: image(api.Running)}, err: errors.New("broken"), want: "broken"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.run.Created = noon
			c := &told{run: tt.run, err: tt.err, lines: []api.LogLine{second(1, api.LogLine{Build: "app@amd64", Message: "BUILD FAILED"})}}
			out, _, err := follow(t, c)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("the error is %v, want %q\n%s", err, tt.want, out)
			}
		})
	}
}

// An interrupt ends following, and not the run; the display is left whole.
func TestFollowInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := &told{
		run:    api.Run{ID: "r1", State: api.Running, Created: noon, Images: []api.RunImage{{Name: "app", State: api.Running, Tasks: []api.Task{task("app@amd64", 1, api.Running, "", 1)}}}},
		lines:  []api.LogLine{second(1, api.LogLine{Build: "app@amd64", State: api.Running}), second(2, api.LogLine{Build: "app@amd64", Message: "never"})},
		before: func(seq int64) { map[int64]func(){1: cancel}[min(seq, 1)]() },
	}
	c.before = func(seq int64) {
		if seq == 1 {
			cancel()
		}
	}
	var events []runner.Event
	run, err := Follow(ctx, c, "r1", FollowOptions{Observer: observer(func(e runner.Event) { events = append(events, e) })})
	if !errors.Is(err, context.Canceled) || run.State != api.Running {
		t.Errorf("run %s, error %v", run.State, err)
	}
	last := events[len(events)-1]
	if last.Kind != runner.RunFinished || last.Summary.Images[0].State != runner.Interrupted || !errors.Is(last.Summary.Err(), context.Canceled) {
		t.Errorf("the last event is %+v", last)
	}
}

type observer func(runner.Event)

func (o observer) Observe(e runner.Event) { o(e) }

// Times of a controller whose clock is ahead are not shown as of the future.
func TestFollowClockAhead(t *testing.T) {
	c := &told{run: api.Run{State: api.Succeeded, Created: noon.Add(time.Hour), Images: []api.RunImage{{Name: "app", State: api.Succeeded, Tasks: []api.Task{task("app@amd64", 1, api.Succeeded, "", 3700)}}}},
		lines: []api.LogLine{second(3601, api.LogLine{Build: "app@amd64", State: api.Running}), second(3605, api.LogLine{Build: "app@amd64", State: api.Succeeded})}}
	_, err := Follow(t.Context(), c, "r1", FollowOptions{Now: func() time.Time { return noon }, Observer: observer(func(e runner.Event) {
		if e.Time.After(noon) || e.Elapsed < 0 {
			t.Errorf("%s at %s after %s", e.Kind, e.Time, e.Elapsed)
		}
		if e.Kind == runner.BuildFinished && e.Elapsed != 4*time.Second {
			t.Errorf("the build took %s, want 4s", e.Elapsed)
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
}

// What was published before the run is not of it.
func TestFollowPublishedBefore(t *testing.T) {
	c := &told{run: api.Run{ID: "r1", State: api.Succeeded, Created: noon, Images: []api.RunImage{
		{Name: "base", State: api.Succeeded, Published: &plan.Published{Name: "base", Tags: []string{"v1"}}},
		{Name: "app", State: api.Succeeded, Published: &plan.Published{Name: "app", Tags: []string{"v1"}}, Tasks: []api.Task{task("app@amd64", 1, api.Succeeded, "", 1)}},
	}}}
	out, _, err := follow(t, c)
	if err != nil || strings.Contains(out, "base") || !strings.Contains(out, "1 published") {
		t.Errorf("error %v\n%s", err, out)
	}
}

// A tag that holds another image is told from other failures.
func TestFollowImmutable(t *testing.T) {
	for _, failure := range []string{api.ImmutableTag, ""} {
		c := &told{run: api.Run{ID: "r1", State: api.Failed, Created: noon, Images: []api.RunImage{
			{Name: "app", State: api.Failed, Reason: "refused", Tasks: []api.Task{task("app@amd64", 1, api.Succeeded, "", 1), {State: api.Failed, Attempt: 1, Failure: failure}}},
		}}}
		_, _, err := follow(t, c)
		if err == nil || errors.Is(err, api.ErrImmutable) != (failure != "") {
			t.Errorf("failure %q: error %v", failure, err)
		}
	}
}
