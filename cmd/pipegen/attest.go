package main

import (
	"context"

	"github.com/pipegen/pipegen/pkg/attestation"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// attend gives what attests and signs an image before its tags are put on it;
// nil if the plan asks for neither. A key that does not work is an error here,
// before anything is published. Files are relative to dir.
func (a *app) attend(ctx context.Context, client *registry.Client, p *plan.Plan, dir string) (func(context.Context, *plan.Image, registry.Descriptor, []plan.Base) error, error) {
	notary, err := attestation.Open(ctx, attestation.Options{Publish: p.Publish, Root: dir, Version: version, AWS: signingIn(p.Publish), Getenv: a.getenv})
	if err != nil || notary == nil {
		return nil, err
	}
	return func(ctx context.Context, img *plan.Image, subject registry.Descriptor, bases []plan.Base) error {
		return notary.Attend(ctx, client, p, img, subject, bases)
	}, nil
}
