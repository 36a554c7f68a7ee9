package diff

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestOpen(t *testing.T) {
	c := newRepo(t)
	c.commit("a/b/c", "x")
	c.git("worktree", "add", "-q", "-b", "other", filepath.Join(c.dir, "linked"))
	c.git("init", "-q", "--bare", "bare.git")
	bare := newRepo(t)
	bare.git("config", "core.bare", "true")
	empty := t.TempDir()
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, ".git"), []byte("gitdir: ../nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	linkTo := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(c.dir, "a", "b"), linkTo); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, dir, root string
		is              error
		says            string
	}{
		{"top", c.dir, root, nil, ""},
		{"below", filepath.Join(c.dir, "a", "b"), root, nil, ""},
		{"through a link", linkTo, root, nil, ""},
		{"linked work tree", filepath.Join(c.dir, "linked", "a"), filepath.Join(root, "linked"), nil, ""},
		{"bare", filepath.Join(c.dir, "bare.git"), "", failure.ErrInput, "bare"},
		{"inside .git", filepath.Join(c.dir, ".git", "objects"), "", failure.ErrInput, "bare"},
		{"none", empty, "", ErrNoRepository, "not a git repository"},
		{"none is wrong input", empty, "", failure.ErrInput, ""},
		{"no directory", filepath.Join(empty, "nope"), "", failure.ErrInput, "does not exist"},
		{"broken .git file", broken, "", failure.ErrInput, "no git directory"},
	} {
		for name, program := range backends(t) {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				r, err := open(t.Context(), test.dir, program)
				if test.is != nil {
					if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
						t.Fatalf("got %v, want %v", err, test.is)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Root() != test.root {
					t.Errorf("root %s, want %s", r.Root(), test.root)
				}
			})
		}
	}
	t.Run("bare by configuration", func(t *testing.T) {
		for name, program := range backends(t) {
			r, err := open(t.Context(), bare.dir, program)
			if err == nil {
				_, err = r.Files(t.Context(), "")
			}
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "bare") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestHead(t *testing.T) {
	empty := newRepo(t)
	both(t, empty.dir, func(t *testing.T, r *Repo) {
		if _, err := r.Head(t.Context()); !errors.Is(err, failure.ErrInput) || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "no commit yet") {
			t.Errorf("empty repository: %v", err)
		}
		if got := r.Branch(); got != "main" {
			t.Errorf("branch %q", got)
		}
		if files, err := r.Files(t.Context(), ""); err != nil || len(files) != 0 {
			t.Errorf("files %v, %v", files, err)
		}
	})
	c := newRepo(t)
	first := c.commit("a", "1")
	second := c.commit("a", "2")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		got, err := r.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := Commit{second, c.git("rev-parse", "HEAD^{tree}"), []string{first}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
		if got.Hash != want.Hash || got.Tree != want.Tree || !slices.Equal(got.Parents, want.Parents) || got.Committed != want.Committed {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestCommit(t *testing.T) {
	c := newRepo(t)
	first := c.commit("a", "1")
	second := c.commit("a", "2")
	c.git("tag", "light", first)
	c.git("tag", "-a", "-m", "x", "heavy", first)
	c.git("tag", "-a", "-m", "x", "heavier", "heavy")
	c.git("switch", "-q", "-c", "feature/x", first)
	side := c.commit("b", "1")
	c.git("merge", "-q", "--no-ff", "-m", "m", "main")
	merge := c.git("rev-parse", "HEAD")
	down := c.cloned()
	down.git("pack-refs", "--all")
	known := map[string]string{
		"HEAD": merge, "@": merge, merge: merge, strings.ToUpper(merge): merge, merge[:8]: merge, merge[:7]: merge,
		"HEAD~1": side, "HEAD^": side, "HEAD^2": second, "HEAD~2": first, "HEAD^2~1": first, "HEAD^^": first, "HEAD^0": merge,
		"heavy": first, "heavier^{commit}": first, "heavy^{}": first, "light": first, "refs/tags/light": first, "tags/light": first,
		"origin/main": second, "origin": merge, "refs/remotes/origin/main": second, "feature/x": merge, "origin/feature/x~1": side,
	}
	unknown := []string{
		"nope", strings.Repeat("12", 20), strings.Repeat("0", 40), "1234567", "HEAD~3", "HEAD^3", "HEAD^{tree}x", "a/../b", "../HEAD", "HEAD:a", "config", "description",
		c.git("rev-parse", "HEAD:a"), c.git("rev-parse", "HEAD:"), "origin/nope", "HEAD^{blob}", "HEAD lock", strings.Repeat("1", 64),
	}
	both(t, down.dir, func(t *testing.T, r *Repo) {
		for rev, want := range known {
			if got, err := r.Commit(t.Context(), rev); err != nil || got.Hash != want {
				t.Errorf("%s: got %s, %v, want %s", rev, got.Hash, err, want)
			}
		}
		for _, rev := range unknown {
			if got, err := r.Commit(t.Context(), rev); !errors.Is(err, failure.ErrInput) || !errors.Is(err, ErrMissing) && !strings.HasPrefix(rev, "HEAD^{") {
				t.Errorf("%s: got %s, %v", rev, got.Hash, err)
			}
		}
		for _, rev := range []string{"", "--all", "-h", "HEAD\nHEAD", "a\x00"} {
			if _, err := r.Commit(t.Context(), rev); !errors.Is(err, failure.ErrInput) || errors.Is(err, ErrMissing) {
				t.Errorf("%q: %v", rev, err)
			}
		}
	})
}

func TestAmbiguousHash(t *testing.T) {
	c := newRepo(t)
	var stream strings.Builder
	// Enough commits that two share their first four digits.
	for i := range 900 {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter C <c@example.org> %d +0000\ndata 0\n", 1e9+i)
	}
	c.fastImport(stream.String())
	seen, digits := map[string]int{}, ""
	for id := range strings.FieldsSeq(c.git("rev-list", "main")) {
		if seen[id[:4]]++; seen[id[:4]] > 1 {
			digits = id[:4]
		}
	}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if _, err := r.Commit(t.Context(), digits); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "ambiguous") {
			t.Errorf("%q: %v", digits, err)
		}
	})
}

func TestBranchAndRemote(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1")
	c.git("switch", "-q", "-c", "feature/x")
	c.git("worktree", "add", "-q", "--detach", filepath.Join(c.dir, "linked"))
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if r.Branch() != "feature/x" || r.RemoteURL() != "" || r.Shallow() {
			t.Errorf("got %q %q %v", r.Branch(), r.RemoteURL(), r.Shallow())
		}
	})
	both(t, filepath.Join(c.dir, "linked"), func(t *testing.T, r *Repo) {
		if r.Branch() != "" {
			t.Errorf("got %q", r.Branch())
		}
	})
	for url, want := range map[string]string{
		"https://user:secret@example.org/x.git": "https://example.org/x.git",
		"https://token@example.org/x.git":       "https://example.org/x.git",
		"https://example.org/x.git":             "https://example.org/x.git",
		"ssh://git@example.org/x.git":           "ssh://git@example.org/x.git",
		"ssh://git:secret@example.org/x.git":    "ssh://example.org/x.git",
		"git@example.org:x.git":                 "git@example.org:x.git",
		"https://a:%zz@example.org/x":           "https://example.org/x",
		"/some/where":                           "/some/where",
	} {
		c.git("config", "remote.origin.url", url)
		both(t, c.dir, func(t *testing.T, r *Repo) {
			if got := r.RemoteURL(); got != want {
				t.Errorf("%s: got %s, want %s", url, got, want)
			}
		})
	}
}

func TestAncestor(t *testing.T) {
	c := newRepo(t)
	first := c.commit("a", "1")
	second := c.commit("a", "2")
	c.git("switch", "-q", "-c", "side", first)
	side := c.commit("b", "1")
	third := func() string { c.git("switch", "-q", "main"); c.commit("c", "1"); return c.commit("c", "2") }()
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for _, test := range []struct {
			older, newer string
			want         bool
		}{{first, third, true}, {second, third, true}, {third, first, false}, {side, third, false}, {first, side, true}, {first, first, true}} {
			if got, err := r.Ancestor(t.Context(), test.older, test.newer); err != nil || got != test.want {
				t.Errorf("%s, %s: %v, %v", test.older, test.newer, got, err)
			}
		}
	})
	shallow := c.cloned("--depth=1", "--no-single-branch")
	both(t, shallow.dir, func(t *testing.T, r *Repo) {
		if _, err := r.Ancestor(t.Context(), side, third); !errors.Is(err, ErrMissing) {
			t.Errorf("shallow: %v", err)
		}
	})
}

func TestForeignOwner(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1")
	t.Setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
	_, err := open(t.Context(), c.dir, backends(t)["git"])
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(failure.Hint(err), "safe.directory") {
		t.Errorf("got %v, hint %q", err, failure.Hint(err))
	}
	t.Setenv("CI", "true")
	r := opened(t, c.dir, backends(t)["git"])
	c.dir = t.TempDir()
	if files, err := r.Files(t.Context(), ""); err != nil || !slices.Equal(files, []string{"a"}) {
		t.Errorf("in CI: %v, %v", files, err)
	}
	if dirty, err := r.Dirty(t.Context()); err != nil || dirty {
		t.Errorf("in CI: %v, %v", dirty, err)
	}
}

func TestOwned(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1")
	l, err := discover(c.dir)
	if err != nil || !owned(l) {
		t.Fatalf("%v", err)
	}
	t.Setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
	if owned(l) {
		t.Error("git would take it for another's")
	}
	t.Setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "")
	// Files of others are refused or not, as git does, by root alone they can be made.
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(c.dir, ".git"), 4711, 4711); err != nil {
			t.Fatal(err)
		}
		if owned(l) {
			t.Error("it is another's")
		}
		if _, err := open(t.Context(), c.dir, backends(t)["git"]); !errors.Is(err, failure.ErrInput) || !strings.Contains(failure.Hint(err), "safe.directory") {
			t.Errorf("got %v, hint %q", err, failure.Hint(err))
		}
	}
}

func TestInheritedVariables(t *testing.T) {
	other, c := newRepo(t), newRepo(t)
	other.commit("b", "1")
	c.commit("a", "1")
	t.Setenv("GIT_DIR", filepath.Join(other.dir, ".git"))
	t.Setenv("GIT_INDEX_FILE", filepath.Join(other.dir, ".git", "index"))
	r := opened(t, c.dir, backends(t)["git"])
	if files, err := r.Files(t.Context(), ""); err != nil || !slices.Equal(files, []string{"a"}) {
		t.Errorf("got %v, %v", files, err)
	}
}

func TestSHA256(t *testing.T) {
	c := newRepo(t, "--object-format=sha256")
	first := c.commit("a", "1", "d/b", "1")
	c.commit("a", "2")
	c.write("d/b", "2")
	c.link("a", "l")
	r := opened(t, c.dir, backends(t)["git"])
	if got, err := r.Changes(t.Context(), first, "HEAD"); err != nil || text(got) != "M \"a\"\n" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Changes(t.Context(), "", first); err != nil || text(got) != "A \"a\"\nA \"d/b\"\n" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Changes(t.Context(), first, ""); err != nil || text(got) != "M \"a\"\nM \"d/b\"\nA \"l\"\n" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Contents(t.Context(), first, []string{"d/b"}); err != nil || string(got["d/b"])+"\n" != c.git("cat-file", "blob", "HEAD~1:d/b")+"\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := open(t.Context(), c.dir, ""); !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
		t.Errorf("without git: %v", err)
	}
}
