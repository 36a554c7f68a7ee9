package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	defaultRPS      = 50
	defaultPatience = 2 * time.Minute
	// How long a connection may be silent before it counts as dead.
	silence = 30 * time.Second
	// Limits of the pause between two attempts.
	firstPause, longestPause = 500 * time.Millisecond, 15 * time.Second
)

// errSilent ends a request whose peer stopped sending.
var errSilent = errors.New("the registry stopped answering")

// plainError refuses plain HTTP to a host that was not allowed to use it.
type plainError struct{ host string }

func (e plainError) Error() string {
	return "refusing plain HTTP to " + quote.Text(e.host)
}

// errDowngrade refuses a redirect from HTTPS to plain HTTP.
var errDowngrade = errors.New("refusing a redirect from https to http")

// roundTripper is what every request of a client goes through: it refuses
// plain HTTP, keeps the request budget, tries again what can succeed, and
// gives up on silent connections.
type roundTripper struct {
	base      http.RoundTripper
	budget    *rate.Limiter
	insecure  []string
	userAgent string

	patience, silence, firstPause time.Duration

	pings sync.Map // URL of /v2/ → *ping
}

func newRoundTripper(o Options) *roundTripper {
	if o.Transport == nil {
		o.Transport = NewTransport()
	}
	if o.Budget == nil {
		o.Budget = NewBudget(o.RPS)
	}
	return &roundTripper{
		base:       o.Transport,
		budget:     o.Budget,
		insecure:   o.Insecure,
		userAgent:  o.UserAgent,
		patience:   cmp.Or(o.Patience, defaultPatience),
		silence:    silence,
		firstPause: firstPause,
	}
}

// NewBudget gives the right to send rps requests a second, and twice as many
// at once; 0 or less: 50. Clients that share it send no more together.
func NewBudget(rps float64) *rate.Limiter {
	if rps <= 0 {
		rps = defaultRPS
	}
	return rate.NewLimiter(rate.Limit(rps), max(1, int(2*rps)))
}

// NewTransport is like http.DefaultTransport, proxies of the environment
// included, but keeps as many idle connections to one host as are used at once.
func NewTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		MaxIdleConnsPerHost:   50,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// plainAllowed says whether a host may be reached over plain HTTP.
func (t *roundTripper) plainAllowed(host string) bool {
	if IsLoopback(host) {
		return true
	}
	for _, allowed := range t.insecure {
		if strings.EqualFold(allowed, host) || strings.EqualFold(allowed, hostname(host)) {
			return true
		}
	}
	return false
}

// RoundTrip sends a request, again if need be, within the budget: after 429,
// 408 and 5xx, and when a connection broke, for as long as its patience lasts;
// after other statuses of 4xx never. Statuses
// that are left after the last attempt are returned as they are.
func (t *roundTripper) RoundTrip(in *http.Request) (*http.Response, error) {
	if err := t.refuse(in); err != nil {
		closeBody(in)
		return nil, err
	}
	if isPing(in) {
		return t.ping(in)
	}
	if in.GetBody != nil {
		// The library sends a request once more after a token has ended,
		// whose body is at its end then.
		body, err := in.GetBody()
		closeBody(in)
		if err != nil {
			return nil, err
		}
		in = in.Clone(in.Context())
		in.Body = body
	}
	return t.send(in)
}

// refuse looks at where a request goes, also after a redirect, for which the
// standard library tells what led to it.
func (t *roundTripper) refuse(in *http.Request) error {
	if in.URL.Scheme != "https" && !t.plainAllowed(in.URL.Host) {
		return plainError{in.URL.Host}
	}
	if in.Response != nil && in.Response.Request != nil && in.Response.Request.URL.Scheme == "https" && in.URL.Scheme != "https" {
		return errDowngrade
	}
	return nil
}

func (t *roundTripper) send(in *http.Request) (*http.Response, error) {
	ctx := in.Context()
	deadline := time.Now().Add(t.patience)
	for attempt := 0; ; attempt++ {
		if err := t.budget.Wait(ctx); err != nil {
			closeBody(in)
			return nil, budgetError(ctx, err)
		}
		out, err := t.attempt(in)
		if ctx.Err() != nil || !again(in, out, err) {
			return out, err
		}
		if probe := isPing(in) && in.URL.Scheme == "https" && t.plainAllowed(in.URL.Host); probe && out == nil {
			return nil, err // whatever listens there may not speak TLS
		}
		pause := t.pause(attempt, out)
		if time.Now().Add(pause).After(deadline) {
			return out, err
		}
		body, ok := replay(in)
		if !ok {
			return out, err
		}
		if out != nil {
			drain(out)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		in = in.Clone(ctx)
		in.Body = body
	}
}

// budgetError says context.DeadlineExceeded also when the limiter saw ahead
// that the deadline would pass.
func budgetError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if _, ok := ctx.Deadline(); ok {
		return fmt.Errorf("waiting for the request budget: %w", context.DeadlineExceeded)
	}
	return fmt.Errorf("waiting for the request budget: %w", err)
}

// attempt sends a request once and watches that the peer keeps talking.
func (t *roundTripper) attempt(in *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(in.Context())
	watch := time.AfterFunc(t.silence, func() { cancel(errSilent) })
	out := in.Clone(ctx)
	out.Header.Set("User-Agent", t.userAgent)
	if in.Body != nil && in.Body != http.NoBody {
		out.Body = &watched{in.Body, func() { watch.Reset(t.silence) }, nil, nil}
	}
	resp, err := t.base.RoundTrip(out)
	watch.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		cancel(nil)
		return nil, err
	}
	resp.Request = in
	resp.Body = &watched{
		ReadCloser: bounded(in, resp.Body),
		before:     func() { watch.Reset(t.silence) },
		after: func(err error) error {
			watch.Stop()
			if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(ctx), errSilent) {
				return errSilent
			}
			return err
		},
		closed: func() { watch.Stop(); cancel(nil) },
	}
	return resp, nil
}

// maxAnswer bounds all that a registry answers but blobs, in bytes: more than
// the largest manifest and than a page of tags.
const maxAnswer = 8 << 20

// errEndless ends a body that is longer than anything a registry says.
var errEndless = fmt.Errorf("the registry's answer has more than %d bytes", maxAnswer)

// bounded keeps a body from being endless; how long a blob may be its reader
// knows.
func bounded(in *http.Request, body io.ReadCloser) io.ReadCloser {
	first := in
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request // what led here
	}
	if first.Method == http.MethodGet && strings.Contains(first.URL.Path, "/blobs/") {
		return body
	}
	return &boundedBody{body, maxAnswer}
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		if n, err := b.ReadCloser.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, errEndless
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// watched is a body that tells when it is read.
type watched struct {
	io.ReadCloser
	before func()
	after  func(error) error
	closed func()
}

func (w *watched) Read(p []byte) (int, error) {
	w.before()
	n, err := w.ReadCloser.Read(p)
	if w.after != nil {
		err = w.after(err)
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	if w.closed != nil {
		w.closed()
	}
	return err
}

// again says whether the same request may succeed another time: after 429 and
// 5xx, and when the connection broke. What has an effect of its own (an upload
// in parts) is not sent again after it may have had it.
func again(in *http.Request, out *http.Response, err error) bool {
	repeatable := in.Method != http.MethodPatch && (in.Method != http.MethodPost || in.Body == nil || in.Body == http.NoBody)
	if err == nil {
		switch out.StatusCode {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			return true
		case http.StatusRequestTimeout: // RFC 9110, 15.5.9: the client may repeat it
			return repeatable
		}
		// 501 and 505 to 511 say that the request itself is not understood;
		// those above are of proxies that do not reach the registry.
		code := out.StatusCode
		return repeatable && code >= 500 && code != http.StatusNotImplemented && (code <= 504 || code > 511)
	}
	return repeatable && broken(err)
}

// broken says whether err is a connection that broke after it was made.
func broken(err error) bool {
	if errors.Is(err, errSilent) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) {
		return true
	}
	// The standard library has no values for these.
	text := err.Error()
	return strings.Contains(text, "server closed idle connection") || strings.Contains(text, "http2: server sent GOAWAY") ||
		strings.Contains(text, "connection broken") && !strings.Contains(text, "malformed")
}

// pause gives the time before the next attempt: the server's Retry-After, or
// one that doubles; both with jitter, so that many clients do not come back
// at once.
func (t *roundTripper) pause(attempt int, out *http.Response) time.Duration {
	if out != nil {
		if d, ok := retryAfter(out.Header.Get("Retry-After"), time.Now()); ok {
			return d + rand.N(d/10+t.firstPause/10+1) //nolint:gosec // jitter
		}
	}
	d := min(t.firstPause<<min(attempt, 10), longestPause)
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter
}

// retryAfter reads the header's two forms, seconds and date (RFC 9110, 10.2.3).
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if seconds, err := strconv.Atoi(s); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, 1<<20)) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// replay gives the body of a request once more, where that is possible.
func replay(in *http.Request) (io.ReadCloser, bool) {
	if in.Body == nil || in.Body == http.NoBody {
		return in.Body, true
	}
	if in.GetBody == nil {
		return nil, false
	}
	body, err := in.GetBody()
	return body, err == nil
}

func closeBody(in *http.Request) {
	if in.Body != nil {
		_ = in.Body.Close()
	}
}

// drain reads the rest of a small body, so that its connection can be used
// again.
func drain(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
}

// checkRedirect refuses to be led to plain HTTP, or from elsewhere to this
// machine or its metadata service.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	last := via[len(via)-1].URL
	if last.Scheme == "https" && req.URL.Scheme != "https" {
		return errDowngrade
	}
	to := req.URL.Hostname()
	if to != last.Hostname() && !IsLoopback(last.Host) {
		addr, err := netip.ParseAddr(to)
		if IsLoopback(to) || err == nil && addr.Unmap().IsLinkLocalUnicast() {
			return fmt.Errorf("refusing a redirect to %s", quote.Text(to))
		}
	}
	return nil
}
