package main

import (
	"context"
	"log/slog"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// withStored gives what getenv does and, by their ARNs, the values of secrets that
// AWS keeps and getenv does not have: read by the identity of this process.
func (a *app) withStored(ctx context.Context, p *plan.Plan, getenv func(string) string, builds ...*plan.Build) (func(string) string, error) {
	var arns []string
	for _, b := range builds {
		arns = append(arns, b.Stored()...)
	}
	arns = slices.DeleteFunc(arns, func(arn string) bool { return getenv(arn) != "" })
	if len(arns) == 0 {
		return getenv, nil
	}
	values, err := a.stored(ctx, signingIn(p.Publish), arns)
	if err != nil {
		return nil, err
	}
	return func(name string) string {
		if value, ok := values[name]; ok {
			return value
		}
		return getenv(name)
	}, nil
}

func (a *app) stored(ctx context.Context, identity registry.AWS, arns []string) (map[string]string, error) {
	cfg, err := identity.Config(ctx, "", registry.AWSAccess{}, a.getenv)
	if err != nil {
		return nil, err
	}
	return amazon.Values(ctx, cfg, arns)
}

// imageSecret makes or finds the secret by which ECS pulls the image of agents, and
// gives its ARN; empty: the environment names none.
func (a *app) imageSecret(ctx context.Context, cfg aws.Config, tags map[string]string, log *slog.Logger) (string, error) {
	p, ok, err := amazon.PullSecretFromEnv(a.getenv)
	if err != nil || !ok {
		return "", err
	}
	p.Tags = tags
	kept, err := p.Keep(ctx, cfg)
	if err != nil {
		return "", err
	}
	log.Info("credentials for the image of agents", "name", p.Name, "arn", kept.ARN, "did", kept.Did)
	if kept.Unchecked != "" {
		log.Warn("credentials for the image of agents may be others than those of the environment", "name", p.Name, "reason", kept.Unchecked)
	}
	return kept.ARN, nil
}

// agentsRead says whether agents of a runner read what AWS keeps by their own
// role. On this machine they have none.
func agentsRead(s *config.ServerSecrets) func(runner string) bool {
	if s == nil || s.ByController() {
		return nil
	}
	return func(runner string) bool { return runner != "local" }
}

// controllerReads gives what reads in the place of agents, where that is wanted or
// they have no role; never what no rule allows.
func (a *app) controllerReads(s *config.ServerSecrets) func(ctx context.Context, arns []string) (map[string]string, error) {
	if s == nil || len(s.Rules) == 0 {
		return nil
	}
	return func(ctx context.Context, arns []string) (map[string]string, error) {
		return a.stored(ctx, registry.AWS{}, arns)
	}
}

// namable gives what refuses ARNs that builds may not name; nil: there are no rules.
func namable(s *config.ServerSecrets) func(submitter string, arns []string) error {
	if s == nil || len(s.Rules) == 0 {
		return nil
	}
	return func(submitter string, arns []string) error {
		for _, arn := range arns {
			if !s.Allows(submitter, arn) {
				return failure.WithHint(failure.Input("builds of %s may not name the secret %s", quote.Text(submitter), quote.Text(arn)), "server.secrets.rules of the controller says what they may")
			}
		}
		return nil
	}
}
