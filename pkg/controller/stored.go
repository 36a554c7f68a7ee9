package controller

import (
	"context"

	"github.com/pipegen/pipegen/pkg/plan"
)

// agentsRead says whether agents of a runner read what AWS keeps themselves.
func (c *Controller) agentsRead(runner string) bool {
	return c.o.AgentsRead != nil && c.o.AgentsRead(runner)
}

// stored reads what AWS keeps of the secrets of a build, by ARN, where the
// controller does so. The rules may be other ones than when the run was made.
func (c *Controller) stored(ctx context.Context, submitter, runner string, b *plan.Build) (map[string]string, error) {
	arns := b.Stored()
	if len(arns) == 0 || c.o.Stored == nil || c.agentsRead(runner) {
		return nil, nil
	}
	if c.o.MayName != nil {
		if err := c.o.MayName(submitter, arns); err != nil {
			return nil, err
		}
	}
	return c.o.Stored(ctx, arns)
}
