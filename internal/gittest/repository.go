// Package gittest makes git repositories for tests, random ones among them,
// serves them over HTTP, and holds what finds their changes against git itself.
package gittest

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// settings make git the same on every machine, and faster.
var settings = []string{
	"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TEMPLATE_DIR=", "GIT_TEST_FSYNC=0", "GIT_TERMINAL_PROMPT=0",
	"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@example.org",
	"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
}

// Environ is the environment in which git runs here: none of the user's
// configuration, and none of a CI system's variables.
func Environ() []string {
	env := []string{"HOME=/nonexistent"}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "HOME", "XDG_CONFIG_HOME", "CI":
			continue
		}
		for _, prefix := range []string{"GIT_", "CI_", "GITLAB_", "GITHUB_"} {
			if strings.HasPrefix(name, prefix) {
				name = ""
				break
			}
		}
		if name != "" {
			env = append(env, v)
		}
	}
	return append(env, settings...)
}

// Repository is a repository on disk.
type Repository struct {
	Dir string
	t   testing.TB
}

// Init makes an empty one in a new directory.
func Init(t testing.TB, options ...string) *Repository {
	t.Helper()
	r := &Repository{t.TempDir(), t}
	r.Git(append([]string{"init", "-q", "-b", "main"}, options...)...)
	return r
}

// At is the repository in a directory.
func At(t testing.TB, dir string) *Repository { return &Repository{dir, t} }

// Try runs git and gives what it prints; the error has its complaint.
func (r *Repository) Try(args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir, cmd.Env = r.Dir, Environ()
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = errors.New(strings.Join(args, " ") + ": " + err.Error() + ": " + complaint.String())
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// Git is Try for commands that have to succeed.
func (r *Repository) Git(args ...string) string {
	r.t.Helper()
	out, err := r.Try(args...)
	if err != nil {
		r.t.Fatalf("git %v", err)
	}
	return out
}

// Import runs git fast-import.
func (r *Repository) Import(stream string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", "fast-import", "--quiet", "--force")
	cmd.Dir, cmd.Env, cmd.Stdin = r.Dir, Environ(), strings.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

// Clone clones what is at an address.
func Clone(t testing.TB, address string, options ...string) *Repository {
	t.Helper()
	r := &Repository{filepath.Join(t.TempDir(), "clone"), t}
	outside := &Repository{filepath.Dir(r.Dir), t}
	outside.Git(append(append([]string{"clone", "-q"}, options...), "--", address, r.Dir)...)
	return r
}

// Copy is the same repository at another place.
func (r *Repository) Copy(t testing.TB) *Repository {
	t.Helper()
	into := t.TempDir()
	if err := copyTree(r.Dir, into); err != nil {
		t.Fatal(err)
	}
	return &Repository{into, t}
}

// copyTree copies what is in one directory into another. It keeps the times of
// files, by which git knows that they are as it wrote them. (os.CopyFS does not,
// and refuses names that are no UTF-8.)
func copyTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir():
			if err = os.Mkdir(target, 0o750); err == nil {
				err = copyTree(source, target)
			}
		case e.Type() == fs.ModeSymlink:
			var text string
			if text, err = os.Readlink(source); err == nil {
				err = os.Symlink(text, target)
			}
		default:
			err = copyFile(source, target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, info.Mode().Perm()) //nolint:gosec // in a directory made for the test
	}
	return errors.Join(err, os.Chtimes(to, info.ModTime(), info.ModTime()))
}
