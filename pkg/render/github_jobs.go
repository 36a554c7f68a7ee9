package render

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// GitHub's own actions, by commit.
var (
	checkoutAction = githubAction{"actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1", "v7.0.1"}
	uploadAction   = githubAction{"actions/upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a", "v7.0.1"}
	downloadAction = githubAction{"actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c", "v8.0.1"}
)

type githubAction struct{ ref, version string }

// Names of artifacts begin with these.
const (
	planArtifact   = "pipegen-plan"
	buildArtifact  = "pipegen-build-"  // ID
	outputArtifact = "pipegen-output-" // ID
	indexArtifact  = "pipegen-index-"  // NAME
)

const (
	lightLabel = "ubuntu-24.04"
	// githubAside is what a job gets on top of the limit that pipegen build
	// keeps itself: to pull the image, check out, and hand on the log.
	githubAside = 10 * time.Minute
	// publishing is true for what may publish: pushes to the default branch,
	// schedules, and runs that somebody started on the default branch.
	publishing = "github.event_name == 'schedule' || (github.event_name == 'push' || github.event_name == 'workflow_dispatch') && github.ref == format('refs/heads/{0}', github.event.repository.default_branch)"
	// keepDays is how long artifacts are kept.
	keepDays = 7
)

// mainWorkflow plans, starts each image, and says how it all went.
func (g *github) mainWorkflow(called *yaml.Node) (*yaml.Node, error) {
	root := mapping(
		"name", "pipegen",
		"on", mapping(
			"push", mapping("branches", flow(list("main", "master"))),
			"pull_request", flow(mapping()),
			"merge_group", flow(mapping()),
			"schedule", list(mapping("cron", "0 4 * * 1")),
			"workflow_dispatch", mapping("inputs", mapping(
				"select", mapping("description", "What to build: changed, missing, stale, weekly, all, or several with commas", "type", "string"),
				"names", mapping("description", "Images to build, with commas", "type", "string"),
			)),
		),
		"permissions", flow(mapping()),
		// A newer push plans what it changed itself: cancelling the older run
		// would lose its images.
		"concurrency", mapping(
			"group", "pipegen-${{ github.event_name == 'pull_request' && github.ref || github.run_id }}",
			"cancel-in-progress", "${{ github.event_name == 'pull_request' }}",
		),
		"defaults", mapping("run", mapping("shell", "bash")),
	)
	jobs := mapping()
	root.Content = append(root.Content, text("jobs"), jobs)
	planJob, err := g.job(kindPrepare, g.planJob(), 0, g.signIn, g.planSteps())
	if err != nil {
		return nil, err
	}
	add := func(id string, job *yaml.Node) { jobs.Content = append(jobs.Content, text(id), job) }
	add("plan", planJob)
	all, before := []string{"plan"}, []string{"plan"}
	for _, wave := range g.waves {
		for _, id := range wave {
			add(id, g.waveJob(id, before, called))
		}
		// A wave that is skipped is so once the one before it has ended.
		all, before = append(all, wave...), append([]string{"plan"}, wave...)
	}
	last, err := g.job(kindGate, mapping(
		"name", "pipegen",
		"if", "${{ always() }}",
		"needs", flow(list(all...)),
		"runs-on", lightLabel,
		"timeout-minutes", 5,
		"permissions", flow(mapping()),
	), -1, g.signIn, []*yaml.Node{mapping(
		"name", "Look at the results",
		"if", "needs.plan.result != 'success' || contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled')",
		"run", "echo '::error::a job failed, was cancelled or did not run' && exit 1",
	)})
	if err != nil {
		return nil, err
	}
	add("pipegen", last)
	return root, githubOverlays.lay(root, g.overlays[kindWorkflow], kindWorkflow)
}

func (g *github) planJob() *yaml.Node {
	outputs := mapping("waves", "${{ steps.waves.outputs.waves || '[]' }}", "platforms", "${{ steps.waves.outputs.platforms }}")
	for _, wave := range g.waves {
		for _, id := range wave {
			outputs.Content = append(outputs.Content, text(id), text("${{ steps.waves.outputs."+id+" }}"))
		}
	}
	return mapping(
		"runs-on", lightLabel,
		"timeout-minutes", 60,
		"permissions", g.signIn.permissions("read"),
		"outputs", outputs,
		"env", g.environment(g.signIn, "CHECK_README", "${{ vars.CHECK_README }}"),
	)
}

func (g *github) planSteps() []*yaml.Node {
	planning := mapping("PIPEGEN_SELECT", "${{ inputs.select }}", "PIPEGEN_NAMES", "${{ inputs.names }}")
	planning.Content = append(planning.Content, secretsOf(g.upstream).Content...)
	return []*yaml.Node{
		mapping("name", "Validate", "run", "exec pipegen validate -f github"),
		mapping("name", "Check that the workflows are those of the configuration", "run", "exec pipegen render github --check"),
		mapping("name", "Plan", "run", `exec pipegen plan --select "$PIPEGEN_SELECT" --select "$PIPEGEN_NAMES" -f json -o plan.json`, "env", planning),
		mapping("name", "Show the plan", "run", `exec pipegen render github --plan plan.json --summary >> "$GITHUB_STEP_SUMMARY"`),
		mapping("name", "Choose the jobs", "id", "waves", "if", publishing, "run", `exec pipegen render github --plan plan.json >> "$GITHUB_OUTPUT"`),
		upload("Keep the plan", planArtifact, "plan.json", "", "error"),
	}
}

// waveJob calls the workflow of an image for each image of a chunk. A failure
// in an earlier wave does not stop it: builds notice when what they need was
// not published.
func (g *github) waveJob(id string, needs []string, permissions *yaml.Node) *yaml.Node {
	return mapping(
		"name", "${{ matrix.image }}",
		"needs", flow(list(needs...)),
		"if", "${{ !cancelled() && needs.plan.result == 'success' && contains(fromJSON(needs.plan.outputs.waves), '"+id+"') }}",
		"permissions", permissions,
		"strategy", mapping("fail-fast", false, "matrix", "${{ fromJSON(needs.plan.outputs."+id+") }}"),
		"uses", "./.github/workflows/"+githubImage,
		"with", mapping(
			"image", "${{ matrix.image }}",
			"platforms", "${{ toJSON(matrix.platforms || fromJSON(needs.plan.outputs.platforms)) }}",
			"needs", "${{ matrix.needs }}",
			"runner", g.ifControlled("${{ matrix.runner }}"),
		),
		"secrets", g.passed(),
	)
}

// imageWorkflow builds one image for its platforms and publishes it. It also
// gives the permissions that its jobs want of the caller.
func (g *github) imageWorkflow() (root, permissions *yaml.Node, err error) {
	labels, err := json.Marshal(g.labels)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the labels of runners: %w", err)
	}
	build, err := g.job(kindBuild, mapping(
		"name", "build ${{ matrix.platform }}",
		"if", "${{ !cancelled() && inputs.platforms != '[]' }}",
		"strategy", mapping("fail-fast", false, "matrix", mapping("platform", "${{ fromJSON(inputs.platforms) }}")),
		"runs-on", "${{ fromJSON("+quoted(string(labels))+")[matrix.platform] }}",
		"timeout-minutes", githubMinutes(g.limit),
		"permissions", g.signIn.permissions("write"),
		"env", g.environment(g.signIn, "PIPEGEN_BUILD", "${{ inputs.image }}@${{ matrix.platform }}"),
	), 1, g.signIn, g.buildSteps())
	if err != nil {
		return nil, nil, err
	}
	result := "error"
	if g.unpublished {
		result = "ignore" // of images that are not pushed there is none
	}
	manifest, err := g.job(kindManifest, mapping(
		"name", "manifest",
		"needs", "build",
		// Without builds the image has only its tags moved.
		"if", "${{ !cancelled() && "+g.ifControlled("inputs.runner == '' && ")+"(needs.build.result == 'success' || needs.build.result == 'skipped') }}",
		"runs-on", lightLabel,
		"timeout-minutes", 30,
		// Two runs do not move the tags of one image at the same time.
		"concurrency", mapping("group", "pipegen-manifest-${{ inputs.image }}", "cancel-in-progress", false),
		"permissions", g.publish.permissions("write"),
		"env", g.environment(g.publish, "PIPEGEN_NAME", "${{ inputs.image }}"),
	), 1, g.publish, []*yaml.Node{
		download("Fetch the plan", "name", planArtifact, "."),
		download("Fetch the results of the builds", "pattern", buildArtifact+"${{ inputs.image }}@*", ".pipegen/builds"),
		mapping("name", "Publish", "run", `exec pipegen manifest "$PIPEGEN_NAME" -f markdown >> "$GITHUB_STEP_SUMMARY"`, "env", g.publishing()),
		upload("Keep the result", indexArtifact+"${{ inputs.image }}", ".pipegen/indexes/${{ inputs.image }}.json", "", result),
	})
	if err != nil {
		return nil, nil, err
	}
	jobs := mapping("build", build, "manifest", manifest)
	permissions = mostOf(lookup(build, "permissions"), lookup(manifest, "permissions"))
	if g.controlled {
		run, err := g.runJob(result)
		if err != nil {
			return nil, nil, err
		}
		jobs.Content = append(jobs.Content, text("run"), run)
		permissions = mostOf(permissions, lookup(run, "permissions"))
	}
	declared := mapping()
	for i := 0; i < len(g.passed().Content); i += 2 {
		declared.Content = append(declared.Content, g.passed().Content[i], mapping("required", false))
	}
	input := func(required bool) *yaml.Node { return mapping("type", "string", "required", required) }
	inputs := mapping("image", input(true), "platforms", input(true), "needs", input(false))
	if g.controlled {
		inputs.Content = append(inputs.Content, text("runner"), input(false))
	}
	return mapping(
		"name", "pipegen image",
		"on", mapping("workflow_call", mapping(
			"inputs", inputs,
			"secrets", declared,
		)),
		"permissions", flow(mapping()),
		"defaults", mapping("run", mapping("shell", "bash")),
		"jobs", jobs,
	), permissions, nil
}

// githubMinutes is the time limit of a job, for what keeps a limit of its own;
// nil: GitHub's.
func githubMinutes(limit time.Duration) any {
	if limit == 0 {
		return nil
	}
	return int((min(limit+githubAside, maxGitHubJob) + time.Minute - 1) / time.Minute)
}

func (g *github) buildSteps() []*yaml.Node {
	var building any
	if env := g.building(); len(env.Content) > 0 {
		building = env
	}
	steps := []*yaml.Node{
		download("Fetch the plan", "name", planArtifact, "."),
		fetchNeeds(),
		mapping("name", "Build", "run", `exec pipegen build "$PIPEGEN_BUILD" --container`, "env", building),
		upload("Keep the result", buildArtifact+"${{ inputs.image }}@${{ matrix.platform }}", ".pipegen/builds/", "${{ !cancelled() }}", "warn"),
	}
	if g.files {
		steps = append(steps, upload("Keep the outputs", outputArtifact+"${{ inputs.image }}@${{ matrix.platform }}", ".pipegen/outputs/", "", "ignore"))
	}
	return steps
}

// building is the environment of the step that has an image built: the secrets
// of builds, and the variables that builder images name.
func (g *github) building() *yaml.Node {
	env := secretsOf(g.secrets)
	for _, name := range g.variables {
		env.Content = append(env.Content, text(name), text("${{ vars."+name+" }}"))
	}
	return env
}

// fetchNeeds fetches what was published of the images that an image needs.
func fetchNeeds() *yaml.Node {
	n := download("Fetch what was published of the images below", "pattern", "${{ inputs.needs }}", ".pipegen/indexes")
	n.Content = slices.Insert(n.Content, 2, text("if"), text("inputs.needs != ''"))
	return n
}

// job completes a job: a checkout of this depth (0 is all of it, -1 none), the
// steps of its overlay, those that sign in, pipegen itself, and its steps.
func (g *github) job(kind string, job *yaml.Node, depth int, signIn githubSignIn, own []*yaml.Node) (*yaml.Node, error) {
	overlay, steps, err := overlaidSteps(g.overlays[kind])
	if err != nil {
		return nil, githubOverlays.fault(err, kind, "steps")
	}
	if depth >= 0 {
		with := mapping("persist-credentials", false)
		if depth == 0 {
			// All of the history: a shallow clone may lack the commit to compare with.
			with = mapping("fetch-depth", 0, "persist-credentials", false)
		}
		checkout := []*yaml.Node{mapping("name", "Check out", "uses", checkoutAction.node(), "with", with)}
		steps = append(slices.Concat(checkout, steps, g.signInSteps(signIn)), mapping(
			"name", "Take pipegen out of its image",
			"run", `mkdir -p "$RUNNER_TEMP/pipegen/bin" && docker run --rm --volume "$RUNNER_TEMP/pipegen/bin:/out" --entrypoint cp "${PIPEGEN_IMAGE:?set this variable of the repository}" /kaniko/pipegen /out/ && echo "$RUNNER_TEMP/pipegen/bin" >> "$GITHUB_PATH"`,
		))
	}
	job.Content = append(job.Content, text("steps"), list(append(steps, own...)...))
	return job, githubOverlays.lay(job, overlay, kind)
}

func (a githubAction) node() *yaml.Node {
	n := text(a.ref)
	n.LineComment = a.version
	return n
}

// upload keeps files for other jobs and for people. A job that is started
// again replaces what it left. missing is what no file means.
func upload(step, artifact, path, when, missing string) *yaml.Node {
	return mapping("name", step, "if", when, "uses", uploadAction.node(), "with", mapping(
		"name", artifact, "path", path, "include-hidden-files", true, "if-no-files-found", missing, "overwrite", true, "retention-days", keepDays,
	))
}

// download fetches the artifact of a name, or those that match a pattern.
func download(step, by, which, path string) *yaml.Node {
	with := mapping(by, which, "path", path)
	if by == "pattern" {
		with.Content = append(with.Content, mapping("merge-multiple", true).Content...)
	}
	return mapping("name", step, "uses", downloadAction.node(), "with", with)
}

// environment is what every job with pipegen needs, and its own.
func (g *github) environment(signIn githubSignIn, pairs ...any) *yaml.Node {
	env := mapping("PIPEGEN_IMAGE", g.image)
	if g.registryVariable {
		env.Content = append(env.Content, mapping("ECR_REGISTRY", "${{ vars.ECR_REGISTRY }}").Content...)
	}
	if signIn.aws {
		env.Content = append(env.Content, mapping("AWS_ROLE_ARN", cmp.Or(signIn.role, "${{ vars.AWS_ROLE_ARN }}"), "AWS_REGION", "${{ vars.AWS_REGION }}").Content...)
	}
	env.Content = append(env.Content, mapping(pairs...).Content...)
	return env
}

// publishing is the environment of the step that publishes: the secrets that
// signing takes, and the job's token where it signs in to another registry.
func (g *github) publishing() any {
	env := secretsOf(g.signing)
	if g.publish.token {
		env.Content = append(env.Content, mapping("GITHUB_TOKEN", "${{ github.token }}").Content...)
	}
	if len(env.Content) == 0 {
		return nil
	}
	return env
}

// secretsOf puts secrets into the environment.
func secretsOf(names []string) *yaml.Node {
	env := mapping()
	for _, name := range names {
		env.Content = append(env.Content, text(name), text("${{ secrets."+strings.ToUpper(name)+" }}"))
	}
	return env
}

// passed are the secrets that a called workflow gets, each by itself. The
// job's own token it has anyway.
func (g *github) passed() *yaml.Node {
	names := []string{dockerVariable}
	if g.controlled && g.audience == "" {
		names = append(names, tokenVariable)
	}
	for _, name := range slices.Concat(g.secrets, g.signing, g.overlaid) {
		if name = strings.ToUpper(name); name != "GITHUB_TOKEN" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return secretsOf(names)
}
