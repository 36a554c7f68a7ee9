package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/quote"
)

// The places that credentials come from, in the order they are asked.
const (
	fromVariable = "from DOCKER_AUTH_CONFIG"
	fromDocker   = "from the Docker configuration"
	fromECR      = "from AWS, by the ECR credential helper"
	fromGitLab   = "the GitLab job's CI_REGISTRY_USER and CI_REGISTRY_PASSWORD"
)

// keychain is the default chain of sources. It remembers which of them had
// something for a host, for hints and for the engines' configuration.
type keychain struct {
	docker authn.Keychain
	aws    AWS
	ecr    func(host string) authn.Authenticator
	getenv func(string) string
	warn   func(string)
	// What tokens of clouds are asked through.
	transport http.RoundTripper

	mu      sync.Mutex
	sources map[string]string              // by host
	ecrs    map[string]authn.Authenticator // by host
	clouds  map[string]authn.Authenticator // by host
	warned  bool
}

func newKeychain(aws AWS, getenv func(string) string, warn func(string)) *keychain {
	return &keychain{
		docker: authn.DefaultKeychain, aws: aws, getenv: getenv, warn: warn,
		ecr: func(host string) authn.Authenticator {
			return newECR(host, func(ctx context.Context, host string) (*api.Auth, error) { return aws.password(ctx, host, getenv) })
		},
		sources: map[string]string{}, ecrs: map[string]authn.Authenticator{}, clouds: map[string]authn.Authenticator{},
		transport: http.DefaultTransport,
	}
}

// keychainError is a source of credentials that failed.
type keychainError struct {
	err  error
	hint string
}

func (e *keychainError) Error() string { return e.err.Error() }
func (e *keychainError) Unwrap() error { return e.err }

// Resolve implements authn.Keychain.
func (k *keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (k *keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	host := target.RegistryStr()
	// The Docker configuration knows no roles: a helper that it names would
	// answer with the password of somebody else.
	if _, asked := k.aws.Registries[host]; asked && isECR(host) {
		return k.found(host, fromECR, k.ecrFor(host)), nil
	}
	if auth := k.fromVariable(target); auth != nil {
		return k.found(host, fromVariable, auth), nil
	}
	auth, err := waitFor(ctx, func() (authn.Authenticator, error) { return authn.Resolve(ctx, k.docker, target) })
	if err == nil && auth != authn.Anonymous {
		return k.found(host, fromDocker, auth), nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	switch {
	case isECR(host):
		return k.found(host, fromECR, k.ecrFor(host)), nil
	case err != nil && missingHelper(err):
		// A credsStore applies to every host; for one whose credentials it
		// does not hold, its absence changes nothing.
		k.warnOnce("the Docker configuration names a credential helper that is not installed: " + line(err.Error()))
	case err != nil:
		return nil, &keychainError{fmt.Errorf("reading the Docker configuration: %w", err), "check $DOCKER_CONFIG/config.json or ~/.docker/config.json"}
	}
	if user, password := k.getenv("CI_REGISTRY_USER"), k.getenv("CI_REGISTRY_PASSWORD"); user != "" && password != "" && strings.EqualFold(k.getenv("CI_REGISTRY"), host) {
		return k.found(host, fromGitLab, &authn.Basic{Username: user, Password: password}), nil
	}
	if auth, source := k.cloudFor(host); auth != nil {
		return k.found(host, source, auth), nil
	}
	return authn.Anonymous, nil
}

func (k *keychain) found(host, source string, auth authn.Authenticator) authn.Authenticator {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sources[host] = source
	return auth
}

// source says where the credentials for a host came from; "" for none.
func (k *keychain) source(host string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sources[host]
}

func (k *keychain) ecrFor(host string) authn.Authenticator {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ecrs[host] == nil {
		k.ecrs[host] = k.ecr(host)
	}
	return k.ecrs[host]
}

// cloudFor is cloud, with one authenticator for each host.
func (k *keychain) cloudFor(host string) (authn.Authenticator, string) {
	auth, source := k.cloud(host)
	if auth == nil {
		return nil, ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clouds[host] == nil {
		k.clouds[host] = auth
	}
	return k.clouds[host], source
}

func (k *keychain) warnOnce(text string) {
	k.mu.Lock()
	warned := k.warned
	k.warned = true
	k.mu.Unlock()
	if !warned {
		k.warn(text)
	}
}

// missingHelper recognises what the Docker configuration's library says when
// docker-credential-NAME is not there; it wraps nothing.
func missingHelper(err error) bool {
	return strings.Contains(err.Error(), "executable file not found")
}

// waitFor runs f, which knows no context, and stops waiting when ctx ends.
func waitFor[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// DockerConfig gives a Docker config.json that holds the credentials for
// these hosts and no others, for engines that run in a file system of their
// own: as passwords, so that nobody there needs a helper or credentials of AWS.
// Those of ECR last 12 hours. Hosts without credentials are left out. The
// result is a secret.
func (c *Client) DockerConfig(ctx context.Context, hosts []string) ([]byte, error) {
	config := struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}{map[string]authn.AuthConfig{}}
	for _, host := range hosts {
		if host == "docker.io" {
			host = name.DefaultRegistry
		}
		reg, err := c.registry(host)
		if err != nil {
			return nil, fmt.Errorf("finding credentials for %s: %w", quote.Text(host), err)
		}
		auth, err := authn.Resolve(ctx, c.keychain, reg)
		if err != nil {
			return nil, c.explain(ctx, "finding credentials for", Reference{Host: host}, err)
		}
		if auth == authn.Anonymous {
			continue
		}
		resolved, err := authn.Authorization(ctx, auth)
		if err != nil {
			return nil, c.explain(ctx, "finding credentials for", Reference{Host: host}, err)
		}
		if *resolved == (authn.AuthConfig{}) {
			continue
		}
		key := host
		if host == name.DefaultRegistry {
			key = authn.DefaultAuthKey
		}
		config.Auths[key] = *resolved
	}
	return json.Marshal(config)
}
