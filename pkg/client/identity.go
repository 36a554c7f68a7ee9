package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// The variables by which a job of GitHub Actions that may have an identity
// asks for it (https://docs.github.com/actions/reference/security/oidc).
const (
	identityAddress = "ACTIONS_ID_TOKEN_REQUEST_URL"
	identityBearer  = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
)

const (
	// identityAttempts is how often the service is asked for one token, which may
	// take so long each time.
	identityAttempts = 4
	identityTimeout  = 20 * time.Second
	// maxIdentity bounds what it answers, in bytes.
	maxIdentity = 64 << 10
	// forgetful is for how long a token is shown that does not say how long it
	// lasts.
	forgetful = time.Minute
)

// IdentityOptions say how a job asks for its identity.
type IdentityOptions struct {
	// Variables of the job.
	Getenv func(string) string
	// Whom tokens are for.
	Audience string
	// Sends requests; nil: as http.DefaultTransport does.
	Transport http.RoundTripper
	// Nil: time.Now.
	Now func() time.Time
	// Between attempts, doubled after each; 0: half a second.
	Pause time.Duration
}

// GitHubIdentity gives the tokens by which a job of GitHub Actions shows who it
// is: each until two thirds of its life are over, then another one. Where the
// job may not have any the error wraps failure.ErrInput.
func GitHubIdentity(o IdentityOptions) (api.TokenSource, error) {
	address, bearer := o.Getenv(identityAddress), o.Getenv(identityBearer)
	if address == "" || bearer == "" {
		return nil, failure.WithHint(failure.Input("this job has no identity to show to the controller: $%s is not set", identityAddress),
			"in GitHub Actions it needs permissions: {id-token: write}, which jobs of forks never have; elsewhere set PIPEGEN_TOKEN")
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, failure.Input("$%s is no URL", identityAddress)
	}
	q := u.Query()
	q.Set("audience", o.Audience)
	u.RawQuery = q.Encode()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == 0 {
		o.Pause = 500 * time.Millisecond
	}
	g := &gitHub{o: o, address: u, bearer: bearer, turn: make(chan struct{}, 1), client: &http.Client{
		Transport: o.Transport, Timeout: identityTimeout,
		// The bearer is for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return g.token, nil
}

// gitHub asks for tokens.
type gitHub struct {
	o       IdentityOptions
	address *url.URL
	bearer  string
	client  *http.Client

	turn        chan struct{} // has one element while somebody uses what follows
	held        string
	renew, ends time.Time
}

func (g *gitHub) token(ctx context.Context) (string, error) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-g.turn }()
	now := g.o.Now()
	if g.held != "" && now.Before(g.renew) {
		return g.held, nil
	}
	token, err := g.ask(ctx)
	switch {
	case err == nil:
		g.held = token
		g.renew, g.ends = life(token, g.o.Now())
		return token, nil
	case g.held != "" && now.Before(g.ends) && ctx.Err() == nil:
		return g.held, nil
	}
	return "", fmt.Errorf("asking GitHub for the identity of this job: %w", err)
}

// ask asks until there is an answer that says yes or no.
func (g *gitHub) ask(ctx context.Context) (string, error) {
	pause := g.o.Pause
	for attempt := 1; ; attempt++ {
		token, again, err := g.once(ctx)
		if err == nil || !again || attempt == identityAttempts || ctx.Err() != nil {
			return token, err
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return "", context.Cause(ctx)
		case <-t.C:
		}
		pause *= 2
	}
}

func (g *gitHub) once(ctx context.Context) (token string, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.address.String(), http.NoBody)
	if err != nil {
		return "", false, errors.New("its address cannot be used")
	}
	req.Header.Set("Authorization", "Bearer "+g.bearer)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pipegen")
	res, err := g.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", false, context.Cause(ctx)
		}
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return "", true, fmt.Errorf("%s: %w", quote.Text(g.address.Host), err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxIdentity))
	if err != nil {
		return "", true, fmt.Errorf("%s: %w", quote.Text(g.address.Host), err)
	}
	var answer struct {
		Value string `json:"value"`
	}
	switch {
	case res.StatusCode != http.StatusOK:
		return "", res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests, fmt.Errorf("%s answers %s", quote.Text(g.address.Host), res.Status)
	case json.Unmarshal(text, &answer) != nil || answer.Value == "":
		return "", false, fmt.Errorf("the answer of %s holds none", quote.Text(g.address.Host))
	}
	return answer.Value, false, nil
}

// life says until when a token that came now is shown, and is good. It goes by
// how long the token says that it lasts: clocks may differ.
func life(token string, now time.Time) (renew, ends time.Time) {
	var claims struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if raw, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(raw, &claims) // what is no such token does not say
		}
	}
	whole := time.Duration(claims.Expires-claims.Issued) * time.Second
	if claims.Issued <= 0 || whole <= 0 {
		return now.Add(forgetful), now.Add(forgetful)
	}
	return now.Add(whole * 2 / 3), now.Add(whole)
}
