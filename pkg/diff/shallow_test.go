package diff

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

// long is a bare repository with 110 commits on main, a branch topic of 20 that
// left it after 60, one that merges both, and one that a force push made go.
func long(t *testing.T) (*clone, map[string]string) {
	t.Helper()
	c := newRepo(t, "--bare")
	var b, merged strings.Builder
	commit := func(branch string, mark, when int) {
		fmt.Fprintf(&b, "commit refs/heads/%s\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", branch, mark, when)
	}
	for i := range 110 {
		commit("main", i+1, 1e9+i)
		fmt.Fprintf(&b, "M 644 inline p%d/f\ndata 1\nx\nM 644 inline q/r/f%d\ndata 1\nx\n", i%7, i)
	}
	for i := range 20 {
		commit("topic", i+200, 2e9+i)
		if i == 0 {
			b.WriteString("from :60\n")
		}
		fmt.Fprintf(&b, "M 644 inline t/f%d\ndata 1\nx\n", i)
		fmt.Fprintf(&merged, "M 644 inline t/f%d\ndata 1\nx\n", i)
	}
	commit("gone", 300, 1e9)
	b.WriteString("from :80\nM 644 inline gone\ndata 1\nx\n")
	commit("merge", 301, 2.1e9)
	b.WriteString("from :110\nmerge :219\n" + merged.String())
	c.fastImport(b.String())
	revs := []string{"main", "main~5", "main~30", "main~100", "topic", "merge", "gone", "topic~20", "topic~5"}
	ids := map[string]string{}
	for i, id := range strings.Fields(c.git(append([]string{"rev-parse"}, revs...)...)) {
		ids[revs[i]] = id
	}
	return c, ids
}

func TestShallowClones(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	push := func(base string) CI {
		return CI{System: "gitlab", Event: EventPush, Base: ids[base], baseFrom: "CI_COMMIT_BEFORE_SHA"}
	}
	request := func(base string) CI {
		return CI{System: "gitlab", Event: EventMergeRequest, Base: ids[base], baseFrom: "CI_MERGE_REQUEST_DIFF_BASE_SHA"}
	}
	for _, test := range []struct {
		name   string
		branch string
		depth  int
		ci     CI
		base   string
	}{
		{"far beyond", "main", 2, push("main~100"), "main~100"},
		{"merge request", "topic", 21, request("topic~20"), "topic~20"},
		{"merge request, shallower", "topic", 5, request("topic~20"), "topic~20"},
		{"merge request, target as base", "topic", 5, request("main"), "topic~20"},
		{"merge commit, base farther back", "merge", 1, request("main~30"), "main~30"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			template := c.cloned(fmt.Sprintf("--depth=%d", test.depth), "--single-branch", "--no-checkout", "--branch="+test.branch)
			want := nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", ids[test.base], ids[test.branch]))
			refs := template.git("for-each-ref")
			for name, program := range backends(t) {
				t.Run(name, func(t *testing.T) {
					down := template.copied(t)
					before := down.state()
					r := opened(t, down.dir, program)
					head, err := r.Head(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if !r.Shallow() {
						t.Fatal("not shallow")
					}
					base, err := r.Base(t.Context(), test.ci, "", head)
					if err != nil || base.Commit != ids[test.base] {
						t.Fatalf("got %+v, %v, want %s", base, err, ids[test.base])
					}
					if got, err := r.Changes(t.Context(), base.Commit, head.Hash); err != nil || !slices.Equal(got, want) {
						t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(want))
					}
					if program == "" {
						down.unharmed(before)
						return
					}
					// The clone is as good as before, and nothing that is seen moved.
					down.git("fsck", "--connectivity-only", "--no-dangling")
					if after := down.git("for-each-ref"); after != refs {
						t.Errorf("refs changed:\n%s\nbefore\n%s", after, refs)
					}
					if _, err := os.Stat(filepath.Join(down.dir, ".git", "FETCH_HEAD")); err == nil {
						t.Error("FETCH_HEAD was written")
					}
				})
			}
		})
	}
}

func TestShallowCloneWithoutRemote(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	template := c.cloned("--depth=3", "--single-branch", "--no-checkout")
	for what, do := range map[string]func(*clone){
		"unreachable": func(down *clone) { down.fetchesFrom("file:///nonexistent") },
		"refused":     func(down *clone) { down.fetchesFrom("http://user:secret@127.0.0.1:1/x.git") },
		"none":        func(down *clone) { down.git("remote", "remove", "origin") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			down := template.copied(t)
			do(down)
			both(t, down.dir, func(t *testing.T, r *Repo) {
				head, err := r.Head(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, event := range []string{EventPush, EventMergeRequest} {
					base, err := r.Base(t.Context(), CI{System: "gitlab", Event: event, Base: ids["main~30"]}, "", head)
					if err != nil || base.Usable || !strings.Contains(base.Why, " is not in this clone (shallow): ") || strings.Contains(base.Why, "secret") {
						t.Errorf("got %+v, %v", base, err)
					}
				}
				if base, err := r.Base(t.Context(), CI{System: "gitlab", Event: EventPush, Base: ids["main~30"]}, ids["main~30"], head); !errors.Is(err, failure.ErrInput) {
					t.Errorf("--base: %+v, %v", base, err)
				}
			})
		})
	}
}

// Commits of one's own, which the remote does not know, are no obstacle.
func TestShallowCloneWithOwnCommits(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	template := c.cloned("--depth=3", "--no-single-branch", "--branch=topic")
	template.commit("own", "1")
	for name, program := range backends(t) {
		t.Run(name, func(t *testing.T) {
			r := opened(t, template.copied(t).dir, program)
			head, err := r.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			base, err := r.Base(t.Context(), CI{Event: EventLocal}, "", head)
			if err != nil || base.Commit != ids["topic~20"] || base.How != "merge-base with origin/main" || !base.WorkTree {
				t.Errorf("got %+v, %v", base, err)
			}
		})
	}
}

// Where one commit is enough no history comes with it.
func TestFetchedIsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	for _, test := range []struct {
		name, branch, flag string
		ci                 CI
		base               string
		commits            string
	}{
		{"base that is asked for", "main", ids["main~100"], CI{Event: EventLocal}, "main~100", "2"},
		{"base that is a parent of the merge commit", "merge", "", CI{System: "github", Event: EventMergeRequest, Base: ids["main"]}, "main", "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			down := c.cloned("--depth=1", "--single-branch", "--branch="+test.branch)
			r := opened(t, down.dir, backends(t)["git"])
			head, err := r.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			base, err := r.Base(t.Context(), test.ci, test.flag, head)
			if err != nil || base.Commit != ids[test.base] {
				t.Errorf("got %+v, %v", base, err)
			}
			if got := down.git("rev-list", "HEAD", ids[test.base], "--count"); got != test.commits {
				t.Errorf("the clone has %s commits now", got)
			}
		})
	}
}

func TestPartialClones(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	c.git("config", "uploadpack.allowFilter", "true")
	for _, filter := range []string{"blob:none", "tree:0", "tree:2"} {
		t.Run(filter, func(t *testing.T) {
			t.Parallel()
			for name, program := range backends(t) {
				t.Run(name, func(t *testing.T) {
					down := c.cloned("--filter="+filter, "--depth=50", "--single-branch")
					r := opened(t, down.dir, program)
					head, err := r.Head(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					ci := CI{System: "gitlab", Event: EventPush, Base: ids["main~30"]}
					base, err := r.Base(t.Context(), ci, "", head)
					if err != nil || base.Commit != ids["main~30"] {
						t.Fatalf("got %+v, %v", base, err)
					}
					got, err := r.Changes(t.Context(), base.Commit, head.Hash)
					want := nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", base.Commit, head.Hash))
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(want))
					}
					fsys, err := r.FS(t.Context(), head.Hash+"~40")
					if err != nil {
						t.Fatal(err)
					}
					f, err := fsys.Open("q/r/f3")
					if err != nil {
						t.Error(err)
					} else if info, err := f.Stat(); err != nil || info.Size() != 1 {
						t.Errorf("got %v, %v", info, err)
					}
				})
			}
			t.Run("remote gone", func(t *testing.T) {
				down := c.cloned("--filter="+filter, "--depth=50", "--single-branch")
				down.git("remote", "set-url", "origin", "file:///nonexistent")
				both(t, down.dir, func(t *testing.T, r *Repo) {
					got, err := r.Changes(t.Context(), ids["main~30"], "HEAD")
					if filter == "blob:none" {
						if err != nil || len(got) == 0 {
							t.Errorf("got %v, %v", got, err)
						}
					} else if !errors.Is(err, ErrMissing) {
						t.Errorf("got %v\n%s", err, text(got))
					}
				})
			})
		})
	}
}
