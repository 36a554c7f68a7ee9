package plan

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/registry"
)

// TestLayoutGit makes plans of real repositories in each state that tags are
// named after.
func TestLayoutGit(t *testing.T) {
	root := t.TempDir()
	git := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
		cmd.Dir = filepath.Join(root, dir)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git("", "init", "-q", "origin")
	put("origin/pipegen.yaml", "layout: git\nregistry: r.example.com/x\n")
	put("origin/app/build-config.yaml", "platforms: [linux/amd64]\nadditional_tags: [latest, main]\n")
	put("origin/app/Dockerfile", "FROM scratch\n")
	git("origin", "add", "-A")
	git("origin", "commit", "-qm", "1")
	git("origin", "branch", "feature/x")
	git("origin", "commit", "-qm", "2", "--allow-empty")
	url := "file://" + filepath.Join(root, "origin")
	long := "topic/" + strings.Repeat("long-", 30)

	tests := []struct {
		name  string
		setup func(dir string)
		env   map[string]string // HEAD is the revision that is asked for
		want  string            // SHA stands for the commit
	}{
		{"a branch", func(string) {}, nil, "main.SHA main latest"},
		{"one with a slash", func(d string) { git(d, "checkout", "-qb", "feature/y") }, nil, "feature-y.SHA feature-y latest main"},
		{"one with other letters", func(d string) { git(d, "checkout", "-qb", "ä/#1") }, nil, "_--1.SHA _--1 latest main"},
		{"a dirty tree", func(d string) { put(d+"/app/Dockerfile", "FROM scratch\nUSER 1\n") }, nil, "main.SNAPSHOT"},
		{"a dirty tree of a detached head", func(d string) { git(d, "checkout", "-q", "--detach"); put(d+"/app/new", "1") }, nil, "main.SNAPSHOT"},
		{"a dirty tree in CI", func(d string) { put(d+"/app/Dockerfile", "FROM scratch\nUSER 1\n") }, map[string]string{"CI": "true"}, ""},
		{"detached, on one branch", func(d string) { git(d, "checkout", "-q", "--detach") }, nil, "main.SHA main latest"},
		{"detached, on several", func(d string) { git(d, "checkout", "-q", "origin/feature/x") }, nil, "SHA.SHA SHA latest main"},
		{"detached, on none", func(d string) { git(d, "checkout", "-q", "--detach"); git(d, "commit", "-qm", "3", "--allow-empty") }, nil, "SHA.SHA SHA latest main"},
		{"detached in GitLab", func(d string) { git(d, "checkout", "-q", "origin/feature/x") },
			map[string]string{"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_NAME": "feature/x"}, "feature-x.SHA feature-x latest main"},
		{"detached in GitHub", func(d string) { git(d, "checkout", "-q", "origin/feature/x") },
			map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_REF_NAME": "12/merge"}, "12-merge.SHA 12-merge latest main"},
		{"a tag in GitLab", func(d string) { git(d, "checkout", "-q", "--detach") },
			map[string]string{"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_NAME": "v1.2.3", "CI_COMMIT_TAG": "v1.2.3"}, "v1.2.3.SHA v1.2.3 latest main"},
		{"Concourse", func(d string) {
			if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
				t.Fatal(err)
			}
			git("", "clone", "-q", "--single-branch", "--branch", "feature/x", url, d)
			git(d, "checkout", "-q", git(d, "rev-parse", "HEAD"))
		}, map[string]string{"PIPEGEN_CI": "concourse"}, "feature-x.SHA feature-x latest main"},
		{"a branch that is not checked out", func(d string) {
			git(d, "branch", "other", "origin/feature/x")
			git(d, "branch", "third", "origin/feature/x")
		},
			map[string]string{"HEAD": "other"}, "other.SHA other latest main"},
		{"a commit that is not checked out", func(d string) { git(d, "branch", "other", "origin/feature/x") },
			map[string]string{"HEAD": "main~1"}, "SHA.SHA SHA latest main"},
		{"a long name", func(d string) { git(d, "checkout", "-qb", long+"a") }, nil, tagWord(long+"a") + ".SHA " + tagWord(long+"a") + " latest main"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := "clone"
			t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(root, dir)) })
			git("", "clone", "-q", url, dir)
			tt.setup(dir)
			checkout, err := Open(t.Context(), Request{
				Dir: filepath.Join(root, dir), Getenv: func(name string) string { return tt.env[name] }, ReadFile: os.ReadFile,
				Now: func() time.Time { return planTime }, Head: tt.env["HEAD"],
				Client: func(config.Publish) *registry.Client { return registry.New(registry.Options{}) },
			})
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := checkout.Plan(t.Context(), Selection{All: true})
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(tt.want, "SHA", p.Head[:7])
			if got := strings.Join(p.Images[0].Tags, " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			for _, tag := range append(p.Images[0].Tags, strings.SplitAfterN(p.Images[0].Builds[0].Destination, ":", 2)[1]) {
				if !component.MatchString(tag) {
					t.Errorf("%q is no tag", tag)
				}
			}
		})
	}
	if a, b := tagWord(long+"a"), tagWord(long+"b"); a == b || len(a) != maxBranch {
		t.Errorf("long branches have the tags %s and %s", a, b)
	}
}
