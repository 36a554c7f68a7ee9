package main

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// What builds take from the environment goes with a run, and nothing else of it.
func TestSecretsFor(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("-----BEGIN KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"CI_JOB_TOKEN": "job", "CI_SERVER_HOST": "gitlab.example", "CI_SERVER_PORT": "443", "HOME": "/home/me", "NPM": "n", "DEPLOY": "d", "KEY": key, "PEM": "-----BEGIN",
	}
	job := map[string]string{"CI_JOB_TOKEN": "job", "CI_SERVER_HOST": "gitlab.example", "CI_SERVER_PORT": "443"}
	tests := map[string]struct {
		source  *plan.Source
		secrets []config.Secret
		want    map[string]string
	}{
		"nothing":                    {want: nil},
		"secrets, not all of them":   {secrets: []config.Secret{{ID: "a", Env: "NPM"}, {ID: "b", Env: "UNSET"}, {ID: "c", File: "f"}}, want: map[string]string{"NPM": "n"}},
		"an upstream with a token":   {source: &plan.Source{Repo: "https://gitlab.example/x.git", Auth: &config.UpstreamAuth{TokenEnv: "DEPLOY"}}, want: map[string]string{"DEPLOY": "d"}},
		"an upstream of our GitLab":  {source: &plan.Source{Repo: "https://gitlab.example/x.git"}, want: job},
		"an upstream somewhere else": {source: &plan.Source{Repo: "https://gitlab.example.org/x.git"}, want: nil},
		"a key in a file":            {source: &plan.Source{Repo: "ssh://git@h/x", Auth: &config.UpstreamAuth{SSHKeyEnv: "KEY"}}, want: map[string]string{"KEY": "-----BEGIN KEY-----\n"}},
		"a key":                      {source: &plan.Source{Repo: "ssh://git@h/x", Auth: &config.UpstreamAuth{SSHKeyEnv: "PEM"}}, want: map[string]string{"PEM": "-----BEGIN"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &plan.Plan{Images: []plan.Image{{Name: "app", Source: tt.source, Builds: []plan.Build{{ID: "app@amd64", Secrets: tt.secrets}}}}}
			got, err := secretsFor(p, func(name string) string { return env[name] })
			if err != nil || !maps.Equal(got, tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	env["KEY"] += "-that-is-not-there"
	p := &plan.Plan{Images: []plan.Image{{Source: &plan.Source{Auth: &config.UpstreamAuth{SSHKeyEnv: "KEY"}}}}}
	if _, err := secretsFor(p, func(name string) string { return env[name] }); err == nil || exitCode(err) != 2 {
		t.Errorf("a key that is not there: %v, %q", err, failure.Hint(err))
	}
}
