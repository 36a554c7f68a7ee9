package registry

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/pkg/failure"
)

const ecrHost = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

// docker writes a Docker configuration and makes it the process's own.
func docker(t *testing.T, config string) {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(name, home)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("PATH", home)
	if config == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// chain is the default keychain, with AWS replaced.
func chain(t *testing.T, env map[string]string, fetch func(context.Context, string) (*api.Auth, error)) (*keychain, *[]string) {
	t.Helper()
	var warnings []string
	k := newKeychain(AWS{}, func(name string) string { return env[name] }, func(s string) { warnings = append(warnings, s) })
	k.ecr = func(host string) authn.Authenticator { return newECR(host, fetch) }
	return k, &warnings
}

func awsPassword(context.Context, string) (*api.Auth, error) {
	return &api.Auth{Username: "AWS", Password: "token"}, nil
}

func TestDockerConfig(t *testing.T) {
	gitlab := map[string]string{"CI_REGISTRY": "gitlab.example.org:5050", "CI_REGISTRY_USER": "gitlab-ci-token", "CI_REGISTRY_PASSWORD": "job"}
	hosts := []string{"one.example.org", "two.example.org", "docker.io", ecrHost, "public.ecr.aws", "gitlab.example.org:5050"}
	// Passwords also for ECR: where an engine runs AWS cannot be asked.
	const private = `"` + ecrHost + `":{"username":"AWS","password":"token","auth":"QVdTOnRva2Vu"}`
	const public = `"public.ecr.aws":{"username":"AWS","password":"token","auth":"QVdTOnRva2Vu"}`
	for _, tt := range []struct{ name, config, want string }{
		{"all sources", `{"auths":{"one.example.org":{"auth":"dXNlcjpwYXNz"},"https://index.docker.io/v1/":{"auth":"aHViOmh1Yg=="},"else.example.org":{"auth":"dXNlcjpwYXNz"}}}`,
			`{"auths":{` + private + `,"gitlab.example.org:5050":{"username":"gitlab-ci-token","password":"job","auth":"Z2l0bGFiLWNpLXRva2VuOmpvYg=="},` +
				`"https://index.docker.io/v1/":{"username":"hub","password":"hub","auth":"aHViOmh1Yg=="},` +
				`"one.example.org":{"username":"user","password":"pass","auth":"dXNlcjpwYXNz"},` + public + `}}`},
		{"Docker configuration before AWS and GitLab", `{"auths":{"` + ecrHost + `":{"auth":"dXNlcjpwYXNz"},"gitlab.example.org:5050":{"auth":"dXNlcjpwYXNz"}}}`,
			`{"auths":{"` + ecrHost + `":{"username":"user","password":"pass","auth":"dXNlcjpwYXNz"},"gitlab.example.org:5050":{"username":"user","password":"pass","auth":"dXNlcjpwYXNz"},` + public + `}}`},
		{"a helper for all that is not installed", `{"credsStore":"ecr-login"}`,
			`{"auths":{` + private + `,"gitlab.example.org:5050":{"username":"gitlab-ci-token","password":"job","auth":"Z2l0bGFiLWNpLXRva2VuOmpvYg=="},` + public + `}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docker(t, tt.config)
			k, warnings := chain(t, gitlab, awsPassword)
			got, err := New(Options{Keychain: k}).DockerConfig(t.Context(), hosts)
			if err != nil || string(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
			if !json.Valid(got) || strings.Contains(tt.config, "credsStore") != (len(*warnings) == 1) {
				t.Errorf("warnings: %v", *warnings)
			}
		})
	}
}

func TestNoCredentials(t *testing.T) {
	docker(t, "")
	k, _ := chain(t, nil, awsPassword)
	got, err := New(Options{Keychain: k}).DockerConfig(t.Context(), []string{"one.example.org"})
	if err != nil || string(got) != `{"auths":{}}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestBrokenDockerConfig(t *testing.T) {
	docker(t, `{"auths":`)
	k, _ := chain(t, nil, awsPassword)
	c := New(Options{Keychain: k})
	_, err := c.DockerConfig(t.Context(), []string{"one.example.org"})
	if err == nil || !strings.Contains(err.Error(), "Docker configuration") || failure.Hint(err) == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v (%s)", err, failure.Hint(err))
	}
	if _, err := c.DockerConfig(t.Context(), []string{ecrHost}); err != nil {
		t.Errorf("a host of ECR needs no Docker configuration: %v", err)
	}
}

func TestECR(t *testing.T) {
	for host, want := range map[string]bool{
		ecrHost: true, "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": true, "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn": true,
		"public.ecr.aws": true, "ecr.example.org": false, "localhost:5000": false, ecrHost + ".example.org": false, "12345.dkr.ecr.eu-west-1.amazonaws.com": false,
	} {
		if got := isECR(host); got != want {
			t.Errorf("isECR(%q) = %v", host, got)
		}
	}

	docker(t, "")
	asked := 0
	k, _ := chain(t, nil, func(ctx context.Context, host string) (*api.Auth, error) {
		asked++
		return awsPassword(ctx, host)
	})
	reg, err := New(Options{}).registry(ecrHost)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		auth, err := authn.Resolve(t.Context(), k, reg.Repo("images"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := authn.Authorization(t.Context(), auth)
		if err != nil || got.Username != "AWS" || got.Password != "token" {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if asked != 1 {
		t.Errorf("AWS was asked %d times", asked)
	}
	k.ecrs[ecrHost].(*fetched).since = time.Now().Add(-ecrLife)
	if _, err := k.ecrs[ecrHost].Authorization(); err != nil || asked != 2 {
		t.Errorf("an old password is used again (%v)", err)
	}

	k, _ = chain(t, nil, func(context.Context, string) (*api.Auth, error) { return nil, errors.New("no EC2 IMDS role found") })
	c := New(Options{Keychain: k})
	_, err = authn.Authorization(t.Context(), k.ecrFor(ecrHost))
	err = c.explain(t.Context(), "reading", Reference{Host: ecrHost, Path: "images"}, err)
	if !strings.Contains(err.Error(), "no EC2 IMDS role found") || !strings.Contains(failure.Hint(err), "GetAuthorizationToken") {
		t.Errorf("got %v (%s)", err, failure.Hint(err))
	}

	block := make(chan struct{})
	defer close(block)
	k, _ = chain(t, nil, func(context.Context, string) (*api.Auth, error) { <-block; return nil, errors.New("late") })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := authn.Authorization(ctx, k.ecrFor(ecrHost)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
