package render_test

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/render"
)

// TestIdentity renders jobs that use AWS without keys.
func TestIdentity(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/ci"
	p := planOf(image("app", nil, "amd64"))
	p.Images[0].Builds[0].RunsOn.GitHub = "ubuntu-24.04"
	p.Publish.IDToken = &config.IDToken{Role: role}
	p.Publish.Sign = &config.Sign{Keyless: true}
	child, err := gitlab(p, render.GitLabOptions{})
	if err != nil {
		t.Fatal(err)
	}
	type token struct {
		Aud string `yaml:"aud"`
	}
	var jobs map[string]struct {
		Extends any              `yaml:"extends"`
		Tokens  map[string]token `yaml:"id_tokens"`
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(child, &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"stages", "workflow", "variables", "default"} {
		delete(doc, key)
	}
	all, err := yaml.Marshal(doc)
	if err == nil {
		err = yaml.Unmarshal(all, &jobs)
	}
	if err != nil {
		t.Fatal(err)
	}
	aws, signs := 0, 0
	for name, j := range jobs {
		if j.Tokens["AWS_ID_TOKEN"].Aud == "sts.amazonaws.com" {
			aws++
		}
		if j.Tokens["SIGSTORE_ID_TOKEN"].Aud == "sigstore" {
			signs++
			if name != ".manifest" {
				t.Errorf("%s signs", name)
			}
		}
	}
	if aws != 2 || signs != 1 {
		t.Errorf("%d jobs have an identity for AWS, %d one for signing:\n%s", aws, signs, child)
	}

	p.Publish.IDToken.Audience = `https://sts.example.org/a b"c`
	files, err := render.GitHub(p, render.GitHubOptions{Registry: "registry.example/images"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text := string(f.Data)
		if !strings.Contains(text, `AWS_ROLE_ARN: "`+role+`"`) || !strings.Contains(text, "id-token: write") || !strings.Contains(text, "&audience=https%3A%2F%2Fsts.example.org%2Fa+b%22c\"") {
			t.Errorf("%s:\n%s", f.Name, text)
		}
	}
	p.Publish.IDToken, p.Publish.Sign = nil, nil
	plain, err := gitlab(p, render.GitLabOptions{})
	if err != nil || strings.Contains(string(plain), "id_tokens") {
		t.Errorf("an identity that nobody asked for: %v", err)
	}
}
