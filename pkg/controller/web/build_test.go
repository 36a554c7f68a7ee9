package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/submission"
)

// withBuild has the world take what clients of the original send.
func withBuild(o *Options, _ *controller.Options) {
	o.Compile = func(data []byte, service string) (*Compiled, error) {
		s, err := submission.FromConfig(data, "config.yaml", submission.Options{Name: service, Now: time.Now()})
		if err != nil {
			return nil, err
		}
		return &Compiled{Plan: s.Plan, Credentials: s.Credentials, Secrets: s.Secrets}, nil
	}
}

const originalConfig = `global:
  arch: amd64
  kaniko-credentials:
  - registry: registry.test:5000
    username: user
    password: hush-hush
  kaniko:
    context-path: /workspace
    dockerfile: Dockerfile
    destination: registry.test:5000/team/app
bake:
- kaniko: {build-args: {A: "1,2 3=4"}, extra-flags: --verbosity=debug --label 'a=b c'}
`

// The original's client, as it speaks to its own server: a context in the
// bucket, a configuration, a log with a verdict at its end.
func TestOriginalWire(t *testing.T) {
	w := newWorld(t, withBuild)
	archive := "not unpacked here"
	const key = "repos/1732190000-0a1b2c3d/repo.tar.gz"
	if err := w.blobs.Put(t.Context(), key, strings.NewReader(archive), int64(len(archive))); err != nil {
		t.Fatal(err)
	}
	if err := w.blobs.Put(t.Context(), "logs/secret", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	res, text := w.ask("POST", "/build?context_key="+key+"&service_name=web", "", originalConfig, "X-Build-Token", alice, "Content-Type", "application/x-yaml")
	var started struct{ BuildID, Status string }
	if err := json.Unmarshal([]byte(text), &started); err != nil || res.StatusCode != 200 || started.Status != "started" || started.BuildID == "" {
		t.Fatalf("%d %s %v", res.StatusCode, text, err)
	}
	a := w.agent()
	if a.Assignment.Context == nil || a.Assignment.Context.Digest != digestOf(archive) || a.Assignment.Credentials[0].Password != "hush-hush" {
		t.Errorf("%+v", a.Assignment)
	}
	img := a.Assignment.Plan.Images[0]
	if img.Repository != "registry.test:5000/team/app" || !slices.Equal(img.Tags, []string{"latest"}) || img.Builds[0].Args["A"] != "1,2 3=4" || img.Builds[0].Labels["a"] != "b c" {
		t.Errorf("%+v", img)
	}
	a.say(0, "a line that says BUILD FAILED and means nothing")
	read := make(chan string, 1)
	go func() {
		_, text := w.ask("GET", "/build/"+started.BuildID+"/logs", "", "", "X-Build-Token", alice)
		read <- text
	}()
	a.succeed(1)
	w.until(started.BuildID, api.Succeeded)
	log := <-read
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, line := range lines {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil || len(l) != 3 || l["ts"] == nil || l["level"] == nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, `"message":"BUILD SUCCEEDED"`) || !strings.Contains(log, "means nothing") || !strings.Contains(log, ": succeeded, sha256:") {
		t.Errorf("%s", log)
	}

	// One that fails says so, whatever its log says.
	failing := w.submit(alice, "other")
	b := w.agent()
	if err := b.Finish(t.Context(), b.Launch.Task, api.TaskResult{Error: "make: no rule"}); err != nil {
		t.Fatal(err)
	}
	w.until(failing.ID, api.Failed)
	_, log = w.ask("GET", "/build/"+failing.ID+"/logs", alice, "")
	if !strings.HasSuffix(strings.TrimSpace(log), `"level":"error","message":"BUILD FAILED"}`) || !strings.Contains(log, "make: no rule") {
		t.Errorf("%s", log)
	}

	for name, tt := range map[string]struct {
		path, token, body string
		status            int
		says              string
	}{
		"no token":          {"/build", "", originalConfig, 401, "no token"},
		"unknown key":       {"/build", alice, "global: {archs: amd64}\n", 400, "config.yaml:1:10"},
		"no context":        {"/build?service_name=web", alice, originalConfig, 400, "names no context"},
		"nothing to build":  {"/build", alice, "global: {arch: amd64}\nbake: []\n", 400, ""},
		"no YAML":           {"/build", alice, "{", 400, ""},
		"large":             {"/build", alice, strings.Repeat("#", 2<<20), 413, ""},
		"another key":       {"/build?context_key=logs/secret", alice, originalConfig, 400, "context_key"},
		"a key that climbs": {"/build?context_key=repos/../logs/repo.tar.gz", alice, originalConfig, 400, "context_key"},
		"missing context":   {"/build?context_key=repos/1-2/repo.tar.gz", alice, originalConfig, 400, "no context"},
		"parameter":         {"/build?contextkey=x", alice, originalConfig, 400, "contextkey"},
		"somebody's log":    {"/build/" + failing.ID + "/logs", bob, "", 404, "no such run"},
	} {
		method := http.MethodPost
		if tt.body == "" {
			method = http.MethodGet
		}
		if res, text := w.ask(method, tt.path, tt.token, tt.body); res.StatusCode != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %d %s", name, res.StatusCode, text)
		}
	}
}

func TestVerdict(t *testing.T) {
	text := verdict(api.Run{State: api.Cancelled, Images: []api.RunImage{{Name: "app", Tasks: []api.Task{{Build: "app@amd64", State: api.Cancelled, Reason: "a\nb"}}}}})
	if n := bytes.Count(text, []byte("\n")); n != 2 || !bytes.Contains(text, []byte(`a\\nb`)) || !bytes.Contains(text, []byte("BUILD FAILED")) {
		t.Errorf("%s", text)
	}
}

// The trace of a submission goes on in the run and in its agent.
func TestTraces(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	w := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Tracer = trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	})
	const id = "0af7651916cd43dd8448eb211c80319c"
	if _, err := w.client(alice).Traced("00-"+id+"-b7ad6b7169203331-01").CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); err != nil {
		t.Fatal(err)
	}
	a := w.agent()
	if !strings.HasPrefix(a.Trace, "00-"+id+"-") {
		t.Errorf("the agent's trace is %q", a.Trace)
	}
	if _, err := a.Traced(a.Trace).Heartbeat(t.Context(), a.Launch.Task, api.Heartbeat{}); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() == id {
			names[s.Name()] = true
		}
	}
	if !names["POST /v1/runs"] || !names["POST /v1/tasks/{task}/heartbeat"] {
		t.Errorf("%v", names)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 || !strings.HasPrefix(w.events[0].Trace, "00-"+id) {
		t.Errorf("%+v", w.events)
	}
}

// Without a tracer of its own the controller passes a trace on as it is.
func TestTracePassesThrough(t *testing.T) {
	w := newWorld(t)
	const given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if _, err := w.client(alice).Traced(given).CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); err != nil {
		t.Fatal(err)
	}
	if a := w.agent(); a.Trace != given {
		t.Errorf("%q", a.Trace)
	}
	if _, err := w.client(alice).Traced("nonsense").CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); err != nil {
		t.Fatal(err)
	}
	if a := w.agent(); a.Trace != "" {
		t.Errorf("%q", a.Trace)
	}
}
