package diff

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

// project is a repository with a main branch m0…m3, a branch f0, f1 that left
// it at m1, a merge of both as merged-results pipelines build it, a train's
// merge on top, and old, which a force push replaced.
type project struct {
	*clone
	ids map[string]string
}

func newProject(t *testing.T) project {
	t.Helper()
	p := project{newRepo(t), map[string]string{}}
	commit := func(name string) {
		p.ids[name] = p.commit(strings.ToUpper(name), name)
		p.git("tag", name)
	}
	commit("m0")
	commit("m1")
	p.git("switch", "-q", "-c", "feature")
	commit("f0")
	commit("f1")
	p.git("switch", "-q", "main")
	commit("m2")
	p.git("switch", "-q", "-c", "old", "m1")
	commit("old")
	p.git("switch", "-q", "main")
	commit("m3")
	p.git("switch", "-q", "-c", "result")
	p.git("merge", "-q", "--no-ff", "-m", "x", "feature")
	p.git("tag", "merged")
	p.ids["merged"] = p.git("rev-parse", "merged")
	p.git("switch", "-q", "-c", "ahead", "m3")
	commit("ahead")
	p.git("merge", "-q", "--no-ff", "-m", "x", "feature")
	p.git("tag", "train")
	p.ids["train"] = p.git("rev-parse", "train")
	p.git("switch", "-q", "main")
	p.git("switch", "-q", "--orphan", "alone")
	commit("alone")
	p.git("switch", "-q", "main")
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

func TestBaseInCI(t *testing.T) {
	p := newProject(t)
	const gitlab = "GITLAB_CI=true CI_DEFAULT_BRANCH=main CI_PIPELINE_SOURCE="
	const github = "GITHUB_ACTIONS=true GITHUB_EVENT_PATH=/event.json GITHUB_EVENT_NAME="
	for _, test := range []struct {
		name, env, payload, head string
		base, how                string // base "": unusable, and why
		changed                  string
	}{
		{"gitlab push", gitlab + "push CI_COMMIT_BEFORE_SHA=@m1", "", "m3", "m1", "CI_COMMIT_BEFORE_SHA", "m2 m3"},
		{"gitlab first push", gitlab + "push CI_COMMIT_BEFORE_SHA=@zero", "", "f1", "", "CI_COMMIT_BEFORE_SHA is all zeros: first push of the branch", ""},
		{"gitlab force push", gitlab + "push CI_COMMIT_BEFORE_SHA=@old", "", "m3", "", " is not an ancestor of the head (force push)", ""},
		{"gitlab force push, commit gone", gitlab + "push CI_COMMIT_BEFORE_SHA=" + strings.Repeat("ab", 20), "", "m3", "", "abababa is not an ancestor of the head (force push): this clone has", ""},
		{"gitlab push of the same", gitlab + "push CI_COMMIT_BEFORE_SHA=@m3", "", "m3", "", "is the commit that is built", ""},
		{"gitlab push without base", gitlab + "push", "", "m3", "", "the push names no commit from before", ""},
		{"gitlab push, no hash", gitlab + "push CI_COMMIT_BEFORE_SHA=--upload-pack=x", "", "m3", "", "is no commit hash: --upload-pack=x", ""},
		{"gitlab merge request", gitlab + "merge_request_event CI_MERGE_REQUEST_DIFF_BASE_SHA=@m1 CI_COMMIT_BEFORE_SHA=@zero", "", "f1", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1"},
		{"gitlab merged result", gitlab + "merge_request_event CI_MERGE_REQUEST_EVENT_TYPE=merged_result CI_MERGE_REQUEST_DIFF_BASE_SHA=@m1", "", "merged", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1 m2 m3"},
		{"gitlab merge train", gitlab + "merge_request_event CI_MERGE_REQUEST_EVENT_TYPE=merge_train CI_MERGE_REQUEST_DIFF_BASE_SHA=@m1", "", "train", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", "ahead f0 f1 m2 m3"},
		{"gitlab merge request, base moved on", gitlab + "merge_request_event CI_MERGE_REQUEST_DIFF_BASE_SHA=@m3", "", "f1", "m1", "merge-base with CI_MERGE_REQUEST_DIFF_BASE_SHA", "f0 f1"},
		{"gitlab merge request, unrelated", gitlab + "merge_request_event CI_MERGE_REQUEST_DIFF_BASE_SHA=@alone", "", "f1", "", "no common ancestor", ""},
		{"gitlab merge request without base", gitlab + "merge_request_event", "", "f1", "", "names no commit to merge into", ""},
		{"gitlab merge request of nothing", gitlab + "merge_request_event CI_MERGE_REQUEST_DIFF_BASE_SHA=@m1", "", "m1", "m1", "CI_MERGE_REQUEST_DIFF_BASE_SHA", ""},
		{"gitlab schedule", gitlab + "schedule CI_COMMIT_BEFORE_SHA=@zero", "", "m3", "", "a pipeline of the kind schedule has no commit to compare with", ""},
		{"gitlab manual", gitlab + "web CI_COMMIT_BEFORE_SHA=@m2", "", "m3", "", "of the kind manual", ""},
		{"gitlab tag", gitlab + "push CI_COMMIT_TAG=v1 CI_COMMIT_BEFORE_SHA=@zero", "", "m3", "", "of the kind tag", ""},

		{"github push", github + "push GITHUB_REF=refs/heads/main", `{"before":"@m1"}`, "m3", "m1", "before in the push event", "m2 m3"},
		{"github first push", github + "push GITHUB_REF=refs/heads/x", `{"before":"@zero"}`, "f1", "", "all zeros: first push of the branch", ""},
		{"github force push", github + "push GITHUB_REF=refs/heads/x", `{"before":"@old","forced":true}`, "f1", "", "force push", ""},
		{"github tag", github + "push GITHUB_REF=refs/tags/v1", `{"before":"@zero"}`, "m3", "", "of the kind tag", ""},
		{"github pull request", github + "pull_request", `{"pull_request":{"base":{"sha":"@m3"}}}`, "merged", "m3", "pull_request.base.sha in the event", "f0 f1"},
		{"github pull request, base moved on since", github + "pull_request", `{"pull_request":{"base":{"sha":"@m2"}}}`, "merged", "m2", "pull_request.base.sha in the event", "f0 f1 m3"},
		{"github pull request, branch itself", github + "pull_request", `{"pull_request":{"base":{"sha":"@m3"}}}`, "f1", "m1", "merge-base with pull_request.base.sha in the event", "f0 f1"},
		{"github merge group", github + "merge_group", `{"merge_group":{"base_sha":"@ahead"}}`, "train", "ahead", "merge_group.base_sha in the event", "f0 f1"},
		{"github schedule", github + "schedule", `{"schedule":"0 0 * * *"}`, "m3", "", "of the kind schedule", ""},
		{"github dispatch", github + "workflow_dispatch", `{"inputs":{}}`, "m3", "", "of the kind manual", ""},

		{"concourse", "ATC_EXTERNAL_URL=x BUILD_ID=1", "", "m3", "", "Concourse names no commit", ""},
		{"another", "CI=true", "", "m3", "", "this CI system is not known", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			ci, err := DetectCI(environment(p.expand(test.env)), payloadFile(p.expand(test.payload)))
			if err != nil {
				t.Fatal(err)
			}
			both(t, p.dir, func(t *testing.T, r *Repo) {
				head, err := r.Commit(t.Context(), test.head)
				if err != nil {
					t.Fatal(err)
				}
				base, err := r.Base(t.Context(), ci, "", head)
				if err != nil {
					t.Fatal(err)
				}
				if base.WorkTree || base.Usable != (test.base != "") || base.Commit != p.ids[test.base] {
					t.Fatalf("got %+v, want %s %s", base, test.base, p.ids[test.base])
				}
				if !base.Usable {
					if !strings.Contains(base.Why, test.how) {
						t.Errorf("why %q, want %q", base.Why, test.how)
					}
					return
				}
				if base.How != test.how || base.Why != "" {
					t.Errorf("how %q, want %q", base.How, test.how)
				}
				changes, err := r.Changes(t.Context(), base.Commit, head.Hash)
				var paths []string
				for _, c := range changes {
					paths = append(paths, strings.ToLower(c.Path))
				}
				if got := strings.Join(paths, " "); err != nil || got != test.changed {
					t.Errorf("changed %s, %v, want %s", got, err, test.changed)
				}
				if base, err := r.Base(t.Context(), ci, "old", head); err != nil || base.Commit != p.ids["old"] || base.WorkTree || base.How != "--base old" {
					t.Errorf("--base old: %+v, %v", base, err)
				}
			})
		})
	}
}

func TestBaseAsked(t *testing.T) {
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
	type result struct{ base, how string }
	template := newProject(t)
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
		{"default branch, changed", func(p project, _ *clone) { p.write("M1", "2") }, "origin", "", result{"m3", "HEAD, with uncommitted changes"}},
		{"default branch, untracked", func(p project, _ *clone) { p.write("n", "2") }, "origin", "", result{"m3", "HEAD, with uncommitted changes"}},
		{"default branch, merge", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "merged") }, "origin", "", result{"m3", "first parent of the head"}},
		{"default branch, first commit", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "m0") }, "origin", "", result{"", "is the first commit"}},
		{"default branch, first commit, changed", func(p project, _ *clone) { p.git("reset", "-q", "--hard", "m0"); p.write("M0", "2") }, "origin", "", result{"m0", "HEAD, with uncommitted changes"}},
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
				c = p.cloned()
				c.git("branch", "-q", "feature", "origin/feature")
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
