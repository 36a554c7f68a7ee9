package render

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// gitlabJob is a job, or a template that jobs extend, with the keys that
// pipegen writes (https://docs.gitlab.com/ci/yaml/).
type gitlabJob struct {
	Extends       string            `yaml:"extends,omitempty"`
	Stage         string            `yaml:"stage,omitempty"`
	Image         *gitlabImage      `yaml:"image,omitempty"`
	Tags          []string          `yaml:"tags,omitempty,flow"`
	Needs         []gitlabNeed      `yaml:"needs,omitempty"`
	Variables     map[string]string `yaml:"variables,omitempty"`
	Script        []string          `yaml:"script,omitempty"`
	Timeout       string            `yaml:"timeout,omitempty"`
	Retry         *gitlabRetry      `yaml:"retry,omitempty"`
	ResourceGroup string            `yaml:"resource_group,omitempty"`
	Artifacts     *gitlabArtifacts  `yaml:"artifacts,omitempty"`
}

type gitlabImage struct {
	Name       string   `yaml:"name"`
	Entrypoint []string `yaml:"entrypoint,flow"`
}

type gitlabRetry struct {
	Max  int      `yaml:"max"`
	When []string `yaml:"when"`
}

type gitlabArtifacts struct {
	When     string   `yaml:"when,omitempty"`
	ExpireIn string   `yaml:"expire_in"`
	Paths    []string `yaml:"paths"`
}

// gitlabNeed is a job of this pipeline, or of another if pipeline is set,
// that must succeed first and whose artifacts are fetched.
type gitlabNeed struct{ pipeline, job string }

// MarshalYAML writes a job of this pipeline as its bare name.
func (n gitlabNeed) MarshalYAML() (any, error) {
	if n.pipeline == "" {
		return n.job, nil
	}
	return struct {
		Pipeline  string `yaml:"pipeline"`
		Job       string `yaml:"job"`
		Artifacts bool   `yaml:"artifacts"`
	}{n.pipeline, n.job, true}, nil
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

// prepared is the parent's job with the plan.
var prepared = gitlabNeed{pipeline: "$PARENT_PIPELINE_ID", job: "prepare"}

// runnerFailures are no fault of the build, so that trying again can help. A
// build that fails or takes too long does so again.
var runnerFailures = &gitlabRetry{Max: 2, When: []string{"runner_system_failure", "scheduler_failure", "data_integrity_failure", "api_failure"}}

// gitlabChild is a child pipeline on its way to YAML. What jobs have in
// common is in templates: GitLab's limit is on the memory of the file's
// objects, which allows far fewer jobs when each is written out.
type gitlabChild struct {
	plan     *plan.Plan
	options  GitLabOptions
	overlays map[string]config.Overlay

	levels    map[string]int // of images: 1 + the highest level of what they need
	stages    int            // highest level
	templates []namedJob
	profiles  map[string]string // what builds have in common → name of their template
	jobs      []namedJob
	names     map[string]bool
}

type namedJob struct {
	name, kind string
	job        gitlabJob
}

func newChild(p *plan.Plan, o GitLabOptions) (*gitlabChild, error) {
	overlays := p.CI.Overlays["gitlab"]
	if err := checkOverlays(overlays); err != nil {
		return nil, err
	}
	return &gitlabChild{
		plan: p, options: o, overlays: overlays,
		levels: map[string]int{}, stages: 1, profiles: map[string]string{}, names: map[string]bool{},
	}, nil
}

// addJobs makes the jobs of all images.
func (c *gitlabChild) addJobs() error {
	if len(c.plan.Images) == 0 {
		// A child pipeline without jobs is invalid.
		j := c.light(gitlabJob{
			Stage:     stage("build", 1),
			Variables: map[string]string{"GIT_STRATEGY": "none"},
			Script:    []string{"echo 'pipegen: nothing to build'"},
		})
		return c.add("nothing to build", kindNoop, j)
	}
	for i := range c.plan.Images {
		img := &c.plan.Images[i]
		level := 1
		for _, need := range img.Needs {
			l, ok := c.levels[need]
			if !ok {
				return failure.Input("image %q needs %q, which does not stand before it in the plan", img.Name, need)
			}
			level = max(level, l+1)
		}
		c.levels[img.Name], c.stages = level, max(c.stages, level)
		if err := c.addImage(img, level); err != nil {
			return err
		}
	}
	c.templates = append(c.templates, namedJob{".manifest", kindManifest, c.light(gitlabJob{
		Stage:   stage("publish", 1),
		Script:  []string{`pipegen manifest "$PIPEGEN_NAME" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR"`},
		Timeout: gitlabDuration(publishTimeout),
		// Two pipelines do not move the tags of one image at the same time.
		ResourceGroup: "pipegen/$PIPEGEN_NAME",
		Artifacts:     c.keep("", "indexes/$PIPEGEN_NAME.json"),
	})})
	return nil
}

func (c *gitlabChild) addImage(img *plan.Image, level int) error {
	if !plainName.MatchString(img.Name) {
		return failure.Input("image %q cannot be rendered: want a name of letters, digits, _, . and -", img.Name)
	}
	if len(img.Builds) == 0 {
		return failure.Input("image %q has no builds", img.Name)
	}
	var needs []gitlabNeed
	if len(img.Needs) > 0 {
		dependencies, err := c.dependencies(img, level)
		if err != nil {
			return err
		}
		needs = append([]gitlabNeed{prepared}, dependencies...)
	}
	publish := gitlabJob{Extends: ".manifest", Needs: []gitlabNeed{prepared}, Variables: map[string]string{"PIPEGEN_NAME": img.Name}}
	if level > 1 {
		publish.Stage = stage("publish", level)
	}
	for i := range img.Builds {
		b := &img.Builds[i]
		if suffix, ok := strings.CutPrefix(b.ID, img.Name+"@"); !ok || !plainName.MatchString(suffix) {
			return failure.Input("build %q of image %q cannot be rendered: want the id IMAGE@ARCH", b.ID, img.Name)
		}
		template, err := c.buildTemplate(b)
		if err != nil {
			return err
		}
		j := gitlabJob{Extends: template, Needs: needs, Variables: map[string]string{"PIPEGEN_BUILD": b.ID}}
		if level > 1 {
			j.Stage = stage("build", level)
		}
		name := "build " + b.ID
		if err := c.add(name, kindBuild, j); err != nil {
			return err
		}
		publish.Needs = append(publish.Needs, gitlabNeed{job: name})
	}
	if len(publish.Needs) > maxNeeds {
		return failure.Input("image %q has %d builds, GitLab allows a job to need %d others", img.Name, len(img.Builds), maxNeeds-1)
	}
	return c.add("manifest "+img.Name, kindManifest, publish)
}

// dependencies gives the jobs that must be done before the builds of an
// image: those that publish what it needs, or gates that stand for many.
func (c *gitlabChild) dependencies(img *plan.Image, level int) ([]gitlabNeed, error) {
	type done struct {
		need  gitlabNeed
		paths []string
	}
	waits := make([]done, 0, len(img.Needs))
	for _, name := range img.Needs {
		waits = append(waits, done{gitlabNeed{job: "manifest " + name}, []string{"indexes/" + name + ".json"}})
	}
	for gate := 1; len(waits) >= maxNeeds; {
		var fewer []done
		for chunk := range slices.Chunk(waits, maxNeeds) {
			j := c.light(gitlabJob{
				Stage: stage("build", level), Script: []string{"echo 'pipegen: passing results on'"},
			})
			j.Needs = nil
			var paths []string
			for _, d := range chunk {
				j.Needs, paths = append(j.Needs, d.need), append(paths, d.paths...)
			}
			j.Artifacts = c.keep("", paths...)
			name := "gate " + img.Name + " " + strconv.Itoa(gate)
			gate++
			if err := c.add(name, kindNoop, j); err != nil {
				return nil, err
			}
			fewer = append(fewer, done{gitlabNeed{job: name}, paths})
		}
		waits = fewer
	}
	needs := make([]gitlabNeed, len(waits))
	for i, d := range waits {
		needs[i] = d.need
	}
	return needs, nil
}

// buildTemplate gives the name of the template for builds with this image,
// runner and limit.
func (c *gitlabChild) buildTemplate(b *plan.Build) (string, error) {
	if b.Runner != "" && b.Runner != "ci" {
		return "", failure.Input("build %s has the runner %q: a GitLab job builds where it runs (runner: ci)", b.ID, b.Runner)
	}
	_, suffix, _ := strings.Cut(b.ID, "@")
	profile := fmt.Sprintf("%s %q %q %q", suffix, b.BuilderImage, b.RunsOn.GitLab, b.Timeout)
	if name, ok := c.profiles[profile]; ok {
		return name, nil
	}
	j := gitlabJob{
		Stage: stage("build", 1), Image: gitlabImageOf(b.BuilderImage), Tags: b.RunsOn.GitLab, Needs: []gitlabNeed{prepared},
		Script:    []string{`pipegen build "$PIPEGEN_BUILD" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR"`},
		Retry:     runnerFailures,
		Artifacts: c.keep("always", "builds/$PIPEGEN_BUILD.json", "builds/$PIPEGEN_BUILD.log"),
	}
	if b.Timeout != "" {
		limit, err := time.ParseDuration(b.Timeout)
		if err != nil || limit <= 0 || limit > maxTimeout {
			return "", failure.Input("build %s has the timeout %q: want a duration such as 45m, at most 696h", b.ID, b.Timeout)
		}
		j.Timeout = gitlabDuration(limit + aside)
	}
	name := ".build-" + suffix
	for n := 2; c.names[name]; n++ {
		name = ".build-" + suffix + "-" + strconv.Itoa(n)
	}
	c.names[name] = true
	c.profiles[profile] = name
	c.templates = append(c.templates, namedJob{name, kindBuild, j})
	return name, nil
}

// light fills in what jobs that build nothing have in common.
func (c *gitlabChild) light(j gitlabJob) gitlabJob {
	j.Image, j.Tags, j.Retry = gitlabImageOf(c.plan.CI.Image), c.plan.CI.Runner.GitLab, runnerFailures
	return j
}

func (c *gitlabChild) keep(when string, files ...string) *gitlabArtifacts {
	a := &gitlabArtifacts{When: when, ExpireIn: keepArtifacts}
	for _, f := range files {
		a.Paths = append(a.Paths, path.Join(c.options.MetadataDir, f))
	}
	return a
}

func (c *gitlabChild) add(name, kind string, j gitlabJob) error {
	if len(name) > maxJobName {
		return failure.Input("the job %q has a name of %d characters, GitLab allows %d", name, len(name), maxJobName)
	}
	if c.names[name] {
		return failure.Input("the plan has two jobs %q", name)
	}
	c.names[name] = true
	c.jobs = append(c.jobs, namedJob{name, kind, j})
	return nil
}

// document gives the whole file.
func (c *gitlabChild) document() (*yaml.Node, error) {
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	put := func(key string, value any) error {
		n := new(yaml.Node)
		if err := n.Encode(value); err != nil {
			return fmt.Errorf("writing %s: %w", key, err)
		}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, n)
		return nil
	}
	var stages []string
	for level := range c.stages {
		stages = append(stages, stage("build", level+1), stage("publish", level+1))
	}
	// Without rules of its own a job would be left out in a pipeline that a
	// merge request led to.
	always := map[string]any{"rules": []map[string]string{{"when": "always"}}}
	variables := map[string]string{"PIPEGEN_PLAN": c.options.PlanFile, "PIPEGEN_METADATA_DIR": c.options.MetadataDir, "GIT_DEPTH": "1"}
	for _, e := range []struct {
		key   string
		value any
	}{{"workflow", always}, {"stages", stages}, {"variables", variables}} {
		if err := put(e.key, e.value); err != nil {
			return nil, err
		}
	}
	for _, j := range append(c.templates, c.jobs...) {
		if err := put(j.name, j.job); err != nil {
			return nil, err
		}
		overlay := c.overlays[j.kind]
		if len(overlay) == 0 || j.job.Extends != "" {
			continue // a job that extends a template gets the overlay from there
		}
		if err := lay(root.Content[len(root.Content)-1], overlay, j.kind); err != nil {
			return nil, err
		}
	}
	return root, nil
}

func stage(name string, level int) string {
	if level == 1 {
		return name
	}
	return name + " " + strconv.Itoa(level)
}

// gitlabImageOf keeps the runner from starting the image's own entrypoint,
// which is an engine and no shell.
func gitlabImageOf(name string) *gitlabImage {
	if name == "" {
		name = "$PIPEGEN_IMAGE"
	}
	return &gitlabImage{Name: name, Entrypoint: []string{""}}
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
