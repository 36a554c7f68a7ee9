package ecs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/pipegen/pipegen/pkg/failure"
)

// attempts of the SDK at one request, after which the launcher says why it
// waits and goes on.
const attempts = 3

// Connect reads the configuration of AWS as its own tools do: environment,
// files, web identity, roles of containers and instances. It asks nobody yet.
// Errors wrap failure.ErrInput.
func Connect(ctx context.Context, region, agent string) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithAppID(agent), config.WithRetryer(func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts
			o.RateLimiter = ratelimit.None // the launcher itself waits
		})
	}))
	if err != nil {
		return cfg, failure.WithHint(failure.Input("reading the configuration of AWS: %w", err), "check AWS_PROFILE and ~/.aws/config")
	}
	return cfg, nil
}
