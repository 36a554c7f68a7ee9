package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
)

// ping is the answer to GET /v2/, which says how a registry wants to be
// authenticated to. It is the same for every repository, so one is enough.
type ping struct {
	busy   chan struct{} // holds one token while nobody asks the registry
	status int
	header http.Header
	err    error
}

func isPing(in *http.Request) bool {
	return in.Method == http.MethodGet && in.URL.Path == "/v2/" && in.URL.RawQuery == ""
}

// ping answers from memory, or asks the registry. Only answers that the
// protocol knows (200 and 401) are kept.
func (t *roundTripper) ping(in *http.Request) (*http.Response, error) {
	p, err := t.lockPing(in.Context(), in.URL.Scheme+"://"+in.URL.Host)
	if err != nil {
		return nil, err
	}
	defer func() { p.busy <- struct{}{} }()
	switch {
	case p.err != nil:
		return nil, p.err
	case p.status != 0:
		return &http.Response{
			Status: http.StatusText(p.status), StatusCode: p.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: p.header.Clone(), Body: io.NopCloser(bytes.NewReader(nil)), Request: in,
		}, nil
	}
	resp, err := t.send(in)
	if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized) {
		p.status, p.header = resp.StatusCode, resp.Header.Clone()
	}
	return resp, err
}

func (t *roundTripper) lockPing(ctx context.Context, origin string) (*ping, error) {
	fresh := &ping{busy: make(chan struct{}, 1)}
	fresh.busy <- struct{}{}
	v, _ := t.pings.LoadOrStore(origin, fresh)
	p := v.(*ping)
	select {
	case <-p.busy:
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reach gives the library's name of a registry that may use plain HTTP, after
// finding out whether it does: the library would ask both ways at once and
// take what answers first. HTTPS is tried first, and plain HTTP only when
// nothing there speaks TLS.
func (c *Client) reach(ctx context.Context, host string) (name.Registry, error) {
	reg, err := c.registry(host)
	if err != nil || !c.transport.plainAllowed(host) {
		return reg, err
	}
	client := &http.Client{Transport: c.transport, CheckRedirect: checkRedirect}
	first := func(scheme string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			drain(resp)
		}
		return err
	}
	overTLS := first("https")
	var certificate *tls.CertificateVerificationError
	if overTLS == nil || ctx.Err() != nil || errors.As(overTLS, &certificate) {
		return reg, overTLS
	}
	if err := first("http"); err != nil {
		return reg, err
	}
	p, err := c.transport.lockPing(ctx, "https://"+host)
	if err != nil {
		return reg, err
	}
	p.err = overTLS
	p.busy <- struct{}{}
	return reg, nil
}
