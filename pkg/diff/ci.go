package diff

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Events that lead to a plan; CI systems' own names are mapped to these.
const (
	EventPush         = "push"
	EventTag          = "tag"
	EventMergeRequest = "merge_request"
	EventMergeGroup   = "merge_group"
	EventSchedule     = "schedule"
	EventManual       = "manual"
	EventLocal        = "local"
)

// CI is what the CI system says about the job that runs.
type CI struct {
	// gitlab, github or concourse; other where only the variable CI tells that
	// it is one; empty outside CI.
	System string
	// One of the Event constants.
	Event string
	// Commit that the CI system gives to compare with, as it gives it; empty if none.
	Base string
	// Commit that the CI system says it builds; empty if unknown.
	Head            string
	DefaultBranch   string
	OnDefaultBranch bool
	// Number of the pipeline that the platform shows and that grows with time.
	Pipeline string
	// When the pipeline was created; zero if unknown.
	Created time.Time

	baseFrom string // what Base was read from, for people
}

// DetectCI reads the variables of GitLab CI, GitHub Actions (and the file with
// the event's payload) and Concourse. A payload that cannot be read as one is
// failure.ErrInput.
func DetectCI(getenv func(string) string, readFile func(string) ([]byte, error)) (CI, error) {
	switch {
	case getenv("GITLAB_CI") == "true" || getenv("CI_PIPELINE_SOURCE") != "":
		return detectGitLab(getenv)
	case getenv("GITHUB_ACTIONS") == "true":
		return detectGitHub(getenv, readFile)
	case getenv("ATC_EXTERNAL_URL") != "", getenv("PIPEGEN_CI") == "concourse": // tasks see nothing but what they are given
		return CI{System: "concourse", Event: EventPush, Pipeline: getenv("BUILD_ID")}, nil
	case trusted(getenv("CI")):
		return CI{System: "other", Event: EventPush}, nil
	}
	return CI{Event: EventLocal}, nil
}

// detectGitLab reads GitLab's predefined variables.
//
// For merge requests the base is CI_MERGE_REQUEST_DIFF_BASE_SHA, the commit at
// which the source branch left the target branch. In merged-results pipelines
// and merge trains the head is a merge commit that holds the target's (and the
// train's) later changes too. From the same base the comparison then counts
// those as well: it selects more than the request alone, never less, and what
// is built is exactly what was merged.
func detectGitLab(getenv func(string) string) (CI, error) {
	ci := CI{
		System: "gitlab", Head: getenv("CI_COMMIT_SHA"),
		DefaultBranch: getenv("CI_DEFAULT_BRANCH"), Pipeline: getenv("CI_PIPELINE_ID"),
	}
	ci.OnDefaultBranch = ci.DefaultBranch != "" && getenv("CI_COMMIT_BRANCH") == ci.DefaultBranch
	request, tag, before := getenv("CI_MERGE_REQUEST_DIFF_BASE_SHA"), getenv("CI_COMMIT_TAG"), getenv("CI_COMMIT_BEFORE_SHA")
	switch source := getenv("CI_PIPELINE_SOURCE"); {
	case source == "merge_request_event", source == "external_pull_request_event", source == "parent_pipeline" && request != "":
		ci.Event = EventMergeRequest
		ci.Base, ci.baseFrom = request, "CI_MERGE_REQUEST_DIFF_BASE_SHA"
		if source == "external_pull_request_event" {
			ci.Base, ci.baseFrom = getenv("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_SHA"), "CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_SHA"
		}
	case source == "schedule":
		ci.Event = EventSchedule
	case tag != "" && (source == "" || source == "push" || source == "parent_pipeline"):
		ci.Event = EventTag
	case source == "", source == "push", source == "webide", source == "parent_pipeline" && !zeros(before):
		ci.Event = EventPush
		ci.Base, ci.baseFrom = before, "CI_COMMIT_BEFORE_SHA"
	default:
		ci.Event = EventManual
	}
	if created := getenv("CI_PIPELINE_CREATED_AT"); created != "" {
		at, err := time.Parse(time.RFC3339, created)
		if err != nil {
			return CI{}, failure.Input("CI_PIPELINE_CREATED_AT %q is no time of RFC 3339", created)
		}
		ci.Created = at.UTC()
	}
	return ci, nil
}

// payload is what is needed of a GitHub event; see GitHub's "Webhook events
// and payloads".
type payload struct {
	Before      string `json:"before"`
	PullRequest struct {
		Base struct {
			SHA string `json:"sha"`
		} `json:"base"`
	} `json:"pull_request"`
	MergeGroup struct {
		BaseSHA string `json:"base_sha"`
	} `json:"merge_group"`
	Repository struct {
		DefaultBranch string `json:"default_branch"`
	} `json:"repository"`
}

func parsePayload(data []byte) (payload, error) {
	var p payload
	if err := json.Unmarshal(data, &p); err != nil {
		return payload{}, failure.Input("the event payload of GitHub: %w", err)
	}
	return p, nil
}

// detectGitHub reads the variables of GitHub Actions and the event's payload.
//
// For a pull request the checkout is the merge commit refs/pull/N/merge, whose
// first parent is the base branch. pull_request.base.sha is that branch as it
// was at the time of the event, an ancestor of the merge commit. Where the
// branch itself is checked out, its merge-base with that commit is the base.
func detectGitHub(getenv func(string) string, readFile func(string) ([]byte, error)) (CI, error) {
	ci := CI{System: "github", Head: getenv("GITHUB_SHA"), Pipeline: getenv("GITHUB_RUN_ID")}
	var p payload
	if name := getenv("GITHUB_EVENT_PATH"); name != "" {
		data, err := readFile(name)
		if err != nil {
			return CI{}, fmt.Errorf("reading the event payload of GitHub: %w", err)
		}
		if p, err = parsePayload(data); err != nil {
			return CI{}, failure.WithHint(err, "GITHUB_EVENT_PATH names %q", name)
		}
	}
	ref := getenv("GITHUB_REF")
	branch, onBranch := strings.CutPrefix(ref, "refs/heads/")
	switch event := getenv("GITHUB_EVENT_NAME"); event {
	case "push":
		ci.Event = EventPush
		ci.Base, ci.baseFrom = p.Before, "before in the push event"
		if !onBranch && strings.HasPrefix(ref, "refs/tags/") {
			ci.Event, ci.Base = EventTag, ""
		}
	case "pull_request", "pull_request_target":
		ci.Event = EventMergeRequest
		ci.Base, ci.baseFrom = p.PullRequest.Base.SHA, "pull_request.base.sha in the event"
		if event == "pull_request_target" {
			ci.Head = "" // GITHUB_SHA is the base branch; what is checked out is the workflow's choice
		}
	case "merge_group":
		ci.Event = EventMergeGroup
		ci.Base, ci.baseFrom = p.MergeGroup.BaseSHA, "merge_group.base_sha in the event"
	case "schedule":
		ci.Event = EventSchedule
		// GitHub runs schedules on the default branch alone.
		ci.DefaultBranch = branch
	case "release":
		ci.Event = EventTag
	default:
		ci.Event = EventManual
	}
	ci.DefaultBranch = cmp.Or(p.Repository.DefaultBranch, ci.DefaultBranch)
	ci.OnDefaultBranch = onBranch && branch == ci.DefaultBranch
	return ci, nil
}

// zeros says whether a hash is absent or all zeros, as CI systems write it.
func zeros(hash string) bool { return strings.Trim(hash, "0") == "" }
