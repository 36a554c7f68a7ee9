package render

import (
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// concourseRun is the task that has the controller build and publish an
// image.
const concourseRun = "run"

// runTask gives that task, on any worker: it builds nothing. What a registry
// asks of the tasks that build and publish it has, to hand it on.
func (c *concourse) runTask(img *plan.Image, runner string) (*yaml.Node, error) {
	limit, err := controllerLimit(img, maxTimeout)
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		limit += concourseAside
	}
	t := task{
		name: concourseRun, inputs: []string{concourseSource, concoursePlan}, outputs: []string{"published"}, image: c.shared, limit: limit, dir: concourseSource,
		args:   []string{"run", img.Name, "--if-planned", "--plan=../" + concoursePlan + "/plan.json", "--metadata-dir=../published", "--runner=" + runner},
		params: c.publishing(),
	}
	t.add(img.Source)
	for i := range img.Builds {
		for _, name := range img.Builds[i].Credentials() {
			t.credential(name)
		}
	}
	for name := range t.params {
		if !variableName.MatchString(name) {
			return nil, failure.Input("image %q: %q is no name of an environment variable", img.Name, name)
		}
	}
	t.params[serverVariable], t.params[tokenVariable] = "((pipegen_server))", "((pipegen_token))"
	if c.plan.CI.Audience != "" {
		t.params[tokenVariable] = "((" + concourseController + ":token))"
	}
	return c.task(kindRun, t)
}
