package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	defaultLeeway = 30 * time.Second
	// maxIdentity bounds a token that is looked at, in bytes.
	maxIdentity = 32 << 10
)

// signatures are the algorithms that tokens may be signed with: none that has
// no key, and none whose key is not the issuer's alone.
var signatures = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Issuer is a CI system whose identity tokens (OpenID Connect Core 1.0) say
// which job of which project somebody is.
type Issuer struct {
	// As its tokens name it (iss): an https URL, http on loopback alone.
	URL string
	// What the names of its principals end with, after an @; empty: the host of
	// URL.
	Name string
	// Whom tokens are for (aud): one of these.
	Audience []string
	// How far its clock and this one may be apart; 0: half a minute.
	Leeway time.Duration
	// Ids (jti) of tokens that are refused before they expire.
	Revoked []string
	// The first whose claims all fit decides.
	Rules []Rule
}

// OIDCOptions are what identity tokens are checked with.
type OIDCOptions struct {
	Issuers []Issuer
	// Sends requests to issuers; nil: as http.DefaultTransport does.
	Transport http.RoundTripper
	// Now is the time that tokens are compared with; nil: time.Now.
	Now func() time.Time
	// Is told of keys that cannot be fetched; nil: nobody is.
	Logger *slog.Logger
}

// OIDC authenticates by identity tokens. It is safe for concurrent use.
type OIDC struct {
	issuers map[string]*issuer
	now     func() time.Time
}

// issuer is one whose options were found good.
type issuer struct {
	Issuer
	keys *keyring
}

// NewOIDC checks the options; wrong ones wrap failure.ErrInput. No issuer is
// asked for anything yet.
func NewOIDC(o OIDCOptions) (*OIDC, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	out := &OIDC{issuers: map[string]*issuer{}, now: o.Now}
	names := map[string]bool{}
	for _, i := range o.Issuers {
		if err := i.complete(); err != nil {
			return nil, err
		}
		if out.issuers[i.URL] != nil || names[i.Name] {
			return nil, failure.Input("there are two issuers %s", quote.Text(i.URL))
		}
		names[i.Name] = true
		out.issuers[i.URL] = &issuer{Issuer: i, keys: newKeyring(i.URL, o)}
	}
	return out, nil
}

// complete fills in defaults and says what is wrong; nil: nothing.
func (i *Issuer) complete() error {
	if err := CheckIssuer(i.URL); err != nil {
		return err
	}
	if i.Name == "" {
		u, err := url.Parse(i.URL)
		if err != nil {
			return failure.Input("the issuer is no URL")
		}
		i.Name = u.Host
	}
	if err := CheckIssuerName(i.Name); err != nil {
		return err
	}
	if i.Leeway == 0 {
		i.Leeway = defaultLeeway
	}
	if len(i.Audience) == 0 || slices.Contains(i.Audience, "") {
		return failure.Input("the issuer %s has no audience: tokens for anybody would be good here", quote.Text(i.URL))
	}
	for n := range i.Rules {
		if err := i.Rules[n].Check(); err != nil {
			return fmt.Errorf("issuer %s: rule %d: %w", quote.Text(i.URL), n+1, err)
		}
	}
	return nil
}

// Warm fetches the keys of all issuers, so that those that cannot be reached
// are known before the first token comes. The error says which.
func (o *OIDC) Warm(ctx context.Context) error {
	var faults []error
	for _, i := range o.issuers {
		if err := i.keys.warm(ctx); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Authenticate implements Authenticator. The error of a token that is refused
// is a *Refusal; that of one that cannot be checked for now is an
// *Unavailable. What is no identity token at all is ErrUnknown.
func (o *OIDC) Authenticate(ctx context.Context, token string) (Principal, error) {
	if len(token) > maxIdentity || strings.Count(token, ".") != 2 {
		return Principal{}, ErrUnknown
	}
	signed, err := jose.ParseSignedCompact(token, signatures)
	if err != nil {
		if e, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
			return Principal{}, unknown("identity tokens signed by %s are not accepted", quote.Text(string(e.Got)))
		}
		return Principal{}, ErrUnknown
	}
	var claimed jwt.Claims
	if err := decodeClaims(signed.UnsafePayloadWithoutVerification(), &claimed); err != nil || claimed.Issuer == "" {
		return Principal{}, ErrUnknown
	}
	i := o.issuers[claimed.Issuer]
	if i == nil {
		return Principal{}, unknown("this controller takes no tokens of %s", shorten(claimed.Issuer))
	}
	payload, err := i.keys.verify(ctx, signed, claimed.IssuedAt.Time().Add(i.Leeway))
	if err != nil {
		return Principal{}, err
	}
	// From here on the issuer says so.
	var c jwt.Claims
	var all map[string]any
	if err := errors.Join(decodeClaims(payload, &c), decodeClaims(payload, &all)); err != nil {
		return Principal{}, unknown("the claims of the token cannot be read")
	}
	if r := i.valid(c, o.now()); r != nil {
		r.Issuer, r.Subject = i.URL, c.Subject
		return Principal{}, r
	}
	p, err := i.admit(claimsOf(all))
	if r, ok := errors.AsType[*Refusal](err); ok {
		r.Issuer, r.Subject = i.URL, c.Subject
	}
	if err != nil {
		return Principal{}, err
	}
	p.Issuer, p.Subject, p.Expires, p.Token = i.URL, c.Subject, c.Expiry.Time().Add(i.Leeway), identify(c, token)
	return p, nil
}

// valid judges what every token says of itself (RFC 7519, section 4.1); nil:
// it is good.
func (i *issuer) valid(c jwt.Claims, now time.Time) *Refusal {
	switch err := c.ValidateWithLeeway(jwt.Expected{Issuer: i.URL, AnyAudience: i.Audience, Time: now}, i.Leeway); {
	case errors.Is(err, jwt.ErrInvalidAudience) && len(c.Audience) == 0:
		return unknown("the token names no audience")
	case errors.Is(err, jwt.ErrInvalidAudience):
		return unknown("the token is for %s and not for this controller", shorten(strings.Join(c.Audience, ", ")))
	case errors.Is(err, jwt.ErrExpired):
		return &Refusal{Reason: ErrExpired, Text: "the token has expired at " + moment(c.Expiry)}
	case errors.Is(err, jwt.ErrNotValidYet):
		return unknown("the token is not valid before %s", moment(c.NotBefore))
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return unknown("the token is not valid yet: it was issued at %s", moment(c.IssuedAt))
	case err != nil:
		return unknown("the token is not valid")
	case c.Expiry == nil:
		return unknown("the token does not say when it expires")
	case c.Subject == "":
		return unknown("the token names no subject")
	case c.ID != "" && slices.Contains(i.Revoked, c.ID):
		return unknown("the token was revoked")
	}
	return nil
}

func moment(d *jwt.NumericDate) string { return d.Time().UTC().Format(time.RFC3339) }

// identify names a token by its issuer and id. One without an id is named by
// what was signed: several signatures of the same may be good.
func identify(c jwt.Claims, token string) string {
	id := "jti\x00" + c.ID
	if c.ID == "" {
		id = "jws\x00" + token[:strings.LastIndexByte(token, '.')]
	}
	sum := sha256.Sum256([]byte(c.Issuer + "\x00" + id))
	return hex.EncodeToString(sum[:])
}

// Refusal says why a token is refused, in words for whoever sent it: they hold
// nothing that a stranger may not know.
type Refusal struct {
	// ErrUnknown, ErrExpired or ErrForbidden, which the error is too.
	Reason error
	Text   string
	// Of a token that the issuer did sign: who it says that it is.
	Issuer, Subject string
	// What the operator may know beside; may be empty.
	Detail string
}

func (r *Refusal) Error() string { return r.Text }

// Is implements the test of errors.Is.
func (r *Refusal) Is(target error) bool { return target == r.Reason }

func unknown(format string, args ...any) *Refusal {
	return &Refusal{Reason: ErrUnknown, Text: fmt.Sprintf(format, args...)}
}

// Unavailable says that the tokens of an issuer cannot be checked for now.
type Unavailable struct {
	Issuer string
	// When trying again is of use.
	After time.Duration
	// Why, for the operator.
	Err error
}

func (u *Unavailable) Error() string {
	return fmt.Sprintf("tokens of %s cannot be checked for now: %v", u.Issuer, u.Err)
}

func (u *Unavailable) Unwrap() error { return u.Err }

// CheckIssuer says what is wrong with the URL of an issuer; nil: nothing.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return failure.WithHint(failure.Input("%s is no URL of an issuer", quote.Text(quote.URL(issuer))), "as its tokens name it (iss): https://gitlab.example.com, https://token.actions.githubusercontent.com")
	case !secure(u):
		return failure.WithHint(failure.Input("the issuer %s is asked for its keys over plain HTTP", quote.Text(issuer)), "whoever can change them can make tokens: use https")
	}
	return nil
}

// CheckIssuerName says what is wrong with what names end with; nil: nothing.
func CheckIssuerName(name string) error {
	if name == "" || len(name) > 128 || strings.Contains(name, "@") || strings.ContainsFunc(name, unnamable) {
		return failure.Input("%q is no name of an issuer: up to 128 letters, digits and signs without blanks and @", name)
	}
	return nil
}
