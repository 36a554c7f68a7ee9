package diff

import (
	"context"
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

// long is a repository with 130 commits on main, of which the 20 last are
// merged from a branch.
func long(t *testing.T) (*clone, map[string]string) {
	t.Helper()
	c := newRepo(t)
	var b strings.Builder
	for i := range 110 {
		fmt.Fprintf(&b, "commit refs/heads/main\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i+1, 1e9+i)
		fmt.Fprintf(&b, "M 644 inline p%d/f\ndata 1\nx\nM 644 inline q/r/f%d\ndata 1\nx\n", i%7, i)
	}
	for i := range 20 {
		fmt.Fprintf(&b, "commit refs/heads/topic\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i+200, 2e9+i)
		if i == 0 {
			b.WriteString("from :60\n")
		}
		fmt.Fprintf(&b, "M 644 inline t/f%d\ndata 1\nx\n", i)
	}
	b.WriteString("commit refs/heads/gone\ncommitter C <c@example.org> 1000000000 +0000\ndata 0\nfrom :80\nM 644 inline gone\ndata 1\nx\n")
	c.fastImport(b.String())
	c.git("checkout", "-q", "-f", "main")
	c.git("switch", "-q", "-c", "merge", "main")
	c.git("merge", "-q", "--no-ff", "-m", "x", "topic")
	c.git("switch", "-q", "main")
	ids := map[string]string{}
	for _, rev := range []string{"main", "main~5", "main~30", "main~100", "topic", "merge", "gone", "topic~20"} {
		ids[rev] = c.git("rev-parse", rev)
	}
	return c, ids
}

func TestShallowClones(t *testing.T) {
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
		base   string // "": unusable
		why    string
		go_    string // why go-git, which cannot fetch, has no base; "": it has
	}{
		{"within", "main", 20, push("main~5"), "main~5", "", ""},
		{"just beyond", "main", 20, push("main~30"), "main~30", "", " is not in this clone (shallow): fetching it needs git"},
		{"far beyond", "main", 2, push("main~100"), "main~100", "", "is not in this clone (shallow)"},
		{"force push", "main", 2, push("gone"), "", "not an ancestor of the head (force push)", "is not in this clone (shallow)"},
		{"no such commit", "main", 20, CI{System: "gitlab", Event: EventPush, Base: strings.Repeat("ab", 20)}, "", "abababa is not in this clone (shallow): git fetch", "is not in this clone (shallow)"},
		{"merge request", "topic", 21, request("topic~20"), "topic~20", "", ""},
		{"merge request, shallower", "topic", 5, request("topic~20"), "topic~20", "", "is not in this clone (shallow)"},
		{"merge request, target as base", "topic", 5, request("main"), "topic~20", "", "is not in this clone (shallow)"},
		{"merge commit alone", "merge", 1, request("main"), "main", "", "is not in this clone (shallow)"},
		{"merge commit, base farther back", "merge", 1, request("main~30"), "main~30", "", "is not in this clone (shallow)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			template := c.cloned(fmt.Sprintf("--depth=%d", test.depth), "--single-branch", "--branch="+test.branch)
			refs := template.git("for-each-ref")
			for name, program := range backends(t) {
				t.Run(name, func(t *testing.T) {
					down := template.copied(t)
					r := opened(t, down.dir, program)
					head, err := r.Head(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if !r.Shallow() {
						t.Fatal("not shallow")
					}
					base, err := r.Base(t.Context(), test.ci, "", head)
					if err != nil {
						t.Fatal(err)
					}
					wantBase, why := test.base, test.why
					if program == "" && test.go_ != "" {
						wantBase, why = "", test.go_
					}
					if base.Usable != (wantBase != "") || base.Commit != ids[wantBase] || !strings.Contains(base.Why, why) {
						t.Fatalf("got %+v, want %q %s %q", base, wantBase, ids[wantBase], why)
					}
					if base.Usable {
						got, err := r.Changes(t.Context(), base.Commit, head.Hash)
						want := nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", base.Commit, head.Hash))
						if err != nil || !slices.Equal(got, want) {
							t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(want))
						}
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
	c, ids := long(t)
	for what, do := range map[string]func(*clone){
		"unreachable": func(down *clone) { down.git("remote", "set-url", "origin", "file:///nonexistent") },
		"refused":     func(down *clone) { down.git("remote", "set-url", "origin", "http://user:secret@127.0.0.1:1/x.git") },
		"none":        func(down *clone) { down.git("remote", "remove", "origin") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			down := c.cloned("--depth=3", "--single-branch")
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
	c, ids := long(t)
	down := c.cloned("--depth=3", "--no-single-branch")
	down.git("switch", "-q", "topic")
	down.commit("own", "1")
	r := opened(t, down.dir, backends(t)["git"])
	head, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base, err := r.Base(t.Context(), CI{Event: EventLocal}, "", head)
	if err != nil || base.Commit != ids["topic~20"] || base.How != "merge-base with origin/main" || !base.WorkTree {
		t.Errorf("got %+v, %v", base, err)
	}
}

func TestAskedBaseIsFetched(t *testing.T) {
	c, ids := long(t)
	down := c.cloned("--depth=3", "--single-branch")
	r := opened(t, down.dir, backends(t)["git"])
	head, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base, err := r.Base(t.Context(), CI{Event: EventLocal}, ids["main~100"], head)
	if err != nil || base.Commit != ids["main~100"] {
		t.Errorf("got %+v, %v", base, err)
	}
	if n := strings.Count(down.git("rev-list", "HEAD"), "\n") + 1; n != 3 {
		t.Errorf("history of the head became %d commits", n)
	}
}

// A pull request's merge commit names its base as a parent: that one commit is
// fetched, and no history.
func TestMergeCommitNeedsNoHistory(t *testing.T) {
	c, ids := long(t)
	down := c.cloned("--depth=1", "--single-branch", "--branch=merge")
	r := opened(t, down.dir, backends(t)["git"])
	head, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base, err := r.Base(t.Context(), CI{System: "github", Event: EventMergeRequest, Base: ids["main"]}, "", head)
	if err != nil || base.Commit != ids["main"] {
		t.Errorf("got %+v, %v", base, err)
	}
	if got := down.git("rev-list", "--all", "HEAD", ids["main"], "--count"); got != "2" {
		t.Errorf("the clone has %s commits now", got)
	}
}

func TestFetchHangs(t *testing.T) {
	c, ids := long(t)
	down := c.cloned("--depth=3", "--single-branch")
	down.git("config", "remote.origin.uploadpack", "sleep 60;")
	r := opened(t, down.dir, backends(t)["git"])
	head, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if base, err := r.Base(ctx, CI{System: "gitlab", Event: EventPush, Base: ids["main~30"]}, "", head); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v", base, err)
	}
	if _, err := os.Stat(filepath.Join(down.dir, ".git", "shallow.lock")); err == nil {
		t.Error("a lock is left behind")
	}
}

func TestPartialClones(t *testing.T) {
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
					if program == "" && filter != "blob:none" {
						if !errors.Is(err, ErrMissing) {
							t.Errorf("got %v\n%s", err, text(got))
						}
						return
					}
					want := nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", base.Commit, head.Hash))
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(want))
					}
					fsys, err := r.FS(t.Context(), head.Hash+"~40")
					if err != nil {
						t.Fatal(err)
					}
					f, err := fsys.Open("q/r/f3")
					if program == "" {
						// The file may be there because the head has it.
						if err != nil && !errors.Is(err, ErrMissing) {
							t.Errorf("got %v", err)
						}
						return
					}
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
