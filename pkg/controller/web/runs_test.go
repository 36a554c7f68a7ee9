package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// A run from its submission to its end, over HTTP alone.
func TestRun(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	me := w.client(alice)
	req := api.RunRequest{Plan: planOf("app"), Labels: map[string]string{"team": "a"}, Credentials: []api.Credential{{Registry: "registry.test", Username: "u", Password: "hush-hush"}}}
	run, err := me.CreateRun(ctx, req, "key-1")
	if err != nil || run.Submitter != "alice" || run.Runner != "local" || len(run.Images) != 1 {
		t.Fatalf("%+v %v", run, err)
	}
	same, err := me.CreateRun(ctx, req, "key-1")
	if err != nil || same.ID != run.ID {
		t.Errorf("sent twice: %s and %s, %v", run.ID, same.ID, err)
	}
	req.Labels = nil
	if _, err := me.CreateRun(ctx, req, "key-1"); !errors.Is(err, api.ErrConflict) {
		t.Errorf("another request with the same key: %v", err)
	}
	other, err := w.client(bob).CreateRun(ctx, api.RunRequest{Plan: planOf("other")}, "key-1")
	if err != nil || other.ID == run.ID {
		t.Errorf("somebody else's key: %v", err)
	}

	first, second := w.agent(), w.agent()
	if first.Launch.Run != run.ID {
		first, second = second, first
	}
	if first.Assignment.Credentials[0].Password != "hush-hush" || second.Assignment.Credentials != nil {
		t.Errorf("credentials %v %v", first.Assignment.Credentials, second.Assignment.Credentials)
	}
	first.say(0, "one", "two")
	if ack, err := first.Heartbeat(ctx, first.Launch.Task, api.Heartbeat{Usage: &api.Usage{CPUSeconds: 1, PeakMemory: 2}}); err != nil || ack.Cancel {
		t.Errorf("%+v %v", ack, err)
	}
	if _, err := first.AppendLog(ctx, first.Launch.Task, api.TaskLog{From: 7, Lines: []api.TaskLine{{Message: "gap"}}}); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a gap: %v", err)
	}
	first.succeed(2)
	got := w.until(run.ID, api.Succeeded)
	if got.Images[0].Published == nil || got.Images[0].Published.Digest != digestOf("app") || len(got.Images[0].Tasks) != 2 {
		t.Errorf("%+v", got.Images[0])
	}
	// A task that is over gives nothing away any more.
	if ack, err := first.Heartbeat(ctx, first.Launch.Task, api.Heartbeat{}); err != nil || !ack.Cancel {
		t.Errorf("a heartbeat after the end: %+v %v", ack, err)
	}
	if _, _, err := first.Claim(ctx, first.Launch.Task, api.Claim{Agent: "test", Version: "v"}); !errors.Is(err, api.ErrGone) {
		t.Errorf("a claim after the end: %v", err)
	}
	if _, err := first.AppendLog(ctx, first.Launch.Task, api.TaskLog{From: 2, Lines: []api.TaskLine{{Message: "late"}}}); !errors.Is(err, api.ErrGone) {
		t.Errorf("a line after the end: %v", err)
	}
	text, err := readFile(w.dir + "/" + AuditFile)
	if err != nil || strings.Contains(string(text)+w.log.String(), "hush-hush") || strings.Contains(string(text)+w.log.String(), alice) {
		t.Error("a secret is in the logs")
	}

	// The other one is cancelled, and tried again.
	cancelled, err := w.client(bob).CancelRun(ctx, other.ID, "no\nneed")
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := second.Heartbeat(ctx, second.Launch.Task, api.Heartbeat{}); err == nil && !ack.Cancel {
		t.Errorf("%+v %v", ack, cancelled)
	}
	_ = second.Finish(ctx, second.Launch.Task, api.TaskResult{Cancelled: true, Error: "cancelled"})
	w.until(other.ID, api.Cancelled)
	again, err := w.client(bob).RetryRun(ctx, other.ID, "again")
	if err != nil || again.RetryOf != other.ID {
		t.Fatalf("%+v %v", again, err)
	}
	if _, err := me.RetryRun(ctx, run.ID, ""); err == nil {
		t.Error("nothing is left to do, and it is done again")
	}

	// Lists.
	for name, tt := range map[string]struct {
		token string
		query api.RunQuery
		want  []string
	}{
		"own":            {alice, api.RunQuery{}, []string{run.ID}},
		"others'":        {bob, api.RunQuery{Submitter: "alice"}, nil},
		"own by name":    {bob, api.RunQuery{Submitter: "bob"}, []string{again.ID, other.ID}},
		"all":            {eye, api.RunQuery{}, []string{again.ID, other.ID, run.ID}},
		"by submitter":   {root, api.RunQuery{Submitter: "alice"}, []string{run.ID}},
		"by state":       {root, api.RunQuery{States: []api.State{api.Cancelled, api.Succeeded}}, []string{other.ID, run.ID}},
		"by image":       {root, api.RunQuery{Image: "app"}, []string{run.ID}},
		"by label":       {root, api.RunQuery{Labels: map[string]string{"team": "a"}}, []string{run.ID}},
		"by other label": {root, api.RunQuery{Labels: map[string]string{"team": "b"}}, nil},
	} {
		list, err := w.client(tt.token).Runs(ctx, tt.query)
		var ids []string
		for _, r := range list.Runs {
			ids = append(ids, r.ID)
		}
		if err != nil || !slices.Equal(ids, tt.want) {
			t.Errorf("%s: %v %v, want %v", name, ids, err, tt.want)
		}
	}
	page, err := w.client(eye).Runs(ctx, api.RunQuery{Limit: 2})
	if err != nil || len(page.Runs) != 2 || page.Next == "" {
		t.Fatalf("%+v %v", page, err)
	}
	rest, err := w.client(eye).Runs(ctx, api.RunQuery{Limit: 2, After: page.Next})
	if err != nil || len(rest.Runs) != 1 || rest.Next != "" || rest.Runs[0].ID != run.ID {
		t.Errorf("%+v %v", rest, err)
	}
}

// A submitter sees and touches its own runs alone; others' do not exist for it.
func TestRunsOfOthers(t *testing.T) {
	w := newWorld(t)
	run := w.submit(alice, "app")
	path := "/v1/runs/" + run.ID
	for _, tt := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", path, alice, 200},
		{"GET", path, eye, 200},
		{"GET", path, root, 200},
		{"GET", path, bob, 404},
		{"GET", path + "/logs", bob, 404},
		{"POST", path + "/cancel", bob, 404},
		{"POST", path + "/retry", bob, 404},
		{"POST", path + "/cancel", eye, 403},
		{"POST", path + "/retry", eye, 403},
		{"POST", "/v1/runs", eye, 403},
		{"POST", "/v1/contexts", eye, 403},
		{"GET", "/metrics", alice, 403},
		{"GET", "/metrics", eye, 200},
		{"GET", "/v1/openapi.yaml", bob, 200},
		{"GET", "/v1/runs/0000000000000000", root, 404},
		{"GET", "/v1/runs/..%2F..%2Fetc", root, 404},
		{"GET", path, "", 401},
		{"GET", path, "forged-token-0123456789", 401},
		{"GET", path, alice + "x", 401},
		{"GET", path, expired, 401},
		{"GET", "/health/live", "", 200},
		{"GET", "/health/ready", "forged", 200},
		{"POST", path + "/cancel", root, 200},
	} {
		res, text := w.ask(tt.method, tt.path, tt.token, "")
		if res.StatusCode != tt.want {
			t.Errorf("%s %s as %q: %d, want %d\n%s", tt.method, tt.path, tt.token, res.StatusCode, tt.want, text)
		}
		if res.StatusCode == 401 && res.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 does not say how")
		}
		if res.StatusCode == 404 && tt.token == bob {
			// It looks like a run that there never was.
			_, never := w.ask("GET", "/v1/runs/1111111111111111", bob, "")
			if a, b := problemOf(t, text), problemOf(t, never); a.Detail != b.Detail && !strings.Contains(b.Detail, "1111111111111111") {
				t.Errorf("%q and %q tell whether there is a run", a.Detail, b.Detail)
			}
		}
	}
	// The original's header is a token as well.
	if res, _ := w.ask("GET", path, "", "", "X-Build-Token", alice); res.StatusCode != 200 {
		t.Errorf("X-Build-Token: %d", res.StatusCode)
	}
	for action, want := range map[string]int{"GET /v1/runs/{run}": 6, "POST /v1/runs/{run}/cancel": 3, "GET /metrics": 1} {
		n := 0
		for _, r := range w.records() {
			if r.Action == action && r.Request != "" && r.Remote == "127.0.0.1" {
				n++
			}
		}
		if n < want-1 {
			t.Errorf("%s is %d times in the audit log, want about %d", action, n, want)
		}
	}
}

// The token of an agent opens its own task, and nothing else.
func TestAgentTokens(t *testing.T) {
	w := newWorld(t)
	run := w.submit(alice, "app")
	w.submit(alice, "other")
	first, second := w.agent(), w.unclaimed()
	if first.Launch.Run != run.ID {
		t.Log("the second run came first")
	}
	own, others := "/v1/tasks/"+first.Launch.Task, "/v1/tasks/"+second.Launch.Task
	for _, tt := range []struct {
		method, path, token, body string
		want                      int
	}{
		{"POST", own + "/heartbeat", first.Token, "{}", 200},
		{"POST", others + "/heartbeat", first.Token, "{}", 404},
		{"POST", others + "/claim", first.Token, `{"agent":"x","version":"v"}`, 404},
		{"GET", others + "/context", first.Token, "", 404},
		{"POST", others + "/logs", first.Token, `{"from":0,"lines":[]}`, 404},
		{"POST", others + "/result", first.Token, `{"log_lines":0}`, 404},
		{"POST", "/v1/tasks/nothing-0-1/heartbeat", first.Token, "{}", 404},
		{"GET", "/v1/runs/" + run.ID, first.Token, "", 403},
		{"GET", "/v1/runs", first.Token, "", 403},
		{"POST", "/v1/runs", first.Token, "{}", 403},
		{"GET", "/metrics", first.Token, "", 403},
		{"GET", "/v1/openapi.yaml", first.Token, "", 403},
		{"POST", own + "/heartbeat", root, "{}", 403},
		{"POST", own + "/heartbeat", "", "{}", 401},
		{"POST", own + "/heartbeat", "forged", "{}", 401},
		{"POST", own + "/claim", first.Token, `{"agent":"another","version":"v"}`, 409},
		{"GET", own + "/context", first.Token, "", 404},
	} {
		if res, text := w.ask(tt.method, tt.path, tt.token, tt.body); res.StatusCode != tt.want {
			t.Errorf("%s %s: %d, want %d\n%s", tt.method, tt.path, res.StatusCode, tt.want, text)
		}
	}
}

// What a token is limited to.
func TestLimitedToken(t *testing.T) {
	w := newWorld(t)
	mine := planOf("app")
	mine.Images[0].Repository, mine.Images[0].Builds[0].Destination = "registry.test/mine/app", "registry.test/mine/app:x"
	me := w.client(limited)
	if _, err := me.CreateRun(t.Context(), api.RunRequest{Plan: mine}, ""); err != nil {
		t.Error(err)
	}
	for name, req := range map[string]api.RunRequest{
		"registry": {Plan: planOf("app")},
		"runner":   {Plan: mine, Runner: "kubernetes"},
		"priority": {Plan: mine, Priority: 1},
	} {
		if _, err := me.CreateRun(t.Context(), req, ""); !errors.Is(err, api.ErrForbidden) || failure.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !slices.ContainsFunc(w.records(), func(r Record) bool {
		return r.Who == "limited" && r.Status == 403 && strings.Contains(r.Detail, "write to registry.test/images")
	}) {
		t.Errorf("%+v", w.records())
	}
	if _, err := w.client(root).CreateRun(t.Context(), api.RunRequest{Plan: mine, Priority: 900}, ""); err != nil {
		t.Errorf("an admin's priority: %v", err)
	}
}

// What a controller lays upon plans.
func TestPlansOfThisController(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Resources = &config.Resources{CPU: "500m", Memory: "2G"}
		o.Check = func(p *plan.Plan) error {
			if p.Publish.Sign != nil {
				return failure.WithHint(failure.Input("no signatures"), "sign elsewhere")
			}
			return nil
		}
	})
	p := planOf("app")
	p.Images[0].Builds[0].Resources = &config.Resources{Memory: "4G", EphemeralStorage: "50Gi"}
	if _, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: p}, ""); err != nil {
		t.Fatal(err)
	}
	if l := w.unclaimed(); l.Resources == nil || *l.Resources != (config.Resources{CPU: "500m", Memory: "4G", EphemeralStorage: "50Gi"}) {
		t.Errorf("%+v", l.Resources)
	}
	p.Publish.Sign = &config.Sign{Key: "env://KEY"}
	if _, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: p}, ""); !errors.Is(err, failure.ErrInput) || failure.Hint(err) != "sign elsewhere" {
		t.Error(err)
	}
}

// Scripts of any length reach their agent whole, and nothing of them is in what
// the agent is started with.
func TestLongScripts(t *testing.T) {
	w := newWorld(t)
	script := "echo begin\n" + strings.Repeat("echo 'a, \"b\" $c'\n", 60_000) + "echo end"
	p := planOf("app")
	p.Images[0].Builds[0].PreScript, p.Images[0].Builds[0].Env = script, map[string]string{"LONG": strings.Repeat("x", 200_000)}
	if _, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: p}, ""); err != nil {
		t.Fatal(err)
	}
	a := w.agent()
	b := a.Assignment.Plan.Images[0].Builds[0]
	if b.PreScript != script || b.Env["LONG"] != p.Images[0].Builds[0].Env["LONG"] {
		t.Error("the script is another one")
	}
	if text, err := json.Marshal(a.Launch); err != nil || len(text) > 4096 {
		t.Errorf("an agent is started with %d bytes: %v", len(text), err)
	}
}

// What one run asks for is not what another one gets.
func TestLaunchesOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	tokens := map[string]bool{}
	for i, image := range []string{"builder:1", "builder:2", ""} {
		p := planOf("app")
		p.Images[0].Builds[0].BuilderImage = image
		if i == 1 {
			p.Images[0].Builds[0].Resources = &config.Resources{CPU: "2"}
		}
		run, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: p}, "")
		if err != nil {
			t.Fatal(err)
		}
		l := w.unclaimed().Launch
		if l.Run != run.ID || l.Image != image || (l.Resources != nil) != (i == 1) || tokens[l.Token] {
			t.Errorf("%+v", l)
		}
		tokens[l.Token] = true
	}
}

func TestAnonymous(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Anonymous = true })
	for _, tt := range []struct {
		name, method, path, token string
		header                    []string
		want                      int
	}{
		{"nobody", "GET", "/v1/runs", "", nil, 200},
		{"metrics", "GET", "/metrics", "", nil, 200},
		{"somebody", "GET", "/v1/runs", alice, nil, 200},
		{"a wrong token", "GET", "/v1/runs", "forged", nil, 401},
		{"localhost", "GET", "/v1/runs", "", []string{"Host", "localhost:3000"}, 200},
		{"IPv6", "GET", "/v1/runs", "", []string{"Host", "[::1]:3000"}, 200},
		{"a name that leads here", "GET", "/v1/runs", "", []string{"Host", "evil.example.org"}, 421},
		{"a page of another site", "POST", "/v1/runs", "", []string{"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"}, 403},
		{"a page of another origin", "POST", "/v1/runs", "", []string{"Origin", "https://evil.example.org"}, 403},
	} {
		if res, text := w.ask(tt.method, tt.path, tt.token, "", tt.header...); res.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d\n%s", tt.name, res.StatusCode, tt.want, text)
		}
	}
	if run := w.submit("", "app"); run.Submitter != "anonymous" {
		t.Errorf("%+v", run)
	}
	if _, err := New(Options{}); !errors.Is(err, failure.ErrInput) {
		t.Error("a controller without tokens:", err)
	}
	// A store that cannot be asked lets nobody in, and is nobody's fault.
	broken := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Access = access.Static{Source: func() ([]access.Token, error) { return nil, errors.New("the disk is on fire") }}
	})
	res, text := broken.ask("GET", "/v1/runs", alice, "")
	if res.StatusCode != http.StatusServiceUnavailable || strings.Contains(text, "fire") || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}
