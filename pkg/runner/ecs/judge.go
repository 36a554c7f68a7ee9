package ecs

import (
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Judge says of a build what is clear before AWS is asked: there is no machine
// or no size for it, it has no image, or it would start BuildKit, which takes
// rights that nobody has on Fargate.
func (l *Launcher) Judge(p *plan.Plan, img *plan.Image, b *plan.Build) error {
	all := places(l.s.CapacityOf(img.Name), "", 1)
	var unfit error
	for _, at := range all {
		if b.Engine == "buildkit" && len(p.BuildKit.Addresses) == 0 && at.isFargate() {
			return failure.WithHint(failure.Input("BuildKit cannot be started on Fargate, which gives no privilege"), "name daemons in buildkit.addresses of pipegen.yaml, or use engine kaniko")
		}
		_, err := l.define(runner.Launch{Build: b.ID, Platform: b.Platform, Engine: b.Engine, Image: b.BuilderImage, Resources: b.Resources}, at)
		if err == nil {
			return nil
		}
		if unfit == nil {
			unfit = err
		}
	}
	return unfit
}
