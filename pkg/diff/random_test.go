package diff

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

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
			maps.Copy(tree, h.trees[parents[0]])
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
	random := rand.New(rand.NewPCG(seed, 0))
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
				if err != nil || rel.ancestor != slices.Contains(common, base) || len(rel.headCut)+len(rel.baseCut) > 0 ||
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
	random := rand.New(rand.NewPCG(seed, 0))
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
					_ = os.Chmod(full, 0o755)
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
