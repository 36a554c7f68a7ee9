package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// prefix marks the tokens of people and CI systems, so that scanners for
// leaked secrets can know them.
const prefix = "pipegen_"

// shortest is how long a token must be that somebody else thought of.
const shortest = 16

// Token is a static token as it is stored: its hash, never itself.
type Token struct {
	Name string `json:"name"`
	// SHA-256 of the token in hex.
	SHA256     string    `json:"sha256"`
	Roles      []Role    `json:"roles"`
	Registries []string  `json:"registries,omitempty"`
	Runners    []string  `json:"runners,omitempty"`
	Priority   int       `json:"priority,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	Expires    time.Time `json:"expires,omitzero"`
}

// Generate makes a token: 32 random bytes behind a prefix.
func Generate() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// Hash is what is stored of a token.
func Hash(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// Given makes a token that the operator chose, as in an environment variable.
func Given(name, token string, roles ...Role) (Token, error) {
	if len(token) < shortest || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, failure.WithHint(failure.Input("the token of %s is no good token", name), "at least %d printable characters without blanks; pipegen server token add makes one", shortest)
	}
	sum := Hash(token)
	return Token{Name: name, SHA256: hex.EncodeToString(sum[:]), Roles: roles}, nil
}

// Check says what is wrong with a stored token; nil: nothing.
func (t Token) Check() error {
	if t.Name == "" || len(t.Name) > 64 || strings.ContainsFunc(t.Name, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r > unicode.MaxASCII }) {
		return failure.Input("%q is no name of a token: up to 64 letters, digits and signs without blanks", t.Name)
	}
	if t.Name == Anonymous().Name {
		return failure.Input("%q is who calls without a token", t.Name)
	}
	if sum, err := hex.DecodeString(t.SHA256); err != nil || len(sum) != sha256.Size {
		return failure.WithHint(failure.Input("the token %s has no SHA-256", t.Name), "64 hex digits, as printf %%s TOKEN | sha256sum gives")
	}
	if len(t.Roles) == 0 {
		return failure.WithHint(failure.Input("the token %s has no role", t.Name), "submit, read or admin")
	}
	for _, r := range t.Roles {
		if _, err := ParseRole(string(r)); err != nil {
			return err
		}
	}
	for _, pattern := range t.Registries {
		if err := CheckPattern(pattern); err != nil {
			return err
		}
	}
	return nil
}

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	if slices.Contains(Roles, Role(s)) {
		return Role(s), nil
	}
	err := failure.Input("there is no role %q", s)
	if near := config.Nearest(s, []string{"submit", "read", "admin"}); near != "" {
		return "", failure.WithHint(err, "did you mean %q?", near)
	}
	return "", failure.WithHint(err, "one of: submit, read, admin")
}

func (t Token) principal() Principal {
	return Principal{Name: t.Name, Roles: t.Roles, Registries: t.Registries, Runners: t.Runners, Priority: t.Priority, Expires: t.Expires}
}

// Source gives the tokens that are valid now.
type Source func() ([]Token, error)

// Fixed are tokens that do not change while the process runs.
func Fixed(tokens ...Token) Source { return func() ([]Token, error) { return tokens, nil } }

// Static authenticates by static tokens.
type Static struct {
	Source Source
	// Now is the time that expiry is compared with; nil: time.Now.
	Now func() time.Time
}

// Authenticate implements Authenticator. It takes the same time whichever
// token it is compared with, and whether or not one fits.
func (s Static) Authenticate(_ context.Context, token string) (Principal, error) {
	tokens, err := s.Source()
	if err != nil {
		return Principal{}, err
	}
	sum := Hash(token)
	want := []byte(hex.EncodeToString(sum[:]))
	found := -1
	for i := range tokens {
		match := subtle.ConstantTimeCompare(want, []byte(strings.ToLower(tokens[i].SHA256)))
		found = subtle.ConstantTimeSelect(match, i, found)
	}
	if found < 0 {
		return Principal{}, ErrUnknown
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	t := tokens[found]
	if !t.Expires.IsZero() && !now().Before(t.Expires) {
		return Principal{}, ErrExpired
	}
	return t.principal(), nil
}
