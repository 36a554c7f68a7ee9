package diff

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func chmod(c *clone, name string, mode os.FileMode) {
	c.t.Helper()
	if err := os.Chmod(filepath.Join(c.dir, name), mode); err != nil {
		c.t.Fatal(err)
	}
}

// Each scenario changes a work tree. It is looked at three times: before it
// is staged, staged, and committed.
func TestChanges(t *testing.T) {
	template := newRepo(t)
	template.link("a", "link")
	template.write("kept/k.log", "1")
	template.git("add", "-f", "kept/k.log")
	base := template.commit("a", "1", "d/one", "1", "d/two/x", "1", "odd/n\nn\xff", "1", ".gitignore", "*.log\nout/\n")
	for _, test := range []struct {
		name string
		do   func(*clone)
		want string
	}{
		{"nothing", func(*clone) {}, ""},
		{"content", func(c *clone) { c.write("a", "2") }, `M "a"`},
		{"added, deleted", func(c *clone) { c.write("n/n", "1"); c.write("d/one", "") }, `D "d/one" A "n/n"`},
		{"renamed", func(c *clone) { c.write("d/one", ""); c.write("e/one", "1") }, `D "d/one" A "e/one"`},
		{"directory renamed", func(c *clone) { _ = os.Rename(filepath.Join(c.dir, "d"), filepath.Join(c.dir, "z")) },
			`D "d/one" D "d/two/x" A "z/one" A "z/two/x"`},
		{"mode", func(c *clone) { chmod(c, "a", 0o755) }, `M "a"`},
		{"other mode bits", func(c *clone) { chmod(c, "a", 0o600) }, ""},
		{"link text", func(c *clone) { c.write("link", ""); c.link("d", "link") }, `M "link"`},
		{"what a link names", func(c *clone) { c.write("d/one", "2") }, `M "d/one"`},
		{"file to link", func(c *clone) { c.write("a", ""); c.link("d/one", "a") }, `M "a"`},
		{"link to file", func(c *clone) { c.write("link", ""); c.write("link", "a") }, `M "link"`},
		{"file to directory", func(c *clone) { c.write("a", ""); c.write("a/x", "1") }, `D "a" A "a/x"`},
		{"directory to file", func(c *clone) { c.write("d", ""); c.write("d", "1") }, `A "d" D "d/one" D "d/two/x"`},
		{"directory to link", func(c *clone) {
			_ = os.Rename(filepath.Join(c.dir, "d"), filepath.Join(c.dir, "real"))
			c.link("real", "d")
		}, `A "d" D "d/one" D "d/two/x" A "real/one" A "real/two/x"`},
		{"sorted between", func(c *clone) { c.write("a-b", "1"); c.write("a.b", "1"); c.write("d-", "1"); c.write("d0", "1") }, `A "a-b" A "a.b" A "d-" A "d0"`},
		{"case only", func(c *clone) { c.write("a", ""); c.write("A", "1") }, `A "A" D "a"`},
		{"odd names", func(c *clone) {
			for _, name := range []string{"a b", `q"q`, "t\tt", "n\nn", "ü/日本", "bad\xff", "-rf", `back\slash`, "*", "  "} {
				c.write(name, "1")
			}
		}, `A "  " A "*" A "-rf" A "a b" A "back\\slash" A "bad\xff" A "n\nn" A "q\"q" A "t\tt" A "ü/日本"`},
		{"odd names modified", func(c *clone) { c.write("odd/n\nn\xff", "2") }, `M "odd/n\nn\xff"`},
		{"attributes", func(c *clone) { c.write(".gitattributes", "* text\n") }, `A ".gitattributes"`},
		{"ignored", func(c *clone) { c.write("x.log", "1"); c.write("d/x.log", "1"); c.write("out/f", "1") }, ""},
		{"tracked though ignored", func(c *clone) { c.write("kept/k.log", "2") }, `M "kept/k.log"`},
		{"everything", func(c *clone) { c.git("rm", "-q", "-r", "."); c.write(".gitignore", "*.log\nout/\n") },
			`D "a" D "d/one" D "d/two/x" D "kept/k.log" D "link" D "odd/n\nn\xff"`},
		{"empty file", func(c *clone) { _ = os.WriteFile(filepath.Join(c.dir, "a"), nil, 0o600) }, `M "a"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := template.copied(t)
			test.do(c)
			look := func(when, head string) {
				both(t, c.dir, func(t *testing.T, r *Repo) {
					got, err := r.Changes(t.Context(), base, head)
					if err != nil || strings.ReplaceAll(strings.TrimSpace(text(got)), "\n", " ") != test.want {
						t.Errorf("%s: got %v\n%s\nwant %s", when, err, text(got), test.want)
					}
				})
			}
			look("unstaged", "")
			c.git("add", "-A")
			look("staged", "")
			c.commit()
			look("committed", "HEAD")
		})
	}
}

func TestChangesFromNothing(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1", "d/b", "1")
	c.write("u", "1")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for head, want := range map[string]string{"HEAD": "A \"a\"\nA \"d/b\"\n", "": "A \"a\"\nA \"d/b\"\nA \"u\"\n"} {
			if got, err := r.Changes(t.Context(), "", head); err != nil || text(got) != want {
				t.Errorf("%q: got %v\n%s", head, err, text(got))
			}
		}
	})
	// A commit whose tree is empty, which no repository stores.
	c.git("rm", "-q", "-r", "--cached", ".")
	c.git("commit", "-q", "-m", "empty")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), "HEAD~1", "HEAD"); err != nil || text(got) != "D \"a\"\nD \"d/b\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
		if got, err := r.Changes(t.Context(), "HEAD", "HEAD~1"); err != nil || text(got) != "A \"a\"\nA \"d/b\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
	})
}

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
			"objects":   func() error { _, err := r.Objects(t.Context(), base, []string{"a/x"}); return err },
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

// history is a random history, written by git fast-import.
type history struct {
	rand    *rand.Rand
	commits int
	trees   []map[string]string // of each commit, path to "MODE content"
}

// Parts of names, odd ones among them.
var parts = []string{"a", "b", "c", "A", "a-b", "a.b", "a0", "x y", `q"`, "t\tt", "n\nn", "日本", "\xff\xfe", "-d", "'", `\`, "*", "build-config.yaml"}

func (h *history) path() string {
	p := parts[h.rand.IntN(len(parts))]
	for h.rand.IntN(3) > 0 && strings.Count(p, "/") < 3 {
		p += "/" + parts[h.rand.IntN(len(parts))]
	}
	return p
}

// put makes room for path as git would: a file of the name of one of its
// directories goes, and what is below it.
func put(tree map[string]string, path, content string) {
	for other := range tree {
		if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
			delete(tree, other)
		}
	}
	tree[path] = content
}

func (h *history) mutate(tree map[string]string) {
	paths := make([]string, 0, len(tree))
	for p := range tree {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for range 1 + h.rand.IntN(4) {
		some := h.path()
		if len(paths) > 0 && h.rand.IntN(3) > 0 {
			some = paths[h.rand.IntN(len(paths))]
		}
		content := fmt.Sprint(h.rand.IntN(50))
		switch h.rand.IntN(10) {
		case 0, 1:
			delete(tree, some)
		case 2: // rename
			if was, ok := tree[some]; ok {
				delete(tree, some)
				put(tree, h.path(), was)
			}
		case 3:
			put(tree, some, "100755 "+content)
		case 4:
			put(tree, some, "120000 "+h.path())
		case 5:
			put(tree, some, fmt.Sprintf("160000 %040x", 1+h.rand.IntN(9)))
		case 6: // a whole directory
			dir, _, _ := strings.Cut(some, "/")
			for p := range tree {
				if strings.HasPrefix(p, dir+"/") {
					delete(tree, p)
				}
			}
		default:
			put(tree, some, "100644 "+content)
		}
	}
}

// stream gives commits under refs/heads/main, as git fast-import reads them.
func (h *history) stream() string {
	var b strings.Builder
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	for i := range h.commits {
		tree := map[string]string{}
		var parents []int
		if i > 0 {
			parents = append(parents, i-1-h.rand.IntN(min(i, 3)))
			for p, c := range h.trees[parents[0]] {
				tree[p] = c
			}
			if other := h.rand.IntN(i); other != parents[0] && h.rand.IntN(3) == 0 {
				parents = append(parents, other)
				for p, c := range h.trees[other] {
					if h.rand.IntN(2) == 0 {
						put(tree, p, c)
					}
				}
			}
		}
		if i == 0 || h.rand.IntN(12) > 0 {
			h.mutate(tree)
		}
		h.trees = append(h.trees, tree)
		// Clocks go wrong at times.
		fmt.Fprintf(&b, "commit refs/heads/c%d\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i, i+1, 1e9+10*i-h.rand.IntN(2)*h.rand.IntN(60))
		for n, p := range parents {
			fmt.Fprintf(&b, "%s :%d\n", []string{"from", "merge"}[n], p+1)
		}
		b.WriteString("deleteall\n")
		for p, c := range tree {
			mode, content, _ := strings.Cut(c, " ")
			if mode == "160000" {
				fmt.Fprintf(&b, "M 160000 %s \"%s\"\n", content, quoted.Replace(p))
			} else {
				fmt.Fprintf(&b, "M %s inline \"%s\"\ndata %d\n%s\n", mode, quoted.Replace(p), len(content), content)
			}
		}
	}
	return b.String()
}

// nameStatus reads git diff --name-status -z.
func nameStatus(t *testing.T, out string) []Change {
	t.Helper()
	var changes []Change
	fields := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		kind, err := kindOf(fields[i][0])
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, Change{fields[i+1], kind})
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	return changes
}

func TestRandomHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	cases := 0
	for range 5 {
		h := &history{rand: random, commits: 24}
		c := newRepo(t)
		c.fastImport(h.stream())
		if random.IntN(2) == 0 {
			c.git("repack", "-q", "-a", "-d")
		}
		refs := []string{"rev-parse"}
		for i := range h.commits {
			refs = append(refs, fmt.Sprintf("c%d", i))
		}
		ids := strings.Fields(c.git(refs...))
		var repos []*Repo
		for _, program := range backends(t) {
			repos = append(repos, opened(t, c.dir, program))
		}
		for range 40 {
			base, head := ids[random.IntN(len(ids))], ids[random.IntN(len(ids))]
			want := nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", "--ignore-submodules=none", base, head))
			out, _ := exec.Command("git", "-C", c.dir, "merge-base", "--all", base, head).Output() // fails if there is none
			common := strings.Fields(string(out))
			for _, r := range repos {
				cases++
				got, err := r.Changes(t.Context(), base, head)
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s %s, git %q: got %v\n%s\nwant\n%s", seed, base, head, r.git, err, text(got), text(want))
				}
				rel, err := r.backend.relation(t.Context(), base, head)
				if err != nil || rel.ancestor != slices.Contains(common, base) || rel.headCut || rel.baseCut ||
					rel.mergeBase != "" && !slices.Contains(common, rel.mergeBase) || (rel.mergeBase == "") != (len(common) == 0) {
					t.Fatalf("seed %d: %s %s, git %q: got %+v, %v, want one of %s", seed, base, head, r.git, rel, err, common)
				}
			}
		}
	}
	t.Logf("%d comparisons", cases)
}

func TestRandomWorkTrees(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	for range 12 {
		h := &history{rand: random, commits: 4}
		c := newRepo(t)
		c.fastImport(h.stream())
		c.git("checkout", "-q", "-f", "c3")
		c.write(".gitignore", "b\n*.b\n!x/a.b\n/c/\n")
		if random.IntN(2) == 0 {
			c.git("add", "-A")
		}
		for range 6 {
			full := filepath.Join(c.dir, h.path())
			switch random.IntN(5) {
			case 0:
				_ = os.RemoveAll(full)
			case 1:
				_ = os.Symlink("a", full)
			case 2:
				if info, err := os.Lstat(full); err == nil && info.Mode().IsRegular() {
					_ = os.Chmod(full, 0o755) //nolint:gosec // the point
				}
			default:
				_ = os.MkdirAll(filepath.Dir(full), 0o750)
				_ = os.WriteFile(full, []byte("new"), 0o600)
			}
		}
		if random.IntN(3) == 0 {
			c.git("add", "-A", "--", ":/")
			_ = os.RemoveAll(filepath.Join(c.dir, h.path()))
		}
		base := fmt.Sprintf("c%d", random.IntN(h.commits))
		// What git would compare if it recorded the work tree as it is.
		recorded := exec.Command("git", "-C", c.dir, "add", "-A")
		index := filepath.Join(t.TempDir(), "index")
		data, err := os.ReadFile(filepath.Join(c.dir, ".git", "index"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(index, data, 0o600); err != nil {
			t.Fatal(err)
		}
		recorded.Env = append(os.Environ(), "GIT_INDEX_FILE="+index)
		if out, err := recorded.CombinedOutput(); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, out)
		}
		compared := exec.Command("git", "-C", c.dir, "diff", "--cached", "--name-status", "-z", "--no-renames", "--ignore-submodules=none", base)
		compared.Env = recorded.Env
		out, err := compared.Output()
		if err != nil {
			t.Fatal(err)
		}
		want := nameStatus(t, string(out))
		for _, program := range backends(t) {
			got, err := opened(t, c.dir, program).Changes(t.Context(), base, "")
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("seed %d: %s, git %q: got %v\n%s\nwant\n%s\nstatus\n%s", seed, base, program, err, text(got), text(want), c.git("status", "--short", "--ignored"))
			}
		}
	}
}

func TestAttribute(t *testing.T) {
	change := func(path string) Change { return Change{path, Modified} }
	byDir, rest := Attribute([]Change{change("a/b/c/f"), change("a/b/f"), change("a/bc"), change("a"), change("x/y"), change("a/b")}, []string{"a/b", "a/b/c", "x/y", "unused"})
	want := "map[a/b:[{a/b/f modified} {a/b modified}] a/b/c:[{a/b/c/f modified}] x/y:[{x/y modified}]] [{a/bc modified} {a modified}]"
	if got := fmt.Sprint(byDir, rest); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	byDir, rest = Attribute([]Change{change("a/f"), change("top")}, []string{".", "a"})
	if got := fmt.Sprint(byDir, rest); got != "map[.:[{top modified}] a:[{a/f modified}]] []" {
		t.Errorf("got %s", got)
	}
}

func FuzzAttribute(f *testing.F) {
	f.Add("a/b/c\na/d", "a\na/b")
	f.Add("x\ny/z", ".\ny")
	f.Fuzz(func(t *testing.T, paths, dirs string) {
		var changes []Change
		for _, p := range strings.Split(paths, "\n") {
			if checkPath(p) == nil {
				changes = append(changes, Change{p, Added})
			}
		}
		var known []string
		for _, d := range strings.Split(dirs, "\n") {
			if d == "." || checkPath(d) == nil {
				known = append(known, d)
			}
		}
		want, wantRest := map[string][]Change{}, []Change(nil)
		for _, c := range changes {
			best := ""
			for _, d := range known {
				if (d == "." || c.Path == d || strings.HasPrefix(c.Path, d+"/")) && (best == "" || best == "." || d != "." && len(d) > len(best)) {
					best = d
				}
			}
			if best == "" {
				wantRest = append(wantRest, c)
			} else {
				want[best] = append(want[best], c)
			}
		}
		got, rest := Attribute(changes, known)
		if fmt.Sprint(got, rest) != fmt.Sprint(want, wantRest) {
			t.Errorf("got %v %v\nwant %v %v", got, rest, want, wantRest)
		}
	})
}

func FuzzRawDiff(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add([]byte(":100644 100644 " + id + " " + id + " M\x00a\nb\x00:000000 100644 " + id + " " + id + " A\x00c\x00"))
	f.Add([]byte(":100644 100644 " + id + " " + id + " R100\x00a\x00b\x00"))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		var again bytes.Buffer
		err := parseRawDiff(out, func(status byte, path string) error {
			if checkPath(path) != nil {
				t.Errorf("path %q", path)
			}
			fmt.Fprintf(&again, "%c\x00%s\x00", status, path)
			return nil
		})
		// Whatever is accepted is all there is: nothing is dropped in silence.
		if err == nil {
			fields := strings.Split(string(out), "\x00")
			var want strings.Builder
			for i := 0; i+1 < len(fields); i += 2 {
				fmt.Fprintf(&want, "%c\x00%s\x00", fields[i][len(fields[i])-1], fields[i+1])
			}
			if again.String() != want.String() {
				t.Errorf("got %q, want %q", again.String(), want.String())
			}
		}
	})
}

func FuzzTree(f *testing.F) {
	id := strings.Repeat("\xab", 20)
	f.Add([]byte("100644 a\x00"+id+"40000 d\x00"+id), 20)
	f.Add([]byte("100664 a\x00"+strings.Repeat("x", 32)), 32)
	f.Add([]byte("100644 ..\x00"+id), 20)
	f.Fuzz(func(t *testing.T, data []byte, idLen int) {
		if idLen != 20 && idLen != 32 {
			return
		}
		entries, err := parseTree(data, idLen)
		if err != nil {
			return
		}
		size := 0
		for _, e := range entries {
			if checkPath(e.name) != nil || strings.Contains(e.name, "/") {
				t.Errorf("name %q", e.name)
			}
			id, err := hex.DecodeString(e.id)
			if err != nil || !bytes.Contains(data, append([]byte(e.name+"\x00"), id...)) {
				t.Errorf("entry %v is not in %q", e, data)
			}
			size += len(e.name) + 2 + idLen
		}
		if size > len(data) || len(data) > size+7*len(entries) {
			t.Errorf("%d bytes gave %v", len(data), entries)
		}
	})
}
