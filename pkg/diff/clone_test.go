package diff

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/internal/gittest"
)

func TestMain(m *testing.M) {
	for _, name := range append(slices.Clone(inherited), "CI", "XDG_CONFIG_HOME") {
		_ = os.Unsetenv(name)
	}
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent",
		"GIT_TEMPLATE_DIR": "", "GIT_TEST_FSYNC": "0", // faster
		"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org",
		"GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
	} {
		_ = os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

// clone is a work tree to try things in.
type clone struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T, options ...string) *clone {
	t.Helper()
	c := &clone{t, t.TempDir()}
	c.git(append([]string{"init", "-q", "-b", "main"}, options...)...)
	return c
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = c.dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("git %v: %v\n%s", args, err, complaint.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// write makes a file; content "" removes it.
func (c *clone) write(name, content string) {
	c.t.Helper()
	full := filepath.Join(c.dir, name)
	var err error
	if content == "" {
		err = os.RemoveAll(full)
	} else if err = os.MkdirAll(filepath.Dir(full), 0o755); err == nil {
		err = os.WriteFile(full, []byte(content), 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *clone) link(target, name string) {
	c.t.Helper()
	full := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Symlink(target, full); err != nil {
		c.t.Fatal(err)
	}
}

// commit commits all there is, after writing files given as name, content, …
func (c *clone) commit(files ...string) string {
	c.t.Helper()
	for i := 0; i < len(files); i += 2 {
		c.write(files[i], files[i+1])
	}
	c.git("add", "-A")
	c.git("commit", "-q", "--allow-empty", "-m", "x")
	return c.git("rev-parse", "HEAD")
}

func (c *clone) cloned(args ...string) *clone {
	c.t.Helper()
	into := &clone{c.t, filepath.Join(c.t.TempDir(), "clone")}
	c.git(append(append([]string{"clone", "-q"}, args...), "file://"+c.dir, into.dir)...)
	return into
}

// copied is the same repository at another place.
func (c *clone) copied(t *testing.T) *clone {
	t.Helper()
	return &clone{t, gittest.At(t, c.dir).Copy(t).Dir}
}

// backends are the git programs to open a repository with.
func backends(t *testing.T) map[string]string {
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"git": program, "no git": ""}
}

// both runs a test on each backend.
func both(t *testing.T, dir string, test func(*testing.T, *Repo)) {
	t.Helper()
	for name, program := range backends(t) {
		t.Run(name, func(t *testing.T) { test(t, opened(t, dir, program)) })
	}
}

func opened(t *testing.T, dir, program string) *Repo {
	t.Helper()
	r, err := open(t.Context(), dir, program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func text(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%c %q\n", strings.ToUpper(string(c.Kind))[0], c.Path)
	}
	return b.String()
}

func (c *clone) fastImport(stream string) {
	c.t.Helper()
	cmd := exec.Command("git", "fast-import", "--quiet", "--force")
	cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
}
