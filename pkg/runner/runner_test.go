package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// graph makes a plan from lines of "name: arch arch < need need".
func graph(lines ...string) *plan.Plan {
	p := &plan.Plan{Version: plan.Version, Registry: "registry/images"}
	for _, l := range lines {
		l, needs, _ := strings.Cut(l, "<")
		name, archs, _ := strings.Cut(l, ":")
		img := plan.Image{Name: name, Needs: strings.Fields(needs), Tags: []string{name + "-20261121-abc1234", name + "-latest"}}
		for a := range strings.FieldsSeq(archs) {
			img.Builds = append(img.Builds, plan.Build{ID: name + "@" + a, Platform: "linux/" + a})
		}
		p.Images = append(p.Images, img)
	}
	return p
}

// fakeBuilder stands where an engine would run. It checks that no image is
// built before its needs are published, and that no more builds run at once
// than may.
type fakeBuilder struct {
	t       *testing.T
	plan    *plan.Plan
	fail    map[string]error // by build, or by image for its publication
	gate    map[string]chan struct{}
	limit   int
	onStart func(id string)

	mu        sync.Mutex
	running   int
	started   []string
	published []string
}

func (f *fakeBuilder) Build(ctx context.Context, img *plan.Image, b *plan.Build, log io.Writer) (plan.Result, error) {
	f.mu.Lock()
	f.running++
	f.started = append(f.started, b.ID)
	if f.running > f.limit {
		f.t.Errorf("%d builds run at once, %d may", f.running, f.limit)
	}
	for _, n := range img.Needs {
		if !slices.Contains(f.published, n) {
			f.t.Errorf("%s was started before %s was published", b.ID, n)
		}
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	if f.onStart != nil {
		f.onStart(b.ID)
	}
	fmt.Fprintf(log, "building %s\nand more", b.ID)
	if c, ok := f.gate[b.ID]; ok {
		select {
		case <-c:
		case <-ctx.Done():
			return plan.Result{}, fmt.Errorf("stopped: %w", ctx.Err())
		}
	}
	if err := f.fail[b.ID]; err != nil {
		return plan.Result{}, err
	}
	return plan.Result{ID: b.ID, Digest: "sha256:" + b.ID, Platform: b.Platform}, nil
}

func (f *fakeBuilder) publish(_ context.Context, img *plan.Image, results []plan.Result) (plan.Published, error) {
	if err := f.fail[img.Name]; err != nil {
		return plan.Published{}, err
	}
	var want, got []string
	for _, b := range img.Builds {
		want = append(want, b.ID)
	}
	for _, r := range results {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("%s is published from %v, want %v", img.Name, got, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = append(f.published, img.Name)
	return plan.Published{Name: img.Name, Digest: "sha256:" + img.Name, Tags: img.Tags}, nil
}

// observed records events, and fails if they overlap.
type observed struct {
	t      *testing.T
	mu     sync.Mutex
	events []string
}

func (o *observed) Observe(e Event) {
	if !o.mu.TryLock() {
		o.t.Error("events overlap")
		return
	}
	defer o.mu.Unlock()
	s := string(e.Kind)
	switch {
	case e.Build != nil:
		s += " " + e.Build.ID
	case e.Image != nil:
		s += " " + e.Image.Name
	}
	if e.Line != "" {
		s += " " + e.Line
	}
	o.events = append(o.events, s)
}

// states gives a summary as one line.
func states(s Summary) string {
	var out []string
	for _, img := range s.Images {
		t := img.Name + "=" + string(img.State)
		for _, b := range img.Builds {
			t += " " + string(b.State)
		}
		if img.Reason != "" {
			t += " (" + img.Reason + ")"
		}
		if img.Err != nil {
			t += " (" + img.Err.Error() + ")"
		}
		out = append(out, t)
	}
	return strings.Join(out, "\n")
}

func TestExecute(t *testing.T) {
	broken := errors.New("kaniko failed: exit status 1")
	denied := errors.New("tag is immutable")
	for _, c := range []struct {
		name  string
		plan  *plan.Plan
		fail  map[string]error
		want  string
		err   string
		cause error // that the run's error wraps
	}{
		{name: "nothing", plan: graph()},
		{name: "one", plan: graph("app: amd64 arm64"), want: "app=published succeeded succeeded"},
		{name: "no builds", plan: graph("app:", "web: amd64 < app"), want: "app=published\nweb=published succeeded"},
		{
			name: "a chain and a diamond", plan: graph("base: amd64 arm64", "left: amd64 < base", "right: arm64 < base", "top: amd64 arm64 < left right"),
			want: "base=published succeeded succeeded\nleft=published succeeded\nright=published succeeded\ntop=published succeeded succeeded",
		},
		{
			name: "a build fails", plan: graph("base: amd64 arm64", "app: amd64 < base", "web: amd64 < app", "other: amd64"),
			fail: map[string]error{"base@amd64": broken},
			want: "base=failed failed succeeded (kaniko failed: exit status 1)\napp=skipped skipped (needs base, which failed)\n" +
				"web=skipped skipped (needs app, which was skipped)\nother=published succeeded",
			err: "1 of 4 images failed: base; skipped: app, web",
		},
		{
			name: "both builds fail", plan: graph("app: amd64 arm64"), fail: map[string]error{"app@amd64": broken, "app@arm64": errors.New("no space left")},
			want: "app=failed failed failed (kaniko failed: exit status 1; no space left)", err: "1 of 1 images failed: app",
		},
		{
			name: "publishing fails", plan: graph("app: amd64", "web: amd64 < app"), fail: map[string]error{"app": denied},
			want: "app=failed succeeded (publishing: tag is immutable)\nweb=skipped skipped (needs app, which failed)",
			err:  "1 of 2 images failed: app; skipped: web", cause: denied,
		},
		{
			name: "a wrong Dockerfile is no wrong input", plan: graph("app: amd64"), fail: map[string]error{"app@amd64": failure.Input("Dockerfile:1: no")},
			want: "app=failed failed (Dockerfile:1: no)", err: "1 of 1 images failed: app",
		},
		{
			name: "a need that is not there", plan: graph("app: amd64 < gone", "web: amd64 < app"),
			want: "app=skipped skipped (needs gone, which is not in the plan)\nweb=skipped skipped (needs app, which was skipped)", err: "skipped: app, web",
		},
		{
			name: "a ring", plan: graph("a: amd64 < b", "b: amd64 < a", "c: amd64"),
			want: "a=skipped skipped (needs itself by way of b)\nb=skipped skipped (needs a, which was skipped)\nc=published succeeded", err: "skipped: a, b",
		},
	} {
		for _, limit := range []int{1, 2, 7} {
			t.Run(fmt.Sprintf("%s, %d at once", c.name, limit), func(t *testing.T) {
				f := &fakeBuilder{t: t, plan: c.plan, fail: c.fail, limit: limit}
				s := Execute(t.Context(), c.plan, f, f.publish, Options{Parallel: limit, Observer: &observed{t: t}})
				if got := states(s); got != c.want {
					t.Errorf("got\n%s\nwant\n%s", got, c.want)
				}
				err := s.Err()
				if c.err == "" != (err == nil) || err != nil && err.Error() != c.err {
					t.Errorf("error %v, want %q", err, c.err)
				}
				if errors.Is(err, failure.ErrInput) || c.cause != nil && !errors.Is(err, c.cause) {
					t.Errorf("error %v wraps the wrong errors", err)
				}
			})
		}
	}
}

func TestExecuteTellsWhatHappens(t *testing.T) {
	p := graph("app: amd64", "web: arm64 < app", "bad: amd64", "left: amd64 < bad")
	f := &fakeBuilder{t: t, plan: p, limit: 1, fail: map[string]error{"bad@amd64": errors.New("x")}}
	// web must wait for bad's place.
	f.gate = map[string]chan struct{}{"bad@amd64": make(chan struct{})}
	o := &observed{t: t}
	Execute(t.Context(), p, f, f.publish, Options{Parallel: 1, Observer: observerFunc(func(e Event) {
		o.Observe(e)
		if e.Kind == BuildQueued && e.Build.ID == "web@arm64" {
			close(f.gate["bad@amd64"])
		}
	})})
	want := `run-started
build-queued app@amd64
build-queued bad@amd64
build-started app@amd64
log app@amd64 building app@amd64
log app@amd64 and more
build-finished app@amd64
image-publishing app
build-started bad@amd64
log bad@amd64 building bad@amd64
log bad@amd64 and more
image-published app
build-queued web@arm64
build-finished bad@amd64
image-failed bad
image-skipped left
build-started web@arm64
log web@arm64 building web@arm64
log web@arm64 and more
build-finished web@arm64
image-publishing web
image-published web
run-finished`
	// What bad writes and the publication of app happen at the same time.
	sorted := func(s string) string {
		l := strings.Split(s, "\n")
		slices.Sort(l[7:14])
		return strings.Join(l, "\n")
	}
	if got := strings.Join(o.events, "\n"); len(o.events) != 23 || sorted(got) != sorted(want) {
		t.Errorf("told\n%s\nwant\n%s", got, want)
	}
}

func TestExecuteIsFair(t *testing.T) {
	// What is released early goes before what comes later in the plan.
	p := graph("a: amd64", "b: amd64 < a", "c: amd64", "d: amd64", "e: amd64 arm64")
	published := make(chan struct{})
	f := &fakeBuilder{t: t, plan: p, limit: 1, gate: map[string]chan struct{}{"c@amd64": published}}
	o := observerFunc(func(e Event) {
		if e.Kind == BuildQueued && e.Build.ID == "b@amd64" {
			close(published)
		}
	})
	Execute(t.Context(), p, f, f.publish, Options{Parallel: 1, Observer: o})
	if got := strings.Join(f.started, " "); got != "a@amd64 c@amd64 b@amd64 d@amd64 e@amd64 e@arm64" {
		t.Errorf("started in the order %s", got)
	}
}

type observerFunc func(Event)

func (f observerFunc) Observe(e Event) { f(e) }

func TestExecuteRunsSideBySide(t *testing.T) {
	p := graph("a: amd64 arm64", "b: amd64", "c: amd64 < a")
	gates := map[string]chan struct{}{"a@amd64": make(chan struct{}), "a@arm64": make(chan struct{}), "b@amd64": make(chan struct{})}
	f := &fakeBuilder{t: t, plan: p, limit: 3, gate: gates}
	var all sync.WaitGroup
	all.Add(3)
	f.onStart = func(id string) {
		if id != "c@amd64" {
			all.Done()
		}
	}
	go func() {
		all.Wait() // hangs unless all three are started
		for _, g := range gates {
			close(g)
		}
	}()
	if s := Execute(t.Context(), p, f, f.publish, Options{Parallel: 3}); s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestExecuteInterrupted(t *testing.T) {
	p := graph("done: amd64", "running: amd64 arm64", "waiting: amd64", "after: amd64 < done", "bad: amd64")
	stop := errors.New("terminated")
	for _, c := range []struct {
		cause error
		text  string
	}{{nil, "interrupted: context canceled"}, {stop, "interrupted: terminated (context canceled)"}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := &fakeBuilder{t: t, plan: p, limit: 2, gate: map[string]chan struct{}{"running@amd64": nil, "running@arm64": nil}}
		f.onStart = func(id string) {
			if id == "running@arm64" {
				cancel(c.cause)
			}
		}
		s := Execute(ctx, p, f, f.publish, Options{Parallel: 2, Observer: &observed{t: t}})
		const want = "done=published succeeded\nrunning=interrupted interrupted interrupted\nwaiting=interrupted interrupted\n" +
			"after=interrupted interrupted\nbad=interrupted interrupted"
		if got := states(s); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		err := s.Err()
		if !errors.Is(err, context.Canceled) || err.Error() != c.text || c.cause != nil && !errors.Is(err, c.cause) {
			t.Errorf("error %v", err)
		}
	}
}

func TestLineWriter(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		in   []string
		want []string
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{"a", "b\nc", "\n\nd"}, []string{"ab", "c", "", "d"}},
		{[]string{"a\r\nb\r\n"}, []string{"a", "b"}},
		{[]string{long + "\n"}, []string{long}},
		{[]string{long, "yz\n"}, []string{long, "yz"}},
		{[]string{long + long + "z"}, []string{long, long, "z"}},
	} {
		var got []string
		w := &lineWriter{emit: func(l string) { got = append(got, l) }}
		for _, s := range c.in {
			if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
				t.Errorf("Write gives %d, %v", n, err)
			}
		}
		w.flush()
		if !slices.Equal(got, c.want) {
			t.Errorf("%.20q gives %d lines %.40q, want %d", c.in, len(got), got, len(c.want))
		}
	}
}

func FuzzLineWriter(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 3)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var got bytes.Buffer
		w := &lineWriter{emit: func(l string) {
			if strings.Contains(l, "\n") || len(l) > maxLine {
				t.Errorf("a line is %q", l)
			}
			got.WriteString(l + "\n")
		}}
		cut = max(0, min(cut, len(in)))
		_, _ = w.Write(in[:cut])
		_, _ = w.Write(in[cut:])
		w.flush()
		want := strings.ReplaceAll(string(in), "\r\n", "\n")
		want = strings.TrimSuffix(want, "\r")
		if want != "" && !strings.HasSuffix(want, "\n") || len(in) > 0 && in[len(in)-1] == '\r' {
			want += "\n"
		}
		if len(in) < maxLine && got.String() != want {
			t.Errorf("%q gives %q, want %q", in, got.String(), want)
		}
	})
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
