package diff

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBranchesWith(t *testing.T) {
	dir := t.TempDir()
	git := func(in string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
		cmd.Dir = filepath.Join(dir, in)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("", "init", "-q", "upstream")
	git("upstream", "commit", "-q", "--allow-empty", "-m", "1")
	first := git("upstream", "rev-parse", "HEAD")
	git("upstream", "checkout", "-q", "-b", "feature/x")
	git("upstream", "commit", "-q", "--allow-empty", "-m", "2")
	second := git("upstream", "rev-parse", "HEAD")
	git("upstream", "checkout", "-q", "main")
	git("upstream", "commit", "-q", "--allow-empty", "-m", "3")
	third := git("upstream", "rev-parse", "HEAD")
	upstream := "file://" + filepath.Join(dir, "upstream")
	git("", "clone", "-q", upstream, "full")
	git("", "clone", "-q", "--single-branch", "--branch", "feature/x", upstream, "single")
	git("", "clone", "-q", "--depth", "1", "--no-single-branch", upstream, "shallow")
	for _, tc := range []struct{ clone, commit, want string }{
		{"full", first, "feature/x main"},
		{"full", second, "feature/x"},
		{"full", third, "main"},
		{"single", first, "feature/x"},
		{"single", second, "feature/x"},
		{"shallow", second, "feature/x main"}, // main may have been merged into it, as far as the clone tells
	} {
		git(tc.clone, "checkout", "-q", "--detach", tc.commit)
		both(t, filepath.Join(dir, tc.clone), func(t *testing.T, r *Repo) {
			head, err := r.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.BranchesWith(t.Context(), head)
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("%s: got %q, %v, want %q", tc.clone, got, err, tc.want)
			}
		})
	}
}
