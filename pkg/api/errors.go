package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// What answers mean, for errors.Is on an *Error.
var (
	ErrUnauthorized = errors.New("the token is not known, or expired")  // 401
	ErrForbidden    = errors.New("the token does not allow that")       // 403
	ErrNotFound     = errors.New("there is no such thing")              // 404
	ErrConflict     = errors.New("it is not in a state that allows it") // 409
	ErrGone         = errors.New("it is there no more")                 // 410
)

// ErrImmutable says of a run that an image was not published since a tag that
// may not be moved holds another one.
var ErrImmutable = errors.New("an immutable tag holds another image")

var (
	errSlow   = errors.New("no answer in time")
	errSilent = errors.New("nothing came any more")
)

// Error is an answer that refuses a request. One with status 400, 413 or 422 is
// failure.ErrInput.
type Error struct {
	// The request: POST /v1/runs, or PUT and the host of another server.
	Request string
	Status  int
	// What the server says of it; all may be empty.
	Title, Detail, Hint string
	// Id of the request in the controller's logs; may be empty.
	ID string

	retryAfter time.Duration
}

// Error says what was refused and why, safe for a log.
func (e *Error) Error() string {
	what := e.Detail
	if what == "" {
		what = e.Title
	}
	if what == "" {
		what = strings.ToLower(http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s: %s (HTTP %d)", e.Request, what, e.Status)
}

// Is says what the status means.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return target == failure.ErrInput
	case http.StatusUnauthorized:
		return target == ErrUnauthorized
	case http.StatusForbidden:
		return target == ErrForbidden
	case http.StatusNotFound:
		return target == ErrNotFound
	case http.StatusConflict:
		return target == ErrConflict
	case http.StatusGone:
		return target == ErrGone
	}
	return false
}

// Temporary says whether the same request may do better later.
func (e *Error) Temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// ConnectionError says that no whole answer came.
type ConnectionError struct {
	// As in Error.
	Request string
	err     error
}

// Error says what was asked and what happened, without the query of an address.
func (e *ConnectionError) Error() string { return e.Request + ": " + quote.URL(e.err.Error()) }

// Unwrap gives what happened.
func (e *ConnectionError) Unwrap() error { return e.err }

// name gives a request as errors tell it. Addresses that are signed hold a
// secret in their query.
func (c *Client) name(req *http.Request) string {
	if req.URL.Host == c.base.Host {
		return req.Method + " " + quote.Text(strings.TrimPrefix(req.URL.Path, strings.TrimSuffix(c.base.Path, "/")))
	}
	return req.Method + " " + quote.Text(req.URL.Host)
}

// broken gives an error of a connection; the context's own cause if that ended it.
func (c *Client) broken(ctx context.Context, req *http.Request, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if !errors.Is(cause, errSlow) && !errors.Is(cause, errSilent) {
			return cause
		}
		err = cause
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if what != "" {
		err = fmt.Errorf("%s: %w", what, err)
	}
	if unknown, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		err = failure.Input("%s: the certificate is not trusted: %w", c.name(req), unknown.Err)
		return failure.WithHint(err, "name the authority in LOCAL_CA_CERTIFICATE")
	}
	return &ConnectionError{c.name(req), err}
}

// refused reads an answer that is no good one.
func (c *Client) refused(req *http.Request, res *http.Response) error {
	e := &Error{Request: c.name(req), Status: res.StatusCode, retryAfter: after(res.Header.Get("Retry-After"))}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	var p Problem
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(text, &p) == nil {
		e.Title, e.Detail, e.Hint, e.ID = safe(token, p.Title), safe(token, p.Detail), safe(token, p.Hint), safe(token, p.Request)
	}
	if res.StatusCode/100 == 3 {
		e.Detail = "it redirects to another address"
		if to, err := res.Location(); err == nil {
			e.Hint = "the controller's address may be " + quote.Text(to.Scheme+"://"+to.Host)
		}
	}
	if e.Hint == "" {
		return e
	}
	return failure.WithHint(e, "%s", e.Hint)
}

// safe gives a text of the server's for messages: it may say the token again.
func safe(token, text string) string {
	if token != "" {
		text = strings.ReplaceAll(text, token, "***")
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = quote.Text(line)
	}
	return quote.URL(strings.Join(lines, "\n"))
}

// after reads Retry-After (RFC 9110): seconds, or a date. What is longer than a
// pause would be is cut.
func after(value string) time.Duration {
	if n, err := strconv.Atoi(value); err == nil && n > 0 {
		return min(time.Duration(n)*time.Second, time.Minute)
	}
	if t, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(t), 0), time.Minute)
	}
	return 0
}
