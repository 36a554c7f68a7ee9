package main

import (
	"context"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/time/rate"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
)

// network is what all clients of registries in this process share:
// connections, and the budget of requests.
type network struct {
	rps float64 // 0: the default

	once      sync.Once
	transport *http.Transport
	budget    *rate.Limiter
}

const rpsVariable = "PIPEGEN_REGISTRY_RPS"

func (n *network) flags(flags *pflag.FlagSet) {
	flags.Float64Var(&n.rps, "registry-rps", 0, "requests a second to registries, with bursts of twice as many (default: $"+rpsVariable+", else 50)")
}

// check judges the budget that the flag or the environment asks for.
func (n *network) check(flags *pflag.FlagSet, getenv func(string) string) error {
	if flags.Changed("registry-rps") {
		if !sensible(n.rps) {
			return failure.Input("--registry-rps %v: want a number above 0", n.rps)
		}
		return nil
	}
	value := getenv(rpsVariable)
	if value == "" {
		return nil
	}
	rps, err := strconv.ParseFloat(value, 64)
	if err != nil || !sensible(rps) {
		return failure.Input("%s=%q: want a number above 0", rpsVariable, value)
	}
	n.rps = rps
	return nil
}

// shared gives the connections and the budget of this process.
func (n *network) shared() (*http.Transport, *rate.Limiter) {
	n.once.Do(func() { n.transport, n.budget = registry.NewTransport(), registry.NewBudget(n.rps) })
	return n.transport, n.budget
}

func sensible(rps float64) bool { return rps > 0 && rps <= math.MaxInt32 }

// registryClient gives access to registries as publish says; insecure are
// further ones that may be reached over plain HTTP.
func (a *app) registryClient(publish config.Publish, insecure ...string) *registry.Client {
	return registry.New(a.registryOptions(publish, insecure...))
}

func (a *app) registryOptions(publish config.Publish, insecure ...string) registry.Options {
	transport, budget := a.network.shared()
	o := registry.Options{
		Insecure: append(slices.Clone(insecure), publish.Insecure...), Getenv: a.getenv, UserAgent: "pipegen/" + version, Warn: a.warn,
		Transport: transport, Budget: budget, AWS: signingIn(publish),
	}
	for _, rule := range publish.PullThrough {
		o.PullThrough = append(o.PullThrough, registry.PullThrough(rule))
	}
	if create := publish.CreateRepository; create != nil {
		o.Create = &registry.Creation{
			Encryption: create.Encryption, KMSKey: create.KMSKey, Immutable: create.Immutable,
			MutableTags: create.MutableTags, ScanOnPush: create.ScanOnPush,
		}
		if create.LifecyclePolicy != nil {
			o.Create.LifecyclePolicy = *create.LifecyclePolicy
		}
	}
	return o
}

// signingIn says how AWS is signed in to: for registries, and for a key that
// signs.
func signingIn(publish config.Publish) registry.AWS {
	aws := registry.AWS{Registries: map[string]registry.AWSAccess{}}
	if publish.IDToken != nil {
		aws.Role = publish.IDToken.Role
	}
	for host, access := range publish.Registries {
		aws.Registries[host] = registry.AWSAccess(access)
	}
	return aws
}

// createRepositories makes the repositories that a build writes to, and the caches
// that it may pull through, where the plan asks for that: engines make none.
func createRepositories(ctx context.Context, client *registry.Client, p *plan.Plan, b *plan.Build) error {
	if err := client.CreatePullThrough(ctx); err != nil {
		return err
	}
	if b.Pushes() {
		if err := client.CreateRepository(ctx, b.Destination, false); err != nil {
			return err
		}
	}
	if cache := p.CacheRepository(b); cache != "" {
		return client.CreateRepository(ctx, cache, true)
	}
	return nil
}

// creating makes the repositories of a build before it.
type creating struct {
	runner.Builder
	client *registry.Client
	plan   *plan.Plan
}

func (c creating) Build(ctx context.Context, img *plan.Image, b *plan.Build, log io.Writer) (plan.Result, error) {
	if err := createRepositories(ctx, c.client, c.plan, b); err != nil {
		return plan.Result{}, err
	}
	return c.Builder.Build(ctx, img, b, log)
}
