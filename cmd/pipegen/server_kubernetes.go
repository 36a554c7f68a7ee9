package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"

	"k8s.io/klog/v2"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
)

// runnerOnKubernetes gives the launcher of a controller. own is the
// controller's URL.
func (a *app) runnerOnKubernetes(ctx context.Context, own string, on config.ServerKubernetes, log *slog.Logger) (*kubernetes.Launcher, error) {
	on.URL = cmp.Or(on.URL, own)
	u, err := url.Parse(on.URL)
	if err != nil || own == on.URL && isLoopback(u.Hostname()) {
		return nil, failure.WithHint(failure.Input("%s: pods do not reach the controller by this address", quote.URL(on.URL)),
			"--url, or server.kubernetes.url, names how they do: http://NAME.NAMESPACE.svc:PORT")
	}
	if u.Scheme == "http" {
		a.warn("agents on Kubernetes send their tokens to " + quote.URL(on.URL) + " over plain HTTP")
	}
	return a.onKubernetes(ctx, on, u.Scheme == "http", log)
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
