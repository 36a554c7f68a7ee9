// Package issuertest is an issuer of identity tokens for tests: a real one, over
// TLS, whose keys are its own.
package issuertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Issuer is one at URL. Its key is RS256, as those of GitLab and GitHub are.
type Issuer struct {
	URL string
	// Transport trusts its certificate.
	Transport http.RoundTripper

	t  testing.TB
	mu sync.Mutex
	// Those that it publishes, and that which it signs with.
	published []jose.JSONWebKey
	key       jose.JSONWebKey
	made      int
	asked     map[string]int
	answer    func(http.ResponseWriter, *http.Request) bool
}

// New starts an issuer, which ends with the test.
func New(t testing.TB) *Issuer {
	t.Helper()
	return start(t, httptest.NewTLSServer)
}

// NewPlain starts one without TLS, which is trusted on loopback alone, for
// programs that cannot be told to trust a certificate.
func NewPlain(t testing.TB) *Issuer {
	t.Helper()
	return start(t, httptest.NewServer)
}

func start(t testing.TB, listen func(http.Handler) *httptest.Server) *Issuer {
	t.Helper()
	i := &Issuer{t: t, asked: map[string]int{}}
	s := listen(http.HandlerFunc(i.serve))
	t.Cleanup(s.Close)
	i.URL, i.Transport = s.URL, s.Client().Transport
	i.Rotate()
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[r.URL.Path]++
	if i.answer != nil && i.answer(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/oauth/discovery/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	case "/oauth/discovery/keys":
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.published})
	default:
		http.NotFound(w, r)
	}
}

// Answer has requests answered otherwise where answer says that it did; nil: no
// more.
func (i *Issuer) Answer(answer func(http.ResponseWriter, *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

// Asked says how often the issuer was asked for its keys.
func (i *Issuer) Asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked["/oauth/discovery/keys"]
}

// Rotate makes a new key to sign with, and publishes it beside those before.
func (i *Issuer) Rotate() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		i.t.Fatal(err)
	}
	i.use(key, jose.RS256)
}

// RotateEC is Rotate with a key for ES256.
func (i *Issuer) RotateEC() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.use(key, jose.ES256)
}

func (i *Issuer) use(key crypto.Signer, alg jose.SignatureAlgorithm) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.made++
	i.key = jose.JSONWebKey{Key: key, KeyID: "key-" + strconv.Itoa(i.made), Algorithm: string(alg), Use: "sig"}
	i.published = append(i.published, i.key.Public())
}

// Publish replaces the keys that are published by the newest n of them.
func (i *Issuer) Publish(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = i.published[len(i.published)-n:]
}

// Add publishes a key beside the issuer's own.
func (i *Issuer) Add(key jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = append(i.published, key)
}

// Key gives the public key that tokens are signed with now.
func (i *Issuer) Key() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.key.Public()
}

// Token signs claims. Those that are nil are left out.
func (i *Issuer) Token(claims map[string]any) string {
	i.t.Helper()
	i.mu.Lock()
	key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(i.key.Algorithm), Key: i.key}
	i.mu.Unlock()
	return Sign(i.t, key, claims)
}

// Sign signs claims with any key. Those that are nil are left out.
func Sign(t testing.TB, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]any{}
	for name, value := range claims {
		if value != nil {
			kept[name] = value
		}
	}
	token, err := jwt.Signed(signer).Claims(kept).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// GitLab gives the claims of a job of GitLab, as
// https://docs.gitlab.com/ci/secrets/id_token_authentication/ has them, for an
// audience and from now on. Each has an id of its own.
func (i *Issuer) GitLab(audience, project, ref string, now time.Time) map[string]any {
	return map[string]any{
		"iss": i.URL, "aud": audience, "sub": "project_path:" + project + ":ref_type:branch:ref:" + ref, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Hour).Unix(),
		"namespace_id": "72", "namespace_path": "team", "project_id": "20", "project_path": project, "user_id": "1", "user_login": "sample",
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": ref, "ref_type": "branch", "ref_path": "refs/heads/" + ref, "ref_protected": "true",
		"runner_id": 1, "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "groups_direct": []string{"team", "other/group"},
	}
}

// GitHub gives those of a job of GitHub Actions, as
// https://docs.github.com/actions/reference/security/oidc has them.
func (i *Issuer) GitHub(audience, repository, ref string, now time.Time) map[string]any {
	return map[string]any{
		"iss": i.URL, "aud": audience, "sub": "repo:" + repository + ":ref:" + ref, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-10 * time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"repository": repository, "repository_id": "74", "repository_owner": "octo-org", "repository_owner_id": "65", "repository_visibility": "private",
		"ref": ref, "ref_type": "branch", "ref_protected": "true", "event_name": "push", "run_id": "10", "run_number": "10", "run_attempt": "2", "actor": "octocat",
		"workflow": "build", "job_workflow_ref": repository + "/.github/workflows/build.yml@" + ref, "runner_environment": "github-hosted", "check_run_id": "7",
		"sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	}
}
