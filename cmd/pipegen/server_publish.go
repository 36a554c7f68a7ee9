package main

import (
	"context"
	"slices"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/attestation"
	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// publishRun publishes images of runs with the credentials of their run, and no
// others: what the controller's own user may do is not for those who submit.
func (a *app) publishRun(insecure []string) func(ctx context.Context, p *plan.Plan, img *plan.Image, results []plan.Result, creds []api.Credential, log func(level, msg string)) (plan.Published, error) {
	nothing := func(string) string { return "" }
	return func(ctx context.Context, p *plan.Plan, img *plan.Image, results []plan.Result, creds []api.Credential, log func(level, msg string)) (plan.Published, error) {
		logins := make([]registry.Login, len(creds))
		for i, c := range creds {
			logins[i] = registry.Login{Registry: c.Registry, Username: c.Username, Password: c.Password}
		}
		warn := func(line string) { log("warning", quote.Text(line)) }
		transport, budget := a.network.shared()
		client := registry.New(registry.Options{
			Insecure: append(slices.Clone(insecure), p.Publish.Insecure...), Keychain: registry.Logins(logins, nil), Transport: transport, Budget: budget,
			Getenv: nothing, UserAgent: "pipegen/" + version, Warn: warn,
		})
		o := manifest.Options{Warn: warn}
		notary, err := attestation.Open(ctx, attestation.Options{Publish: p.Publish, Version: version, Getenv: nothing})
		if err != nil {
			return plan.Published{}, err
		}
		if notary != nil {
			o.Attend = func(ctx context.Context, img *plan.Image, subject registry.Descriptor, bases []plan.Base) error {
				return notary.Attend(ctx, client, p, img, subject, bases)
			}
		}
		return manifest.Publish(ctx, client, p, img, results, o)
	}
}
