package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// ErrNotFound is what errors of Head, Get and List are when the registry has
// no such manifest, tag or repository.
var ErrNotFound = errors.New("not found")

// Error is a failed access to a registry, in one line without credentials.
type Error struct {
	// Op says what was attempted, for example "reading".
	Op string
	// Ref says with what: host, repository, and tag or digest.
	Ref string
	// Status is that of HTTP; 0 when there was no answer.
	Status int
	// Code is the registry's own, for example MANIFEST_UNKNOWN; may be empty.
	Code string
	// Message says what happened, in one line.
	Message string

	err error
}

func (e *Error) Error() string { return e.Op + " " + e.Ref + ": " + e.said() }

// Cause is what is wrong, and where: the same text for every reference that a
// registry cannot be asked for.
func (e *Error) Cause() string {
	host, _, _ := strings.Cut(e.Ref, "/")
	return host + ": " + e.said()
}

func (e *Error) said() string {
	if e.Status == 0 {
		return e.Message
	}
	s := strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func (e *Error) Unwrap() error { return e.err }

// Is makes a status of 404 ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// explain turns what the transport or the library says into an *Error with a
// hint. What the caller's context ended stays recognisable as that.
func (c *Client) explain(ctx context.Context, op string, r Reference, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, r, context.Cause(ctx))
	}
	if _, explained := errors.AsType[*Error](err); explained {
		return err
	}
	e := &Error{Op: op, Ref: r.String(), err: err}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		e.Status = te.StatusCode
		e.Message = said(te)
		if len(te.Errors) > 0 {
			e.Code = string(te.Errors[0].Code)
		}
		if hint := c.statusHint(r, te.StatusCode, e.Message); hint != "" {
			return failure.WithHint(e, "%s", hint)
		}
		return e
	}
	var hint string
	e.Message, hint = unreachable(r.Host, err)
	if hint == "" {
		return e
	}
	return failure.WithHint(e, "%s", hint)
}

// said gives the registry's own words in one line.
func said(te *transport.Error) string {
	texts := make([]string, 0, len(te.Errors))
	for _, d := range te.Errors {
		texts = append(texts, strings.TrimSpace(strings.TrimSuffix(string(d.Code)+": "+d.Message, ": ")))
	}
	text := strings.Join(texts, "; ")
	if text == "" {
		// The library puts a body that it does not understand at the end.
		_, text, _ = strings.Cut(te.Error(), fmt.Sprintf("unexpected status code %d %s: ", te.StatusCode, http.StatusText(te.StatusCode)))
	}
	return line(text)
}

// line makes text from the network fit for one line of a log.
func line(text string) string {
	const longest = 300
	text = quote.Text(quote.URL(strings.Join(strings.Fields(text), " ")))
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

// unreachable says why no answer came, and what to do about it.
func unreachable(host string, err error) (message, hint string) {
	var dns *net.DNSError
	var plain plainError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var keys *keychainError
	switch {
	case errors.As(err, &keys):
		return line(keys.Error()), keys.hint
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"), errors.As(err, &record):
		return "the registry speaks plain HTTP", "list " + host + " in publish.insecure of pipegen.yaml if that is meant to be"
	case errors.As(err, &unknown):
		return "TLS: the certificate is signed by an unknown authority", "set LOCAL_CA_CERTIFICATE to the authority's certificate or its path, or add it to the system's"
	case errors.As(err, &name), errors.As(err, &invalid):
		return line("TLS: " + root(err)), "the registry's certificate has to be put right"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "unknown host " + quote.Text(dns.Name), "check the registry's name and this machine's DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "is the registry running at " + host + "?"
	case strings.HasSuffix(err.Error(), "Proxy Authentication Required"):
		return "the proxy asks for a user and a password", "put them into HTTPS_PROXY: http://user:password@host:port"
	case errors.As(err, &plain):
		return line(plain.Error()), "list " + quote.Text(plain.host) + " in publish.insecure of pipegen.yaml if that is meant to be"
	}
	return line(root(err)), ""
}

// root gives an error's text without the request that the standard library
// puts before it, whose URL may carry signatures.
func root(err error) string {
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	return err.Error()
}

// statusHint says what to do about an answer that is no success.
func (c *Client) statusHint(r Reference, status int, message string) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		source := "those of the given keychain"
		if k, ok := c.keychain.(*keychain); ok {
			source = k.source(r.Host)
		}
		if source == "" {
			return "no credentials for " + r.Host + " were found: sign in with docker login, or set DOCKER_CONFIG"
		}
		return "the credentials used were " + source
	case http.StatusTooManyRequests:
		return "the registry limits requests: lower the request budget, or try again later"
	case http.StatusNotFound:
		if strings.Contains(message, "NAME_UNKNOWN") {
			return "the repository does not exist; some registries (ECR) want it created before the first push"
		}
	}
	return ""
}
