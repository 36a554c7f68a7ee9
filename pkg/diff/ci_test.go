package diff

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

// environment makes a getenv of NAME=VALUE words.
func environment(words string) func(string) string {
	values := map[string]string{}
	for word := range strings.FieldsSeq(words) {
		name, value, _ := strings.Cut(word, "=")
		values[name] = value
	}
	return func(name string) string { return values[name] }
}

func payloadFile(content string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if name != "/event.json" {
			return nil, &fs.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return []byte(content), nil
	}
}

func TestDetectCI(t *testing.T) {
	const gitlab = "GITLAB_CI=true CI=true CI_COMMIT_SHA=h CI_DEFAULT_BRANCH=main CI_PIPELINE_ID=77 CI_PIPELINE_IID=3 CI_COMMIT_BEFORE_SHA=b "
	const github = "GITHUB_ACTIONS=true CI=true GITHUB_SHA=h GITHUB_RUN_ID=77 GITHUB_RUN_NUMBER=3 GITHUB_EVENT_PATH=/event.json "
	const known = `,"repository":{"default_branch":"main"}}`
	for _, test := range []struct {
		name, env, payload string
		want               CI
	}{
		{"local", "", "", CI{Event: "local"}},
		{"gitlab push", gitlab + "CI_PIPELINE_SOURCE=push CI_COMMIT_BRANCH=main", "",
			CI{System: "gitlab", Event: "push", Base: "b", Head: "h", DefaultBranch: "main", OnDefaultBranch: true, Pipeline: "77", baseFrom: "CI_COMMIT_BEFORE_SHA"}},
		{"gitlab push of another branch", gitlab + "CI_PIPELINE_SOURCE=push CI_COMMIT_BRANCH=x", "",
			CI{System: "gitlab", Event: "push", Base: "b", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "CI_COMMIT_BEFORE_SHA"}},
		{"gitlab tag", gitlab + "CI_PIPELINE_SOURCE=push CI_COMMIT_TAG=v1", "", CI{System: "gitlab", Event: "tag", Head: "h", DefaultBranch: "main", Pipeline: "77"}},
		{"gitlab merge request", gitlab + "CI_PIPELINE_SOURCE=merge_request_event CI_MERGE_REQUEST_DIFF_BASE_SHA=m", "",
			CI{System: "gitlab", Event: "merge_request", Base: "m", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "CI_MERGE_REQUEST_DIFF_BASE_SHA"}},
		{"gitlab external pull request", gitlab + "CI_PIPELINE_SOURCE=external_pull_request_event CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_SHA=m", "",
			CI{System: "gitlab", Event: "merge_request", Base: "m", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_SHA"}},
		{"gitlab schedule", gitlab + "CI_PIPELINE_SOURCE=schedule CI_COMMIT_BRANCH=main", "",
			CI{System: "gitlab", Event: "schedule", Head: "h", DefaultBranch: "main", OnDefaultBranch: true, Pipeline: "77"}},
		{"gitlab web", gitlab + "CI_PIPELINE_SOURCE=web", "", CI{System: "gitlab", Event: "manual", Head: "h", DefaultBranch: "main", Pipeline: "77"}},
		{"gitlab api on a tag", gitlab + "CI_PIPELINE_SOURCE=api CI_COMMIT_TAG=v1", "", CI{System: "gitlab", Event: "manual", Head: "h", DefaultBranch: "main", Pipeline: "77"}},
		{"gitlab child of a merge request", gitlab + "CI_PIPELINE_SOURCE=parent_pipeline CI_MERGE_REQUEST_DIFF_BASE_SHA=m", "",
			CI{System: "gitlab", Event: "merge_request", Base: "m", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "CI_MERGE_REQUEST_DIFF_BASE_SHA"}},
		{"gitlab child of a push", gitlab + "CI_PIPELINE_SOURCE=parent_pipeline", "",
			CI{System: "gitlab", Event: "push", Base: "b", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "CI_COMMIT_BEFORE_SHA"}},
		{"gitlab time", "GITLAB_CI=true CI_PIPELINE_SOURCE=web CI_PIPELINE_CREATED_AT=2026-01-02T03:04:05+02:00", "",
			CI{System: "gitlab", Event: "manual", Created: time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC)}},
		{"gitlab runs elsewhere", "GITLAB_CI=false CI_PIPELINE_SOURCE=push CI_COMMIT_BEFORE_SHA=b", "",
			CI{System: "gitlab", Event: "push", Base: "b", baseFrom: "CI_COMMIT_BEFORE_SHA"}},

		{"github push", github + "GITHUB_EVENT_NAME=push GITHUB_REF=refs/heads/main", `{"before":"b"` + known,
			CI{System: "github", Event: "push", Base: "b", Head: "h", DefaultBranch: "main", OnDefaultBranch: true, Pipeline: "77", baseFrom: "before in the push event"}},
		{"github push of a tag", github + "GITHUB_EVENT_NAME=push GITHUB_REF=refs/tags/v1", `{"before":"b"` + known,
			CI{System: "github", Event: "tag", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "before in the push event"}},
		{"github pull request", github + "GITHUB_EVENT_NAME=pull_request GITHUB_REF=refs/pull/1/merge", `{"pull_request":{"base":{"sha":"m"}}` + known,
			CI{System: "github", Event: "merge_request", Base: "m", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "pull_request.base.sha in the event"}},
		{"github pull request target", github + "GITHUB_EVENT_NAME=pull_request_target GITHUB_REF=refs/heads/main", `{"pull_request":{"base":{"sha":"m"}}` + known,
			CI{System: "github", Event: "merge_request", Base: "m", DefaultBranch: "main", OnDefaultBranch: true, Pipeline: "77", baseFrom: "pull_request.base.sha in the event"}},
		{"github merge group", github + "GITHUB_EVENT_NAME=merge_group GITHUB_REF=refs/heads/gh-readonly-queue/main/pr-1", `{"merge_group":{"base_sha":"m"}` + known,
			CI{System: "github", Event: "merge_group", Base: "m", Head: "h", DefaultBranch: "main", Pipeline: "77", baseFrom: "merge_group.base_sha in the event"}},
		{"github schedule", github + "GITHUB_EVENT_NAME=schedule GITHUB_REF=refs/heads/trunk", `{"schedule":"0 0 * * *"}`,
			CI{System: "github", Event: "schedule", Head: "h", DefaultBranch: "trunk", OnDefaultBranch: true, Pipeline: "77"}},
		{"github dispatch", github + "GITHUB_EVENT_NAME=workflow_dispatch GITHUB_REF=refs/heads/x", `{"inputs":null` + known,
			CI{System: "github", Event: "manual", Head: "h", DefaultBranch: "main", Pipeline: "77"}},

		{"concourse", "ATC_EXTERNAL_URL=https://ci.example.org BUILD_ID=77", "", CI{System: "concourse", Event: "push", Pipeline: "77"}},
		{"concourse task", "PIPEGEN_CI=concourse", "", CI{System: "concourse", Event: "push"}},
		{"another", "CI=true", "", CI{System: "other", Event: "push"}},
		{"said not to be one", "CI=false", "", CI{Event: "local"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := DetectCI(environment(test.env), payloadFile(test.payload))
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
	for _, test := range []struct {
		name, env, payload string
		is                 error
	}{
		{"no payload file", "GITHUB_ACTIONS=true GITHUB_EVENT_NAME=push GITHUB_EVENT_PATH=/nope", "", fs.ErrNotExist},
		{"not JSON", github + "GITHUB_EVENT_NAME=push", "<html>", failure.ErrInput},
		{"another type", github + "GITHUB_EVENT_NAME=push", `{"before":7}`, failure.ErrInput},
		{"no time", "GITLAB_CI=true CI_PIPELINE_CREATED_AT=yesterday", "", failure.ErrInput},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := DetectCI(environment(test.env), payloadFile(test.payload)); !errors.Is(err, test.is) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzEventPayload(f *testing.F) {
	f.Add("push", []byte(`{"before":"0000000000000000000000000000000000000000"}`))
	f.Add("pull_request", []byte(`{"pull_request":{"base":{"sha":"-x"}},"repository":null}`))
	f.Add("merge_group", []byte(`{"merge_group":[]}`))
	f.Fuzz(func(t *testing.T, event string, data []byte) {
		env := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": "/event.json"}
		ci, err := DetectCI(func(name string) string { return env[name] }, func(string) ([]byte, error) { return data, nil })
		if err != nil {
			if !errors.Is(err, failure.ErrInput) {
				t.Errorf("%v", err)
			}
			return
		}
		if ci.Event == "" || ci.System != "github" {
			t.Errorf("got %+v", ci)
		}
		// Whatever a payload holds, it reaches git as a full hash or not at all.
		base, err := (&Repo{}).given(t.Context(), CI{System: "github", Event: ci.Event, Base: strings.Repeat("0", 40)}, Commit{})
		if err != nil || base.Usable {
			t.Errorf("got %+v, %v", base, err)
		}
		if !isHash(ci.Base) {
			if base, err := (&Repo{}).given(t.Context(), ci, Commit{}); err != nil || base.Usable || base.Why == "" {
				t.Errorf("got %+v, %v", base, err)
			}
		}
	})
}
