package registry

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestConfiguredHosts(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string
		fails  bool
	}{
		"none":  {"", nil, false},
		"empty": {"{}", nil, false},
		"all":   {`{"auths":{"https://index.docker.io/v1/":{},"ghcr.io":{"auth":"x"},"http://h:5000":{}},"credHelpers":{"ghcr.io":"a","b.example":"c"},"credsStore":"d"}`, []string{"b.example", "ghcr.io", "h:5000", "index.docker.io"}, false},
		"bad":   {`{"auths":`, nil, true},
	} {
		dir := t.TempDir()
		if c.config != "" {
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ConfiguredHosts(func(name string) string { return map[string]string{"DOCKER_CONFIG": dir}[name] })
		if !slices.Equal(got, c.want) || (err != nil) != c.fails {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestTemporaryCredentials(t *testing.T) {
	for _, name := range []string{"AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if env, err := New(Options{}).TemporaryCredentials(t.Context(), "registry.example"); env != nil || err != nil {
		t.Errorf("another registry: got %q, %v", env, err)
	}
	const host = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if env, err := New(Options{}).TemporaryCredentials(t.Context(), host); env != nil || err == nil || !strings.Contains(err.Error(), host) {
		t.Errorf("no credentials: got %q, %v", env, err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "token")
	want := []string{"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_REGION=eu-central-1", "AWS_SESSION_TOKEN=token"}
	if env, err := New(Options{}).TemporaryCredentials(t.Context(), host); err != nil || !slices.Equal(env, want) {
		t.Errorf("got %q, %v", env, errors.Unwrap(err))
	}
}
