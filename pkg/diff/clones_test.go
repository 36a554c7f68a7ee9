package diff

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConflict(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a", "1", "b", "1")
	c.git("switch", "-q", "-c", "side")
	c.commit("a", "2")
	c.git("switch", "-q", "main")
	c.commit("a", "3")
	if err := exec.Command("git", "-C", c.dir, "merge", "-q", "side").Run(); err == nil {
		t.Fatal("no conflict")
	}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), base, ""); err != nil || text(got) != "M \"a\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
		if dirty, err := r.Dirty(t.Context()); err != nil || !dirty {
			t.Errorf("dirty %v, %v", dirty, err)
		}
	})
}

func TestSubmodules(t *testing.T) {
	t.Setenv("GIT_ALLOW_PROTOCOL", "file")
	inner := newRepo(t)
	inner.commit("f", "1")
	c := newRepo(t)
	base := c.commit("a", "1")
	c.git("submodule", "add", "-q", "file://"+inner.dir, "sub/m")
	c.git("config", "-f", ".gitmodules", "submodule.sub/m.ignore", "all")
	with := c.commit()
	moved := inner.commit("f", "2")
	sub := &clone{t, filepath.Join(c.dir, "sub", "m")}
	expect := func(when, base, head, want string) {
		t.Helper()
		both(t, c.dir, func(t *testing.T, r *Repo) {
			if got, err := r.Changes(t.Context(), base, head); err != nil || text(got) != want {
				t.Errorf("%s: got %v\n%s\nwant\n%s", when, err, text(got), want)
			}
		})
	}
	expect("added", base, with, "A \".gitmodules\"\nA \"sub/m\"\n")
	expect("clean", with, "", "")
	sub.write("untracked", "1")
	expect("untracked inside", with, "", "M \"sub/m\"\n")
	sub.write("untracked", "")
	sub.git("fetch", "-q")
	sub.git("checkout", "-q", moved)
	expect("moved", with, "", "M \"sub/m\"\n")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if dirty, err := r.Dirty(t.Context()); err != nil || !dirty {
			t.Errorf("moved: %v, %v", dirty, err)
		}
		entries, err := r.Entries(t.Context(), "")
		if err != nil || entries[len(entries)-1] != (Entry{"sub/m", "160000", moved}) {
			t.Errorf("moved: %v, %v", entries, err)
		}
	})
	after := c.commit()
	expect("committed", with, after, "M \"sub/m\"\n")
	bare := c.cloned()
	both(t, bare.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), after, ""); err != nil || len(got) != 0 {
			t.Errorf("not checked out: %v, %v", got, err)
		}
		fsys, err := r.FS(t.Context(), "HEAD")
		if err != nil {
			t.Fatal(err)
		}
		if f, err := fsys.Open("sub/m"); err != nil {
			t.Error(err)
		} else if info, err := f.Stat(); err != nil || !info.IsDir() {
			t.Errorf("%v, %v", info, err)
		}
	})
	both(t, sub.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Files(t.Context(), ""); err != nil || r.Root() == c.dir || !slices.Equal(got, []string{"f"}) {
			t.Errorf("as a repository: %v, %v", got, err)
		}
	})
	// A repository inside that is no submodule.
	nested := &clone{t, filepath.Join(c.dir, "nested")}
	c.git("init", "-q", "nested")
	id := nested.commit("x", "1")
	expect("nested", after, "", "A \"nested\"\n")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		entries, err := r.Entries(t.Context(), "")
		if err != nil || !slices.Contains(entries, Entry{"nested", "160000", id}) {
			t.Errorf("nested: %v, %v", entries, err)
		}
	})
}

// What people configure for their own eyes must not change the answers.
func TestUserConfiguration(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a b", "1\n2\n3\n", "ü", "1", "sub/x", "1")
	c.write("copy", "1\n2\n3\n")
	c.write("sub/x", "2")
	head := c.commit("ü", "", "renamed", "1")
	c.write("new", "1")
	for key, value := range map[string]string{
		"diff.renames": "copies", "diff.relative": "true", "diff.orderFile": "nowhere", "diff.external": "false", "diff.noprefix": "true",
		"diff.mnemonicPrefix": "true", "diff.ignoreSubmodules": "all", "diff.submodule": "log", "color.ui": "always", "color.diff": "always",
		"core.quotePath": "true", "core.pager": "false", "core.abbrev": "4", "status.showUntrackedFiles": "no", "status.relativePaths": "true",
		"status.short": "true", "diff.stat": "true", "diff.algorithm": "patience", "log.showSignature": "true", "core.untrackedCache": "true",
		"diff.autoRefreshIndex": "false", "alias.diff": "status", "pager.diff": "false", "pager.ls-files": "false", "diff.noindex": "true",
	} {
		c.git("config", key, value)
	}
	both(t, filepath.Join(c.dir, "sub"), func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), base, head); err != nil || text(got) != "A \"copy\"\nA \"renamed\"\nM \"sub/x\"\nD \"ü\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
		if got, err := r.Changes(t.Context(), head, ""); err != nil || text(got) != "A \"new\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
	})
}

func TestMissingObjects(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a/x", "1", "b/y", "1", "top", "1")
	head := c.commit("a/x", "2", "top", "2")
	gone := c.git("rev-parse", base+":a")
	if err := os.Remove(filepath.Join(c.dir, ".git", "objects", gone[:2], gone[2:])); err != nil {
		t.Fatal(err)
	}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for what, try := range map[string]func() error{
			"changes":   func() error { _, err := r.Changes(t.Context(), base, head); return err },
			"work tree": func() error { _, err := r.Changes(t.Context(), base, ""); return err },
			"files":     func() error { _, err := r.Files(t.Context(), base); return err },
			"contents":  func() error { _, err := r.Contents(t.Context(), base, []string{"a/x"}); return err },
			"fs": func() error {
				fsys, err := r.FS(t.Context(), base)
				if err != nil {
					return err
				}
				_, err = fsys.Open("a/x")
				return err
			},
		} {
			if err := try(); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), gone[:7]) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if got, err := r.Changes(t.Context(), head, head); err != nil || len(got) != 0 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestAlternates(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a", "1")
	c.commit("a", "2")
	for _, packed := range []bool{false, true} {
		if packed {
			c.git("repack", "-q", "-a", "-d")
		}
		shared := &clone{t, filepath.Join(t.TempDir(), "shared")}
		c.git("clone", "-q", "--shared", c.dir, shared.dir)
		both(t, shared.dir, func(t *testing.T, r *Repo) {
			if got, err := r.Changes(t.Context(), base, "HEAD"); err != nil || text(got) != "M \"a\"\n" {
				t.Errorf("packed %v: %v, %v", packed, got, err)
			}
		})
	}
}

func TestIndexForms(t *testing.T) {
	for name, do := range map[string]func(*clone){
		"version 4":       func(c *clone) { c.git("update-index", "--index-version=4") },
		"untracked cache": func(c *clone) { c.git("update-index", "--force-untracked-cache"); c.git("status") },
		"no checksum": func(c *clone) {
			// What newer versions of git write with index.skipHash.
			name := filepath.Join(c.dir, ".git", "index")
			data, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(name, append(data[:len(data)-20], make([]byte, 20)...), 0o600)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		},
		"none": func(c *clone) {
			c.git("rm", "-q", "-r", "--cached", ".")
			c.write(".git/index", "")
			c.git("reset", "-q")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newRepo(t)
			c.commit("a", "1", "d/b", "1", "d/c", "1", "e", "1")
			c.write("d/b", "2")
			do(c)
			both(t, c.dir, func(t *testing.T, r *Repo) {
				if got, err := r.Changes(t.Context(), "HEAD", ""); err != nil || text(got) != "M \"d/b\"\n" {
					t.Errorf("%v\n%s", err, text(got))
				}
			})
		})
	}
	c := newRepo(t)
	c.commit("a", "1")
	c.git("update-index", "--split-index")
	r := opened(t, c.dir, "")
	if _, err := r.Files(t.Context(), ""); err == nil {
		t.Error("a split index was taken for a whole one")
	}
}

// What was written in the same tick as the index may have changed unseen.
func TestRacyIndex(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1")
	r := opened(t, c.dir, "")
	for written, want := range map[time.Time]bool{time.Now().Add(time.Hour): false, time.Now().Add(-time.Hour): true} {
		if err := os.Chtimes(filepath.Join(c.dir, ".git", "index"), written, written); err != nil {
			t.Fatal(err)
		}
		if files, err := r.backend.work(t.Context()); err != nil || len(files) != 1 || files[0].touched != want {
			t.Errorf("%v: got %+v, %v", want, files, err)
		}
	}
}
