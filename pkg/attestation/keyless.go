package attestation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// margin is how long a certificate must still last to be signed with.
const margin = time.Minute

// keyless signs with a key of its own, for which Fulcio gives a certificate of
// minutes upon the CI's identity token.
type keyless struct {
	web     web
	fulcio  string
	token   func(context.Context) (string, error)
	witness witness
	now     func() time.Time

	mu      sync.Mutex
	key     *ecdsa.PrivateKey
	chain   []*x509.Certificate // the certificate first
	expires time.Time
}

// newKeyless finds the CI's identity, so that a job without one fails before
// anything is published.
func newKeyless(ctx context.Context, o Options) (*keyless, error) {
	s := o.Publish.Sign
	k := &keyless{web: web{o.Transport}, fulcio: s.FulcioURL(), witness: witnessOf(o), now: o.Now}
	k.token = func(ctx context.Context) (string, error) {
		return k.web.identity(ctx, o.Getenv, s.TokenVariable(), s.TokenAudience())
	}
	token, err := k.token(ctx)
	if err != nil {
		return nil, err
	}
	_, err = subjectOf(token, o.Now())
	return k, err
}

// identity gives the token of the CI's issuer: that of a variable, or, in
// GitHub Actions, the one that its own service gives for an audience.
func (w web) identity(ctx context.Context, getenv func(string) string, variable, audience string) (string, error) {
	if token := strings.TrimSpace(getenv(variable)); token != "" {
		return token, nil
	}
	address, bearer := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || bearer == "" {
		return "", failure.WithHint(failure.Input("there is no identity token: $%s is not set", variable),
			"the publishing job needs id_tokens: {%s: {aud: %s}} in GitLab, permissions: {id-token: write} in GitHub", variable, audience)
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", failure.Input("ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	var answer struct {
		Value string `json:"value"`
	}
	if _, err := w.ask(ctx, "asking GitHub for an identity token", request{method: http.MethodGet, url: u.String(), bearer: bearer}, &answer); err != nil {
		return "", err
	}
	if answer.Value == "" {
		return "", errors.New("asking GitHub for an identity token: the answer holds none")
	}
	return answer.Value, nil
}

// subjectOf gives what a token says of whom it is, which Fulcio wants signed.
// The token is not verified: that is for Fulcio.
func subjectOf(token string, now time.Time) (string, error) {
	bad := func(what string) (string, error) { return "", failure.Input("the identity token %s", what) }
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return bad("is no JWT")
	}
	raw, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		return bad("is no JWT")
	}
	var claims struct {
		Subject  string `json:"sub"`
		Email    string `json:"email"`
		Verified any    `json:"email_verified"`
		Expires  int64  `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil {
		return bad("cannot be read")
	}
	switch {
	case claims.Expires > 0 && now.Unix() >= claims.Expires:
		return bad("has expired at " + time.Unix(claims.Expires, 0).UTC().Format(time.RFC3339))
	case claims.Email != "" && (claims.Verified == true || claims.Verified == "true"):
		return claims.Email, nil
	case claims.Subject == "":
		return bad("names no subject")
	}
	return claims.Subject, nil
}

func (k *keyless) sign(ctx context.Context, payload []byte) ([]byte, proof, error) {
	key, chain, err := k.certified(ctx)
	if err != nil {
		return nil, proof{}, err
	}
	sig, err := signWith(ctx, memory{key}, preAuthentication(payloadType, payload))
	if err != nil {
		return nil, proof{}, err
	}
	by := proof{public: key.Public(), certificate: chain[0].Raw}
	return sig, by, k.witness.attest(ctx, &by, payload, sig)
}

// certified gives a key with a certificate that still lasts. One serves all
// images of a publication.
func (k *keyless) certified(ctx context.Context) (*ecdsa.PrivateKey, []*x509.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil && k.now().Add(margin).Before(k.expires) {
		return k.key, k.chain, nil
	}
	token, err := k.token(ctx)
	if err != nil {
		return nil, nil, err
	}
	subject, err := subjectOf(token, k.now())
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	possession, err := signWith(ctx, memory{key}, []byte(subject))
	if err != nil {
		return nil, nil, err
	}
	public, err := pemOf(proof{public: key.Public()})
	if err != nil {
		return nil, nil, err
	}
	chain, err := k.certificate(ctx, token, public, possession)
	if err != nil {
		return nil, nil, err
	}
	if held, ok := chain[0].PublicKey.(*ecdsa.PublicKey); !ok || !held.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("asking %s for a certificate: it is for another key", quote.URL(k.fulcio))
	}
	k.key, k.chain, k.expires = key, chain, chain[0].NotAfter
	return key, chain, nil
}

// certificate asks Fulcio
// (https://github.com/sigstore/fulcio/blob/main/fulcio.proto).
func (k *keyless) certificate(ctx context.Context, token string, public, possession []byte) ([]*x509.Certificate, error) {
	what := "asking " + quote.URL(k.fulcio) + " for a certificate"
	type publicKey struct {
		Algorithm string `json:"algorithm"`
		Content   string `json:"content"`
	}
	type publicKeyRequest struct {
		PublicKey         publicKey `json:"publicKey"`
		ProofOfPossession []byte    `json:"proofOfPossession"`
	}
	type chain struct {
		Chain struct {
			Certificates []string `json:"certificates"`
		} `json:"chain"`
	}
	var answer struct {
		Embedded chain `json:"signedCertificateEmbeddedSct"`
		Detached chain `json:"signedCertificateDetachedSct"`
	}
	in := struct {
		PublicKeyRequest publicKeyRequest `json:"publicKeyRequest"`
	}{publicKeyRequest{publicKey{"ECDSA", string(public)}, possession}}
	if _, err := k.web.ask(ctx, what, request{method: http.MethodPost, url: k.fulcio + "/api/v2/signingCert", bearer: token, body: in}, &answer); err != nil {
		return nil, err
	}
	texts := answer.Embedded.Chain.Certificates
	if len(texts) == 0 {
		texts = answer.Detached.Chain.Certificates
	}
	var certificates []*x509.Certificate
	for _, text := range texts {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("%s: the answer is no certificate", what)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, fmt.Errorf("%s: the answer holds none", what)
	}
	return certificates, nil
}

// knows takes a certificate that the same authority gave the same identity.
func (k *keyless) knows(ctx context.Context, m verification) (crypto.PublicKey, bool) {
	if m.Certificate == nil || k.witness.rekor != "" && len(m.TlogEntries) == 0 {
		return nil, false
	}
	held, err := x509.ParseCertificate(m.Certificate.RawBytes)
	if err != nil {
		return nil, false
	}
	_, chain, err := k.certified(ctx)
	if err != nil || len(chain) < 2 || held.CheckSignatureFrom(chain[1]) != nil || !sameIdentity(held, chain[0]) {
		return nil, false
	}
	return held.PublicKey, true
}

// sameIdentity compares whom Fulcio gave certificates: the names, and the
// issuer of the token in both forms that Fulcio writes it in. Its other
// extensions are of one run.
func sameIdentity(a, b *x509.Certificate) bool {
	names := func(c *x509.Certificate) []string {
		all := slices.Concat(c.EmailAddresses, c.DNSNames)
		for _, u := range c.URIs {
			all = append(all, u.String())
		}
		for _, e := range c.Extensions {
			if id := e.Id.String(); id == "1.3.6.1.4.1.57264.1.1" || id == "1.3.6.1.4.1.57264.1.8" {
				all = append(all, string(e.Value))
			}
		}
		return all
	}
	return slices.Equal(names(a), names(b))
}
