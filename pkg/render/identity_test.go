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

// What signing and other registries take goes to the job that publishes alone.
func TestPublishingAlone(t *testing.T) {
	p := planOf(image("app", nil, "amd64"))
	p.Images[0].Builds[0].RunsOn.GitHub = "ubuntu-24.04"
	p.Publish.Sign = &config.Sign{Key: "env://SIGNING_KEY"}
	p.Publish.Also = []config.Also{{Registry: "ghcr.io/acme"}, {Registry: "public.ecr.aws/acme"}}
	files, err := render.GitHub(p, render.GitHubOptions{Registry: "registry.example/images"})
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Jobs map[string]struct {
			Permissions map[string]string `yaml:"permissions"`
			Env         map[string]string `yaml:"env"`
			Steps       []struct {
				Name string            `yaml:"name"`
				Env  map[string]string `yaml:"env"`
			} `yaml:"steps"`
		} `yaml:"jobs"`
	}
	if err := yaml.Unmarshal(files[1].Data, &workflow); err != nil {
		t.Fatal(err)
	}
	build, manifest := workflow.Jobs["build"], workflow.Jobs["manifest"]
	if len(build.Permissions) != 1 || build.Env["AWS_ROLE_ARN"] != "" {
		t.Errorf("builds have %v, %v", build.Permissions, build.Env)
	}
	if manifest.Permissions["packages"] != "write" || manifest.Permissions["id-token"] != "write" || manifest.Env["AWS_ROLE_ARN"] == "" {
		t.Errorf("publishing has %v, %v", manifest.Permissions, manifest.Env)
	}
	for name, job := range workflow.Jobs {
		for _, step := range job.Steps {
			_, signs := step.Env["SIGNING_KEY"]
			_, token := step.Env["GITHUB_TOKEN"]
			if want := name == "manifest" && step.Name == "Publish"; signs != want || token != want {
				t.Errorf("%s, %s: %v", name, step.Name, step.Env)
			}
		}
	}
	// Passed by the caller, too.
	if text := string(files[0].Data); strings.Count(text, "${{ secrets.SIGNING_KEY }}") != 1 || strings.Count(text, "${{ secrets.COSIGN_PASSWORD }}") != 1 {
		t.Errorf("the secrets are not passed:\n%s", text)
	}
}
