package attestation

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

var update = flag.Bool("update", false, "renew the files that the tests compare with")

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// example is a plan with an image from an upstream repository.
func example() (*plan.Plan, *plan.Image, registry.Descriptor, []plan.Base) {
	p := &plan.Plan{
		Version: plan.Version, Event: "push", Head: strings.Repeat("a", 40), Created: time.Date(2026, 11, 21, 2, 3, 4, 0, time.UTC), Layout: "tag",
		Images: []plan.Image{{
			Name: "app", Dir: "projects/app", Key: strings.Repeat("b", 64), Repository: "registry.example.org/images", Tags: []string{"app-20261121-aaaaaaa"},
			Source: &plan.Source{Repo: "https://user:password@example.org/upstream.git", Ref: "v1", Commit: strings.Repeat("c", 40)}, Needs: []string{}, Index: true,
			Builds: []plan.Build{{ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko", Args: map[string]string{"B": "2", "A": "1"}, Secrets: []config.Secret{{ID: "token", Env: "TOKEN"}}}},
		}},
	}
	return p, &p.Images[0], registry.Descriptor{Digest: registry.Digest([]byte("index"))},
		[]plan.Base{{Ref: "alpine:3.20", Digest: registry.Digest([]byte("alpine")), Final: true}}
}

func TestProvenance(t *testing.T) {
	p, img, subject, bases := example()
	o := Options{Version: "1.2.3", Getenv: environment(map[string]string{
		"GITLAB_CI": "true", "CI_PROJECT_URL": "https://gitlab.example.org/group/images", "CI_PIPELINE_URL": "https://gitlab.example.org/group/images/-/pipelines/7",
		"CI_JOB_URL": "https://gitlab.example.org/group/images/-/jobs/1",
	})}
	got, err := json.MarshalIndent(provenance(o, p, img, subject, bases), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/provenance.golden"
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("got %s", got)
	}
	if strings.Contains(string(got), "password") {
		t.Error("it holds a credential")
	}
	// A job that is repeated says the same.
	o.Getenv = environment(map[string]string{
		"GITLAB_CI": "true", "CI_PROJECT_URL": "https://gitlab.example.org/group/images", "CI_PIPELINE_URL": "https://gitlab.example.org/group/images/-/pipelines/7",
		"CI_JOB_URL": "https://gitlab.example.org/group/images/-/jobs/2",
	})
	again, err := json.MarshalIndent(provenance(o, p, img, subject, bases), "", "  ")
	if err != nil || string(again) != string(got) {
		t.Errorf("%v: again %s", err, again)
	}
}

// What is published again was built on what that was, and on nothing else.
func TestProvenanceOfRetag(t *testing.T) {
	p, img, subject, bases := example()
	img.Retag, img.Builds = registry.Digest([]byte("before")), nil
	s := provenance(Options{Getenv: environment(nil)}, p, img, subject, bases).Predicate.(slsa)
	var names []string
	for _, d := range s.BuildDefinition.ResolvedDependencies {
		names = append(names, d.Name)
	}
	if strings.Join(names, " ") != "repository upstream publication base" || s.RunDetails.Builder.ID != localBuilder {
		t.Errorf("got %q by %s", names, s.RunDetails.Builder.ID)
	}
}

func TestRunOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want run
	}{
		{"nowhere", nil, run{builder: localBuilder}},
		{"GitHub", map[string]string{
			"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "2",
			"GITHUB_WORKFLOW_REF": "o/r/.github/workflows/build.yml@refs/heads/main",
		}, run{"https://github.com/o/r/.github/workflows/build.yml@refs/heads/main", "https://github.com/o/r/actions/runs/7", "https://github.com/o/r"}},
		{"Concourse", map[string]string{"ATC_EXTERNAL_URL": "https://ci.example.org", "BUILD_TEAM_NAME": "main", "BUILD_PIPELINE_NAME": "images"},
			run{builder: "https://ci.example.org/teams/main/pipelines/images"}},
	} {
		if got := runOf(environment(tt.env)); got != tt.want {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

func TestURIs(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{gitURI("https://user:secret@example.org/a.git", "v1"), "git+https://example.org/a.git@v1"},
		{gitURI("ssh://git@example.org/a.git", ""), "git+ssh://git@example.org/a.git"},
		{gitURI("ssh://git:secret@example.org/a.git", ""), "git+ssh://example.org/a.git"},
		{gitURI("git@example.org:group/a.git", ""), "git+ssh://git@example.org/group/a.git"},
		{gitURI("/srv/git/a", ""), "git+file:///srv/git/a"},
		{gitURI("", "v1"), ""},
		{imageURI("alpine:3.20", "sha256:12"), "pkg:oci/alpine@sha256%3A12?repository_url=docker.io/library/alpine&tag=3.20"},
		{imageURI("registry.example.org:5000/a/b", "sha256:12"), "pkg:oci/b@sha256%3A12?repository_url=registry.example.org%3A5000/a/b"},
		{imageURI("no reference", ""), "no reference"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}
