package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/internal/issuertest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/web"
)

// Jobs of GitLab and of GitHub use a controller without a token of it.
func TestServerTakesIdentities(t *testing.T) {
	issuer := issuertest.NewPlain(t)
	images := httptest.NewServer(registryHandler())
	t.Cleanup(images.Close)
	host := strings.TrimPrefix(images.URL, "http://")
	dir := t.TempDir()
	file := filepath.Join(dir, "server.yaml")
	const audience = "https://pipegen.example.com"
	text := "url: " + audience + `
oidc:
- issuer: ` + issuer.URL + `
  name: ci
  rules:
  - {claims: {project_path: ["team/**"], ref: [main]}, registries: ["` + host + `/images"]}
  - {claims: {repository: [octo-org/*]}, name: "{repository}:{workflow}", roles: [submit, read]}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, nil, "--config", file, "--data-dir", filepath.Join(dir, "data"))

	gitlab := issuer.Token(issuer.GitLab(audience, "team/app", "main", time.Now()))
	c := s.client(t, api.ClientOptions{Token: gitlab})
	run, err := c.CreateRun(t.Context(), api.RunRequest{Plan: retag(t, host, authn.Anonymous)}, "")
	if err != nil {
		t.Fatal(err)
	}
	if run = ended(t, c, run.ID); run.State != api.Succeeded || run.Submitter != "team/app@ci" {
		t.Errorf("%+v %s", run, s.stderr)
	}

	// GitHub's own service gives the token, for the audience of the job.
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of-the-job" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		token := issuer.Token(issuer.GitHub(r.URL.Query().Get("audience"), "octo-org/app", "refs/heads/main", time.Now()))
		_ = json.NewEncoder(w).Encode(map[string]string{"value": token})
	}))
	t.Cleanup(service.Close)
	job := func(change map[string]string) (code int, stdout, stderr string) {
		env := map[string]string{
			"PIPEGEN_SERVER": s.url, "PIPEGEN_TOKEN_AUDIENCE": audience,
			"ACTIONS_ID_TOKEN_REQUEST_URL": service.URL + "/?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
		}
		maps.Copy(env, change)
		var out, errs bytes.Buffer
		a := newApp(&out, &errs)
		a.getenv = func(name string) string { return env[name] }
		code = a.execute(t.Context(), []string{"runs", "-f", "json", "-C", dir})
		return code, out.String(), errs.String()
	}
	if code, out, errs := job(nil); code != 0 || !strings.Contains(out, run.ID) {
		t.Errorf("%d %s %s", code, out, errs)
	}
	for name, tt := range map[string]struct {
		change map[string]string
		code   int
		says   []string
	}{
		"audience":      {map[string]string{"PIPEGEN_TOKEN_AUDIENCE": "elsewhere"}, 2, []string{"the token is for elsewhere and not for this controller", "hint: ask the CI system for a token for this controller"}},
		"no permission": {map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": ""}, 2, []string{"this job has no identity", "permissions: {id-token: write}"}},
		"service":       {map[string]string{"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "stolen"}, 1, []string{"asking GitHub for the identity of this job", "401"}},
		"a token":       {map[string]string{"PIPEGEN_TOKEN": "0123456789abcdef"}, 2, []string{"the token is not known", "pipegen server token add"}},
		"no rule":       {map[string]string{"PIPEGEN_TOKEN": issuer.Token(issuer.GitLab(audience, "team/app", "feature", time.Now()))}, 2, []string{"rule 1 wants another ref; rule 2 wants repository (the token has none)", "server.oidc"}},
		"another host":  {map[string]string{"PIPEGEN_SERVER": "http://pipegen.example.com"}, 2, []string{"refusing to send a token to pipegen.example.com over plain HTTP"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := job(tt.change)
			if code != tt.code || out != "" {
				t.Errorf("exit code %d: %s", code, out)
			}
			for _, say := range tt.says {
				if !strings.Contains(errs, say) {
					t.Errorf("%q is not in %s", say, errs)
				}
			}
			if strings.Contains(errs, "stolen") || strings.Contains(errs, "eyJ") {
				t.Errorf("a token is shown: %s", errs)
			}
		})
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
	audit, err := os.ReadFile(filepath.Join(dir, "data", web.AuditFile))
	if err != nil || !strings.Contains(string(audit), `"who":"team/app@ci","issuer":"`+issuer.URL+`","subject":"project_path:team/app:ref_type:branch:ref:main"`) {
		t.Errorf("%v %s", err, audit)
	}
	for where, text := range map[string]string{"log": s.stderr.String(), "audit log": string(audit)} {
		if strings.Contains(text, "eyJ") {
			t.Errorf("the %s has a token: %s", where, text)
		}
	}
}

// An issuer that cannot be reached is told of when the controller starts, and
// does not keep it from that.
func TestServerStartsWithoutItsIssuer(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	dir := t.TempDir()
	file := filepath.Join(dir, "server.yaml")
	if err := os.WriteFile(file, []byte("oidc: [{issuer: \""+gone.URL+"\", audience: [a], rules: [{claims: {sub: [b]}}]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone.Close()
	s := serve(t, nil, "--config", file, "--data-dir", filepath.Join(dir, "data"))
	for end := time.Now().Add(20 * time.Second); !strings.Contains(s.stderr.String(), "fetching the keys that tokens are signed with"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing is said: %s", s.stderr)
		}
	}
}
