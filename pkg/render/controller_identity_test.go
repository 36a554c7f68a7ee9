package render_test

import (
	"maps"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/render"
)

// Jobs that have the controller build show it who they are, and hold no token
// of it; no other job shows anything.
func TestControllerIdentity(t *testing.T) {
	const audience = "https://pipegen.example.com"
	files := checkout{"pipegen.yaml": "registry: registry.example/images\nimages: {kaniko: \"registry.example/images:builder-latest\"}\nserver: {url: \"" + audience + "\", id_token: {}}\n"}.
		with(project("projects/base", "runner: kubernetes\ntimeout: 90m\n", "FROM scratch\n")).
		with(project("projects/app", "platforms: [linux/amd64]\ndepends_on: [base]\n", "FROM scratch\n"))
	p, cfg := files.load(t)
	if p.CI.Audience != audience {
		t.Fatalf("the plan has the audience %q", p.CI.Audience)
	}

	child, err := gitlab(p, render.GitLabOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shows := 0
	for name, job := range checkPipeline(t, p, child) {
		tokens, _ := job["id_tokens"].(map[string]any)
		if len(tokens) == 0 {
			continue
		}
		shows++
		if name != "run base" || len(tokens) != 1 || lookup(tokens, "PIPEGEN_TOKEN", "aud") != audience {
			t.Errorf("%s shows %v", name, tokens)
		}
	}
	if shows != 1 {
		t.Errorf("%d jobs show who they are:\n%s", shows, child)
	}

	workflows, err := render.GitHub(p, render.GitHubOptions{Registry: "registry.example/images"})
	if err != nil {
		t.Fatal(err)
	}
	ghLint(t, workflows)
	main, image := ghParse(t, workflows[0].Data), ghParse(t, workflows[1].Data)
	for id, job := range image.Jobs {
		if (job.Permissions["id-token"] == "write") != (id == "run") {
			t.Errorf("%s may %v", id, job.Permissions)
		}
		for _, step := range job.Steps {
			if want := map[bool]string{true: audience}[strings.HasPrefix(step.Run, "exec pipegen run ")]; step.Env["PIPEGEN_TOKEN_AUDIENCE"] != want {
				t.Errorf("%s, %s: %v", id, step.Name, step.Env)
			}
		}
	}
	for id, job := range main.Jobs {
		if strings.HasPrefix(id, "wave-") && job.Permissions["id-token"] != "write" {
			t.Errorf("%s passes on %v", id, job.Permissions)
		}
	}
	for _, f := range workflows {
		if strings.Contains(string(f.Data), "secrets.PIPEGEN_TOKEN") || strings.Contains(string(f.Data), "ACTIONS_ID_TOKEN") {
			t.Errorf("%s has a token:\n%s", f.Name, f.Data)
		}
	}

	pipeline, err := files.concourse(t)
	if err != nil {
		t.Fatal(err)
	}
	checkConcourse(t, p, cfg, pipeline)
	var doc struct {
		Sources []map[string]any `yaml:"var_sources"`
	}
	if err := yaml.Unmarshal(pipeline, &doc); err != nil {
		t.Fatal(err)
	}
	text := string(pipeline)
	if len(doc.Sources) != 1 || doc.Sources[0]["type"] != "idtoken" || lookup(doc.Sources[0], "config", "expires_in") != "24h" || asList(lookup(doc.Sources[0], "config", "audience"))[0] != audience ||
		strings.Count(text, "((pipegen-controller:token))") != 1 || strings.Contains(text, "pipegen_token") {
		t.Errorf("%v:\n%s", doc.Sources, text)
	}

	// Where the controller builds nothing there is nobody to show it to.
	alone := maps.Clone(files)
	alone["projects/base/build-config.yaml"] = "{}\n"
	p, _ = alone.load(t)
	child, err = gitlab(p, render.GitLabOptions{})
	pipeline, err2 := alone.concourse(t)
	workflows, err3 := render.GitHub(p, render.GitHubOptions{Registry: "registry.example/images"})
	if err != nil || err2 != nil || err3 != nil {
		t.Fatal(err, err2, err3)
	}
	for _, text := range []string{string(child), string(pipeline), string(workflows[0].Data), string(workflows[1].Data)} {
		if strings.Contains(text, audience) || strings.Contains(text, "id-token") {
			t.Errorf("an identity that nobody asks for:\n%s", text)
		}
	}
	mine := files.with(checkout{"pipegen.yaml": files["pipegen.yaml"] + "overlays: {concourse: {pipeline: {var_sources: [{name: pipegen-controller, type: dummy}]}}}\n"})
	if _, err := mine.concourse(t); err == nil || !strings.Contains(err.Error(), "pipegen's own") {
		t.Error(err)
	}
}
