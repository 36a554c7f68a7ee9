package web

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// world is a controller behind its interface, on a real store, whose agents
// are the test.
type world struct {
	t        *testing.T
	core     *controller.Controller
	front    *Server
	url      string
	dir      string
	blobs    blob.Store
	launched chan runner.Launch
	log      *lockedBuffer
	stop     func() error // ends the interface, then the core

	mu       sync.Mutex
	events   []controller.Event
	validate bool
}

// The tokens of a world.
const (
	alice   = "alice-token-0123456789" // submits
	bob     = "bob-token-0123456789"   // submits
	eye     = "eye-token-0123456789"   // reads
	root    = "root-token-0123456789"  // may all
	limited = "limited-token-0123456789"
	expired = "expired-token-0123456789"
)

func newWorld(t *testing.T, change ...func(*Options, *controller.Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), launched: make(chan runner.Launch, 1000), log: &lockedBuffer{}, validate: true}
	db, err := store.Open(t.Context(), filepath.Join(w.dir, "pipegen.db"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := controller.KeyFile(filepath.Join(w.dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	audit, err := NewAudit(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	metrics := NewMetrics()
	w.blobs = blob.Dir(filepath.Join(w.dir, "blobs"))
	co := controller.Options{
		Store: db, Blobs: w.blobs, Launchers: map[string]runner.Launcher{"local": &launcher{w: w}}, Default: "local", URL: "http://controller.test", Instance: "one", Keys: keys,
		Publish: func(_ context.Context, _ *plan.Plan, img *plan.Image, _ []plan.Result, _ []api.Credential, _ func(string, string)) (plan.Published, error) {
			return plan.Published{Name: img.Name, Repository: img.Repository, Digest: digestOf(img.Name), Tags: img.Tags, Children: []plan.Child{}}, nil
		},
		Limits: controller.Limits{Heartbeat: time.Second, Backoff: time.Millisecond}, Logger: log,
		Observe: func(e controller.Event) {
			metrics.Observe(e)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	wo := Options{Access: access.Static{Source: access.Fixed(
		token(t, "alice", alice, access.Submit), token(t, "bob", bob, access.Submit), token(t, "eye", eye, access.Read), token(t, "root", root, access.Admin),
		with(token(t, "limited", limited, access.Submit), func(k *access.Token) { k.Registries, k.Runners = []string{"registry.test/mine"}, []string{"local"} }),
		with(token(t, "old", expired, access.Admin), func(k *access.Token) { k.Expires = time.Now().Add(-time.Minute) }),
	)}, DefaultRunner: "local", Blobs: w.blobs, TempDir: w.dir, Metrics: metrics, Audit: audit, Logger: log}
	for _, c := range change {
		c(&wo, &co)
	}
	if w.core, err = controller.New(co); err != nil {
		t.Fatal(err)
	}
	metrics.Watch(w.core.Queue)
	if wo.Core == nil {
		wo.Core = w.core
	}
	if w.front, err = New(wo); err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + l.Addr().String()
	coreCtx, stopCore := context.WithCancel(context.Background())
	frontCtx, stopFront := context.WithCancel(context.Background())
	coreDone, frontDone := make(chan error, 1), make(chan error, 1)
	go func() { coreDone <- w.core.Run(coreCtx) }()
	go func() { frontDone <- w.front.Serve(frontCtx, l, nil) }()
	w.stop = sync.OnceValue(func() error {
		stopFront()
		err := <-frontDone
		stopCore()
		return errors.Join(err, <-coreDone, db.Close())
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

func token(t *testing.T, name, secret string, roles ...access.Role) access.Token {
	t.Helper()
	k, err := access.Given(name, secret, roles...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func with(k access.Token, change func(*access.Token)) access.Token {
	change(&k)
	return k
}

func digestOf(s string) string {
	sum := access.Hash(s)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// launcher hands what it is to start to the test.
type launcher struct {
	w  *world
	mu sync.Mutex
	on map[string]bool
}

func (l *launcher) Start(_ context.Context, launch runner.Launch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on == nil {
		l.on = map[string]bool{}
	}
	if !l.on[launch.Task] {
		l.on[launch.Task] = true
		l.w.launched <- launch
	}
	return nil
}

func (l *launcher) Watch(ctx context.Context, _ func(runner.AgentStatus)) error {
	<-ctx.Done()
	return nil
}

func (l *launcher) Find(_ context.Context, task string) (runner.AgentStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.on[task] {
		return runner.AgentStatus{}, runner.ErrNoAgent
	}
	return runner.AgentStatus{Task: task, State: runner.AgentRunning}, nil
}

func (l *launcher) Stop(_ context.Context, task string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.on, task)
	return nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// planOf has an image of one build.
func planOf(name string) *plan.Plan {
	return &plan.Plan{
		Version: plan.Version, Event: "local", Layout: "tag", Registry: "registry.test/images", Head: "abc", Skipped: []plan.Skipped{},
		Images: []plan.Image{{
			Name: name, Dir: name, Key: "k", Reasons: []plan.Reason{}, Repository: "registry.test/images", Tags: []string{name + "-1"}, Needs: []string{},
			Source: &plan.Source{Repo: "https://git.test/x", Ref: "v1", Commit: strings.Repeat("a", 40)},
			Builds: []plan.Build{{
				ID: name + "@amd64", Platform: "linux/amd64", Engine: "kaniko", Destination: "registry.test/images:" + name + "-1-amd64",
				Context: ".", Dockerfile: "Dockerfile", Outputs: []string{"image"}, Timeout: "1h",
			}},
		}},
	}
}

// client speaks to the world with a token; its answers are held against the
// document of the interface.
func (w *world) client(token string) *api.Client {
	w.t.Helper()
	c, err := api.NewClient(api.ClientOptions{URL: w.url, Token: token, Patience: -1, Transport: &checking{t: w.t, validate: w.validate}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// submit starts a run of one image.
func (w *world) submit(token, name string) api.Run {
	w.t.Helper()
	run, err := w.client(token).CreateRun(w.t.Context(), api.RunRequest{Plan: planOf(name)}, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// agent is one that was launched for the next task, and has claimed it.
type testAgent struct {
	*api.Client
	runner.Launch
	api.Assignment
	w *world
}

func (w *world) agent() *testAgent {
	w.t.Helper()
	a := w.unclaimed()
	var err error
	if a.Assignment, _, err = a.Claim(w.t.Context(), a.Launch.Task, api.Claim{Agent: "test", Version: "v"}); err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) unclaimed() *testAgent {
	w.t.Helper()
	select {
	case l := <-w.launched:
		return &testAgent{w: w, Client: w.client(l.Token), Launch: l}
	case <-time.After(20 * time.Second):
		w.t.Fatal("no agent was started")
		return nil
	}
}

// say appends lines to the task's log.
func (a *testAgent) say(from int64, lines ...string) {
	a.w.t.Helper()
	l := api.TaskLog{From: from}
	for _, line := range lines {
		l.Lines = append(l.Lines, api.TaskLine{Time: time.Now().UTC(), Message: line})
	}
	ack, err := a.AppendLog(a.w.t.Context(), a.Launch.Task, l)
	if err != nil || ack.Next != from+int64(len(lines)) {
		a.w.t.Fatalf("%+v %v", ack, err)
	}
}

// succeed ends the task well, after so many lines of log.
func (a *testAgent) succeed(lines int64) {
	a.w.t.Helper()
	b := a.Assignment.Plan.Images[len(a.Assignment.Plan.Images)-1].Builds[0]
	err := a.Finish(a.w.t.Context(), a.Launch.Task, api.TaskResult{
		Result:   &plan.Result{ID: b.ID, Ref: b.Destination, Digest: digestOf(b.ID), Size: 1, MediaType: "application/vnd.oci.image.manifest.v1+json", Platform: b.Platform, Bases: []plan.Base{}, Key: "k", Head: "abc"},
		LogLines: lines,
	})
	if err != nil {
		a.w.t.Fatal(err)
	}
}

// until waits for a run to be in a state.
func (w *world) until(id string, state api.State) api.Run {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		run, err := w.client(root).Run(w.t.Context(), id)
		if err == nil && run.State == state {
			return run
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("run %s is %s, not %s: %v", id, run.State, state, err)
		}
	}
}

// reply is an answer whose body was read.
type reply struct {
	StatusCode int
	Header     http.Header
}

// ask sends a request of its own making.
func (w *world) ask(method, path, token, body string, header ...string) (reply, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := (&checking{t: w.t, validate: w.validate}).RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header}, string(text)
}

// problemOf reads a problem.
func problemOf(t *testing.T, text string) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

// records reads the audit log.
func (w *world) records() []Record {
	w.t.Helper()
	text, err := readFile(filepath.Join(w.dir, AuditFile))
	if err != nil {
		w.t.Fatal(err)
	}
	var all []Record
	for line := range bytes.Lines(text) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}
