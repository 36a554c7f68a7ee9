package controller

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// states gives the states that a task has had.
func states(t api.Task) string {
	var all []string
	for _, h := range t.History {
		all = append(all, string(h.State))
	}
	return strings.Join(all, " ")
}

func TestRun(t *testing.T) {
	w := newWorld(t, builds)
	run := w.submit("base", "app<base", "other")
	if run.State != api.Queued || len(run.Images) != 3 || len(run.Images[0].Tasks) != 3 || run.Runner != "local" {
		t.Errorf("submitted: %+v", run)
	}
	lines := w.messages(w.log(run.ID, true))
	run = w.end(run.ID)
	if run.State != api.Succeeded || run.Reason != "" || run.Started == nil || run.Finished == nil {
		t.Errorf("ended: %+v", run)
	}
	for _, img := range run.Images {
		if img.State != api.Succeeded || img.Published == nil || img.Published.Digest != digestOf(img.Name) || len(img.Published.Children) != 2 {
			t.Errorf("image %+v", img)
		}
		for _, task := range img.Tasks {
			want := "queued starting running succeeded"
			if task.Build == "" {
				want = "queued publishing succeeded"
			} else if task.Usage == nil || task.Usage.CPUSeconds != 1.5 || task.Digest != digestOf(task.Build) {
				t.Errorf("task %+v", task)
			}
			if got := states(task); got != want {
				t.Errorf("%s %s: %s, want %s", img.Name, task.Build, got, want)
			}
		}
	}
	if w.mu.Lock(); slices.Index(w.published, "base") > slices.Index(w.published, "app") {
		t.Errorf("published %v", w.published)
	}
	w.mu.Unlock()
	if i, j := slices.Index(lines, "building app@amd64"), slices.Index(lines, "published registry.test/images:base-1, base-latest@"+digestOf("base")); i < j || j < 0 {
		t.Errorf("app was begun in line %d, base published in line %d", i, j)
	}
	if last := lines[len(lines)-1]; last != "the run succeeded" {
		t.Errorf("the log ends with %q", last)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	kinds := map[EventKind]int{}
	for _, e := range w.events {
		kinds[e.Kind]++
	}
	// Six builds of three steps after queued, three publications of two.
	if kinds[RunCreated] != 1 || kinds[RunEnded] != 1 || kinds[TaskMoved] != 6*3+3*2 || kinds[LogAppended] != 6 {
		t.Errorf("events %v", kinds)
	}
}

func TestImagesThatNeedNoBuildOrNoPublication(t *testing.T) {
	w := newWorld(t, builds)
	p := planOf("retag", "file", "app<retag,file")
	p.Images[0].Builds, p.Images[0].Retag = []plan.Build{}, digestOf("x")
	for i := range p.Images[1].Builds {
		p.Images[1].Builds[i].Outputs, p.Images[1].Builds[i].Destination = []string{"rootfs"}, ""
	}
	run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: p}, Submitter: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	if run.State != api.Succeeded || len(run.Images[0].Tasks) != 1 || len(run.Images[1].Tasks) != 2 || run.Images[1].Published != nil {
		t.Errorf("%+v", run)
	}
}

func TestFailingBuild(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		if a.Build != "base@arm64" {
			return builds(a)
		}
		if err := a.claim(); err != nil {
			return err
		}
		return a.fail("exit code 2\x1b[31m")
	})
	run := w.end(w.submit("base", "app<base", "top<app", "other").ID)
	for _, want := range []struct{ image, state, reason string }{
		{"base", "failed", "base@arm64 failed: exit code 2"},
		{"app", "cancelled", "needs base, which failed"},
		{"top", "cancelled", "needs app, which was cancelled"},
		{"other", "succeeded", ""},
	} {
		i := slices.IndexFunc(run.Images, func(i api.RunImage) bool { return i.Name == want.image })
		if img := run.Images[i]; string(img.State) != want.state || !strings.HasPrefix(img.Reason, want.reason) || strings.Contains(img.Reason, "\x1b") {
			t.Errorf("%s: %s %q", img.Name, img.State, img.Reason)
		}
	}
	if run.State != api.Failed || !strings.HasPrefix(run.Reason, "base: base@arm64 failed") {
		t.Errorf("%s %q", run.State, run.Reason)
	}
	if other := run.Images[0].Tasks[0]; other.State != api.Succeeded {
		t.Errorf("the other build of the image: %+v", other)
	}
	if n := len(run.Images[0].Tasks); n != 3 {
		t.Errorf("%d tasks: a failing build was tried again", n)
	}
}

// A result that says nothing of what was pushed is no success.
func TestEmptyResult(t *testing.T) {
	for name, result := range map[string]plan.Result{"no digest": {ID: "app@amd64"}, "another build": {ID: "x@amd64", Digest: digestOf("x")}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(a *agent) error {
				if a.Build != "app@amd64" {
					return builds(a)
				}
				if err := a.claim(); err != nil {
					return err
				}
				return a.Finish(a.ctx, a.Task, api.TaskResult{Result: &result})
			})
			if run := w.end(w.submit("app").ID); run.State != api.Failed {
				t.Errorf("%+v", run)
			}
		})
	}
}

func TestIdempotency(t *testing.T) {
	w := newWorld(t, builds)
	s := Submission{Request: api.RunRequest{Plan: planOf("app"), Credentials: []api.Credential{{Registry: "r", Password: "p"}}}, Submitter: "a", IdempotencyKey: "k"}
	ids := make([]string, 20)
	made := make([]bool, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			run, created, err := w.Submit(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			ids[i], made[i] = run.ID, created
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[len(ids)-1] {
		t.Errorf("several runs: %v", ids)
	}
	if n := len(slices.DeleteFunc(made, func(m bool) bool { return !m })); n != 1 {
		t.Errorf("%d say that they made it", n)
	}
	w.end(ids[0])
	for name, change := range map[string]func(*Submission){
		"plan":     func(s *Submission) { s.Request.Plan = planOf("other") },
		"password": func(s *Submission) { s.Request.Credentials = []api.Credential{{Registry: "r", Password: "q"}} },
		"priority": func(s *Submission) { s.Request.Priority = 1 },
	} {
		other := s
		change(&other)
		if _, _, err := w.Submit(t.Context(), other); !errors.Is(err, ErrConflict) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	s.Submitter = "b"
	if run, created, err := w.Submit(t.Context(), s); err != nil || !created || run.ID == ids[0] {
		t.Errorf("another submitter's key: %v %v", created, err)
	}
}

func TestWrongSubmissions(t *testing.T) {
	w := newWorld(t, builds)
	for name, change := range map[string]func(*Submission){
		"no plan":           func(s *Submission) { s.Request.Plan = nil },
		"another version":   func(s *Submission) { s.Request.Plan.Version = 2 },
		"no images":         func(s *Submission) { s.Request.Plan.Images = nil },
		"no such runner":    func(s *Submission) { s.Request.Runner = "ecs" },
		"no submitter":      func(s *Submission) { s.Submitter = "" },
		"no duration":       func(s *Submission) { s.Request.Timeout = "soon" },
		"no time":           func(s *Submission) { s.Request.Timeout = "-1s" },
		"no destination":    func(s *Submission) { s.Request.Plan.Images[0].Builds[0].Destination = "" },
		"no build timeout":  func(s *Submission) { s.Request.Plan.Images[0].Builds[0].Timeout = "1" },
		"context not given": func(s *Submission) { s.Request.Plan.Images[0].Source = nil },
		"context not there": func(s *Submission) { s.Request.Context = digestOf("x") },
		"context no digest": func(s *Submission) { s.Request.Context = "../x" },
		"priority":          func(s *Submission) { s.Request.Priority = 1_000_000 },
		"label":             func(s *Submission) { s.Request.Labels = map[string]string{"": "x"} },
		"credential":        func(s *Submission) { s.Request.Credentials = []api.Credential{{Password: "x"}} },
		"key":               func(s *Submission) { s.IdempotencyKey = strings.Repeat("k", 300) },
		"trace":             func(s *Submission) { s.Trace = strings.Repeat("k", 300) },
		"need before":       func(s *Submission) { s.Request.Plan.Images[0].Needs = []string{"app"} },
	} {
		t.Run(name, func(t *testing.T) {
			s := Submission{Request: api.RunRequest{Plan: planOf("app")}, Submitter: "tester"}
			change(&s)
			if _, _, err := w.Submit(t.Context(), s); !errors.Is(err, failure.ErrInput) {
				t.Error(err)
			}
		})
	}
	if l, err := w.List(t.Context(), Filter{}); err != nil || len(l.Runs) != 0 {
		t.Errorf("%v %v", l, err)
	}
}

func TestOrder(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, func(a *agent) error {
		if strings.HasPrefix(a.Build, "first") {
			if err := a.claim(); err != nil {
				return err
			}
			<-release
			return a.succeed()
		}
		return builds(a)
	}, func(o *Options) { o.Limits.Runner = map[string]int{"local": 2} })
	submit := func(submitter, image string, priority int) string {
		run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf(image), Priority: priority}, Submitter: submitter})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // ids sort by milliseconds
		return run.ID
	}
	submit("greedy", "first", 0) // takes both places
	w.until(submit("greedy", "greedy1", 0), func(api.Run) bool { return len(w.launcher.started()) == 2 })
	ids := []string{submit("greedy", "greedy2", 0), submit("modest", "modest", 0), submit("late", "late", 0), submit("late", "urgent", 1)}
	q, err := w.Queue(t.Context())
	if got := q["local"]; err != nil || got.Active != 2 || got.Ready != 10 || got.Oldest <= 0 || q[""].Waiting != 6 {
		t.Errorf("queue %+v %v", q, err)
	}
	close(release)
	for _, id := range ids {
		w.end(id)
	}
	var started []string // as they were taken; agents come to life in any order
	w.mu.Lock()
	for _, e := range w.events {
		if e.Kind == TaskMoved && e.To == api.Starting {
			started = append(started, e.Build)
		}
	}
	w.mu.Unlock()
	place := func(build string) int { return slices.Index(started, build) }
	if place("urgent@amd64") != 2 || place("urgent@arm64") != 3 {
		t.Errorf("priority does not go first: %v", started)
	}
	// Greedy's were there first, and as many of them run as of others.
	if place("modest@amd64") > place("greedy2@amd64") {
		t.Errorf("not fair: %v", started)
	}
	if place("greedy1@amd64") > place("greedy2@amd64") {
		t.Errorf("not by age: %v", started)
	}
}

func TestLimitOfSubmitter(t *testing.T) {
	var mu sync.Mutex
	running, most := map[string]int{}, map[string]int{}
	w := newWorld(t, func(a *agent) error {
		who := a.Labels["submitter"]
		mu.Lock()
		running[who]++
		most[who] = max(most[who], running[who])
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		running[who]--
		mu.Unlock()
		return builds(a)
	}, func(o *Options) { o.Limits.Submitter = 2 })
	var ids []string
	for i := range 10 {
		run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("app")}, Submitter: fmt.Sprint(i % 2)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, run.ID)
	}
	for _, id := range ids {
		w.end(id)
	}
	if most["0"] > 2 || most["1"] > 2 {
		t.Errorf("at once: %v", most)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t, stays, func(o *Options) { o.Limits.Runner = map[string]int{"local": 0} })
	var ids []string
	for i := range 25 {
		run, _, err := w.Submit(t.Context(), Submission{
			Request:   api.RunRequest{Plan: planOf(fmt.Sprint("app", i%3)), Labels: map[string]string{"n": fmt.Sprint(i % 5), "all": "yes"}},
			Submitter: fmt.Sprint("s", i%2),
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, run.ID)
		time.Sleep(time.Millisecond)
	}
	for _, i := range []int{3, 4} {
		if _, err := w.Cancel(t.Context(), ids[i], "me", ""); err != nil {
			t.Fatal(err)
		}
	}
	is := func(chosen func(i int) bool) (want []string) {
		for i, id := range slices.Backward(ids) {
			if chosen(i) {
				want = append(want, id)
			}
		}
		return want
	}
	cancelled := func(i int) bool { return i == 3 || i == 4 }
	for name, c := range map[string]struct {
		f    Filter
		want []string
	}{
		"all":       {Filter{}, is(func(int) bool { return true })},
		"submitter": {Filter{Submitter: "s1"}, is(func(i int) bool { return i%2 == 1 })},
		"state":     {Filter{States: []api.State{api.Cancelled}}, is(cancelled)},
		"states":    {Filter{States: []api.State{api.Cancelled, api.Queued, api.Queued}}, is(func(int) bool { return true })},
		"both":      {Filter{States: []api.State{api.Queued}, Submitter: "s1"}, is(func(i int) bool { return i%2 == 1 && !cancelled(i) })},
		"image":     {Filter{Image: "app1", States: []api.State{api.Queued, api.Cancelled}}, is(func(i int) bool { return i%3 == 1 })},
		"label":     {Filter{Labels: map[string]string{"n": "3", "all": "yes"}, Submitter: "s1"}, is(func(i int) bool { return i%5 == 3 && i%2 == 1 })},
		"label and image": {
			Filter{Labels: map[string]string{"n": "3"}, Image: "app0"}, is(func(i int) bool { return i%5 == 3 && i%3 == 0 }),
		},
		"none": {Filter{Image: "app"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{0, 1, 4, 200} {
				f := c.f
				f.Limit = limit
				var got []string
				for {
					page, err := w.List(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range page.Runs {
						got = append(got, r.ID)
						if len(r.Images) != 1 || r.Images[0].Tasks != nil {
							t.Errorf("images %+v", r.Images)
						}
					}
					if page.Next == "" {
						break
					}
					if f.After = page.Next; limit != 0 && len(page.Runs) != limit {
						t.Errorf("a page of %d runs", len(page.Runs))
					}
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("pages of %d: %v, want %v", limit, got, c.want)
				}
			}
		})
	}
	for _, f := range []Filter{{States: []api.State{"done"}}, {Limit: -1}} {
		if _, err := w.List(t.Context(), f); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestRetry(t *testing.T) {
	var mu sync.Mutex
	healed := false
	w := newWorld(t, func(a *agent) error {
		mu.Lock()
		well := healed
		mu.Unlock()
		if well || !strings.HasPrefix(a.Build, "app") {
			return builds(a)
		}
		if err := a.claim(); err != nil {
			return err
		}
		return a.fail("broken")
	})
	first, _, err := w.Submit(t.Context(), Submission{
		Request: api.RunRequest{
			Plan: planOf("base", "app<base", "top<app", "other"), Priority: 3, Labels: map[string]string{"a": "b"},
			Credentials: []api.Credential{{Registry: "r", Password: "p"}}, Timeout: "2h",
		}, Submitter: "one",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Retry(t.Context(), first.ID, "two", "", Grant{}); !errors.Is(err, ErrConflict) && w.end(first.ID).State != api.Failed {
		t.Errorf("a run that goes on: %v", err)
	}
	if run := w.end(first.ID); run.State != api.Failed {
		t.Fatalf("%+v", run)
	}
	mu.Lock()
	healed = true
	mu.Unlock()
	second, err := w.Retry(t.Context(), first.ID, "two", "key", Grant{})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Retry(t.Context(), first.ID, "two", "key", Grant{}); err != nil || again.ID != second.ID {
		t.Errorf("again: %s %v", again.ID, err)
	}
	second = w.end(second.ID)
	var names []string
	for _, img := range second.Images {
		names = append(names, fmt.Sprint(img.Name, " ", img.State, " ", len(img.Tasks)))
		if img.Published == nil {
			t.Errorf("%s is not published", img.Name)
		}
	}
	if want := []string{"base succeeded 0", "app succeeded 3", "top succeeded 3"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	if second.State != api.Succeeded || second.RetryOf != first.ID || second.Submitter != "two" || second.Priority != 3 || second.Labels["a"] != "b" {
		t.Errorf("%+v", second)
	}
	w.launcher.mu.Lock()
	for _, a := range w.launcher.agents {
		if strings.HasPrefix(a.Build, "app") && a.Run == second.ID && (len(a.given.Published) != 1 || a.given.Published[0].Name != "base" || len(a.given.Credentials) != 1) {
			t.Errorf("%s was given %+v", a.Build, a.given)
		}
	}
	w.launcher.mu.Unlock()
	if _, err := w.Retry(t.Context(), second.ID, "two", "", Grant{}); !errors.Is(err, ErrConflict) {
		t.Errorf("nothing left: %v", err)
	}
	if _, err := w.Retry(t.Context(), "nosuchrun", "two", "", Grant{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no run: %v", err)
	}
}

// What an agent is given: its own build, what that needs, and no more.
func TestAssignment(t *testing.T) {
	given := make(chan api.Assignment, 1)
	w := newWorld(t, func(a *agent) error {
		if err := builds(a); err != nil {
			return err
		}
		if a.Build == "app@arm64" {
			given <- a.given
		}
		return nil
	})
	p := planOf("base", "other", "app<base")
	for i := range p.Images[2].Builds {
		b := &p.Images[2].Builds[i]
		b.BuilderImage = "builder"
		b.Secrets = append(b.Secrets, config.Secret{ID: "npm", Env: "NPM_TOKEN"}, config.Secret{ID: "f", File: "x"})
	}
	p.Images[2].Source = nil
	digest := w.contextOf("the context")
	run, _, err := w.Submit(t.Context(), Submission{
		Request: api.RunRequest{
			Plan: p, Context: digest, Secrets: map[string]string{"NPM_TOKEN": "s3cr3t", "OTHER": "0th3r"},
			Credentials: []api.Credential{{Registry: "r", Username: "u", Password: "passw0rd"}},
		}, Submitter: "tester", Trace: "00-1-2-01",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.end(run.ID)
	a := <-given
	if _, b, ok := a.Plan.Find("app@arm64"); !ok || b.BuilderImage != "builder" {
		t.Error("the plan has not the build")
	}
	if _, ok := a.Plan.Image("other"); ok {
		t.Error("the plan has what the build does not need")
	}
	if len(a.Published) != 1 || a.Published[0].Digest != digestOf("base") || len(a.Secrets) != 1 || a.Secrets["NPM_TOKEN"] != "s3cr3t" || a.Credentials[0].Password != "passw0rd" {
		t.Errorf("%+v", a)
	}
	if a.Context == nil || a.Context.Digest != digest || a.Context.Size != 11 || a.Context.URL != "/v1/tasks/"+a.Task+"/context" || a.HeartbeatSeconds != 1 || a.Attempt != 1 {
		t.Errorf("%+v", a)
	}
	if left := time.Until(a.Deadline); left < 55*time.Minute || left > time.Hour {
		t.Errorf("deadline in %s", left)
	}
	w.launcher.mu.Lock()
	defer w.launcher.mu.Unlock()
	i := slices.IndexFunc(w.launcher.starts, func(l runner.Launch) bool { return l.Build == "app@arm64" })
	if l := w.launcher.starts[i]; l.Image != "builder" || l.Platform != "linux/arm64" || l.URL != "http://controller" || l.Labels["traceparent"] != "00-1-2-01" || len(l.Token) != 43 {
		t.Errorf("%+v", l)
	}
}

// Nothing that is secret can be read from the disk.
func TestSecretsAtRest(t *testing.T) {
	w := newWorldOn(t, filepath.Join(t.TempDir(), "pipegen.db"), stays)
	run, _, err := w.Submit(t.Context(), Submission{
		Request: api.RunRequest{
			Plan: planOf("app"), Secrets: map[string]string{"A": "s3cr3tvalue"}, Credentials: []api.Credential{{Registry: "r", Password: "passw0rdvalue"}},
		}, Submitter: "tester", IdempotencyKey: "k",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.until(run.ID, func(r api.Run) bool { return r.Images[0].Tasks[0].State == api.Running })
	secrets := []string{"s3cr3tvalue", "passw0rdvalue"}
	w.launcher.mu.Lock()
	for _, l := range w.launcher.starts {
		secrets = append(secrets, l.Token)
	}
	w.launcher.mu.Unlock()
	dir := filepath.Dir(w.where)
	files := 0
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files++
		for _, s := range secrets {
			if strings.Contains(string(text), s) {
				t.Errorf("%s holds %s", path, s)
			}
		}
		if info, _ := e.Info(); info.Mode().Perm()&0o077 != 0 && filepath.Base(path) != "blobs" {
			t.Errorf("others may read %s: %s", path, info.Mode())
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files: %v", files, err)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t, stays)
	run := w.submit("app")
	w.until(run.ID, func(api.Run) bool { return len(w.launcher.started()) == 2 })
	w.launcher.mu.Lock()
	l := w.launcher.starts[0]
	w.launcher.mu.Unlock()
	hash := tokenHash(l.Token)
	if task, err := w.TaskOf(t.Context(), hash); err != nil || task != l.Task {
		t.Errorf("%s %v", task, err)
	}
	if _, err := w.TaskOf(t.Context(), tokenHash(l.Token+"x")); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t, builds)
	for name, change := range map[string]func(*Options){
		"no store":       func(o *Options) { o.Store = nil },
		"no runner":      func(o *Options) { o.Launchers = nil },
		"no such runner": func(o *Options) { o.Default = "ecs" },
		"no name":        func(o *Options) { o.Launchers = map[string]runner.Launcher{"": w.launcher} },
	} {
		o := w.options
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadyAndClosed(t *testing.T) {
	w := newWorld(t, builds)
	if err := w.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	w.stop()
	if err := w.options.Store.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := w.Submit(ctx, Submission{Request: api.RunRequest{Plan: planOf("app")}, Submitter: "x"}); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}
