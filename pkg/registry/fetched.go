package registry

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// fetched asks for credentials when they are needed, one asker at a time, and
// uses them for a while.
type fetched struct {
	life  time.Duration
	fetch func(ctx context.Context) (*authn.AuthConfig, error)

	busy    chan struct{} // holds one token while nobody asks
	current *authn.AuthConfig
	since   time.Time
}

func newFetched(life time.Duration, fetch func(ctx context.Context) (*authn.AuthConfig, error)) authn.Authenticator {
	a := &fetched{life: life, fetch: fetch, busy: make(chan struct{}, 1)}
	a.busy <- struct{}{}
	return a
}

// Authorization implements authn.Authenticator.
func (a *fetched) Authorization() (*authn.AuthConfig, error) {
	return a.AuthorizationContext(context.Background())
}

// AuthorizationContext implements authn.ContextAuthenticator.
func (a *fetched) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	select {
	case <-a.busy:
		defer func() { a.busy <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if a.current != nil && time.Since(a.since) < a.life {
		return a.current, nil
	}
	got, err := a.fetch(ctx)
	if err != nil {
		return nil, err
	}
	a.current, a.since = got, time.Now()
	return got, nil
}

var _ authn.ContextAuthenticator = (*fetched)(nil)
