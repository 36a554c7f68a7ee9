package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/aws/smithy-go"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// PullThrough is a rule by which a registry of ECR keeps what is pulled from
// another one. https://docs.aws.amazon.com/AmazonECR/latest/userguide/pull-through-cache.html
type PullThrough struct {
	// Host of the registry, and what names of its repositories begin with.
	Registry, Prefix string
	// Host of the other registry, such as registry-1.docker.io.
	Upstream string
	// ARN of the secret with credentials for that; empty: none are needed.
	Credentials string
}

// CreatePullThrough makes the client's rules, unless they are there, once in the
// life of a client; of many that make the same one at the same time all succeed.
// A rule that has other credentials gets these; one that leads elsewhere is
// failure.ErrInput, since images are already pulled by it.
func (c *Client) CreatePullThrough(ctx context.Context) error {
	c.rules.mu.Lock()
	defer c.rules.mu.Unlock()
	for ; len(c.rules.left) > 0; c.rules.left = c.rules.left[1:] {
		rule := c.rules.left[0]
		err := c.createRule(ctx, rule)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return explainRule(rule, err)
		}
	}
	return nil
}

// pullThrough is what is left to be made.
type pullThrough struct {
	mu   sync.Mutex
	left []PullThrough
}

func (c *Client) createRule(ctx context.Context, rule PullThrough) error {
	cfg, host, err := c.aws.config(ctx, rule.Registry, c.getenv)
	if err != nil {
		return err
	}
	if host.public {
		return failure.Input("ECR Public keeps nothing of other registries")
	}
	client := ecr.NewFromConfig(cfg)
	describe := func() (*types.PullThroughCacheRule, error) {
		found, err := client.DescribePullThroughCacheRules(ctx, &ecr.DescribePullThroughCacheRulesInput{RegistryId: &host.account, EcrRepositoryPrefixes: []string{rule.Prefix}})
		if is[*types.PullThroughCacheRuleNotFoundException](err) || err == nil && len(found.PullThroughCacheRules) == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return &found.PullThroughCacheRules[0], nil
	}
	there, err := describe()
	if err != nil {
		return err
	}
	if there == nil {
		in := &ecr.CreatePullThroughCacheRuleInput{RegistryId: &host.account, EcrRepositoryPrefix: &rule.Prefix, UpstreamRegistryUrl: &rule.Upstream}
		if rule.Credentials != "" {
			in.CredentialArn = &rule.Credentials
		}
		_, err := client.CreatePullThroughCacheRule(ctx, in)
		if !is[*types.PullThroughCacheRuleAlreadyExistsException](err) {
			return err
		}
		if there, err = describe(); err != nil || there == nil {
			return err
		}
	}
	if got := aws.ToString(there.UpstreamRegistryUrl); got != rule.Upstream {
		return failure.WithHint(failure.Input("it leads to %s", quote.Text(got)), "another prefix, or aws ecr delete-pull-through-cache-rule --ecr-repository-prefix %s", quote.Shell(rule.Prefix))
	}
	if rule.Credentials == "" || aws.ToString(there.CredentialArn) == rule.Credentials {
		return nil
	}
	_, err = client.UpdatePullThroughCacheRule(ctx, &ecr.UpdatePullThroughCacheRuleInput{RegistryId: &host.account, EcrRepositoryPrefix: &rule.Prefix, CredentialArn: &rule.Credentials})
	return err
}

// explainRule says which rule could not be made, and what AWS has to allow.
func explainRule(rule PullThrough, err error) error {
	const op = "creating the pull-through cache"
	what := rule.Registry + "/" + rule.Prefix
	if hint := failure.Hint(err); hint != "" && errors.Is(err, failure.ErrInput) {
		return failure.WithHint(fmt.Errorf("%s %s: %w", op, what, err), "%s", hint)
	}
	out := explainAWS(op, what, err)
	if call, ok := errors.AsType[*smithy.OperationError](err); ok && denied(err) {
		return failure.WithHint(out, "AWS has to allow ecr:%s", call.Operation())
	}
	return out
}
