package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
)

// doctoring holds the flags of pipegen doctor.
type doctoring struct {
	runner, config, url string
	registries          []string
}

// checkKubernetes tries what a cluster can do for builds.
func (a *app) checkKubernetes(ctx context.Context, d doctoring) ([]runner.Check, error) {
	file := new(config.Server)
	if d.config != "" {
		data, err := os.ReadFile(d.config)
		if err != nil {
			return nil, failure.Input("--config: %w", err)
		}
		if file, err = config.ReadServer(d.config, data, judgeTokens); err != nil {
			return nil, err
		}
	}
	on := file.OnKubernetes()
	on.Image = cmp.Or(on.Image, a.getenv("AGENT_IMAGE"))
	on.URL = cmp.Or(d.url, on.URL, file.URL)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := a.onKubernetes(ctx, on, strings.HasPrefix(on.URL, "http://"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	t := kubernetes.Trial{Registries: d.registries}
	if ref, err := name.ParseReference(on.Image); err == nil && !slices.Contains(t.Registries, ref.Context().RegistryStr()) {
		t.Registries = append(t.Registries, ref.Context().RegistryStr())
	}
	return l.Preflight(ctx, t), nil
}

// unbuildable gives nil if builds can run on a cluster.
func unbuildable(checks []runner.Check) error {
	for _, c := range checks {
		if c.Needed && !c.OK {
			return failure.WithHint(failure.Input("the cluster cannot build: %s: %s", c.Name, c.Detail), "%s", c.Fix)
		}
	}
	return nil
}
