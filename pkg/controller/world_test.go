package controller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/postgrestest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// world is a controller with a launcher whose agents are goroutines of the test.
type world struct {
	*Controller
	t        *testing.T
	launcher *launcher
	options  Options
	stop     func()
	where    string // the database

	mu        sync.Mutex
	published []string // images, in order
	events    []Event
}

// newWorld runs a controller until the test ends. do is what agents do.
func newWorld(t *testing.T, do func(a *agent) error, change ...func(*Options)) *world {
	t.Helper()
	return newWorldOn(t, postgrestest.Database(t), do, change...)
}

// newWorldOn is newWorld on a database.
func newWorldOn(t *testing.T, where string, do func(a *agent) error, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, launcher: newLauncher(do), where: where}
	dir := filepath.Dir(where)
	if store.IsURL(where) {
		dir = t.TempDir()
	}
	st, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	w.options = Options{
		Store: st, Blobs: blob.Dir(filepath.Join(dir, "blobs")), Launchers: map[string]runner.Launcher{"local": w.launcher}, URL: "http://controller",
		Instance: "one", Keys: keys, Publish: w.publish, Observe: w.observe,
		Limits: Limits{Backoff: time.Millisecond, Heartbeat: time.Second},
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, c := range change {
		c(&w.options)
	}
	w.start()
	t.Cleanup(func() {
		w.stop()
		w.launcher.killAll()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// start makes a controller and runs it until w.stop.
func (w *world) start() {
	w.t.Helper()
	c, err := New(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	c.every = 20 * time.Millisecond
	w.Controller = c
	w.launcher.controller(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// restart stops the controller and starts another one on the same store.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) publish(_ context.Context, _ *plan.Plan, img *plan.Image, results []plan.Result, _ []api.Credential, log func(level, msg string)) (plan.Published, error) {
	w.mu.Lock()
	w.published = append(w.published, img.Name)
	w.mu.Unlock()
	log("info", "joining "+img.Name)
	pub := plan.Published{Name: img.Name, Repository: img.Repository, Digest: digestOf(img.Name), Tags: img.Tags}
	for _, r := range results {
		pub.Children = append(pub.Children, plan.Child{Digest: r.Digest, Platform: r.Platform})
	}
	return pub, nil
}

func (w *world) observe(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// image describes an image of a test's plan: NAME or NAME<NEED,NEED.
func planOf(images ...string) *plan.Plan {
	p := &plan.Plan{Version: plan.Version, Event: "local", Layout: "tag", Registry: "registry.test/images", Head: "abc", Skipped: []plan.Skipped{}}
	for _, text := range images {
		name, needs, _ := strings.Cut(text, "<")
		img := plan.Image{
			Name: name, Dir: name, Key: "k", Reasons: []plan.Reason{}, Repository: "registry.test/images", Tags: []string{name + "-1", name + "-latest"}, Needs: []string{},
			Index: true, Builds: []plan.Build{}, Source: &plan.Source{Repo: "https://git.test/x", Ref: "v1", Commit: strings.Repeat("a", 40)},
		}
		if needs != "" {
			img.Needs = strings.Split(needs, ",")
		}
		for _, arch := range []string{"amd64", "arm64"} {
			img.Builds = append(img.Builds, plan.Build{
				ID: name + "@" + arch, Platform: "linux/" + arch, Engine: "kaniko", Destination: "registry.test/images:" + name + "-1-" + arch,
				Context: ".", Dockerfile: "Dockerfile", Outputs: []string{"image"}, Timeout: "1h",
			})
		}
		p.Images = append(p.Images, img)
	}
	return p
}

// submit submits a plan of images, as planOf takes them.
func (w *world) submit(images ...string) api.Run {
	w.t.Helper()
	run, _, err := w.Submit(w.t.Context(), Submission{Request: api.RunRequest{Plan: planOf(images...)}, Submitter: "tester"})
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// end waits until a run has ended.
func (w *world) end(id string) api.Run {
	w.t.Helper()
	return w.until(id, func(r api.Run) bool { return r.State.Ended() })
}

// until waits for something to be true of a run.
func (w *world) until(id string, what func(api.Run) bool) api.Run {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		run, err := w.Get(context.Background(), id)
		if err == nil && what(run) {
			return run
		}
		if err != nil && !errors.Is(err, ErrUnavailable) {
			w.t.Fatal(err)
		}
		if time.Now().After(deadline) {
			text, _ := json.MarshalIndent(run, "", " ")
			w.t.Fatalf("run %s does not come to it: %v\n%s", id, err, text)
		}
	}
}

// log reads the log of a run.
func (w *world) log(id string, follow bool) []api.LogLine {
	w.t.Helper()
	lines, err := w.read(w.t.Context(), id, 0, "", follow)
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

func (w *world) read(ctx context.Context, id string, from int64, build string, follow bool) (lines []api.LogLine, err error) {
	err = w.Logs(ctx, id, from, build, follow, func(c LogChunk) error {
		some, err := decode(c)
		lines = append(lines, some...)
		return err
	})
	return lines, err
}

// decode reads a chunk, and checks what it says of itself.
func decode(c LogChunk) (lines []api.LogLine, err error) {
	for text := range strings.Lines(string(c.NDJSON)) {
		var l api.LogLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return nil, fmt.Errorf("%w: %.200q", err, text)
		}
		lines = append(lines, l)
	}
	if len(lines) != c.Count || len(lines) > 0 && lines[0].Seq != c.First {
		return lines, fmt.Errorf("chunk %d+%d has %d lines", c.First, c.Count, len(lines))
	}
	return lines, nil
}

// messages gives what lines say, and checks their numbers.
func (w *world) messages(lines []api.LogLine) (all []string) {
	w.t.Helper()
	for i, l := range lines {
		if l.Seq != lines[0].Seq+int64(i) {
			w.t.Fatalf("line %d has number %d", i, l.Seq)
		}
		all = append(all, l.Message)
	}
	return all
}

// launcher starts agents as goroutines. It keeps its rules: one agent a task,
// told of its end, gone when stopped.
type launcher struct {
	do func(a *agent) error

	mu       sync.Mutex
	c        core
	agents   map[string]*agent
	starts   []runner.Launch
	told     map[string]bool
	changed  chan struct{}
	startErr func(l runner.Launch) error
	stopErr  func(task string) error
}

// core is what agents call.
type core interface {
	Claim(ctx context.Context, task string, cl api.Claim) (api.Assignment, error)
	AppendLog(ctx context.Context, task string, l api.TaskLog) (api.LogAck, error)
	Heartbeat(ctx context.Context, task string, h api.Heartbeat) (api.HeartbeatAck, error)
	Finish(ctx context.Context, task string, r api.TaskResult) error
}

// agent is one agent.
type agent struct {
	core
	runner.Launch
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	status runner.AgentStatus
	name   string
	lines  int64
	given  api.Assignment
}

func newLauncher(do func(a *agent) error) *launcher {
	return &launcher{do: do, agents: map[string]*agent{}, told: map[string]bool{}, changed: make(chan struct{})}
}

func (l *launcher) controller(c core) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c = c
}

func (l *launcher) Start(ctx context.Context, launch runner.Launch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.startErr != nil {
		if err := l.startErr(launch); err != nil {
			return err
		}
	}
	l.starts = append(l.starts, launch)
	if l.agents[launch.Task] != nil {
		return nil
	}
	a := &agent{Launch: launch, done: make(chan struct{}), name: rand.Text(), status: runner.AgentStatus{Task: launch.Task, State: runner.AgentRunning}}
	a.core = l // whichever controller there is
	a.ctx, a.cancel = context.WithCancel(context.Background())
	l.agents[launch.Task] = a
	go func() {
		err := l.do(a)
		l.mu.Lock()
		defer l.mu.Unlock()
		code := 0
		a.status.State, a.status.ExitCode = runner.AgentExited, &code
		if err != nil {
			code = 1
			a.status.Reason, a.status.Infrastructure = err.Error(), true
		}
		close(a.done)
		l.tell()
	}()
	return nil
}

func (l *launcher) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *launcher) Watch(ctx context.Context, report func(runner.AgentStatus)) error {
	for {
		l.mu.Lock()
		var news []runner.AgentStatus
		for _, task := range slices.Sorted(maps.Keys(l.agents)) {
			if a := l.agents[task]; a.status.State == runner.AgentExited && !l.told[task] {
				l.told[task] = true
				news = append(news, a.status)
			}
		}
		changed := l.changed
		l.mu.Unlock()
		for _, s := range news {
			report(s)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *launcher) Find(_ context.Context, task string) (runner.AgentStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.agents[task]; a != nil {
		return a.status, nil
	}
	return runner.AgentStatus{}, runner.ErrNoAgent
}

func (l *launcher) Stop(ctx context.Context, task string) error {
	l.mu.Lock()
	a, stopErr := l.agents[task], l.stopErr
	l.mu.Unlock()
	if stopErr != nil {
		if err := stopErr(task); err != nil {
			return err
		}
	}
	if a == nil {
		return nil
	}
	a.cancel()
	select {
	case <-a.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.agents, task)
	return nil
}

func (l *launcher) killAll() {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.agents))
	l.mu.Unlock()
	for _, a := range all {
		a.cancel()
		<-a.done
	}
}

// started gives the tasks that were started, in order.
func (l *launcher) started() (tasks []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.starts {
		tasks = append(tasks, s.Build)
	}
	return tasks
}

func (l *launcher) now() core {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.c
}

// What an agent calls goes to the controller there is; while there is none, it
// asks again.
func insistOn[T any](l *launcher, ctx context.Context, call func(c core) (T, error)) (T, error) {
	for {
		v, err := call(l.now())
		if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return v, err
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *launcher) Claim(ctx context.Context, task string, cl api.Claim) (api.Assignment, error) {
	return insistOn(l, ctx, func(c core) (api.Assignment, error) { return c.Claim(ctx, task, cl) })
}

func (l *launcher) AppendLog(ctx context.Context, task string, t api.TaskLog) (api.LogAck, error) {
	return insistOn(l, ctx, func(c core) (api.LogAck, error) { return c.AppendLog(ctx, task, t) })
}

func (l *launcher) Heartbeat(ctx context.Context, task string, h api.Heartbeat) (api.HeartbeatAck, error) {
	return insistOn(l, ctx, func(c core) (api.HeartbeatAck, error) { return c.Heartbeat(ctx, task, h) })
}

func (l *launcher) Finish(ctx context.Context, task string, r api.TaskResult) error {
	_, err := insistOn(l, ctx, func(c core) (struct{}, error) { return struct{}{}, c.Finish(ctx, task, r) })
	return err
}

// claim claims the agent's task.
func (a *agent) claim() (err error) {
	a.given, err = a.Claim(a.ctx, a.Task, api.Claim{Agent: a.name, Version: "v1"})
	a.lines = a.given.LogFrom
	return err
}

// say adds lines to its log.
func (a *agent) say(messages ...string) error {
	var l api.TaskLog
	l.From = a.lines
	for _, m := range messages {
		l.Lines = append(l.Lines, api.TaskLine{Time: time.Now(), Message: m})
	}
	ack, err := a.AppendLog(a.ctx, a.Task, l)
	if err == nil {
		a.lines = ack.Next
	}
	return err
}

// succeed reports what the build would have pushed.
func (a *agent) succeed() error {
	return a.Finish(context.WithoutCancel(a.ctx), a.Task, api.TaskResult{
		Result:   &plan.Result{ID: a.Build, Ref: "registry.test/images:" + a.Build, Digest: digestOf(a.Build), Platform: a.Platform, Bases: []plan.Base{}},
		LogLines: a.lines, Usage: &api.Usage{CPUSeconds: 1.5, PeakMemory: 1 << 20},
	})
}

// fail reports that the build failed.
func (a *agent) fail(why string) error {
	return a.Finish(context.WithoutCancel(a.ctx), a.Task, api.TaskResult{Error: why, LogLines: a.lines})
}

// untilStopped waits until the launcher stops the agent, and reports that.
func (a *agent) untilStopped() error {
	<-a.ctx.Done()
	return a.Finish(context.WithoutCancel(a.ctx), a.Task, api.TaskResult{Cancelled: true, LogLines: a.lines})
}

// builds does a build that succeeds.
func builds(a *agent) error {
	if err := a.claim(); err != nil {
		return err
	}
	if err := a.say("building "+a.Build, "done"); err != nil {
		return err
	}
	return a.succeed()
}

// stays claims and then waits to be stopped.
func stays(a *agent) error {
	if err := a.claim(); err != nil {
		return err
	}
	return a.untilStopped()
}

// contextOf brings a context.
func (w *world) contextOf(text string) string {
	w.t.Helper()
	digest := digestOf(text)
	if err := w.ReceiveContext(w.t.Context(), digest, int64(len(text)), strings.NewReader(text)); err != nil {
		w.t.Fatal(err)
	}
	return digest
}
