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

// isECR says whether a host is one of Amazon's: private, FIPS, other
// partitions, or public.ecr.aws.
func isECR(host string) bool {
	_, err := api.ExtractRegistry(host)
	return err == nil
}

// ecrAuth asks AWS for a password when one is needed.
type ecrAuth struct {
	host  string
	fetch func(host string) (*api.Auth, error)

	busy    chan struct{} // holds one token while nobody asks
	current *authn.AuthConfig
	since   time.Time
}

func newECR(host string) authn.Authenticator {
	a := &ecrAuth{host: host, fetch: fetchECR, busy: make(chan struct{}, 1)}
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
	auth, err := waitFor(ctx, func() (*api.Auth, error) { return a.fetch(a.host) })
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

// fetchECR goes through the library's client and not through its Docker
// interface, which hides why it fails.
func fetchECR(host string) (auth *api.Auth, err error) {
	// The library panics when the AWS configuration cannot be read.
	defer func() {
		if r := recover(); r != nil {
			auth, err = nil, fmt.Errorf("%v", r)
		}
	}()
	registry, err := api.ExtractRegistry(host)
	if err != nil {
		return nil, err
	}
	var client api.Client
	if registry.FIPS {
		client, err = api.DefaultClientFactory{}.NewClientWithFipsEndpoint(registry.Region)
		if err != nil {
			return nil, err
		}
	} else {
		client = api.DefaultClientFactory{}.NewClientFromRegion(registry.Region)
	}
	return client.GetCredentials(host)
}

var _ authn.ContextAuthenticator = (*ecrAuth)(nil)
