package render

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

const (
	// concourseAside is what a task gets on top of the limit that pipegen build
	// keeps itself.
	concourseAside = 10 * time.Minute
	// concourseLight bounds tasks that plan or publish.
	concourseLight = 30 * time.Minute
)

// job gives the job that sets the pipeline, and that of each image.
func (c *concourse) job(i int) (*yaml.Node, error) {
	if i > 0 {
		return c.imageJob(i - 1)
	}
	set := mapping("set_pipeline", "self", "file", concoursePipeline+"/"+c.options.File)
	if err := c.lay(set, kindSetPipeline); err != nil {
		return nil, err
	}
	return mapping("name", concourseSet, "plan", list(mapping("get", concoursePipeline, "trigger", true), set)), nil
}

// imageJob gives the job of an image: it fetches, plans, builds every platform
// at the same time, and publishes.
func (c *concourse) imageJob(i int) (*yaml.Node, error) {
	img := &c.plan.Images[i]
	if len(img.Builds) == 0 {
		return nil, failure.Input("image %q has no builds", img.Name)
	}
	planning, err := c.planTask(i)
	if err != nil {
		return nil, err
	}
	runner, err := checkedRunner(c.plan, img)
	if err != nil {
		return nil, err
	}
	steps := list(c.fetch(i), planning)
	if runner != "" {
		run, err := c.runTask(img, runner)
		if err != nil {
			return nil, err
		}
		steps.Content = append(steps.Content, run)
	} else if err := c.addBuilds(steps, i); err != nil {
		return nil, err
	}
	// One build of an image at a time moves its tags.
	n := mapping("name", c.images[i].job, "serial", true, "plan", steps)
	return n, c.lay(n, kindJob)
}

// addBuilds adds the tasks of an image's builds, and the one that publishes
// what they made.
func (c *concourse) addBuilds(steps *yaml.Node, i int) error {
	img := &c.plan.Images[i]
	builds, inputs := list[*yaml.Node](), []string{concourseSource, concoursePlan}
	run := []string{"manifest", img.Name, "--if-planned", "--plan=../" + concoursePlan + "/plan.json"}
	for j := range img.Builds {
		b := &img.Builds[j]
		task, built, err := c.buildTask(img, b, c.projects[c.images[i].project].Project)
		if err != nil {
			return err
		}
		builds.Content = append(builds.Content, task)
		inputs = append(inputs, built)
		run = append(run, "--results=../"+built)
	}
	steps.Content = append(steps.Content, mapping("in_parallel", builds))
	if img.Pushes() {
		publish, err := c.task(kindManifest, task{
			name: concourseManifest, inputs: inputs, outputs: []string{"published"}, image: c.shared, limit: concourseLight, dir: concourseSource,
			args: append(run, "--metadata-dir=../published"), params: c.publishing(),
		})
		if err != nil {
			return err
		}
		steps.Content = append(steps.Content, publish)
	}
	return nil
}

// publishing is the environment of the task that publishes: credentials for
// the other registries that images go to, and for signing.
func (c *concourse) publishing() map[string]string {
	t := task{params: map[string]string{}}
	publish := c.plan.Publish
	if slices.ContainsFunc(publish.Also, func(a config.Also) bool { return !isECR(a.Registry) }) {
		t.params["DOCKER_AUTH_CONFIG"] = "((docker_auth_config))"
	}
	for _, name := range publish.Sign.Credentials() {
		t.credential(name)
	}
	if publish.Sign != nil && publish.Sign.Keyless {
		t.params[publish.Sign.TokenVariable()] = "((" + concourseSigning + ":token))"
	}
	return t.params
}

// fetch gives the step that fetches what an image is made of. Its job starts
// when its own project has changed, and when something that it is built on has
// been published anew: for that it fetches the projects of all of it as they
// came through the jobs that it waits for, down to the last, since the version
// of its nearest base's project need not be new.
func (c *concourse) fetch(i int) *yaml.Node {
	of := &c.images[i]
	gets := list[*yaml.Node]()
	for _, p := range of.gets {
		var passed []string
		for _, need := range of.needs {
			if _, through := slices.BinarySearch(c.images[need].gets, p); through {
				passed = append(passed, c.images[need].job)
			}
		}
		name, resource := c.projects[p].resource, ""
		if len(of.gets) == 1 && len(of.all) == 0 {
			name, resource = concourseSource, name
		}
		gets.Content = append(gets.Content, get(name, resource, passed))
	}
	if of.weekly {
		var passed []string
		for _, need := range of.needs {
			if c.images[need].weekly {
				passed = append(passed, c.images[need].job)
			}
		}
		gets.Content = append(gets.Content, get(concourseWeekly, "", passed))
	}
	if len(gets.Content) == 1 {
		return gets.Content[0]
	}
	return mapping("in_parallel", gets)
}

func get(name, resource string, passed []string) *yaml.Node {
	var through *yaml.Node
	if len(passed) > 0 {
		through = flow(list(passed...))
	}
	return mapping("get", name, "resource", resource, "passed", through, "trigger", true)
}

// planTask gives the task that plans one image. Where it is built on others,
// it takes the newest of the checkouts, and waits for their jobs if what they
// published last is not what that checkout says.
func (c *concourse) planTask(i int) (*yaml.Node, error) {
	img, of := &c.plan.Images[i], &c.images[i]
	t := task{
		name: concoursePlan, inputs: []string{concourseSource}, outputs: []string{concoursePlan}, image: c.shared, limit: concourseLight, dir: concourseSource,
		args:   []string{"plan", img.Name, "--no-dependents", "--format=json", "--output=../" + concoursePlan + "/plan.json"},
		params: map[string]string{},
	}
	t.add(img.Source)
	if len(of.all) > 0 {
		t.inputs, t.dir = nil, c.projects[of.project].resource
		for _, p := range of.gets {
			t.inputs = append(t.inputs, c.projects[p].resource)
		}
		for _, n := range of.all {
			t.args = append(t.args, "--after="+c.plan.Images[n].Name+"=../"+c.projects[c.images[n].project].resource)
			t.add(c.plan.Images[n].Source)
		}
		t.outputs = append(t.outputs, concourseSource)
		t.args = append(t.args, "--export=../"+concourseSource)
	}
	return c.task(kindPrepare, t)
}

// buildTask gives the task of one build, and the artifact with its result.
func (c *concourse) buildTask(img *plan.Image, b *plan.Build, project *config.Project) (step *yaml.Node, built string, err error) {
	suffix, ok := strings.CutPrefix(b.ID, img.Name+"@")
	if !ok || !concourseIdentifier.MatchString(suffix) {
		return nil, "", failure.Input("build %q of image %q cannot be rendered: want the id IMAGE@ARCH", b.ID, img.Name)
	}
	built = concourseBuilt + suffix
	t := task{
		name: "build-" + suffix, inputs: []string{concourseSource, concoursePlan}, outputs: []string{built}, image: c.shared, dir: concourseSource,
		// Kaniko must be root in its container.
		user: "root", tags: b.RunsOn.Concourse,
		args:   []string{"build", b.ID, "--if-planned", "--plan=../" + concoursePlan + "/plan.json", "--metadata-dir=../" + built},
		params: map[string]string{},
	}
	for i, tag := range t.tags {
		if err := concourseText(tag); err != nil {
			return nil, "", c.runnerFault(b.Platform, i, err)
		}
	}
	if b.BuilderImage != c.plan.CI.Image {
		if t.image, err = c.image(b.BuilderImage, project); err != nil {
			return nil, "", err
		}
	}
	if b.Timeout != "" {
		limit, err := time.ParseDuration(b.Timeout)
		if err != nil || limit <= 0 {
			return nil, "", failure.Input("build %s has the timeout %q: want a duration such as 45m", b.ID, b.Timeout)
		}
		t.limit = limit + concourseAside
	}
	t.add(img.Source)
	for _, name := range b.Credentials() {
		t.credential(name)
	}
	// A daemon of its own needs the privileges to make containers.
	t.privileged = b.Engine == "make" || b.Engine == "buildkit" && len(c.config.Pipegen.BuildKit.Addresses) == 0
	for name := range t.params {
		if !variableName.MatchString(name) {
			return nil, "", failure.Input("build %s: %q is no name of an environment variable", b.ID, name)
		}
	}
	step, err = c.task(kindBuild, t)
	return step, built, err
}

// runnerFault says which tag of a platform's runners is at fault.
func (c *concourse) runnerFault(platform string, i int, err error) error {
	for key := range c.config.Pipegen.Runners {
		if pl, perr := config.ParsePlatform(key); perr == nil && pl.String() == platform {
			return &OverlayError{Path: []string{"runners", key, "concourse", strconv.Itoa(i)}, Err: err}
		}
	}
	return err
}

// task is a task step (https://concourse-ci.org/docs/steps/task/) that runs
// pipegen.
type task struct {
	name            string
	inputs, outputs []string
	image           *yaml.Node
	tags            []string
	limit           time.Duration
	user, dir       string
	privileged      bool
	args            []string
	params          map[string]string
}

// add gives a task the credential that a source names.
func (t *task) add(s *plan.Source) {
	if s == nil || s.Auth == nil {
		return
	}
	t.credential(s.Auth.TokenEnv)
	t.credential(s.Auth.SSHKeyEnv)
}

// credential gives a task a variable of Concourse under its own name.
func (t *task) credential(name string) {
	if name != "" {
		t.params[name] = "((" + name + "))"
	}
}

var variableName = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (c *concourse) task(kind string, t task) (*yaml.Node, error) {
	// Tasks see nothing that Concourse says of their build.
	params := map[string]string{"PIPEGEN_CI": "concourse"}
	if c.plan.Publish.IDToken != nil {
		params[awsToken] = "((" + concourseAWS + ":token))"
	}
	if c.config.Pipegen.Registry == "" {
		params["PIPEGEN_REGISTRY"] = "((pipegen_registry))"
	}
	if c.plan.Layout == "git" {
		params["CI_COMMIT_REF_NAME"] = "((git_branch))"
	}
	maps.Copy(params, t.params)
	env := mapping()
	for _, name := range slices.Sorted(maps.Keys(params)) {
		env.Content = append(env.Content, text(name), text(params[name]))
	}
	var tags *yaml.Node
	if len(t.tags) > 0 {
		tags = flow(list(t.tags...))
	}
	limit := ""
	if t.limit > 0 {
		limit = concourseDuration(t.limit)
	}
	var privileged any
	if t.privileged {
		privileged = true
	}
	n := mapping("task", t.name, "privileged", privileged, "tags", tags, "timeout", limit, "config", mapping(
		"platform", "linux", "image_resource", clone(t.image), "inputs", artifacts(t.inputs), "outputs", artifacts(t.outputs),
		"params", env, "run", mapping("path", "pipegen", "dir", t.dir, "user", t.user, "args", t.args),
	))
	return n, c.lay(n, kind, "config")
}

func artifacts(names []string) *yaml.Node {
	all := flow(list[*yaml.Node]())
	for _, name := range names {
		all.Content = append(all.Content, mapping("name", name))
	}
	return all
}

// concourseDuration writes a duration without the zeros at its end.
func concourseDuration(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if before, ok := strings.CutSuffix(s, zero); ok && before != "" && (before[len(before)-1] == 'm' || before[len(before)-1] == 'h') {
			s = before
		}
	}
	return s
}
