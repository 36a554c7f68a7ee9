package diff

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Names mean what they mean to git, whatever else has the same name.
func TestNamesOfCommits(t *testing.T) {
	c := newRepo(t)
	var ids []string
	for i := range 12 {
		ids = append(ids, c.commit("a", fmt.Sprint(i)))
	}
	c.git("branch", "both", ids[0])
	c.git("tag", "both", ids[1])
	c.git("update-ref", "refs/remotes/both/HEAD", ids[2])
	c.git("branch", "deep/er/name", ids[3])
	c.git("update-ref", "refs/odd", ids[4])
	c.git("update-ref", "refs/remotes/origin/x", ids[5])
	c.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/x")
	c.git("symbolic-ref", "refs/heads/hop", "refs/heads/both")
	c.git("symbolic-ref", "refs/heads/nowhere", "refs/heads/none")
	c.git("branch", "packed", ids[6])
	c.git("branch", "moved", ids[6])
	c.git("branch", "gone", ids[6])
	c.git("update-ref", "refs/heads/"+ids[0][:7], ids[7])
	c.git("update-ref", "refs/heads/"+ids[1], ids[7])
	c.git("pack-refs", "--all")
	c.git("branch", "-f", "moved", ids[8])
	c.git("branch", "-D", "gone")
	c.git("update-ref", "refs/worktree/mine", ids[9])
	c.git("update-ref", "FETCH_HEAD", ids[10])
	c.git("update-ref", "ORIG_HEAD", ids[11])
	c.write(".git/refs/heads/broken", "no id\n")
	c.write(".git/loose", ids[3]+"\n")
	c.write(".git/refs/heads/loose", ids[4]+"\n")
	c.write(".git/refs/heads/ends.lock", ids[4]+"\n")
	linked := filepath.Join(c.dir, "linked")
	c.git("worktree", "add", "-q", "--detach", linked, ids[2])
	// Two of git's own that no name of a commit can be without it.
	onlyGit := map[string]bool{"loose": true, "main-worktree/HEAD": true, "HEAD@{0}": true, ":/x": true}
	names := []string{
		"both", "heads/both", "tags/both", "refs/heads/both", "deep/er/name", "deep/er", "deep", "odd", "refs/odd", "refs", "refs/heads", "origin", "origin/x", "origin/HEAD",
		"hop", "hop~1", "hop^{commit}", "nowhere", "packed", "moved", "gone", "worktree/mine", "refs/worktree/mine", "FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD",
		"broken", "loose", "heads/loose", "heads/ends.lock", "ends.lock", "main-worktree/HEAD", "HEAD", "@", "HEAD@{0}", ":/x", "main.", "ma..in", "-main", "/main", "main/", "./main", "heads/../heads/main",
		"main~3", "main~~~", "main^1~2", "main^2", "main~99", "main~0", "main^0", ids[0], strings.ToUpper(ids[0]), ids[1], ids[0][:7], ids[3][:12], "HEAD:a", "index", "config", "objects/info", "Main",
	}
	for _, dir := range []string{c.dir, linked} {
		both(t, dir, func(t *testing.T, r *Repo) {
			for _, name := range names {
				cmd := exec.Command("git", "rev-parse", "--verify", "-q", name+"^{commit}")
				cmd.Dir = dir
				out, _ := cmd.Output() // fails where there is none
				want := strings.TrimSpace(string(out))
				if onlyGit[name] && r.git == "" {
					want = ""
					if name == "loose" {
						want = ids[4]
					}
				}
				got, err := r.Commit(t.Context(), name)
				if got.Hash != want || (err == nil) != (want != "") {
					t.Errorf("%s: got %s, %v, want %s", name, got.Hash, err, want)
				}
			}
			if _, err := r.Commit(t.Context(), "broken"); err == nil || r.git != "" && !errors.Is(err, failure.ErrInput) {
				t.Errorf("broken: %v", err)
			}
		})
	}
}

func TestRefsBelow(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1")
	for _, name := range []string{"origin/main", "origin/deep/er", "other/main"} {
		c.git("update-ref", "refs/remotes/"+name, "HEAD")
	}
	c.git("pack-refs", "--all")
	c.git("update-ref", "refs/remotes/origin/new", "HEAD")
	c.git("update-ref", "-d", "refs/remotes/origin/main")
	r := refs{layout: layout{gitDir: filepath.Join(c.dir, ".git"), commonDir: filepath.Join(c.dir, ".git")}}
	for prefix, want := range map[string]string{
		"refs/remotes/origin/": "[refs/remotes/origin/deep/er refs/remotes/origin/new]", "refs/remotes/none/": "[]",
		"refs/": "[refs/heads/main refs/remotes/origin/deep/er refs/remotes/origin/new refs/remotes/other/main]",
	} {
		if got, err := r.below(prefix); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: got %v, %v, want %s", prefix, got, err, want)
		}
	}
	// packed-refs may be replaced while it is remembered.
	c.git("pack-refs", "--all")
	if got, err := r.below("refs/heads/"); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.Remove(filepath.Join(c.dir, ".git", "packed-refs")); err != nil {
		t.Fatal(err)
	}
	if got, err := r.below("refs/heads/"); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// FuzzRef reads refs out of files that hold anything.
func FuzzRef(f *testing.F) {
	id := strings.Repeat("ab", 20)
	f.Add("main", id+"\n", id+" refs/heads/packed\n^"+id+"\n")
	f.Add("a/b", "ref: refs/heads/a/b\n", "# pack-refs with: peeled\n")
	f.Add("../x", "ref: ../../x", "refs/heads/../x")
	f.Add("packed", "", "zz refs/heads/packed\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name, loose, packed string) {
		r := refs{layout: layout{gitDir: dir, commonDir: dir}}
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, "refs")), os.MkdirAll(filepath.Join(dir, "refs", "heads"), 0o750),
			os.WriteFile(filepath.Join(dir, "refs", "heads", "main"), []byte(loose), 0o600),
			os.WriteFile(filepath.Join(dir, "packed-refs"), []byte(packed), 0o600)); err != nil {
			t.Fatal(err)
		}
		id, ok, err := r.find(name)
		if ok && (err != nil || !strings.Contains(loose+packed, id.String())) {
			t.Errorf("%q, %q, %q: got %s, %v", name, loose, packed, id, err)
		}
	})
}
