package attestation

// run says where a plan is carried out.
type run struct {
	// builder is the URI of what is trusted with building.
	builder string
	// invocation is the URL of this run; empty outside CI.
	invocation string
	// repository is the address of the repository; empty outside CI.
	repository string
}

// localBuilder is the builder outside CI, which nobody has reason to trust
// more than the holder of the key.
const localBuilder = "https://github.com/pipegen/pipegen/local"

// runOf finds the run by the variables of the CI system. A job's own URL is
// not taken: a job that is repeated has another one, and would give other
// bytes for the same plan.
func runOf(getenv func(string) string) run {
	switch {
	case getenv("GITLAB_CI") != "" && getenv("CI_PROJECT_URL") != "":
		project := getenv("CI_PROJECT_URL")
		return run{builder: project, invocation: getenv("CI_PIPELINE_URL"), repository: project}
	case getenv("GITHUB_ACTIONS") != "" && getenv("GITHUB_REPOSITORY") != "":
		r := run{repository: getenv("GITHUB_SERVER_URL") + "/" + getenv("GITHUB_REPOSITORY")}
		r.builder, r.invocation = r.repository, r.repository+"/actions/runs/"+getenv("GITHUB_RUN_ID")
		if ref := getenv("GITHUB_WORKFLOW_REF"); ref != "" {
			r.builder = getenv("GITHUB_SERVER_URL") + "/" + ref
		}
		return r
	case getenv("ATC_EXTERNAL_URL") != "":
		r := run{builder: getenv("ATC_EXTERNAL_URL")}
		if team, pipeline := getenv("BUILD_TEAM_NAME"), getenv("BUILD_PIPELINE_NAME"); team != "" && pipeline != "" {
			r.builder += "/teams/" + team + "/pipelines/" + pipeline
		}
		return r
	}
	return run{builder: localBuilder}
}
