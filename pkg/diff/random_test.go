package diff

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
)

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
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cases := 0
	for range 3 {
		h := gittest.Random(random, 24)
		c := newRepo(t)
		c.fastImport(h.Stream())
		if random.IntN(2) == 0 {
			c.git("repack", "-q", "-a", "-d")
		}
		refs := []string{"rev-parse"}
		for i := range h.Trees {
			refs = append(refs, fmt.Sprintf("c%d", i))
		}
		ids := strings.Fields(c.git(refs...))
		var repos []*Repo
		for _, program := range backends(t) {
			repos = append(repos, opened(t, c.dir, program))
		}
		for range 25 {
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
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 6 {
		h := gittest.Random(random, 4)
		for _, tree := range h.Trees {
			// Without git no file is converted as attributes say.
			maps.DeleteFunc(tree, func(name, _ string) bool { return path.Base(name) == ".gitattributes" })
		}
		c := newRepo(t)
		c.fastImport(h.Stream())
		c.git("checkout", "-q", "-f", "c3")
		c.write(".gitignore", "b\n*.b\n!x/a.b\n/c/\n")
		if random.IntN(2) == 0 {
			c.git("add", "-A")
		}
		for range 6 {
			full := filepath.Join(c.dir, h.Path())
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
			_ = os.RemoveAll(filepath.Join(c.dir, h.Path()))
		}
		base := fmt.Sprintf("c%d", random.IntN(len(h.Trees)))
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

// finder finds what changed with a git program, or without.
func finder(program string) gittest.Finder {
	return func(t *testing.T, dir string, variables []string, flag string) (found gittest.Selection, err error) {
		r, err := open(t.Context(), dir, program)
		if err != nil {
			return found, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		ci, err := DetectCI(environment(strings.Join(variables, " ")), os.ReadFile)
		if err != nil {
			return found, err
		}
		head, err := r.Head(t.Context())
		if err != nil {
			return found, err
		}
		base, err := r.Base(t.Context(), ci, flag, head)
		if err != nil || !base.Usable {
			return gittest.Selection{Why: base.Why}, err
		}
		files, err := r.Files(t.Context(), head.Hash)
		if err != nil {
			return found, err
		}
		var dirs []string
		for _, f := range files {
			if path.Base(f) == gittest.BuildFile {
				dirs = append(dirs, path.Dir(f))
			}
		}
		changes, err := r.Changes(t.Context(), base.Commit, head.Hash)
		byDir, _ := Attribute(changes, dirs)
		return gittest.Selection{Base: base.Commit, Dirs: slices.Sorted(maps.Keys(byDir))}, err
	}
}

// In clones of every kind the projects that changed are those that git names in
// the whole repository.
func TestRandomClones(t *testing.T) {
	t.Parallel()
	p := gittest.Property{Time: 2 * time.Second, Finders: map[string]gittest.Finder{}}.FromEnvironment(t)
	for name, program := range backends(t) {
		p.Finders[name] = finder(program)
	}
	p.Check(t)
}
