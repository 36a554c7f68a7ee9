package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
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
		on := of.kubernetes
		on.URL = cmp.Or(on.URL, s.url)
		u, err := url.Parse(on.URL)
		if err != nil || s.url == on.URL && isLoopback(u.Hostname()) {
			return nil, failure.WithHint(failure.Input("%s: pods do not reach the controller by this address", quote.URL(on.URL)),
				"--url, or server.kubernetes.url, names how they do: http://NAME.NAMESPACE.svc:PORT")
		}
		if u.Scheme == "http" {
			a.warn("agents on Kubernetes send their tokens to " + quote.URL(on.URL) + " over plain HTTP")
		}
		l, err := a.onKubernetes(ctx, on, u.Scheme == "http", log)
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

// onKubernetes gives the launcher of a cluster.
func (a *app) onKubernetes(ctx context.Context, on config.ServerKubernetes, insecure bool, log *slog.Logger) (*kubernetes.Launcher, error) {
	klog.SetSlogLogger(log) // what the library says of itself
	on.Image = cmp.Or(on.Image, a.getenv("AGENT_IMAGE"))
	client, namespace, err := kubernetes.Connect(on, a.getenv, "pipegen/"+version)
	if err != nil {
		return nil, err
	}
	return kubernetes.New(ctx, kubernetes.Options{Client: client, Namespace: namespace, Settings: on, Insecure: insecure, Logger: log})
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
