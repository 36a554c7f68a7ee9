package main

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/logcopy"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// copyingLogs runs a controller and, where that is asked for, what copies its logs
// beside it.
func (a *app) copyingLogs(ctx context.Context, to *config.ServerLogCopy, core *controller.Controller, db *store.Store, log *slog.Logger) (func(context.Context) error, error) {
	if to == nil {
		return core.Run, nil
	}
	cfg, err := registry.AWS{}.Config(ctx, cmp.Or(to.Region, a.getenv("AWS_REGION"), a.getenv("AWS_DEFAULT_REGION")), registry.AWSAccess{}, a.getenv)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		return nil, failure.WithHint(failure.Input("no region is given for the log group %s", to.LogGroup), "set server.log_copy.region or AWS_REGION")
	}
	copier := logcopy.New(logcopy.Options{
		Source: core, Lead: db.Lead, Config: cfg, Group: to.LogGroup, StreamPrefix: to.StreamPrefix, RetentionDays: int32(to.RetentionDays), Logger: log, //nolint:gosec // one of a list
	})
	return func(ctx context.Context) error {
		copying, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { copier.Run(copying) })
		err := core.Run(ctx)
		stop()
		wg.Wait()
		return err
	}, nil
}
