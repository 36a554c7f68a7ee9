package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

// onECS gives the launcher of a cluster of ECS, and has old task definitions
// removed meanwhile if that is wanted. own is the controller's URL.
func (a *app) onECS(ctx context.Context, own string, on config.ServerECS, log *slog.Logger) (*ecs.Launcher, error) {
	given := on.URL != ""
	on.URL = cmp.Or(on.URL, own)
	u, err := url.Parse(on.URL)
	if on.URL == "" || err != nil || !given && isLoopback(u.Hostname()) {
		return nil, failure.WithHint(failure.Input("%s: agents on ECS do not reach the controller by this address", quote.URL(cmp.Or(on.URL, "no URL"))),
			"--url, CONTROLLER_URL or server.ecs.url names how they do: https://pipegen.example.com")
	}
	if u.Scheme == "http" {
		a.warn("agents on ECS send their tokens to " + quote.URL(on.URL) + " over plain HTTP")
	}
	cfg, err := ecs.Connect(ctx, on.Region, "pipegen-"+version)
	if err != nil {
		return nil, err
	}
	if on.ImageSecret == "" {
		if on.ImageSecret, err = a.imageSecret(ctx, cfg, on.Tags, log); err != nil {
			return nil, err
		}
	}
	l, err := ecs.New(ctx, ecs.Options{Config: cfg, Settings: on, Insecure: u.Scheme == "http", Logger: log})
	if err != nil || on.Cleanup == nil || !*on.Cleanup {
		return l, err
	}
	go func() {
		removed, err := l.CleanUp(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Warn("old task definitions of ECS", "removed", removed, "err", err)
		default:
			log.Info("old task definitions of ECS", "removed", removed)
		}
	}()
	return l, nil
}
