package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

// checkECS tries what a cluster of ECS can do for builds, and the bucket of
// contexts.
func (a *app) checkECS(ctx context.Context, d doctoring) ([]runner.Check, error) {
	file := new(config.Server)
	named, data, err := a.serverFile(d.config)
	if err != nil {
		return nil, err
	}
	if named != "" {
		if file, err = config.ReadServer(named, data, judgeTokens); err != nil {
			return nil, err
		}
	}
	on, err := file.OnECS(a.getenv)
	if err != nil {
		return nil, err
	}
	on.Cleanup = nil // a trial cleans nothing up
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	checks := []runner.Check{a.checkBucket(ctx)}
	if on.ImageSecret == "" {
		cfg, err := ecs.Connect(ctx, on.Region, "pipegen-"+version)
		if err != nil {
			return nil, err
		}
		on.ImageSecret, err = a.imageSecret(ctx, cfg, on.Tags, slog.New(slog.DiscardHandler))
		c := runner.Check{Name: "secret of the image", OK: err == nil, Needed: true, Detail: on.ImageSecret}
		if err != nil {
			c.Detail, c.Fix = err.Error(), failure.Hint(err)
			return append(checks, c), nil
		}
		if on.ImageSecret != "" {
			checks = append(checks, c)
		}
	}
	l, err := a.onECS(ctx, cmp.Or(d.url, file.URL), on, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	t := ecs.Trial{Registries: d.registries}
	if ref, err := name.ParseReference(on.Image); err == nil && !slices.Contains(t.Registries, ref.Context().RegistryStr()) {
		t.Registries = append(t.Registries, ref.Context().RegistryStr())
	}
	return append(checks, l.Preflight(ctx, t)...), nil
}

// checkBucket says whether contexts and logs can be kept where they are to be.
func (a *app) checkBucket(ctx context.Context) runner.Check {
	c := runner.Check{Name: "bucket", Needed: true}
	if a.getenv("S3_BUCKET") == "" {
		c.OK, c.Detail = true, "none: agents get contexts from the controller, which keeps them in its data directory"
		return c
	}
	o, err := blob.S3OptionsFromEnv(a.getenv)
	if err == nil {
		var store blob.Store
		if store, err = blob.S3(ctx, o); err == nil {
			err = store.Check(ctx)
		}
	}
	if err != nil {
		c.Detail, c.Fix = err.Error(), failure.Hint(err)
		return c
	}
	c.OK, c.Detail = true, o.Bucket
	return c
}
