package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pipegen/pipegen/pkg/agent"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	keys "github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/controller/web"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// controller [TOKEN] starts a controller on loopback and sets $PIPEGEN_SERVER. With
// a token it answers nobody else. Its agents are real but for the engine: they
// run a build's pre_script in the context and push a random image.
func startController(ts *testscript.TestScript, neg bool, args []string) {
	dir, err := os.MkdirTemp("", "pipegen-controller-")
	ts.Check(err)
	ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	db, err := store.Open(context.Background(), filepath.Join(dir, "pipegen.db"))
	ts.Check(err)
	keyring, err := controller.KeyFile(filepath.Join(dir, "secrets.key"))
	ts.Check(err)
	audit, err := web.NewAudit(dir)
	ts.Check(err)
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	ts.Check(err)
	url := "http://" + listener.Addr().String()
	discard := slog.New(slog.DiscardHandler)
	blobs := blob.Dir(filepath.Join(dir, "blobs"))
	agents := &hereAgents{dir: filepath.Join(dir, "agents"), tasks: map[string]*hereAgent{}}
	core, err := controller.New(controller.Options{
		Store: db, Blobs: blobs, Launchers: map[string]runner.Launcher{"local": agents, "kubernetes": agents}, Default: "local", URL: url, Instance: "test",
		Publish: newApp(io.Discard, io.Discard).publishRun(nil), Keys: keyring, Logger: discard,
		Limits: controller.Limits{Heartbeat: time.Second, Backoff: time.Millisecond},
	})
	ts.Check(err)
	o := web.Options{Core: core, Anonymous: len(args) == 0, DefaultRunner: "local", Blobs: blobs, TempDir: dir, Metrics: web.NewMetrics(), Audit: audit, Logger: discard, Check: acceptable}
	var tokens []keys.Token
	for _, secret := range args {
		token, err := keys.Given("ci", secret, keys.Submit)
		ts.Check(err)
		tokens = append(tokens, token)
	}
	o.Access = keys.Static{Source: keys.Fixed(tokens...)}
	front, err := web.New(o)
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serveBoth(ctx, core.Run, func(ctx context.Context) error { return front.Serve(ctx, listener, nil) })
	}()
	ts.Defer(func() {
		stop()
		err := <-done
		agents.end()
		ts.Check(errors.Join(err, db.Close()))
	})
	ts.Setenv("PIPEGEN_SERVER", url)
}

// hereAgents runs agents in this process.
type hereAgents struct {
	dir string

	mu    sync.Mutex
	tasks map[string]*hereAgent
}

type hereAgent struct {
	stop context.CancelFunc
	done chan struct{}
}

func (h *hereAgents) Start(_ context.Context, l runner.Launch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tasks[l.Task] != nil {
		return nil
	}
	client, err := api.NewClient(api.ClientOptions{URL: l.URL, Token: l.Token})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &hereAgent{stop, make(chan struct{})}
	h.tasks[l.Task] = a
	go func() {
		defer close(a.done)
		_ = agent.Run(ctx, agent.Options{Client: client, Task: l.Task, Version: "test", Dir: filepath.Join(h.dir, l.Task), Getenv: func(string) string { return "" }, Do: pretend})
	}()
	return nil
}

func (h *hereAgents) Watch(ctx context.Context, _ func(runner.AgentStatus)) error {
	<-ctx.Done()
	return nil
}

func (h *hereAgents) Find(_ context.Context, task string) (runner.AgentStatus, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.tasks[task]
	if a == nil {
		return runner.AgentStatus{}, runner.ErrNoAgent
	}
	select {
	case <-a.done:
		return runner.AgentStatus{Task: task, State: runner.AgentExited}, nil
	default:
		return runner.AgentStatus{Task: task, State: runner.AgentRunning}, nil
	}
}

func (h *hereAgents) Stop(_ context.Context, task string) error {
	h.mu.Lock()
	a := h.tasks[task]
	h.mu.Unlock()
	if a != nil {
		a.stop()
		<-a.done
	}
	return nil
}

// end ends all agents.
func (h *hereAgents) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.tasks {
		a.stop()
		<-a.done
	}
}

// pretend is an engine: it says what it was given, and pushes an image that is
// not made of it.
func pretend(ctx context.Context, w agent.Work) (plan.Result, error) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w.Log, format+"\n", args...) }
	say("context %s dockerfile %s args %v", w.Build.Context, w.Build.Dockerfile, w.Build.Args)
	for _, l := range w.Logins {
		say("login %s as %s with %d characters", l.Registry, l.Username, len(l.Password))
	}
	for _, name := range w.Build.Credentials() {
		say("secret %s of %d characters", name, len(w.Getenv(name)))
	}
	for _, need := range w.Image.Needs {
		if _, err := os.Stat(plan.PublishedFile(w.MetadataDir, need)); err != nil {
			return plan.Result{}, err
		}
		say("on %s", need)
	}
	if err := filepath.WalkDir(w.Root, func(path string, d os.DirEntry, err error) error {
		if rel, rerr := filepath.Rel(w.Root, path); rerr == nil && err == nil && !d.IsDir() {
			say("has %s", filepath.ToSlash(rel))
		}
		return err
	}); err != nil {
		return plan.Result{}, err
	}
	if w.Build.PreScript != "" {
		cmd := exec.CommandContext(ctx, "sh", "-ec", w.Build.PreScript)
		cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = filepath.Join(w.Root, w.Build.Context), w.Log, w.Log, 5*time.Second
		if err := cmd.Run(); err != nil {
			return plan.Result{}, fmt.Errorf("pre_script failed: %w", err)
		}
	}
	return push(ctx, w)
}

func push(ctx context.Context, w agent.Work) (plan.Result, error) {
	none := plan.Result{}
	img, err := random.Image(64, 1)
	if err != nil {
		return none, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return none, err
	}
	pl, err := v1.ParsePlatform(w.Build.Platform)
	if err != nil {
		return none, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = pl.OS, pl.Architecture, pl.Variant
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return none, err
	}
	ref, err := name.ParseReference(w.Build.Destination)
	if err != nil {
		return none, err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return none, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return none, err
	}
	digest, err := img.Digest()
	if err != nil {
		return none, err
	}
	mediaType, err := img.MediaType()
	return plan.Result{
		ID: w.Build.ID, Ref: w.Build.Destination, Digest: digest.String(), Size: int64(len(manifest)), MediaType: string(mediaType), Platform: w.Build.Platform,
		Bases: []plan.Base{}, Key: w.Image.Key, Head: w.Plan.Head,
	}, err
}

// eventually COMMAND ARGS... runs a command until it succeeds.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND ARGS...")
	}
	for range 600 {
		if ts.Exec(args[0], args[1:]...) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s: never\n%s", strings.Join(args, " "), ts.ReadFile("stderr"))
}
