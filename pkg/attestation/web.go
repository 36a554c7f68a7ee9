package attestation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// How often a service is asked, and the first pause between two attempts,
	// which doubles.
	attempts   = 5
	firstRetry = 500 * time.Millisecond
	// How long one answer may take, and how large it may be.
	patience  = 30 * time.Second
	maxAnswer = 4 << 20
)

// web asks the services of Sigstore.
type web struct{ transport http.RoundTripper }

type request struct {
	method, url string
	// bearer is a secret; empty: none is sent.
	bearer string
	// contentType of a body of bytes; other bodies are JSON.
	contentType string
	body        any
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

// ask sends a request, again while the service is busy or out of reach, and
// reads the answer: as JSON into out, or as it is if out is a *[]byte.
func (w web) ask(ctx context.Context, what string, r request, out any) (http.Header, error) {
	u, err := url.Parse(r.url)
	if err != nil || u.Host == "" {
		return nil, failure.Input("%s: %q is no URL", what, quote.URL(r.url))
	}
	if u.Scheme != "https" && !registry.IsLoopback(u.Host) {
		return nil, failure.Input("%s: %s is not reached by https", what, quote.URL(r.url))
	}
	body, ok := r.body.([]byte)
	contentType := r.contentType
	if !ok && r.body != nil {
		contentType = "application/json"
		if body, err = json.Marshal(r.body); err != nil {
			return nil, err
		}
	}
	pause := firstRetry
	for attempt := 1; ; attempt++ {
		header, answer, err := w.once(ctx, r, contentType, body)
		if err == nil {
			return header, read(what, answer, out)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if answered, ok := errors.AsType[*statusError](err); attempt == attempts || ok && answered.status != http.StatusTooManyRequests && answered.status < 500 {
			return header, fmt.Errorf("%s: %w", what, err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-t.C:
		}
		pause *= 2
	}
}

func read(what string, answer []byte, out any) error {
	if raw, ok := out.(*[]byte); ok {
		*raw = answer
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: the answer cannot be read", what)
	}
	return nil
}

func (w web) once(ctx context.Context, r request, contentType string, body []byte) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", "pipegen")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	// Where a service sends a token on to is not for it to say.
	client := &http.Client{Transport: w.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		for errors.As(err, &ue) {
			err = ue.Err // the URL may carry what is nobody's business
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return resp.Header, nil, &statusError{resp.StatusCode, abridged(answer)}
	}
	return resp.Header, answer, nil
}

// abridged makes what a service answers fit for a line.
func abridged(answer []byte) string {
	const longest = 300
	var said struct {
		Message string `json:"message"`
	}
	text := string(answer)
	if json.Unmarshal(answer, &said) == nil && said.Message != "" {
		text = said.Message
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	return quote.Text(quote.URL(text))
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}
