package registry

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

func TestAuthVariable(t *testing.T) {
	const text = `{"auths":{"one.example.org":{"auth":"dXNlcjpwYXNz"},"two.example.org/team":{"username":"team","password":"two"},` +
		`"https://index.docker.io/v1/":{"auth":"aHViOmh1Yg=="},"` + ecrHost + `":{"username":"AWS","password":"given"}},"credHelpers":{}}`
	// The variable goes before the file.
	docker(t, `{"auths":{"one.example.org":{"auth":"b3RoZXI6b3RoZXI="},"three.example.org":{"auth":"b3RoZXI6b3RoZXI="}}}`)
	for repository, want := range map[string]string{
		"one.example.org/app": "user pass", "two.example.org/team": "team two", "two.example.org/other": "", "three.example.org/app": "other other",
		"docker.io/acme/app": "hub hub", ecrHost + "/app": "AWS given", "public.ecr.aws/acme/app": "AWS token",
	} {
		k, warnings := chain(t, map[string]string{authVariable: text}, awsPassword)
		repo, err := name.NewRepository(repository)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.ResolveContext(t.Context(), repo)
		if err != nil {
			t.Fatal(err)
		}
		got, err := authn.Authorization(t.Context(), auth)
		if err != nil || strings.TrimSpace(got.Username+" "+got.Password) != want || len(*warnings) > 0 {
			t.Errorf("%s: %q, %v, %v", repository, got.Username+" "+got.Password, err, *warnings)
		}
	}
}

func TestBrokenAuthVariable(t *testing.T) {
	docker(t, `{"auths":{"one.example.org":{"auth":"b3RoZXI6b3RoZXI="}}}`)
	for _, text := range []string{"secret", `{"auths":["secret"]}`, `{"auths":{"one.example.org":{"auth":"secret"}}}`} {
		k, warnings := chain(t, map[string]string{authVariable: text}, awsPassword)
		repo, err := name.NewRepository("one.example.org/app")
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.ResolveContext(t.Context(), repo)
		if err != nil || auth == authn.Anonymous {
			t.Errorf("%s: %v, %v", text, auth, err)
		}
		if len(*warnings) != 1 || strings.Contains((*warnings)[0], "secret") {
			t.Errorf("%s: warnings %q", text, *warnings)
		}
	}
}

// What is written is read, whatever it is made of; what is not JSON is refused.
func FuzzParseAuths(f *testing.F) {
	f.Add("one.example.org", "user", "pass:word", "")
	f.Add("https://index.docker.io/v1/", "user", "", "}")
	f.Fuzz(func(t *testing.T, host, user, password, after string) {
		if !utf8.ValidString(host) || user == "" || strings.Contains(user, ":") || strings.TrimLeft(password, "\x00") != strings.Trim(password, "\x00") {
			return
		}
		raw, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}}})
		if err != nil {
			t.Fatal(err)
		}
		auths, err := parseAuths(string(raw) + after)
		if json.Valid([]byte(string(raw)+after)) != (err == nil) {
			t.Fatalf("%s%s: %v", raw, after, err)
		}
		if got := auths[host]; err == nil && (got.Username != user || got.Password != password) {
			t.Errorf("%s: got %+v", raw, got)
		}
	})
}
