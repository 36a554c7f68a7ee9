package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pipegen/pipegen/internal/issuertest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
)

// here is whom tokens are for.
const here = "https://pipegen.example.com"

// trusting is a world that also takes the tokens of an issuer.
func trusting(t *testing.T, i *issuertest.Issuer, change ...func(*Options, *controller.Options)) *world {
	t.Helper()
	identities, err := access.NewOIDC(access.OIDCOptions{Transport: i.Transport, Issuers: []access.Issuer{{URL: i.URL, Name: "ci", Audience: []string{here}, Rules: []access.Rule{
		{Claims: map[string][]string{"project_path": {"team/*"}, "ref": {"main"}, "ref_protected": {"true"}}, Roles: []access.Role{access.Submit}, Registries: []string{"registry.test/images"}, Tasks: 1, Priority: 5},
		{Claims: map[string][]string{"repository": {"octo-org/*"}}, Roles: []access.Role{access.Submit}, Runs: 3},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, append([]func(*Options, *controller.Options){func(o *Options, _ *controller.Options) {
		o.Access = access.Any{o.Access, identities}
	}}, change...)...)
}

func TestJobsOfCISystems(t *testing.T) {
	i := issuertest.New(t)
	w := trusting(t, i)
	for name, claims := range map[string]map[string]any{
		"team/app@ci":     i.GitLab(here, "team/app", "main", time.Now()),
		"octo-org/app@ci": i.GitHub(here, "octo-org/app", "refs/heads/main", time.Now()),
	} {
		token := i.Token(claims)
		run := w.submit(token, "app")
		if run.Submitter != name {
			t.Errorf("%s is %s", name, run.Submitter)
		}
		a := w.agent()
		a.say(0, "built")
		a.succeed(1)
		w.until(run.ID, api.Succeeded)
		// Another job of the same project sees the run, others do not.
		claims["jti"] = "another"
		if got, err := w.client(i.Token(claims)).Run(t.Context(), run.ID); err != nil || got.ID != run.ID {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.client(alice).Run(t.Context(), run.ID); err == nil {
			t.Errorf("alice sees a run of %s", name)
		}
		made := slices.IndexFunc(w.records(), func(r Record) bool { return r.Action == "POST /v1/runs" && r.Who == name })
		if made < 0 {
			t.Fatalf("no record of %s: %+v", name, w.records())
		}
		if r := w.records()[made]; r.Issuer != i.URL || r.Subject != claims["sub"] || r.Status != http.StatusCreated {
			t.Errorf("%+v", r)
		}
		// Tokens of the controller's own go on working beside.
		mine := w.submit(alice, "app")
		w.agent().succeed(0)
		w.until(mine.ID, api.Succeeded)
	}
}

func TestWrongIdentities(t *testing.T) {
	i, evil := issuertest.New(t), issuertest.New(t)
	w := trusting(t, i)
	now := time.Now()
	good := i.GitLab(here, "team/app", "main", now)
	with := func(name string, value any) string {
		changed := maps.Clone(good)
		changed[name] = value
		return i.Token(changed)
	}
	parts := strings.Split(i.Token(good), ".")
	strange, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus, err := json.Marshal(i.Key())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(api.RunRequest{Plan: planOf("app")})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := planOf("app")
	elsewhere.Images[0].Repository = "registry.test/theirs"
	other, err := json.Marshal(api.RunRequest{Plan: elsewhere})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, token, body string
		status            int
		says              string
		known             bool // that the issuer signed it
	}{
		{"audience", with("aud", "https://elsewhere.example.com"), "", 401, "is for https://elsewhere.example.com and not for this controller", true},
		{"issuer", evil.Token(evil.GitLab(here, "team/app", "main", now)), "", 401, "takes no tokens of " + evil.URL, false},
		{"key of another issuer", evil.Token(good), "", 401, "not signed by a key of " + i.URL, false},
		{"key of nobody", issuertest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: strange, KeyID: "new"}}, good), "", 401, "not signed by a key of " + i.URL, false},
		{"none", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "", 401, "signed by none are not accepted", false},
		{"a secret that all know", issuertest.Sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: modulus}, good), "", 401, "signed by HS256 are not accepted", false},
		{"expired", with("exp", now.Add(-time.Minute).Unix()), "", 401, "has expired at", true},
		{"not yet valid", with("nbf", now.Add(time.Minute).Unix()), "", 401, "is not valid before", true},
		{"no rule", with("ref", "feature"), "", 403, "which says project_path=team/app, ref=feature, ref_protected=true, sub=", true},
		{"another registry", with("jti", "r"), string(other), 403, "may not write to registry.test/theirs", true},
		{"another priority", with("jti", "p"), `{"priority":6,` + string(body[1:]), 403, "priority 6", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(w.records())
			if tt.body == "" {
				tt.body = string(body)
			}
			res, text := w.ask("POST", "/v1/runs", tt.token, tt.body, "Content-Type", "application/json")
			p := problemOf(t, text)
			if res.StatusCode != tt.status || !strings.Contains(p.Detail, tt.says) || p.Hint == "" {
				t.Errorf("%d %s (%s)", res.StatusCode, p.Detail, p.Hint)
			}
			records := w.records()
			if len(records) != before+1 {
				t.Fatalf("%d records", len(records)-before)
			}
			r := records[before]
			if r.Status != tt.status || (r.Issuer == i.URL && r.Subject == good["sub"]) != tt.known || !strings.Contains(r.Detail, tt.says) {
				t.Errorf("%+v", r)
			}
			all, err := json.Marshal(records)
			if err != nil {
				t.Fatal(err)
			}
			signature := tt.token[strings.LastIndexByte(tt.token, '.')+1:]
			for where, said := range map[string]string{"answer": text, "audit log": string(all), "log": w.log.String()} {
				if strings.Contains(said, tt.token) || signature != "" && strings.Contains(said, signature) {
					t.Errorf("the %s has the token", where)
				}
			}
		})
	}
	if text := w.log.String(); !strings.Contains(text, "ref=main") {
		t.Error("the log does not say what rules want")
	}
	if list, err := w.client(root).Runs(t.Context(), api.RunQuery{}); err != nil || len(list.Runs) != 0 {
		t.Errorf("%+v %v", list, err)
	}
}

// A token is for one run: sent again it starts no other, whoever sends it.
func TestTokensAreForOneRun(t *testing.T) {
	i := issuertest.New(t)
	w := trusting(t, i)
	token := i.Token(i.GitLab(here, "team/app", "main", time.Now()))
	c := w.client(token)
	run, err := c.CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, "a-key")
	if err != nil {
		t.Fatal(err)
	}
	// The same request, as after an answer that was lost, is the same run.
	if again, err := c.CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, "a-key"); err != nil || again.ID != run.ID {
		t.Errorf("%s %v", again.ID, err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "not good for another run") || !strings.Contains(err.Error(), run.ID) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = c.CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, "another-key")
	refused("the same plan", err)
	_, err = c.CreateRun(t.Context(), api.RunRequest{Plan: planOf("other")}, "")
	refused("another plan", err)
	// It does nothing that agents do.
	a := w.agent()
	if res, text := w.ask("POST", "/v1/tasks/"+a.Launch.Task+"/claim", token, `{"agent":"x","version":"v"}`, "Content-Type", "application/json"); res.StatusCode != http.StatusForbidden || !strings.Contains(text, "the work of agents") {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if err := a.Finish(t.Context(), a.Launch.Task, api.TaskResult{Error: "exit status 1"}); err != nil {
		t.Fatal(err)
	}
	w.until(run.ID, api.Failed)
	// The run that it started may be tried again, which is the run that it has
	// started then.
	second, err := c.RetryRun(t.Context(), run.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); err == nil || !strings.Contains(err.Error(), second.ID) {
		t.Error(err)
	}
	w.agent().succeed(0)
	w.until(second.ID, api.Succeeded)
	// Another job's token is another one.
	other := i.Token(i.GitLab(here, "team/app", "main", time.Now()))
	third := w.submit(other, "app")
	if err := w.agent().Finish(t.Context(), third.ID+"-0-1", api.TaskResult{Error: "exit status 1"}); err != nil {
		t.Fatal(err)
	}
	w.until(third.ID, api.Failed)
	if _, err = c.RetryRun(t.Context(), third.ID, ""); err == nil || !strings.Contains(err.Error(), "not good for another run") {
		t.Error(err)
	}
	if !slices.ContainsFunc(w.records(), func(r Record) bool {
		return r.Status == http.StatusForbidden && r.Issuer == i.URL && strings.Contains(r.Detail, run.ID)
	}) {
		t.Error("the audit log does not tell of a token that was sent again")
	}
	// A rule may allow more.
	github := w.client(i.Token(i.GitHub(here, "octo-org/app", "refs/heads/main", time.Now())))
	for n := range 4 {
		if _, err := github.CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); (err == nil) != (n < 3) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// Sent many times at once a token starts one run too.
func TestTokensAreForOneRunAtOnce(t *testing.T) {
	i := issuertest.New(t)
	w := trusting(t, i)
	token := i.Token(i.GitLab(here, "team/app", "main", time.Now()))
	var mu sync.Mutex
	var wg sync.WaitGroup
	made := 0
	for range 10 {
		wg.Go(func() {
			if _, err := w.client(token).CreateRun(t.Context(), api.RunRequest{Plan: planOf("app")}, ""); err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d runs", made)
	}
}

func TestIssuerIsAway(t *testing.T) {
	i := issuertest.New(t)
	i.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w := trusting(t, i)
	token := i.Token(i.GitLab(here, "team/app", "main", time.Now()))
	for range 2 {
		res, text := w.ask("GET", "/v1/runs", token, "")
		p := problemOf(t, text)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || p.Detail != "tokens of "+i.URL+" cannot be checked for now" {
			t.Errorf("%d %v %s", res.StatusCode, res.Header, text)
		}
	}
	if res, _ := w.ask("GET", "/v1/runs", alice, ""); res.StatusCode != http.StatusOK {
		t.Errorf("%d for a token of the controller's own", res.StatusCode)
	}
	if !strings.Contains(w.log.String(), "503") {
		t.Error("the log does not say why")
	}
}

// The rule's quota holds for the submitter, over all of its runs, and others
// are not held up.
func TestQuotaOfARule(t *testing.T) {
	i := issuertest.New(t)
	w := trusting(t, i)
	made := func() api.Run { return w.submit(i.Token(i.GitLab(here, "team/app", "main", time.Now())), "app") }
	first, second := made(), made()
	a := w.agent()
	if a.Launch.Run != first.ID {
		t.Fatalf("%s is before %s", a.Launch.Run, first.ID)
	}
	mine := w.submit(alice, "app")
	if b := w.agent(); b.Launch.Run != mine.ID {
		t.Fatalf("%s has two tasks at once", first.Submitter)
	} else {
		b.succeed(0)
	}
	w.until(mine.ID, api.Succeeded)
	a.succeed(0)
	w.until(first.ID, api.Succeeded)
	w.agent().succeed(0)
	w.until(second.ID, api.Succeeded)
}

// Who may not do anything does not fill the audit log by asking again.
func TestStrangersOfAnIssuer(t *testing.T) {
	i := issuertest.New(t)
	w := trusting(t, i)
	token := i.Token(i.GitLab(here, "strangers/app", "main", time.Now()))
	statuses := map[int]int{}
	for range 60 {
		res, _ := w.ask("GET", "/v1/runs", token, "")
		statuses[res.StatusCode]++
	}
	if n := len(w.records()); statuses[http.StatusTooManyRequests] == 0 || statuses[http.StatusForbidden] == 0 || n != statuses[http.StatusForbidden] {
		t.Errorf("%v, %d records", statuses, n)
	}
}
