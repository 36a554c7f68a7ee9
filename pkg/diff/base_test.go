package diff

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/pipegen/pipegen/pkg/failure"
)

// project is a repository with a project for each of its named commits, which
// changes it and no other: m0, 30 commits of the project filler, and m1 to m3 on
// main; f0 and f1 on a branch that left it at m1; merged, a merge of both as
// pipelines for merged results build it; ahead, the request before it in a merge
// train, and train, a merge on top of that; old, which a force push replaced
// after m1; alone, which has nothing to do with the rest.
type project struct {
	*clone
	ids map[string]string
}

var named = strings.Fields("m0 m1 m2 m3 f0 f1 old ahead alone")

func newProject(t *testing.T) project {
	t.Helper()
	p := project{newRepo(t), map[string]string{}}
	var b strings.Builder
	marks := map[string]int{}
	commit := func(name, branch, from, merge, file string) {
		marks[name] = len(marks) + 1
		fmt.Fprintf(&b, "commit refs/heads/%s\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 1\nx", branch, marks[name], 1_700_000_000+60*len(marks))
		if from != "" {
			fmt.Fprintf(&b, "\nfrom :%d", marks[from])
		}
		if merge != "" {
			fmt.Fprintf(&b, "\nmerge :%d", marks[merge])
		}
		for f := range strings.FieldsSeq(file) {
			fmt.Fprintf(&b, "\nM 644 inline %s/Dockerfile\ndata %d\n%s", f, len(name), name)
		}
		if from == "" {
			for _, project := range append(named, "filler") {
				fmt.Fprintf(&b, "\nM 644 inline %s/build-config.yaml\ndata 2\n{}", project)
			}
		}
		fmt.Fprintf(&b, "\nreset refs/tags/%s\nfrom :%d\n", name, marks[name])
	}
	commit("m0", "main", "", "", "m0")
	last := "m0"
	for i := range 30 {
		next := fmt.Sprintf("filler%d", i)
		commit(next, "main", last, "", "filler")
		last = next
	}
	commit("m1", "main", last, "", "m1")
	commit("f0", "feature", "m1", "", "f0")
	commit("f1", "feature", "f0", "", "f1")
	commit("old", "old", "m1", "", "old")
	commit("m2", "main", "m1", "", "m2")
	commit("m3", "main", "m2", "", "m3")
	commit("merged", "result", "m3", "f1", "f0 f1")
	commit("ahead", "ahead", "m3", "", "ahead")
	commit("train", "ahead", "ahead", "f1", "f0 f1")
	commit("alone", "alone", "", "", "alone")
	p.fastImport(b.String())
	p.git("reset", "-q", "--hard")
	for line := range strings.Lines(p.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/tags")) {
		name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		p.ids[name] = id
	}
	return p
}

var zero = strings.Repeat("0", 40)

// expand replaces @name by the commit of that name.
func (p project) expand(s string) string {
	names := slices.Collect(maps.Keys(p.ids))
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		s = strings.ReplaceAll(s, "@"+name, p.ids[name])
	}
	return strings.ReplaceAll(s, "@zero", zero)
}

// checkout makes the clone that a CI system makes of a commit: "gitlab DEPTH",
// "github DEPTH", "concourse DEPTH" or "local DEPTH", where DEPTH may be full.
func (p project) checkout(t *testing.T, how, head string) *clone {
	t.Helper()
	system, depth, _ := strings.Cut(how, " ")
	down := newRepo(t)
	id, address := p.ids[head], "file://"+p.dir
	branch := map[string]string{"m3": "main", "f1": "feature", "m1": "main", "train": "gh-readonly-queue/main/pr-1"}[head]
	fetch := []string{"-c", "fetch.unpackLimit=1", "fetch", "-q", "--no-tags"}
	if depth != "full" {
		fetch = append(fetch, "--depth="+depth)
	}
	down.git("config", "remote.origin.url", address)
	switch system {
	case "gitlab":
		// As GitLab's runner does for branches and, without the branch, for merge requests.
		refs := []string{"+" + id + ":refs/pipelines/77"}
		if depth == "full" {
			refs = append(refs, "+refs/heads/*:refs/remotes/origin/*")
		} else if head == "m3" {
			refs = append(refs, "+refs/heads/main:refs/remotes/origin/main")
		}
		down.git(append(append(fetch, "origin"), refs...)...)
		down.git("checkout", "-q", "-f", id)
	case "github":
		// As actions/checkout does: detached for pull requests and tags alone.
		if head == "merged" || branch == "" {
			down.git(append(fetch, "origin", "+"+id+":refs/remotes/pull/1/merge")...)
			down.git("checkout", "-q", "-f", "refs/remotes/pull/1/merge")
			break
		}
		refs := "+" + id + ":refs/remotes/origin/" + branch
		if depth == "full" {
			refs = "+refs/heads/*:refs/remotes/origin/*"
		}
		down.git(append(fetch, "origin", refs)...)
		down.git("checkout", "-q", "-f", "-B", branch, "refs/remotes/origin/"+branch)
	case "concourse":
		down.git(append(fetch, "origin", "+refs/heads/main:refs/remotes/origin/main")...)
		down.git("checkout", "-q", "-f", id)
	case "local":
		down.git(append(fetch, "origin", "+refs/heads/*:refs/remotes/origin/*")...)
		down.git("checkout", "-q", "-f", "-B", branch, "refs/remotes/origin/"+branch)
	default:
		t.Fatalf("there is no clone %q", how)
	}
	return down
}

// selected gives the projects that changed, deepest first attributed.
func selected(t *testing.T, r *Repo, base, head string) string {
	t.Helper()
	files, err := r.Files(t.Context(), head)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, f := range files {
		if dir, file := path.Split(f); file == "build-config.yaml" {
			dirs = append(dirs, path.Clean(dir))
		}
	}
	changes, err := r.Changes(t.Context(), base, head)
	if err != nil {
		t.Fatal(err)
	}
	byDir, _ := Attribute(changes, dirs)
	return strings.Join(slices.Sorted(maps.Keys(byDir)), " ")
}

// Every base that a CI system gives, in the clone that it makes. The table of
// it all is printed by go test -v -run TestBases.
func TestBases(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	const gitlab = "GITLAB_CI=true CI_DEFAULT_BRANCH=main CI_PIPELINE_SOURCE="
	const github = "GITHUB_ACTIONS=true GITHUB_EVENT_PATH=/event.json GITHUB_EVENT_NAME="
	const request = gitlab + "merge_request_event CI_COMMIT_BEFORE_SHA=@zero CI_MERGE_REQUEST_DIFF_BASE_SHA="
	type row struct {
		name, env, payload, clone, head string

		base, how string // base "": everything, and why
		selected  string
	}
	rows := []row{
		{"gitlab push", gitlab + "push CI_COMMIT_BEFORE_SHA=@m1", "", "gitlab 20", "m3", "m1", "CI_COMMIT_BEFORE_SHA", "m2 m3"},
		{"gitlab push of 33 commits", gitlab + "push CI_COMMIT_BEFORE_SHA=@m0", "", "gitlab 20", "m3", "m0", "CI_COMMIT_BEFORE_SHA", "filler m1 m2 m3"},
		{"gitlab first push of a branch", gitlab + "push CI_COMMIT_BEFORE_SHA=@zero", "", "gitlab 20", "f1", "", "CI_COMMIT_BEFORE_SHA is all zeros: first push of the branch", ""},
		{"gitlab force push", gitlab + "push CI_COMMIT_BEFORE_SHA=@old", "", "gitlab 20", "m3", "", " is not an ancestor of the head (force push)", ""},
		{"gitlab force push, whole history", gitlab + "push CI_COMMIT_BEFORE_SHA=@old", "", "gitlab full", "m3", "", " is not an ancestor of the head (force push)", ""},
		{"gitlab force push, commit gone", gitlab + "push CI_COMMIT_BEFORE_SHA=" + strings.Repeat("ab", 20), "", "gitlab 20", "m3", "", "abababa is not in this clone (shallow): ", ""},
		{"gitlab force push, commit gone, whole history", gitlab + "push CI_COMMIT_BEFORE_SHA=" + strings.Repeat("ab", 20), "", "gitlab full", "m3", "", "abababa is not an ancestor of the head (force push): this clone has", ""},
		{"gitlab push of the same", gitlab + "push CI_COMMIT_BEFORE_SHA=@m3", "", "gitlab 20", "m3", "", "is the commit that is built", ""},
		{"gitlab push without base", gitlab + "push", "", "gitlab 20", "m3", "", "the push names no commit from before", ""},
		{"gitlab push, no hash", gitlab + "push CI_COMMIT_BEFORE_SHA=--upload-pack=x", "", "gitlab 20", "m3", "", "is no commit hash: --upload-pack=x", ""},
		{"gitlab merge request", request + "@m1", "", "gitlab 20", "f1", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1"},
		{"gitlab merge request, depth 1", request + "@m1", "", "gitlab 1", "f1", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1"},
		{"gitlab merged result", request + "@m1 CI_MERGE_REQUEST_EVENT_TYPE=merged_result", "", "gitlab 50", "merged", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1 m2 m3"},
		{"gitlab merged result, depth 1", request + "@m1 CI_MERGE_REQUEST_EVENT_TYPE=merged_result", "", "gitlab 1", "merged", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1 m2 m3"},
		{"gitlab merge train", request + "@m1 CI_MERGE_REQUEST_EVENT_TYPE=merge_train", "", "gitlab 20", "train", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "ahead f0 f1 m2 m3"},
		{"gitlab merge train, depth 2", request + "@m1 CI_MERGE_REQUEST_EVENT_TYPE=merge_train", "", "gitlab 2", "train", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "ahead f0 f1 m2 m3"},
		{"gitlab merge request, base moved on", request + "@m3", "", "gitlab 20", "f1", "m1", "merge-base with CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1"},
		{"gitlab merge request, unrelated", request + "@alone", "", "gitlab 20", "f1", "", "no common ancestor", ""},
		{"gitlab merge request without base", gitlab + "merge_request_event", "", "gitlab 20", "f1", "", "names no commit to merge into", ""},
		{"gitlab merge request of nothing", request + "@m1", "", "gitlab 20", "m1", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", ""},
		{"gitlab schedule", gitlab + "schedule CI_COMMIT_BEFORE_SHA=@zero", "", "gitlab 20", "m3", "", "a pipeline of the kind schedule has no commit to compare with", ""},
		{"gitlab manual", gitlab + "web CI_COMMIT_BEFORE_SHA=@m2", "", "gitlab 20", "m3", "", "of the kind manual", ""},
		{"gitlab tag", gitlab + "push CI_COMMIT_TAG=v1 CI_COMMIT_BEFORE_SHA=@zero", "", "gitlab 20", "m3", "", "of the kind tag", ""},

		{"github push", github + "push GITHUB_REF=refs/heads/main", `{"before":"@m1"}`, "github 1", "m3", "m1", "before in the push event", "m2 m3"},
		{"github push, whole history", github + "push GITHUB_REF=refs/heads/main", `{"before":"@m0"}`, "github full", "m3", "m0", "before in the push event", "filler m1 m2 m3"},
		{"github first push of a branch", github + "push GITHUB_REF=refs/heads/x", `{"before":"@zero"}`, "github 1", "f1", "", "all zeros: first push of the branch", ""},
		{"github force push", github + "push GITHUB_REF=refs/heads/x", `{"before":"@old","forced":true}`, "github 1", "f1", "", "force push", ""},
		{"github tag", github + "push GITHUB_REF=refs/tags/v1", `{"before":"@zero"}`, "github 1", "m3", "", "of the kind tag", ""},
		{"github pull request", github + "pull_request", `{"pull_request":{"base":{"sha":"@m3"}}}`, "github 1", "merged", "m3", "pull_request.base.sha in the event", "f0 f1"},
		{"github pull request, base moved on since", github + "pull_request", `{"pull_request":{"base":{"sha":"@m2"}}}`, "github 1", "merged", "m2", "pull_request.base.sha in the event", "f0 f1 m3"},
		{"github pull request, branch itself", github + "pull_request", `{"pull_request":{"base":{"sha":"@m3"}}}`, "github 1", "f1", "m1", "merge-base with pull_request.base.sha in the event", "f0 f1"},
		{"github merge group", github + "merge_group", `{"merge_group":{"base_sha":"@ahead"}}`, "github 1", "train", "ahead", "merge_group.base_sha in the event", "f0 f1"},
		{"github schedule", github + "schedule", `{"schedule":"0 0 * * *"}`, "github 1", "m3", "", "of the kind schedule", ""},
		{"github dispatch", github + "workflow_dispatch", `{"inputs":{}}`, "github 1", "m3", "", "of the kind manual", ""},

		{"concourse", "ATC_EXTERNAL_URL=x BUILD_ID=1", "", "concourse full", "m3", "", "Concourse names no commit", ""},
		{"concourse --base", "ATC_EXTERNAL_URL=x BUILD_ID=1 FLAG=@m1", "", "concourse full", "m3", "m1", "--base @m1", "m2 m3"},
		{"concourse --base, depth 1", "ATC_EXTERNAL_URL=x BUILD_ID=1 FLAG=@m1", "", "concourse 1", "m3", "m1", "--base @m1", "m2 m3"},
		{"another", "CI=true", "", "concourse full", "m3", "", "this CI system is not known", ""},

		{"local branch", "", "", "local full", "f1", "m1", "merge-base with origin/main", "f0 f1"},
		{"local branch, shallow clone", "", "", "local 1", "f1", "m1", "merge-base with origin/main", "f0 f1"},
		{"local default branch", "", "", "local full", "m3", "m3", "merge-base with origin/main", ""},
	}
	clones := map[string]*clone{}
	for _, r := range rows {
		if key := r.clone + " " + r.head; clones[key] == nil {
			clones[key] = p.checkout(t, r.clone, r.head)
		}
	}
	lines := make([]string, len(rows))
	t.Run("rows", func(t *testing.T) {
		for i, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				ci, err := DetectCI(environment(p.expand(row.env)), payloadFile(p.expand(row.payload)))
				if err != nil {
					t.Fatal(err)
				}
				flag := environment(p.expand(row.env))("FLAG")
				for name, program := range backends(t) {
					t.Run(name, func(t *testing.T) {
						r := opened(t, clones[row.clone+" "+row.head].copied(t).dir, program)
						head, err := r.Head(t.Context())
						if err != nil || head.Hash != p.ids[row.head] {
							t.Fatalf("head %+v, %v", head, err)
						}
						base, err := r.Base(t.Context(), ci, flag, head)
						if err != nil {
							t.Fatal(err)
						}
						if base.WorkTree != (ci.System == "") || base.Usable != (row.base != "") || base.Commit != p.ids[row.base] {
							t.Fatalf("got %+v, want %s %s", base, row.base, p.ids[row.base])
						}
						if !base.Usable {
							if !strings.Contains(base.Why, row.how) {
								t.Errorf("why %q, want %q", base.Why, row.how)
							}
							lines[i] = fmt.Sprintf("%s\t%s\tnone\t%s\teverything", row.name, row.clone, base.Why)
							return
						}
						if base.How != p.expand(row.how) || base.Why != "" {
							t.Errorf("how %q, why %q, want %q", base.How, base.Why, row.how)
						}
						got := selected(t, r, base.Commit, head.Hash)
						if got != row.selected {
							t.Errorf("selected %q, want %q", got, row.selected)
						}
						lines[i] = fmt.Sprintf("%s\t%s\t%s\t%s\t%s", row.name, row.clone, short(base.Commit), strings.ReplaceAll(base.How, base.Commit, short(base.Commit)), cmp.Or(got, "nothing"))
					})
				}
			})
		}
	})
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "EVENT\tCLONE\tBASE\tHOW, OR WHY NONE\tSELECTED\n%s\n", strings.Join(lines, "\n"))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("every base and what it selects:\n%s", table.String())
}

func TestBaseAsked(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	both(t, p.dir, func(t *testing.T, r *Repo) {
		head, err := r.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for rev, want := range map[string]string{"old": "old", "HEAD~1": "m3", p.ids["m1"][:8]: "m1", p.ids["alone"]: "alone"} {
			if rev == "HEAD~1" {
				want = "m2"
			}
			base, err := r.Base(t.Context(), CI{Event: EventLocal}, rev, head)
			if err != nil || !base.Usable || base.Commit != p.ids[want] || !base.WorkTree || base.How != "--base "+rev {
				t.Errorf("%s: %+v, %v", rev, base, err)
			}
		}
		for _, rev := range []string{"nope", "-x", strings.Repeat("ab", 20)} {
			if base, err := r.Base(t.Context(), CI{Event: EventLocal}, rev, head); !errors.Is(err, failure.ErrInput) {
				t.Errorf("%s: %+v, %v", rev, base, err)
			}
		}
		other, err := r.Commit(t.Context(), "f1")
		if err != nil {
			t.Fatal(err)
		}
		if base, err := r.Base(t.Context(), CI{Event: EventLocal}, "m1", other); err != nil || base.WorkTree {
			t.Errorf("another head: %+v, %v", base, err)
		}
	})
}

func TestBaseLocal(t *testing.T) {
	t.Parallel()
	type result struct{ base, how string }
	template := newProject(t)
	clones := template.cloned()
	clones.git("branch", "-q", "feature", "origin/feature")
	for _, test := range []struct {
		name string
		do   func(project, *clone) // the second is a clone of the first
		repo string                // where to look: origin or clone
		head string
		want result
	}{
		{"clone, up to date", func(project, *clone) {}, "clone", "", result{"m3", "merge-base with origin/main"}},
		{"clone, ahead", func(_ project, c *clone) { c.commit("n", "1") }, "clone", "", result{"m3", "merge-base with origin/main"}},
		{"clone, branch", func(_ project, c *clone) { c.git("switch", "-q", "feature") }, "clone", "", result{"m1", "merge-base with origin/main"}},
		{"clone, detached", func(_ project, c *clone) { c.git("checkout", "-q", "--detach", "f0") }, "clone", "", result{"m1", "merge-base with origin/main"}},
		{"clone, another default branch", func(p project, c *clone) {
			p.git("switch", "-q", "feature")
			c.fetchesFrom("file://" + p.dir)
			c.git("remote", "set-head", "origin", "-a")
		}, "clone", "", result{"m1", "merge-base with origin/feature"}},
		{"clone, no origin/HEAD", func(_ project, c *clone) { c.git("remote", "set-head", "origin", "-d") }, "clone", "", result{"m3", "merge-base with origin/main"}},
		{"clone, origin/HEAD dangles", func(_ project, c *clone) {
			c.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/nope")
		}, "clone", "", result{"m3", "merge-base with origin/main"}},
		{"clone, another remote", func(_ project, c *clone) { c.git("remote", "rename", "origin", "up.stream"); c.commit("n", "1") }, "clone", "", result{"m3", "merge-base with up.stream/main"}},
		{"clone, no tracking branches", func(_ project, c *clone) {
			for ref := range strings.FieldsSeq(c.git("for-each-ref", "--format=%(refname)", "refs/remotes")) {
				c.git("update-ref", "--no-deref", "-d", ref)
			}
		}, "clone", "", result{"m2", "first parent of the head (origin has no default branch here)"}},
		{"clone, unrelated", func(_ project, c *clone) { c.git("checkout", "-q", "--detach", "alone") }, "clone", "", result{"", "no common ancestor"}},
		{"clone, explicit head", func(project, *clone) {}, "clone", "f1", result{"m1", "merge-base with origin/main"}},
		{"default branch, clean", func(project, *clone) {}, "origin", "", result{"m2", "first parent of the head"}},
		{"default branch, changed", func(p project, _ *clone) { p.write("m1/Dockerfile", "2") }, "origin", "", result{"m3", "HEAD, with uncommitted changes"}},
		{"default branch, untracked", func(p project, _ *clone) { p.write("n", "2") }, "origin", "", result{"m3", "HEAD, with uncommitted changes"}},
		{"default branch, merge", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "merged", "--") }, "origin", "", result{"m3", "first parent of the head"}},
		{"default branch, first commit", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "m0", "--") }, "origin", "", result{"", "is the first commit"}},
		{"default branch, first commit, changed", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "m0", "--"); p.write("m0/Dockerfile", "2") }, "origin", "", result{"m0", "HEAD, with uncommitted changes"}},
		{"other branch", func(p project, _ *clone) { p.git("switch", "-q", "feature") }, "origin", "", result{"m1", "merge-base with main"}},
		{"other branch, nothing on it yet", func(p project, _ *clone) { p.git("switch", "-q", "-c", "fresh", "m2") }, "origin", "", result{"m2", "merge-base with main"}},
		{"other default branch", func(p project, _ *clone) { p.git("config", "init.defaultBranch", "feature") }, "origin", "", result{"m1", "merge-base with feature"}},
		{"master", func(p project, _ *clone) { p.git("branch", "-m", "main", "master"); p.git("switch", "-q", "feature") }, "origin", "", result{"m1", "merge-base with master"}},
		{"no default branch", func(p project, _ *clone) { p.git("branch", "-m", "main", "odd") }, "origin", "", result{"m2", "first parent of the head"}},
		{"detached on a branch", func(p project, _ *clone) { p.git("checkout", "-q", "--detach", "f1") }, "origin", "", result{"m1", "merge-base with main"}},
		{"detached on the default branch", func(p project, _ *clone) { p.git("checkout", "-q", "--detach", "m2") }, "origin", "", result{"m1", "first parent of the head"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := project{template.copied(t), template.ids}
			var c *clone
			dir := p.dir
			if test.repo == "clone" {
				c = clones.copied(t)
				dir = c.dir
			}
			test.do(p, c)
			both(t, dir, func(t *testing.T, r *Repo) {
				head, err := r.Head(t.Context())
				if test.head != "" {
					head, err = r.Commit(t.Context(), test.head)
				}
				if err != nil {
					t.Fatal(err)
				}
				base, err := r.Base(t.Context(), CI{Event: EventLocal}, "", head)
				if err != nil || base.Commit != p.ids[test.want.base] || base.Usable != (test.want.base != "") || base.WorkTree != (test.head == "") {
					t.Fatalf("got %+v, %v, want %+v (%s)", base, err, test.want, p.ids[test.want.base])
				}
				if base.Usable && base.How != test.want.how || !base.Usable && !strings.Contains(base.Why, test.want.how) {
					t.Errorf("how %q, why %q, want %q", base.How, base.Why, test.want.how)
				}
			})
		})
	}
}

// The lines that people read are of one kind: short, no full stop, no control
// characters.
func TestReasonsAreLines(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	r := opened(t, p.dir, "")
	line := regexp.MustCompile(`^[^\x00-\x1f]{1,160}[^.]$`)
	for _, base := range []string{"", zero, "x\ny", strings.Repeat("ab", 20), p.ids["old"], p.ids["alone"]} {
		for _, event := range []string{EventPush, EventTag, EventMergeRequest, EventMergeGroup, EventSchedule, EventManual} {
			for _, system := range []string{"gitlab", "github", "concourse", "other"} {
				got, err := r.Base(t.Context(), CI{System: system, Event: event, Base: base}, "", Commit{Hash: p.ids["m3"], Parents: []string{p.ids["m2"]}})
				if err != nil || !line.MatchString(got.How) || got.Usable == line.MatchString(got.Why) {
					t.Errorf("%s %s %q: %+v, %v", system, event, base, got, err)
				}
			}
		}
	}
}
