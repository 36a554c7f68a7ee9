// Package uploadpack fetches objects from a git server over HTTP without the
// git program. It speaks version 2 of git's protocol, and version 0 with
// servers that know no better; see gitprotocol-http(5), gitprotocol-v2(5) and
// gitprotocol-pack(5).
package uploadpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

var (
	// ErrUnadvertised is wrapped by Fetch's error when the server gives out
	// nothing but its refs.
	ErrUnadvertised = errors.New("the server does not allow to ask for a commit by its hash")
	// ErrRefused is wrapped by errors that the server itself reports.
	ErrRefused = errors.New("the server refuses")
)

func refusal(said string) error {
	return fmt.Errorf("%w: %s", ErrRefused, strings.TrimSpace(strings.TrimPrefix(said, "upload-pack: ")))
}

// maxRefs bounds what is read of a server's list of refs, in bytes.
const maxRefs = 64 << 20

// Remote is a repository on a server.
type Remote struct {
	url    string
	client *http.Client
	header http.Header

	two          bool              // version 2
	capabilities map[string]string // name to value
	refs         []Ref             // version 0: what the server showed
}

// Ref is a name of a commit. What an annotated tag stands for comes as a Ref of
// its own, whose name ends in ^{}.
type Ref struct{ Name, Hash string }

// Dial asks what a server can do. The header is sent with every request, to
// this one server only: a redirection elsewhere is an error.
func Dial(ctx context.Context, transport http.RoundTripper, address string, header http.Header) (*Remote, error) {
	r := &Remote{
		url: strings.TrimSuffix(address, "/"), header: header,
		client: &http.Client{Transport: transport, CheckRedirect: sameHost},
	}
	res, err := r.do(ctx, http.MethodGet, "/info/refs?service=git-upload-pack", "", "application/x-git-upload-pack-advertisement")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if at, ok := strings.CutSuffix(res.Request.URL.String(), "/info/refs?service=git-upload-pack"); ok {
		r.url = at // where the server redirected to
	}
	return r, r.greet(newPackets(io.LimitReader(res.Body, maxRefs)))
}

func sameHost(next *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errors.New("the server redirects on and on")
	}
	was := via[0].URL
	if next.Method != http.MethodGet || next.URL.Hostname() != was.Hostname() ||
		next.URL.Host != was.Host && next.URL.Scheme != "https" || next.URL.Scheme != was.Scheme && next.URL.Scheme != "https" {
		return fmt.Errorf("the server redirects to %s", next.URL.Host)
	}
	return nil
}

func (r *Remote) do(ctx context.Context, method, path, body, want string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		return nil, errors.New("the address is malformed") // it may hold a credential
	}
	req.Header.Set("User-Agent", "git/pipegen")
	req.Header.Set("Git-Protocol", "version=2")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		req.Header.Set("Accept", want)
	}
	maps.Copy(req.Header, r.header)
	res, err := r.client.Do(req)
	if err != nil {
		// Its text would begin with the address.
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	if got := res.Header.Get("Content-Type"); got != want {
		res.Body.Close()
		return nil, fmt.Errorf("the server answers with %q, not as a git server", got)
	}
	return res, nil
}

// greet reads the answer to the first request.
func (r *Remote) greet(p *packets) error {
	k, line, err := p.line()
	if err == nil && strings.HasPrefix(line, "# service=") {
		if k, _, err = p.line(); err == nil && k == flush {
			k, line, err = p.line()
		}
	}
	r.capabilities = map[string]string{}
	if err == nil && k == data && line == "version 2" {
		r.two = true
		for {
			k, line, err = p.line()
			if err != nil || k != data {
				return err
			}
			r.can(line)
		}
	}
	for first := true; ; first = false {
		if err != nil || k != data {
			return err
		}
		ref, list, _ := strings.Cut(line, "\x00")
		if first {
			for c := range strings.FieldsSeq(list) {
				r.can(c)
			}
		}
		if hash, name, ok := strings.Cut(ref, " "); ok && isHash(hash) && strings.Trim(hash, "0") != "" {
			r.refs = append(r.refs, Ref{name, hash})
		}
		k, line, err = p.line()
	}
}

func (r *Remote) can(capability string) {
	name, value, _ := strings.Cut(capability, "=")
	r.capabilities[name] = value
}

// Filters says whether the server can leave objects out of a pack.
func (r *Remote) Filters() bool {
	if r.two {
		return slices.Contains(strings.Fields(r.capabilities["fetch"]), "filter")
	}
	_, ok := r.capabilities["filter"]
	return ok
}

// Refs gives the server's refs with one of these prefixes, in its order.
func (r *Remote) Refs(ctx context.Context, prefixes ...string) ([]Ref, error) {
	matches := func(ref Ref) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(ref.Name, p) })
	}
	if !r.two {
		return slices.DeleteFunc(slices.Clone(r.refs), func(ref Ref) bool { return !matches(ref) }), nil
	}
	var q request
	q.line("command=ls-refs")
	r.preface(&q)
	for _, p := range prefixes {
		q.line("ref-prefix %s", p)
	}
	q.end(flush)
	res, err := r.post(ctx, &q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var refs []Ref
	for p := newPackets(io.LimitReader(res.Body, maxRefs)); ; {
		k, line, err := p.line()
		if err != nil || k != data {
			return refs, err
		}
		hash, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, " ")
		if ref := (Ref{name, hash}); isHash(hash) && matches(ref) {
			refs = append(refs, ref)
		}
	}
}

func (r *Remote) preface(q *request) {
	if _, ok := r.capabilities["agent"]; ok {
		q.line("agent=git/pipegen")
	}
	if format, ok := r.capabilities["object-format"]; ok {
		q.line("object-format=%s", format)
	}
	q.end(delimiter)
}

func (r *Remote) post(ctx context.Context, q *request) (*http.Response, error) {
	return r.do(ctx, http.MethodPost, "/git-upload-pack", q.String(), "application/x-git-upload-pack-result")
}

func isHash(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}
