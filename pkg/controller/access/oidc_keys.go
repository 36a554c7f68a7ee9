package access

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"

	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// freshKeys is how long keys are used without asking for them again: a key
	// that the issuer took back is good here no longer than that.
	freshKeys = 10 * time.Minute
	// keptKeys is how long they are used while the issuer cannot be asked.
	keptKeys = 24 * time.Hour
	// betweenFetches is the least time between two requests for keys of an issuer
	// that does not answer, and the mean time between those for keys that tokens
	// name and there are not, of which there may be some at once.
	betweenFetches, strangers = 10 * time.Second, 5
	// discovered is how long the place of the keys is known.
	discovered = time.Hour
	// patience is how long keys that are not fresh wait for those that are.
	patience = 3 * time.Second
	// fetching is how long a request for keys may take.
	fetching = 10 * time.Second
	// maxDocument bounds what an issuer answers, in bytes, and maxKeys how many
	// keys of it are taken.
	maxDocument = 1 << 20
	maxKeys     = 100
	// minRSA is the least length of an RSA key, in bits (RFC 7518, section 3.3).
	minRSA = 2048
)

// keyring holds the keys of an issuer. They are asked for when they are needed
// and are not fresh, and when a token names one that is not among them.
type keyring struct {
	issuer string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time     // the keys
	tried   time.Time     // to fetch them
	fault   error         // of the last attempt
	strange *rate.Limiter // attempts for keys that there are not
	busy    chan struct{} // closed when the attempt that is under way ends; nil: none is

	// Of whoever fetches.
	address string // of the keys
	found   time.Time
}

func newKeyring(issuer string, o OIDCOptions) *keyring {
	return &keyring{
		issuer: issuer, now: o.Now, log: o.Logger.With("issuer", issuer), strange: rate.NewLimiter(rate.Every(betweenFetches), strangers),
		client: &http.Client{Transport: o.Transport, Timeout: fetching, CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if !secure(r.URL) || len(via) > 3 {
				return errors.New("it leads elsewhere")
			}
			return nil
		}},
	}
}

// secure says whether what comes from there is the issuer's.
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (err == nil && a.IsLoopback() || u.Hostname() == "localhost")
}

// verify gives what a token says if a key of the issuer signed it. issued is
// when that was at the latest, by its own words.
func (k *keyring) verify(ctx context.Context, signed *jose.JSONWebSignature, issued time.Time) ([]byte, error) {
	header := signed.Signatures[0].Header
	keys, err := k.find(ctx, header.KeyID, issued)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, unknown("the token was not signed by a key of %s", quote.Text(k.issuer))
}

// warm fetches the keys if there are none.
func (k *keyring) warm(ctx context.Context) error {
	_, err := k.find(ctx, "", k.now())
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	return err
}

// find gives the keys of an id, or all for a token that names none. Keys that
// are known are not waited for where the issuer does not answer.
func (k *keyring) find(ctx context.Context, id string, issued time.Time) ([]jose.JSONWebKey, error) {
	for asked := false; ; asked = true {
		k.mu.Lock()
		now := k.now()
		keys, age, since := k.of(id), now.Sub(k.fetched), now.Sub(k.tried)
		if k.fetched.IsZero() || age >= keptKeys {
			keys = nil
		}
		// Less than 0: the clock was turned back.
		fresh, recent := age >= 0 && age < freshKeys, since >= 0 && since < betweenFetches
		if len(keys) > 0 && (fresh || recent || asked) {
			k.mu.Unlock()
			return keys, nil
		}
		if asked || recent && k.fault != nil || fresh && k.busy == nil && !k.strange.AllowN(now, 1) {
			defer k.mu.Unlock()
			return nil, k.without(!asked && issued.After(k.fetched), betweenFetches-since)
		}
		if k.busy == nil {
			k.busy = make(chan struct{})
			go k.fetch(context.WithoutCancel(ctx)) // others wait for it too
		}
		busy, down := k.busy, k.fault != nil
		k.mu.Unlock()
		var late <-chan time.Time
		if len(keys) > 0 {
			if down {
				return keys, nil
			}
			late = time.After(patience)
		}
		select {
		case <-busy:
		case <-late:
			return keys, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// without says what it means that there is no key, and the issuer is not asked
// for it now. newer: the token is newer than what is known.
func (k *keyring) without(newer bool, wait time.Duration) error {
	err := k.fault
	if err == nil && newer {
		err = errors.New("it may have a new key, and was asked for its keys a moment ago")
	}
	if err == nil {
		return unknown("the token was not signed by a key of %s", quote.Text(k.issuer))
	}
	return &Unavailable{Issuer: k.issuer, After: max(wait, time.Second), Err: err}
}

func (k *keyring) of(id string) []jose.JSONWebKey {
	if id == "" {
		return k.keys
	}
	return (&jose.JSONWebKeySet{Keys: k.keys}).Key(id)
}

// fetch replaces the keys by what the issuer answers. If it does not, they stay.
func (k *keyring) fetch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*fetching)
	defer cancel()
	keys, err := k.load(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.fault = k.now(), err
	if err == nil {
		k.keys, k.fetched = keys, k.tried
	} else {
		k.log.Warn("fetching the keys that tokens are signed with", "error", err, "known", len(k.keys))
	}
	close(k.busy)
	k.busy = nil
}

// load asks the issuer where its keys are (OpenID Connect Discovery 1.0,
// section 4), and for them (RFC 7517, section 5).
func (k *keyring) load(ctx context.Context) ([]jose.JSONWebKey, error) {
	if k.address == "" || k.now().Sub(k.found) >= discovered || k.fault != nil {
		var about struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &about); err != nil {
			return nil, err
		}
		u, err := url.Parse(about.Keys)
		switch {
		case about.Issuer != k.issuer:
			return nil, fmt.Errorf("what is at %s is the issuer %s", quote.Text(k.issuer), shorten(about.Issuer))
		case err != nil || u.Host == "" || !secure(u):
			return nil, fmt.Errorf("the keys of %s are at no address that can be trusted: %s", quote.Text(k.issuer), shorten(about.Keys))
		}
		k.address, k.found = about.Keys, k.now()
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := k.get(ctx, k.address, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		// There may be keys of kinds that are not known here, or for other use.
		if json.Unmarshal(raw, &key) == nil && usable(key) && len(keys) < maxKeys {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key at %s that a signature can be checked with", shorten(k.address))
	}
	return keys, nil
}

func usable(key jose.JSONWebKey) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	public, isRSA := key.Key.(*rsa.PublicKey)
	return !isRSA || public.Size()*8 >= minRSA
}

// get reads a document of the issuer's.
func (k *keyring) get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", shorten(address), res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading %s: %w", shorten(address), err)
	case len(data) > maxDocument:
		return fmt.Errorf("%s has more than %d bytes", shorten(address), maxDocument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: it is not what an issuer answers: %w", shorten(address), err)
	}
	return nil
}
