package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// gitlabChild is a pipeline on its way to YAML: jobs for some of the plan's
// images. What jobs have in common is in templates: GitLab's limit is on the
// memory of the file's objects, which allows far fewer jobs when each is
// written out.
type gitlabChild struct {
	*gitlabRendering
	number int // of the chunk; images of others are looked up in the registry

	stages    int // highest level
	templates []namedJob
	handed    *yaml.Node        // need for what the parent's job prepared
	profiles  map[string]string // what builds have in common → name of their template
	jobs      []namedJob
	names     map[string]bool
	lookups   map[int][]waits // image → what looks up what it needs of other chunks
	maxNeeds  int
}

// namedJob is a job or template, and the kind of overlay for it.
type namedJob struct {
	name, kind string
	node       *yaml.Node
}

func (j namedJob) extends(template string) bool {
	n := lookup(j.node, "extends")
	return n != nil && n.Value == template
}

// waits is a job that must be done first, and the results that it hands on.
type waits struct {
	job   string
	files []string
}

func (r *gitlabRendering) child(number int, images []int) (*gitlabChild, error) {
	c := &gitlabChild{
		gitlabRendering: r, number: number, stages: 1, handed: r.prepared(number > 0),
		profiles: map[string]string{}, names: map[string]bool{},
	}
	if len(images) == 0 {
		// A child pipeline without jobs is invalid.
		j := c.light("build", "echo 'pipegen: nothing to build'")
		j.variables = mapping("GIT_STRATEGY", "none")
		return c, c.add("nothing to build", kindGate, j)
	}
	if err := c.addLookups(images); err != nil {
		return nil, err
	}
	for _, i := range images {
		first := len(c.jobs)
		if err := c.addImage(i); err != nil {
			return nil, err
		}
		// Each level has names of stages, too.
		r.costs[i] = costOf(c.jobs[first:]).plus(cost{memory: 200})
	}
	if slices.ContainsFunc(c.jobs, func(j namedJob) bool { return j.extends(".manifest") }) {
		c.template(".manifest", kindManifest, c.manifestTemplate())
	}
	if len(c.lookups) > 0 {
		// It talks to the registry as those do that publish.
		c.template(".published", kindManifest, c.publishedTemplate())
	}
	return c, nil
}

// addLookups adds jobs that look up what images need of other pipelines: one
// for all that the same images need, so that what is missing keeps nothing
// else from being built.
func (c *gitlabChild) addLookups(images []int) error {
	dependents := map[int][]int{}
	var wanted []int
	for _, i := range images {
		for _, need := range c.needs[i] {
			if c.chunk[need] == c.number {
				continue
			}
			if dependents[need] == nil {
				wanted = append(wanted, need)
			}
			dependents[need] = append(dependents[need], i)
		}
	}
	slices.Sort(wanted)
	groups := map[string][]int{}
	var order []string
	for _, need := range wanted {
		key := fmt.Sprint(dependents[need])
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], need)
	}
	c.lookups = map[int][]waits{}
	for _, key := range order {
		for group := range slices.Chunk(groups[key], maxLookup) {
			j, err := c.addLookup(group)
			if err != nil {
				return err
			}
			for _, i := range dependents[group[0]] {
				c.lookups[i] = append(c.lookups[i], j)
			}
		}
	}
	return nil
}

// maxLookup is what one job looks up at most; their names are in a variable.
const maxLookup = 500

func (c *gitlabChild) addLookup(group []int) (waits, error) {
	names, files := make([]string, len(group)), make([]string, len(group))
	for k, i := range group {
		names[k] = c.plan.Images[i].Name
		files[k] = indexOf(names[k])
	}
	job := "published " + names[0]
	if len(names) > 1 {
		job += " and " + strconv.Itoa(len(names)-1) + " more"
	}
	return waits{job, files}, c.add(job, kindManifest, gitlabJob{
		extends: ".published", variables: mapping("PIPEGEN_NAMES", strings.Join(names, ",")), artifacts: c.keep("", files...),
	})
}

func (c *gitlabChild) addImage(i int) error {
	img := &c.plan.Images[i]
	if !plainName.MatchString(img.Name) {
		return failure.Input("image %q cannot be rendered: want a name of letters, digits, _, . and -", img.Name)
	}
	switch {
	case len(img.Builds) == 0 && img.Retag == "":
		return failure.Input("image %q has no builds", img.Name)
	case len(img.Builds) > 0 && img.Retag != "":
		return failure.Input("image %q has builds, and %s to publish again: want one of them", img.Name, quote.Text(img.Retag))
	}
	level := 1
	for _, need := range c.needs[i] {
		if c.chunk[need] == c.number {
			level = max(level, c.level[need]+1)
		}
	}
	c.level[i], c.stages = level, max(c.stages, level)
	var needs *yaml.Node
	if len(img.Needs) > 0 && len(img.Builds) > 0 {
		dependencies, err := c.dependencies(i, level)
		if err != nil {
			return err
		}
		needs = c.needing(dependencies)
	}
	runner, err := checkedRunner(c.plan, img)
	if err != nil {
		return err
	}
	if runner != "" {
		return c.addRun(img, runner, level, needs)
	}
	publish := gitlabJob{extends: ".manifest", variables: mapping("PIPEGEN_NAME", img.Name)}
	if level > 1 {
		publish.stage = stage("publish", level)
	}
	builds := make([]string, 0, len(img.Builds))
	for k := range img.Builds {
		b := &img.Builds[k]
		if suffix, ok := strings.CutPrefix(b.ID, img.Name+"@"); !ok || !plainName.MatchString(suffix) {
			return failure.Input("build %q of image %q cannot be rendered: want the id IMAGE@ARCH", b.ID, img.Name)
		}
		template, err := c.templateOf(b)
		if err != nil {
			return err
		}
		j := gitlabJob{extends: template, needs: needs, variables: mapping("PIPEGEN_BUILD", b.ID)}
		if level > 1 {
			j.stage = stage("build", level)
		}
		name := "build " + b.ID
		if err := c.add(name, kindBuild, j); err != nil {
			return err
		}
		builds = append(builds, name)
	}
	if !img.Pushes() {
		return nil
	}
	if publish.needs = c.needing(builds); len(publish.needs.Content) > maxNeeds {
		return failure.Input("image %q has %d builds, GitLab allows a job to need %d others", img.Name, len(img.Builds), maxNeeds-1)
	}
	return c.add("manifest "+img.Name, kindManifest, publish)
}

// addRun adds the job that has the controller build and publish an image.
func (c *gitlabChild) addRun(img *plan.Image, runner string, level int, needs *yaml.Node) error {
	limit, err := controllerLimit(img, maxTimeout)
	if err != nil {
		return err
	}
	template := c.templateFor("run-"+runner, fmt.Sprint("run ", runner, limit, img.Pushes()), kindRun, func() gitlabJob {
		return c.runTemplate(runner, limit, img.Pushes())
	})
	j := gitlabJob{extends: template, needs: needs, variables: mapping("PIPEGEN_NAME", img.Name)}
	if level > 1 {
		j.stage = stage("build", level)
	}
	return c.add(lastJob(img), kindRun, j)
}

// lastJob is the name of the job that leaves what was published of an image.
func lastJob(img *plan.Image) string {
	if ControllerRunner(img) != "" {
		return "run " + img.Name
	}
	return "manifest " + img.Name
}

// needing gives needs for the plan and for jobs of this pipeline.
func (c *gitlabChild) needing(jobs []string) *yaml.Node {
	n := list(jobs...)
	n.Content = slices.Insert(n.Content, 0, c.handed)
	return n
}

// dependencies gives the jobs that must be done before the builds of an
// image: those that publish what it needs, or look that up, or gates that
// stand for many.
func (c *gitlabChild) dependencies(i, level int) ([]string, error) {
	img := &c.plan.Images[i]
	var all []waits
	for _, need := range c.needs[i] {
		if c.chunk[need] == c.number {
			name := c.plan.Images[need].Name
			all = append(all, waits{lastJob(&c.plan.Images[need]), []string{indexOf(name)}})
		}
	}
	all = append(all, c.lookups[i]...)
	for gate := 1; len(all) >= maxNeeds; {
		var fewer []waits
		for some := range slices.Chunk(all, maxNeeds) {
			j := c.light(stage("build", level), "echo 'pipegen: passing results on'")
			jobs, files := make([]string, 0, len(some)), []string{}
			for _, w := range some {
				jobs, files = append(jobs, w.job), append(files, w.files...)
			}
			j.needs, j.artifacts = list(jobs...), c.keep("", files...)
			name := "gate " + img.Name + " " + strconv.Itoa(gate)
			gate++
			if err := c.add(name, kindGate, j); err != nil {
				return nil, err
			}
			fewer = append(fewer, waits{name, files})
		}
		all = fewer
	}
	jobs := make([]string, len(all))
	for k, w := range all {
		jobs[k] = w.job
	}
	return jobs, nil
}

// templateOf gives the name of the template for a build.
func (c *gitlabChild) templateOf(b *plan.Build) (string, error) {
	limit, err := limitOf(b, maxTimeout)
	if err != nil {
		return "", err
	}
	_, suffix, _ := strings.Cut(b.ID, "@")
	return c.templateFor("build-"+suffix, profile(b), kindBuild, func() gitlabJob { return c.buildTemplate(b, limit) }), nil
}

// templateFor gives the name of the template that jobs of a profile extend,
// and makes it for the first of them.
func (c *gitlabChild) templateFor(stem, profile, kind string, job func() gitlabJob) string {
	if name, ok := c.profiles[profile]; ok {
		return name
	}
	name := "." + stem
	for n := 2; c.names[name]; n++ {
		name = "." + stem + "-" + strconv.Itoa(n)
	}
	c.names[name], c.profiles[profile] = true, name
	c.template(name, kind, job())
	return name
}

func (c *gitlabChild) template(name, kind string, j gitlabJob) {
	c.templates = append(c.templates, namedJob{name, kind, j.node()})
}

func (c *gitlabChild) add(name, kind string, j gitlabJob) error {
	if len(name) > maxJobName {
		return failure.Input("the job %q has a name of %d characters, GitLab allows %d", name, len(name), maxJobName)
	}
	if c.names[name] {
		return failure.Input("the plan has two jobs %q", name)
	}
	c.names[name] = true
	n := j.node()
	if needs := lookup(n, "needs"); needs != nil {
		c.maxNeeds = max(c.maxNeeds, len(needs.Content))
	}
	c.jobs = append(c.jobs, namedJob{name, kind, n})
	return nil
}

// stageNames are those of the builds and publications of each level.
func (c *gitlabChild) stageNames() []string {
	var stages []string
	for level := range c.stages {
		stages = append(stages, stage("build", level+1), stage("publish", level+1))
	}
	return stages
}

// document gives the whole file.
func (c *gitlabChild) document(stages []string) (*yaml.Node, error) {
	root := mapping(
		// Without rules of its own a job would be left out in a pipeline that a
		// merge request led to.
		"workflow", mapping("rules", list(mapping("when", "always"))),
		"stages", stages,
		"variables", mapping("GIT_DEPTH", "1", "PIPEGEN_METADATA_DIR", c.options.MetadataDir, "PIPEGEN_PLAN", c.options.PlanFile),
	)
	jobs := slices.Concat(c.templates, c.jobs)
	for _, j := range jobs {
		// A job that extends a template gets the overlay from there.
		if overlay := c.overlays[j.kind]; len(overlay) > 0 && lookup(j.node, "extends") == nil && lookup(j.node, "trigger") == nil {
			if err := layGitLab(j, overlay); err != nil {
				return nil, err
			}
		}
		root.Content = append(root.Content, text(j.name), j.node)
	}
	return root, checkOverlaid(jobs, c.overlays)
}
