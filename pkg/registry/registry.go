// Package registry gives access to OCI registries: references, credentials,
// and one transport for the whole process with a request budget and retries.
package registry

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/time/rate"
)

// Options say how registries are reached; the zero value is good for use.
type Options struct {
	// Insecure lists registries (host[:port]; without a port, every port of
	// the host) that may be reached over plain HTTP. Loopback always may.
	Insecure []string
	// Keychain finds credentials; nil: the Docker configuration, then the ECR
	// credential helper's library for hosts of ECR, then the GitLab job's, then
	// those of GitHub, Google and Azure for their own registries.
	Keychain authn.Keychain
	// Transport sends requests; nil: one like http.DefaultTransport.
	Transport http.RoundTripper
	// Patience is how long one request is tried again; 0: two minutes.
	Patience time.Duration
	// RPS is how many requests a second this client sends; 0: 50. Bursts of
	// twice as many are allowed.
	RPS float64
	// Budget is one that several clients share, see NewBudget; it goes before
	// RPS.
	Budget *rate.Limiter
	// AWS says how AWS is signed in to for registries of ECR.
	AWS AWS
	// Create says how repositories of ECR that are missing are made before
	// something is written to them; nil: they are not.
	Create *Creation
	// PullThrough are rules of ECR that CreatePullThrough makes.
	PullThrough []PullThrough
	// Getenv reads the environment; nil: os.Getenv. The Docker configuration
	// and AWS are always looked for in the process's own environment.
	Getenv func(string) string
	// UserAgent of every request; empty: pipegen.
	UserAgent string
	// Warn takes one line that is safe for a log; nil: warnings are dropped.
	Warn func(string)
}

// Client talks to registries. Connections, the answer to the first ping of a
// registry and tokens are kept for its life. It is safe for concurrent use.
type Client struct {
	transport *roundTripper
	keychain  authn.Keychain
	aws       AWS
	getenv    func(string) string
	create    *creator // nil: repositories are not created
	rules     pullThrough

	mu        sync.Mutex
	pushing   map[string]bool     // repositories that will be written
	accesses  map[string]*access  // by scope and repository
	platforms map[string]Platform // by digest of a manifest whose config was read

	pusher func() (*remote.Pusher, error)
}

// New makes a client. It sends nothing and reads no credential before they
// are needed.
func New(o Options) *Client {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Keychain == nil {
		o.Keychain = newKeychain(o.AWS, o.Getenv, o.Warn)
	}
	if o.UserAgent == "" {
		o.UserAgent = "pipegen"
	}
	c := &Client{
		transport: newRoundTripper(o),
		keychain:  o.Keychain,
		aws:       o.AWS,
		getenv:    o.Getenv,
		pushing:   map[string]bool{},
		accesses:  map[string]*access{},
		platforms: map[string]Platform{},
	}
	if k, ok := c.keychain.(*keychain); ok {
		k.transport = c.transport
	}
	if o.Create != nil {
		c.create = newCreator(*o.Create, o.AWS, o.Getenv)
	}
	c.rules.left = o.PullThrough
	c.pusher = sync.OnceValues(c.newPusher)
	return c
}

// Descriptor says what a manifest is.
type Descriptor struct {
	MediaType string
	Digest    string
	// Size in bytes.
	Size int64
}

// WillPush says that repository will be written to: its first token then
// covers pulling and pushing, where two would be asked for otherwise.
func (c *Client) WillPush(repository string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushing[repository] = true
}

// access is the authenticated access to one repository.
type access struct {
	busy chan struct{} // holds one token while nobody opens it
	http *http.Client
}

// open gives the HTTP client for a repository. A failure to open one is
// not kept: the next caller tries again.
func (c *Client) open(ctx context.Context, ref Reference, push bool) (*http.Client, error) {
	repository := ref.Repository()
	if push {
		if err := c.CreateRepository(ctx, repository, false); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	if push {
		c.pushing[repository] = true
	}
	scope := transport.PullScope
	if c.pushing[repository] {
		scope = transport.PushScope
	}
	key := scope + " " + repository
	s := c.accesses[key]
	if s == nil {
		s = &access{busy: make(chan struct{}, 1)}
		s.busy <- struct{}{}
		c.accesses[key] = s
	}
	c.mu.Unlock()

	select {
	case <-s.busy:
		defer func() { s.busy <- struct{}{} }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.http != nil {
		return s.http, nil
	}
	reg, err := c.reach(ctx, ref.Host)
	if err != nil {
		return nil, err
	}
	repo := reg.Repo(ref.Path)
	auth, err := authn.Resolve(ctx, c.keychain, repo)
	if err != nil {
		return nil, err
	}
	rt, err := transport.NewWithContext(ctx, reg, auth, c.transport, []string{repo.Scope(scope)})
	if err != nil {
		return nil, err
	}
	s.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return s.http, nil
}

// registry gives the library's name of a host, with plain HTTP only where it
// is allowed.
func (c *Client) registry(host string) (name.Registry, error) {
	options := []name.Option{name.StrictValidation}
	if c.transport.plainAllowed(host) {
		options = append(options, name.Insecure)
	}
	return name.NewRegistry(host, options...)
}

// sleep waits, or ends with the context.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
