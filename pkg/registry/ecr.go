package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"
	"github.com/google/go-containerregistry/pkg/authn"
)

// ecrLife is how long a password of ECR is used; it ends after 12 hours.
const ecrLife = 6 * time.Hour

// newECR asks AWS for a password when one is needed.
func newECR(host string, fetch func(ctx context.Context, host string) (*api.Auth, error)) authn.Authenticator {
	return newFetched(ecrLife, func(ctx context.Context) (*authn.AuthConfig, error) {
		auth, err := waitFor(ctx, func() (*api.Auth, error) { return fetch(ctx, host) })
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return nil, &keychainError{
				fmt.Errorf("getting a password for %s from AWS: %w", host, err),
				"AWS needs credentials (environment, profile, web identity or instance role) that allow ecr:GetAuthorizationToken",
			}
		}
		return &authn.AuthConfig{Username: auth.Username, Password: auth.Password}, nil
	})
}

// password asks for one through the library's client and not through its
// Docker interface, which hides why it fails, and knows neither roles nor the
// endpoints that a host's name asks for.
func (a AWS) password(ctx context.Context, host string, getenv func(string) string) (*api.Auth, error) {
	cfg, _, err := a.config(ctx, host, getenv)
	if err != nil {
		return nil, err
	}
	return api.DefaultClientFactory{}.NewClient(cfg).GetCredentials(host)
}
