package render

import (
	"cmp"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/plan"
)

// gitlabJob is a job, or a template that jobs extend, with the keys that
// pipegen writes (https://docs.gitlab.com/ci/yaml/).
type gitlabJob struct {
	extends       string
	stage         string
	image         string // with an entrypoint that leaves the job to the runner's shell
	tags          []string
	interruptible bool
	needs         *yaml.Node
	when          string
	variables     *yaml.Node
	identities    *yaml.Node // tokens by which the job shows who it is
	trigger       string     // file of the pipeline that it starts
	script        string
	timeout       time.Duration
	retry         bool
	resourceGroup string
	artifacts     *yaml.Node
}

func (j gitlabJob) node() *yaml.Node {
	var image, trigger, tags, script, timeout, retry, interruptible any
	if j.image != "" {
		// The image's own entrypoint is an engine and no shell.
		image = mapping("name", j.image, "entrypoint", flow(list(text(""))))
	}
	if len(j.tags) > 0 {
		tags = flow(list(j.tags...))
	}
	if j.interruptible {
		interruptible = true
	}
	if j.trigger != "" {
		trigger = mapping(
			"include", list(mapping("artifact", j.trigger, "job", planJob)), "strategy", "depend",
			"forward", mapping("pipeline_variables", true))
	}
	if j.script != "" {
		script = list(j.script)
	}
	if j.timeout > 0 {
		timeout = gitlabDuration(j.timeout)
	}
	if j.retry {
		// These are no fault of the build, so that trying again can help. A
		// build that fails or takes too long does so again.
		retry = mapping("max", 2, "when", list("runner_system_failure", "scheduler_failure", "data_integrity_failure", "api_failure"))
	}
	return mapping(
		"extends", j.extends, "stage", j.stage, "image", image, "tags", tags, "interruptible", interruptible, "needs", j.needs, "when", j.when,
		"variables", j.variables, "id_tokens", j.identities, "trigger", trigger, "script", script, "timeout", timeout, "retry", retry,
		"resource_group", j.resourceGroup, "artifacts", j.artifacts)
}

const (
	keepArtifacts = "1 week"
	// aside is what a job gets on top of the limit that pipegen build keeps
	// itself: to pull the image, check out, and hand on the log.
	aside = 10 * time.Minute
	// maxTimeout is below the month that GitLab allows a job.
	maxTimeout = 29 * 24 * time.Hour
	// publishTimeout bounds a job that publishes one image.
	publishTimeout = 30 * time.Minute
)

// prepared is the need for the job that has the plan: of the parent, or for a
// chunk of the child that starts it.
func (r *gitlabRendering) prepared(chunk bool) *yaml.Node {
	if chunk {
		return mapping("pipeline", "$PIPEGEN_PIPELINE_ID", "job", planJob, "artifacts", true)
	}
	return mapping("pipeline", "$PARENT_PIPELINE_ID", "job", r.options.PrepareJob, "artifacts", true)
}

// planJob is the job of the child that hands on what the parent prepared.
const planJob = "plan"

// light is a job that builds nothing.
func (r *gitlabRendering) light(stage, script string) gitlabJob {
	return gitlabJob{stage: stage, image: imageOr(r.plan.CI.Image), tags: r.plan.CI.Runner.GitLab, script: script, retry: true}
}

func imageOr(name string) string {
	if name == "" {
		return "$PIPEGEN_IMAGE"
	}
	return name
}

// keep gives artifacts in the metadata directory.
func (r *gitlabRendering) keep(when string, files ...string) *yaml.Node {
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = path.Join(r.options.MetadataDir, f)
	}
	return mapping("when", when, "expire_in", keepArtifacts, "paths", paths)
}

func indexOf(name string) string { return "indexes/" + name + ".json" }

// manifestTemplate is what jobs that publish an image extend.
func (r *gitlabRendering) manifestTemplate() gitlabJob {
	j := r.light("publish", `pipegen manifest "$PIPEGEN_NAME" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR"`)
	j.timeout, j.identities = publishTimeout, r.identities(true)
	// Two pipelines do not move the tags of one image at the same time.
	j.resourceGroup = "pipegen/$PIPEGEN_NAME"
	j.artifacts = r.keep("", indexOf("$PIPEGEN_NAME"))
	return j
}

// identities are the tokens of a job that uses registries: for AWS, and where
// it publishes for signing too (https://docs.gitlab.com/ci/yaml/#id_tokens).
func (r *gitlabRendering) identities(publishes bool) *yaml.Node {
	var tokens []any
	if t := r.plan.Publish.IDToken; t != nil {
		tokens = append(tokens, awsToken, mapping("aud", cmp.Or(t.Audience, awsAudience)))
	}
	if s := r.plan.Publish.Sign; publishes && s != nil && s.Keyless {
		tokens = append(tokens, s.TokenVariable(), mapping("aud", s.TokenAudience()))
	}
	if len(tokens) == 0 {
		return nil
	}
	return mapping(tokens...)
}

const (
	// awsToken is the variable that package registry takes the token from.
	awsToken    = "AWS_ID_TOKEN" //nolint:gosec // the name of a variable
	awsAudience = "sts.amazonaws.com"
)

// publishedTemplate is what jobs extend that look up what another pipeline of
// the same plan published.
func (c *gitlabChild) publishedTemplate() gitlabJob {
	j := c.light("build", `pipegen published "$PIPEGEN_NAMES" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR"`)
	j.needs = list(c.handed)
	j.timeout, j.identities = publishTimeout, c.identities(false)
	return j
}

// buildTemplate is what builds with this image, runner and limit extend.
func (c *gitlabChild) buildTemplate(b *plan.Build, limit time.Duration) gitlabJob {
	j := gitlabJob{
		stage: "build", image: imageOr(b.BuilderImage), tags: b.RunsOn.GitLab, interruptible: c.interruptible, needs: list(c.handed),
		script: `pipegen build "$PIPEGEN_BUILD" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR"`, retry: true,
		identities: c.identities(false),
		artifacts:  c.keep("always", "builds/$PIPEGEN_BUILD.json", "builds/$PIPEGEN_BUILD.log"),
	}
	if b.Files() {
		j.artifacts = c.keep("always", "builds/$PIPEGEN_BUILD.json", "builds/$PIPEGEN_BUILD.log", "outputs/$PIPEGEN_BUILD/")
	}
	if limit > 0 {
		j.timeout = limit + aside
	}
	return j
}

// runTemplate is what jobs extend that have the controller build and
// publish an image. GitLab's variable PIPEGEN_SERVER, which the command reads,
// is in the environment of every job, and so is PIPEGEN_TOKEN unless jobs show
// who they are.
func (c *gitlabChild) runTemplate(runner string, limit time.Duration, pushes bool) gitlabJob {
	j := c.light("build", `pipegen run "$PIPEGEN_NAME" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR" --runner `+runner)
	j.needs, j.identities = list(c.handed), c.identities(false)
	if audience := c.plan.CI.Audience; audience != "" {
		if j.identities == nil {
			j.identities = mapping()
		}
		j.identities.Content = append(j.identities.Content, mapping(tokenVariable, mapping("aud", audience)).Content...)
	}
	j.resourceGroup = "pipegen/$PIPEGEN_NAME"
	if limit > 0 {
		j.timeout = min(limit+aside, maxTimeout)
	}
	if pushes {
		j.artifacts = c.keep("", indexOf("$PIPEGEN_NAME"))
	}
	return j
}

// profile is the same for builds that can extend one template.
func profile(b *plan.Build) string {
	_, suffix, _ := strings.Cut(b.ID, "@")
	return fmt.Sprintf("%s %q %q %q %q %t", suffix, b.Runner, b.BuilderImage, b.RunsOn.GitLab, b.Timeout, b.Files())
}

func stage(name string, level int) string {
	if level == 1 {
		return name
	}
	return name + " " + strconv.Itoa(level)
}

// gitlabDuration writes whole seconds as GitLab does: 1h 30m.
func gitlabDuration(d time.Duration) string {
	var words []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.unit; n > 0 {
			words, d = append(words, strconv.Itoa(int(n))+u.name), d-n*u.unit
		}
	}
	return strings.Join(words, " ")
}
