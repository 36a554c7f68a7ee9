package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// defaultPatience is how long a call is tried again.
	defaultPatience = 30 * time.Second
	// answering is how long one attempt at a call may take.
	answering = 30 * time.Second
	// silence is how long a body that streams may bring nothing.
	silence = 90 * time.Second
	// Limits of the pause between two attempts.
	firstPause, longestPause = 200 * time.Millisecond, 10 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes; plans are the largest.
	maxAnswer = 64 << 20
)

// ClientOptions say how a controller is reached.
type ClientOptions struct {
	// Where it is: http or https, with the path that a proxy puts before it.
	URL string
	// Bearer token, a secret; empty: none is sent.
	Token string
	// Gives a token in the place of Token where one does not last; may be nil.
	Tokens TokenSource
	// Whether the token may travel over plain HTTP to other machines than this
	// one.
	Insecure bool
	// Certificates (PEM) to trust beside the system's.
	CACerts []byte
	// How long a call is tried again while the controller cannot be reached or
	// cannot answer; 0: half a minute; less: not at all.
	Patience time.Duration
	// Of every request; empty: pipegen.
	UserAgent string
	// Sends requests; nil: one with proxies from the environment.
	Transport http.RoundTripper
	// Is told of each attempt that failed and will be made again; may be nil.
	Retrying func(err error, pause time.Duration)
}

// Client talks to a controller. All its calls can be made again without harm,
// and are, with pauses that grow, after answers 408, 429, 500, 502, 503 and 504 and when a
// connection broke. It is safe for concurrent use.
type Client struct {
	base      *url.URL
	tokens    TokenSource
	trace     string
	userAgent string
	http      *http.Client
	patience  time.Duration
	retrying  func(error, time.Duration)

	answering, silence, firstPause time.Duration
}

// NewClient makes a client. It sends nothing. Wrong options wrap
// failure.ErrInput.
func NewClient(o ClientOptions) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, failure.WithHint(failure.Input("%q is no address of a controller", quote.URL(o.URL)), "it looks like https://pipegen.example.com")
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, failure.Input("the controller's address %q has a user, a query or a fragment", quote.URL(o.URL))
	}
	if err := checkToken(o.Token); err != nil {
		return nil, err
	}
	if base.Scheme == "http" && (o.Token != "" || o.Tokens != nil) && !o.Insecure && !isLoopback(base.Hostname()) {
		return nil, failure.WithHint(failure.Input("refusing to send a token to %s over plain HTTP", quote.Text(base.Host)), "use https, or --insecure in a network that nobody listens to")
	}
	if o.Transport == nil {
		t, err := transport(o.CACerts)
		if err != nil {
			return nil, err
		}
		o.Transport = t
	}
	if o.Tokens == nil {
		o.Tokens = fixed(o.Token)
	}
	if o.Retrying == nil {
		o.Retrying = func(error, time.Duration) {}
	}
	return &Client{
		base: base, tokens: o.Tokens, userAgent: cmp.Or(o.UserAgent, "pipegen"), patience: cmp.Or(o.Patience, defaultPatience), retrying: o.Retrying,
		// A redirect is an answer: neither tokens nor signed headers go where it leads.
		http:      &http.Client{Transport: o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		answering: answering, silence: silence, firstPause: firstPause,
	}, nil
}

// Patient gives a client that tries calls again for d and is the same in all
// else.
func (c *Client) Patient(d time.Duration) *Client {
	patient := *c
	patient.patience = d
	return &patient
}

// Traced gives a client whose requests belong to a trace (W3C traceparent;
// empty: to none) and that is the same in all else.
func (c *Client) Traced(traceparent string) *Client {
	traced := *c
	traced.trace = traceparent
	return &traced
}

// URL gives the controller's address.
func (c *Client) URL() string { return c.base.String() }

func transport(caCerts []byte) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if len(caCerts) == 0 {
		return t, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(caCerts) {
		return nil, failure.Input("the certificates to trust hold none in PEM")
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// request is one call.
type request struct {
	method string
	// Elements of the path, not escaped.
	path   []string
	query  url.Values
	header http.Header
	body   any            // as JSON; nil: none
	out    any            // takes the answer; nil: it is not read
	ahead  *time.Duration // takes how far the controller's clock is before this one's; may be nil
}

// call makes a request until it is answered, or patience ends.
func (c *Client) call(ctx context.Context, r request) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("writing a request: %w", err)
		}
	}
	return c.again(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.answering, errSlow)
		defer cancel()
		req, err := c.request(ctx, r, body)
		if err != nil {
			return err
		}
		res, err := c.send(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if there, err := http.ParseTime(res.Header.Get("Date")); err == nil && r.ahead != nil {
			*r.ahead = time.Until(there)
		}
		if r.out == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
		} else {
			err = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(r.out)
		}
		if err != nil {
			return c.broken(ctx, req, "reading the answer", err)
		}
		return nil
	})
}

func (c *Client) request(ctx context.Context, r request, body []byte) (*http.Request, error) {
	u := *c.base
	escaped := make([]string, len(r.path))
	for i, p := range r.path {
		if p == "" || p == "." || p == ".." {
			return nil, failure.Input("%q is no name of something that a controller has", p)
		}
		escaped[i] = url.PathEscape(p)
	}
	u.Path = strings.TrimSuffix(c.base.Path, "/") + "/v1/" + strings.Join(r.path, "/")
	u.RawPath = strings.TrimSuffix(c.base.EscapedPath(), "/") + "/v1/" + strings.Join(escaped, "/")
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("making a request: the address cannot be used")
	}
	maps.Copy(req.Header, r.header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if a := r.header.Get("Accept"); a != "" {
		req.Header.Set("Accept", a)
	}
	return req, c.identify(req)
}

// identify says to the controller who calls.
func (c *Client) identify(req *http.Request) error {
	req.Header.Set("User-Agent", c.userAgent)
	if c.trace != "" {
		req.Header.Set("Traceparent", c.trace)
	}
	return c.authorize(req)
}

// send makes an attempt; every answer but a good one is an error, and its body
// is read.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(req.Context(), req, "", err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.refused(req, res)
}

// again makes attempts until one does well or fails for good.
func (c *Client) again(ctx context.Context, attempt func(context.Context) error) error {
	b := c.backoff()
	for {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if err := b.wait(ctx, err); err != nil {
			return err
		}
	}
}

// backoff paces attempts at one thing.
type backoff struct {
	client  *Client
	started time.Time
	pause   time.Duration
}

func (c *Client) backoff() backoff { return backoff{c, time.Now(), c.firstPause} }

// wait waits until it is time for another attempt after one that failed with
// err, or gives the error to end with.
func (b *backoff) wait(ctx context.Context, err error) error {
	wait, ok := retryable(err)
	if !ok || ctx.Err() != nil {
		return err
	}
	// Half of the pause is left to chance, so that callers do not come back together.
	wait = max(wait, b.pause/2+rand.N(b.pause/2+1)) //nolint:gosec // no secret
	if time.Since(b.started)+wait > b.client.patience {
		return err
	}
	b.pause = min(2*b.pause, longestPause)
	b.client.retrying(err, wait)
	return sleep(ctx, wait)
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

// retryable says whether another attempt may help, and after how long at the
// earliest.
func retryable(err error) (time.Duration, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.retryAfter, e.Temporary()
	}
	_, ok := errors.AsType[*ConnectionError](err)
	return 0, ok
}
