package engine

import (
	"encoding/base64"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// Scripts get what they are promised, and no other variable.
func TestScriptEnvironment(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	b.Build.PreScript, b.Build.PostScript = "pwd; env >/dev/fd/1", "env"
	b.Build.Env = map[string]string{"OWN": "1", "PIPEGEN_NAME": "mine"}
	b.Build.Secrets = []config.Secret{{ID: "token", Env: "NPM_TOKEN"}}
	for _, name := range []string{
		"CI_JOB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "LOCAL_CA_CERTIFICATE", "PIPEGEN_PLAN", "DOCKER_CONFIG", "USER", "OTHER",
	} {
		b.env[name] = "theirs-" + name
	}
	b.env["NPM_TOKEN"] = "secret-of-npm"
	b.env["SSL_CERT_FILE"], b.env["CURL_CA_BUNDLE"], b.env["LC_ALL"], b.env["TZ"] = "/certs", "/certs", "C", "UTC"
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	always := []string{
		"BUILDARCH", "BUILDOS", "BUILDPLATFORM", "BUILDVARIANT", "CURL_CA_BUNDLE", "HOME", "LC_ALL", "NPM_TOKEN", "OWN", "PATH",
		"PIPEGEN_BUILD", "PIPEGEN_COMMIT", "PIPEGEN_DESTINATION", "PIPEGEN_NAME", "PIPEGEN_REGISTRY", "PIPEGEN_REPOSITORY",
		"SSL_CERT_FILE", "TARGETARCH", "TARGETOS", "TARGETPLATFORM", "TARGETVARIANT", "TMPDIR", "TZ",
	}
	pre, rest, _ := strings.Cut(b.out.String(), "running post_script\n")
	_, post, _ := strings.Cut(pre+rest, "pushed ")
	for name, tt := range map[string]struct {
		text  string
		extra []string
	}{"pre_script": {pre, nil}, "post_script": {post, []string{"PIPEGEN_DIGEST", "PIPEGEN_OUTPUTS", "PIPEGEN_REF"}}} {
		var got []string
		for line := range strings.Lines(tt.text) {
			key, _, ok := strings.Cut(line, "=")
			// What the shell itself sets.
			if ok && !slices.Contains([]string{"PWD", "OLDPWD", "SHLVL", "_"}, key) && strings.ToUpper(key) == key && !strings.ContainsAny(key, " /") {
				got = append(got, key)
			}
		}
		slices.Sort(got)
		want := slices.Concat(always, tt.extra)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q\nwant %q", name, got, want)
		}
	}
	contains(t, b.out.String(), "NPM_TOKEN=***\n", "PIPEGEN_NAME=mine\n", "/projects/app\n")
	lacks(t, b.out.String(), "secret-of-npm", "theirs")
}

// The log shows no secret and no credential, whatever it is for.
func TestHideSecrets(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"token": "from-a-file\n", "key.pem": "-----BEGIN KEY-----\nbm90IGEga2V5\n-----END KEY-----\n", "short": "ab\n", "large": strings.Repeat("x", maxSecret+1),
		"sub/relative": "from-the-checkout",
	})
	env := map[string]string{
		"NPM": "from-npm", "arn:aws:ssm:eu:1:parameter/a": "from-aws", "GIT_AUTH": "from-git-auth", "DEPLOY": filepath.Join(dir, "key.pem"), "TINY": "abc", "AWS_SECRET_ACCESS_KEY": "/starts/with+a/slash",
		"DOCKER_AUTH_CONFIG": `{"auths":{"r":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:from-docker")) + `"}}}`, "HTTPS_PROXY": "http://me:from-proxy@p:1",
		"GOPROXY": "https://from-goproxy@go.example.org,direct", "VENDOR_API_TOKEN": "from-vendor", "SOME_TOKEN": "true", "TOKEN_FILE_SECRET": filepath.Join(dir, "token"),
		"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20from-otel,x-key=from-key", "PLAIN": "shown-as-it-is",
	}
	var environ []string
	for k, v := range env {
		environ = append(environ, k+"="+v)
	}
	var out strings.Builder
	b := &building{Prepared: &Prepared{Job: &Job{
		Root: dir, Getenv: func(name string) string { return env[name] }, Environ: environ,
		Image: &plan.Image{Source: &plan.Source{Repo: "https://from-address@git.example.org/x", Auth: &config.UpstreamAuth{TokenEnv: "GIT_AUTH"}}},
		Build: &plan.Build{
			Secrets: []config.Secret{
				{ID: "npm", Env: "NPM"}, {ID: "file", File: filepath.Join(dir, "token")}, {ID: "relative", File: "sub/relative"}, {ID: "tiny", Env: "TINY"}, {ID: "short", File: "short"},
				{ID: "unset", Env: "UNSET"}, {ID: "kept", ARN: "arn:aws:ssm:eu:1:parameter/a", Env: "UNSET"},
			},
			SSH: []config.SSH{{Env: "DEPLOY"}, {ID: "two", File: "key.pem"}, {ID: "agent"}},
		},
	}}, log: newLogWriter(&out)}
	if err := b.hideSecrets(); err != nil {
		t.Fatal(err)
	}
	if want := "warning: secret tiny is too short to be masked\nwarning: secret short is too short to be masked\n"; out.String() != want {
		t.Errorf("it warns: %q", out.String())
	}
	for _, secret := range []string{
		"from-npm", "from-aws", "from-git-auth", "from-a-file", "from-the-checkout", "bm90IGEga2V5", "/starts/with+a/slash", "from-docker", "from-proxy", "from-goproxy",
		"from-vendor", "Basic from-otel", "Basic%20from-otel", "from-key", "from-address",
	} {
		if got := b.log.masked("a " + secret + " b"); got != "a *** b" {
			t.Errorf("%s is shown: %q", secret, got)
		}
	}
	if got := b.log.masked("shown-as-it-is true abc ab " + dir); strings.Contains(got, mask) {
		t.Errorf("got %q", got)
	}

	for file, want := range map[string]string{"none": "no such file", "large": "500 KiB", "sub": "500 KiB"} {
		b.Job.Build.Secrets = []config.Secret{{ID: "s", File: file}}
		if err := b.hideSecrets(); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "secret s: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", file, err)
		}
	}
}
