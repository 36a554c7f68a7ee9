package diff

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
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
	into := &clone{t, t.TempDir()}
	// os.CopyFS refuses names that are no UTF-8.
	err := filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		target := into.dir + strings.TrimPrefix(name, c.dir)
		switch {
		case err != nil || name == c.dir:
			return err
		case d.IsDir():
			return os.Mkdir(target, 0o750)
		case d.Type() == fs.ModeSymlink:
			text, err := os.Readlink(name)
			return errors.Join(err, os.Symlink(text, target))
		}
		data, err := os.ReadFile(name)
		return errors.Join(err, os.WriteFile(target, data, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	return into
}

// backends are the git programs to open a repository with.
func backends(t *testing.T) map[string]string {
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"git": program, "go-git": ""}
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

func (c *clone) fastImport(stream string) {
	c.t.Helper()
	cmd := exec.Command("git", "fast-import", "--quiet", "--force")
	cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

func TestFiles(t *testing.T) {
	c := newRepo(t)
	odd := []string{" lead", "-dash", "quo\"te", "tab\there", "new\nline", "umläut/日本", "bad\xffutf8", "a b/c d", "back\\slash", "*", ":colon"}
	for _, name := range odd {
		c.write(name, "x")
	}
	c.commit(".gitignore", "*.log\n/build/\n", "dir/gone", "1", "dir/kept", "1", "sub/kept.log.txt", "1")
	tree := append(slices.Clone(odd), ".gitignore", "dir/gone", "dir/kept", "sub/kept.log.txt")
	slices.Sort(tree)
	c.write("dir/gone", "")
	c.write("new/file", "1")
	c.write("new/x.log", "1")
	c.write("build/out", "1")
	work := append(slices.DeleteFunc(slices.Clone(tree), func(s string) bool { return s == "dir/gone" }), "new/file")
	slices.Sort(work)
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Files(t.Context(), "HEAD"); err != nil || !slices.Equal(got, tree) {
			t.Errorf("HEAD: got %q, %v\nwant %q", got, err, tree)
		}
		if got, err := r.Files(t.Context(), ""); err != nil || !slices.Equal(got, work) {
			t.Errorf("work tree: got %q, %v\nwant %q", got, err, work)
		}
	})
}

func TestSparseCheckout(t *testing.T) {
	c := newRepo(t)
	c.commit("top", "1", "in/a", "1", "out/b", "1")
	c.git("sparse-checkout", "set", "in")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Files(t.Context(), ""); err != nil || !slices.Equal(got, []string{"in/a", "top"}) {
			t.Errorf("files %q, %v", got, err)
		}
		if got, err := r.Entries(t.Context(), ""); err != nil || len(got) != 3 {
			t.Errorf("entries %v, %v", got, err)
		}
		if got, err := r.Changes(t.Context(), "HEAD", ""); err != nil || len(got) != 0 {
			t.Errorf("changes %v, %v", got, err)
		}
	})
}

func TestFS(t *testing.T) {
	c := newRepo(t)
	c.link("../top", "dir/up")
	c.link("/etc/passwd", "dir/absolute")
	c.link("../../top", "dir/out")
	c.link("loop", "loop")
	c.link("dir", "alias")
	c.link("nowhere", "dangling")
	c.commit("top", "text", "dir/deep/file", "deep", "dir/plain", "plain")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		commit, err := r.FS(t.Context(), "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		work, err := r.FS(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for what, fsys := range map[string]fs.FS{"commit": commit, "work tree": work} {
			for name, want := range map[string]string{
				"top": "text", "dir/deep/file": "deep", "dir/up": "text", "alias/plain": "plain", "alias/deep/file": "deep", "alias/up": "text",
				"dir/absolute": "", "dir/out": "", "loop": "", "dangling": "", "nope": "", "dir": "", "../top": "", "top/x": "", "dir/": "", "": "",
			} {
				got, err := fs.ReadFile(fsys, name)
				if string(got) != want || (err == nil) != (want != "") {
					t.Errorf("%s: %q: got %q, %v", what, name, got, err)
				}
			}
			for name, want := range map[string]bool{"nope": true, "dangling": true, "dir/nope/x": true, "dir/out": false, "loop": false} {
				if _, err := fs.Stat(fsys, name); errors.Is(err, fs.ErrNotExist) != want {
					t.Errorf("%s: %s: %v", what, name, err)
				}
			}
			entries, err := fs.ReadDir(fsys, "alias")
			if err != nil || len(entries) != 5 || entries[1].Name() != "deep" || !entries[1].IsDir() {
				t.Errorf("%s: alias: %v, %v", what, entries, err)
			}
			if target, err := fs.ReadLink(fsys, "dir/out"); err != nil || target != "../../top" {
				t.Errorf("%s: link: %q, %v", what, target, err)
			}
		}
	})
	clean := newRepo(t)
	clean.commit("a", "1", "b/c", "2", "b/d/e", "3", "b-", "4")
	both(t, clean.dir, func(t *testing.T, r *Repo) {
		fsys, err := r.FS(t.Context(), "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(fsys, "a", "b/c", "b/d/e", "b-"); err != nil {
			t.Error(err)
		}
	})
}

func TestObjectsAndEntries(t *testing.T) {
	c := newRepo(t)
	c.link("a", "link")
	c.commit("a", "1", "b/c", "2", "b/d/e", "3", "exec", "#!")
	if err := os.Chmod(filepath.Join(c.dir, "exec"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	c.commit()
	want := map[string]string{}
	for _, p := range []string{"a", "b", "b/c", "b/d", "b/d/e", "link"} {
		want[p] = c.git("rev-parse", "HEAD:"+p)
	}
	want["."] = c.git("rev-parse", "HEAD:")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		got, err := r.Objects(t.Context(), "HEAD", append(slices.Collect(maps.Keys(want)), "nope", "a/x", "b/x", "b/d/e/f", "", "link/x", "../a"))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("got %v, %v\nwant %v", got, err, want)
		}
	})
	tree := c.git("ls-tree", "-r", "HEAD")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for _, rev := range []string{"HEAD", ""} {
			got, err := r.Entries(t.Context(), rev)
			if err != nil || listing(got) != tree {
				t.Errorf("%q: got %v\n%s\nwant\n%s", rev, err, listing(got), tree)
			}
		}
	})
	// In the work tree entries are what git would record.
	c.write("a", "changed")
	c.write("b/c", "")
	c.write("new", "new")
	c.link("b", "newlink")
	scratch := c.cloned()
	scratch.git("--work-tree="+c.dir, "add", "-A")
	after := scratch.git("ls-tree", "-r", scratch.git("write-tree"))
	both(t, c.dir, func(t *testing.T, r *Repo) {
		got, err := r.Entries(t.Context(), "")
		if err != nil || listing(got) != after {
			t.Errorf("got %v\n%s\nwant\n%s", err, listing(got), after)
		}
	})
}

func listing(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		kind := "blob"
		if e.Mode == "160000" {
			kind = "commit"
		}
		fmt.Fprintf(&b, "%s %s %s\t%s\n", e.Mode, kind, e.Object, e.Path)
	}
	return strings.TrimSuffix(b.String(), "\n")
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

func TestDirty(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(*clone)
		want bool
	}{
		"clean":           {func(*clone) {}, false},
		"modified":        {func(c *clone) { c.write("a", "2") }, true},
		"same length":     {func(c *clone) { c.write("a", "x") }, true},
		"rewritten":       {func(c *clone) { c.write("a", "1") }, false},
		"deleted":         {func(c *clone) { c.write("a", "") }, true},
		"untracked":       {func(c *clone) { c.write("new", "2") }, true},
		"ignored":         {func(c *clone) { c.write("x.log", "2") }, false},
		"empty directory": {func(c *clone) { c.write("d/x", "1"); c.write("d/x", "") }, false},
		"staged":          {func(c *clone) { c.write("a", "2"); c.git("add", "-A") }, true},
		"staged, taken back": {func(c *clone) {
			c.write("a", "2")
			c.git("add", "-A")
			c.write("a", "1")
		}, true},
		"staged deletion":   {func(c *clone) { c.git("rm", "-q", "--cached", "a") }, true},
		"intent to add":     {func(c *clone) { c.write("n", "2"); c.git("add", "-N", "n") }, true},
		"staged, then gone": {func(c *clone) { c.write("n", "2"); c.git("add", "n"); c.write("n", "") }, true},
		"mode":              {func(c *clone) { _ = os.Chmod(filepath.Join(c.dir, "a"), 0o755) }, true}, //nolint:gosec // the point
		"mode ignored": {func(c *clone) {
			c.git("config", "core.fileMode", "false")
			_ = os.Chmod(filepath.Join(c.dir, "a"), 0o755) //nolint:gosec // the point
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newRepo(t)
			c.commit("a", "1", "b", "1", ".gitignore", "*.log\n")
			test.do(c)
			if want := c.git("status", "--porcelain") != ""; want != test.want {
				t.Fatalf("git says %v", want)
			}
			both(t, c.dir, func(t *testing.T, r *Repo) {
				if got, err := r.Dirty(t.Context()); err != nil || got != test.want {
					t.Errorf("got %v, %v", got, err)
				}
			})
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
	if got, err := r.Objects(t.Context(), first, []string{"d"}); err != nil || got["d"] != c.git("rev-parse", "HEAD~1:d") {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := open(t.Context(), c.dir, ""); !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
		t.Errorf("without git: %v", err)
	}
}
