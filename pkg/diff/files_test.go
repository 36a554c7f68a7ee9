package diff

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

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
	if err := os.Chmod(filepath.Join(c.dir, "exec"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.commit()
	c.link("b/c", "hop")
	c.link("..", "out")
	c.commit()
	want := map[string]string{"a": "1", "b/c": "2", "b/d/e": "3", "exec": "#!", "link": "1", "hop": "2"}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for _, rev := range []string{"HEAD", ""} {
			got, err := r.Contents(t.Context(), rev, append(slices.Collect(maps.Keys(want)), "nope", "a/x", "b/x", "b/d/e/f", "link/x"))
			if err != nil || len(got) != len(want) {
				t.Errorf("%q: got %q, %v", rev, got, err)
			}
			for p, text := range want {
				if string(got[p]) != text {
					t.Errorf("%q: %s has %q, want %q", rev, p, got[p], text)
				}
			}
			for _, p := range []string{"b", "out"} {
				if got, err := r.Contents(t.Context(), rev, []string{p}); err == nil {
					t.Errorf("%q: %s gives %q", rev, p, got)
				}
			}
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
		"mode":              {func(c *clone) { _ = os.Chmod(filepath.Join(c.dir, "a"), 0o755) }, true},
		"mode ignored": {func(c *clone) {
			c.git("config", "core.fileMode", "false")
			_ = os.Chmod(filepath.Join(c.dir, "a"), 0o755)
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

// Names are bytes, and beyond a symbolic link there is nothing, as for git.
func TestContentsOfOddPaths(t *testing.T) {
	c := newRepo(t)
	c.link("d", "alias")
	c.link("/etc", "out")
	c.commit("d/f", "1", "\xff\xfe/f", "2", "new\nline/f", "3")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for _, rev := range []string{"HEAD", ""} {
			got, err := r.Contents(t.Context(), rev, []string{"\xff\xfe/f", "new\nline/f", "alias/f", "alias/nope", "out/hostname", "../x", "/etc/hostname", "d//f", ""})
			if err != nil || len(got) != 2 || string(got["\xff\xfe/f"]) != "2" || string(got["new\nline/f"]) != "3" {
				t.Errorf("%q: got %q, %v", rev, got, err)
			}
		}
	})
}
