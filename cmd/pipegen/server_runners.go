package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// launchers gives those that start agents on the runners of this controller.
// Watches of clusters go on until ctx ends.
func (a *app) launchers(ctx context.Context, s serving, of *settings, tls bool, log *slog.Logger) (map[string]runner.Launcher, error) {
	all := map[string]runner.Launcher{}
	if slices.Contains(s.runners, "local") {
		agents, err := runner.NewAgents(runner.AgentsOptions{DataDir: s.dataDir, Insecure: !tls})
		if err != nil {
			return nil, err
		}
		all["local"] = agents
	}
	if slices.Contains(s.runners, "kubernetes") {
		l, err := a.runnerOnKubernetes(ctx, s.url, of.kubernetes, log)
		if err != nil {
			return nil, err
		}
		all["kubernetes"] = l
	}
	if slices.Contains(s.runners, "ecs") {
		l, err := a.onECS(ctx, s.url, of.ecs, log)
		if err != nil {
			return nil, err
		}
		all["ecs"] = l
	}
	return all, nil
}

// knownRunner refuses a runner that there is none of.
func knownRunner(name string, known ...string) error {
	if slices.Contains(known, name) {
		return nil
	}
	err := failure.Input("--runner %q: this version has the runners %s", name, strings.Join(known, ", "))
	if near := config.Nearest(name, known); near != "" {
		err = failure.WithHint(err, "did you mean %q?", near)
	}
	return err
}
