package render

import (
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// controllerRunners are the runners of the controller: a job has it build and
// publish the image, and follows.
var controllerRunners = []string{"kubernetes", "ecs"}

// ControllerRunner gives the runner of the controller that builds an image, so
// that one job has it built and published; empty: the CI system's jobs build it.
func ControllerRunner(img *plan.Image) string {
	if len(img.Builds) > 0 && slices.Contains(controllerRunners, img.Builds[0].Runner) {
		return img.Builds[0].Runner
	}
	return ""
}

// checkedRunner is ControllerRunner of an image that can be rendered.
func checkedRunner(p *plan.Plan, img *plan.Image) (string, error) {
	if len(img.Builds) == 0 {
		return "", nil
	}
	first := img.Builds[0].Runner
	for i := range img.Builds {
		switch b := &img.Builds[i]; {
		case b.Runner != "" && b.Runner != "ci" && !slices.Contains(controllerRunners, b.Runner):
			return "", failure.Input("build %s has the runner %q: want ci, kubernetes or ecs", b.ID, b.Runner)
		case b.Runner != first:
			return "", failure.WithHint(failure.Input("build %s has the runner %q, and %s %q: one runner builds an image", b.ID, b.Runner, img.Builds[0].ID, first),
				"write one runner: for all platforms")
		}
	}
	runner := ControllerRunner(img)
	for i := range img.Builds {
		if b := &img.Builds[i]; runner == "ecs" && b.Engine == "buildkit" && len(p.BuildKit.Addresses) == 0 {
			return "", failure.WithHint(failure.Input("build %s: runner ecs cannot start BuildKit: Fargate gives no privilege", b.ID),
				"name daemons in buildkit.addresses of pipegen.yaml, or write engine: kaniko")
		}
	}
	if runner != "" && p.Publish.Sign != nil && img.Pushes() {
		return "", failure.WithHint(failure.Input("image %q is published by the controller (runner: %s), which holds no keys to sign it with", img.Name, runner),
			"write runner: ci, or take publish.sign out of pipegen.yaml")
	}
	return runner, nil
}

// controllerPublishing is what publishing may add to the limits of the builds.
const controllerPublishing = 30 * time.Minute

// controllerLimit bounds what the controller does for an image: its builds one
// after another, since its runner may have room for one, and publishing. 0: a
// build has no limit. No build may have more than most.
func controllerLimit(img *plan.Image, most time.Duration) (time.Duration, error) {
	all := controllerPublishing
	for i := range img.Builds {
		limit, err := limitOf(&img.Builds[i], most)
		if err != nil {
			return 0, err
		}
		if limit == 0 {
			return 0, nil
		}
		all += limit
	}
	return all, nil
}

// limitOf gives the limit of a build, 0 for none.
func limitOf(b *plan.Build, most time.Duration) (time.Duration, error) {
	if b.Timeout == "" {
		return 0, nil
	}
	limit, err := time.ParseDuration(b.Timeout)
	if err != nil || limit <= 0 || limit > most {
		return 0, failure.Input("build %s has the timeout %q: want a duration such as 45m, at most %s", b.ID, b.Timeout, concourseDuration(most))
	}
	return limit, nil
}
