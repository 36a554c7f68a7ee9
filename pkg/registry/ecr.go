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

// ecrAuth asks AWS for a password when one is needed.
type ecrAuth struct {
	host  string
	fetch func(ctx context.Context, host string) (*api.Auth, error)

	busy    chan struct{} // holds one token while nobody asks
	current *authn.AuthConfig
	since   time.Time
}

func newECR(host string, fetch func(ctx context.Context, host string) (*api.Auth, error)) authn.Authenticator {
	a := &ecrAuth{host: host, fetch: fetch, busy: make(chan struct{}, 1)}
	a.busy <- struct{}{}
	return a
}

// Authorization implements authn.Authenticator.
func (a *ecrAuth) Authorization() (*authn.AuthConfig, error) {
	return a.AuthorizationContext(context.Background())
}

// AuthorizationContext implements authn.ContextAuthenticator.
func (a *ecrAuth) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	select {
	case <-a.busy:
		defer func() { a.busy <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if a.current != nil && time.Since(a.since) < ecrLife {
		return a.current, nil
	}
	auth, err := waitFor(ctx, func() (*api.Auth, error) { return a.fetch(ctx, a.host) })
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &keychainError{
			fmt.Errorf("getting a password for %s from AWS: %w", a.host, err),
			"AWS needs credentials (environment, profile, web identity or instance role) that allow ecr:GetAuthorizationToken",
		}
	}
	a.current, a.since = &authn.AuthConfig{Username: auth.Username, Password: auth.Password}, time.Now()
	return a.current, nil
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

var _ authn.ContextAuthenticator = (*ecrAuth)(nil)
