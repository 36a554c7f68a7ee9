package sigstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pipegen/pipegen/pkg/attestation"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// published is an index in a registry, and the plan that it is of.
type published struct {
	client  *registry.Client
	plan    *plan.Plan
	image   *plan.Image
	subject registry.Descriptor
}

func publish(t *testing.T, native bool) *published {
	t.Helper()
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(native)))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	index, err := random.Index(64, 1, 2)
	check(t, err)
	digest, err := index.Digest()
	check(t, err)
	ref, err := name.NewDigest(host + "/images@" + digest.String())
	check(t, err)
	check(t, remote.WriteIndex(ref, index))
	p := &published{client: registry.New(registry.Options{Keychain: anonymous{}})}
	p.subject, err = p.client.Head(t.Context(), ref.String())
	check(t, err)
	p.plan = &plan.Plan{
		Version: plan.Version, Event: "push", Head: strings.Repeat("a", 40), Created: time.Date(2026, 11, 21, 2, 3, 4, 0, time.UTC), Layout: "tag",
		Images: []plan.Image{{
			Name: "app", Key: strings.Repeat("b", 64), Repository: host + "/images", Tags: []string{"app-20261121-aaaaaaa"}, Index: true,
			Source: &plan.Source{Repo: "https://user:password@example.org/upstream.git", Ref: "v1", Commit: strings.Repeat("c", 40)},
			Builds: []plan.Build{{ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko"}},
		}},
	}
	p.image = &p.plan.Images[0]
	return p
}

var bases = []plan.Base{{Ref: "alpine:3.20", Digest: registry.Digest([]byte("alpine")), Final: true}}

// attend has the index attended to as publishing does, twice.
func (p *published) attend(t *testing.T, o attestation.Options) {
	t.Helper()
	for range 2 {
		n, err := attestation.Open(t.Context(), o)
		check(t, err)
		check(t, n.Attend(t.Context(), p.client, p.plan, p.image, p.subject, bases))
	}
}

// referrers gives what refers to the index, by its media type.
func (p *published) referrers(t *testing.T) map[string][][]byte {
	t.Helper()
	d, err := name.NewDigest(p.image.Repository + "@" + p.subject.Digest)
	check(t, err)
	index, err := remote.Referrers(d)
	check(t, err)
	m, err := index.IndexManifest()
	check(t, err)
	found := map[string][][]byte{}
	for _, desc := range m.Manifests {
		img, err := remote.Image(d.Context().Digest(desc.Digest.String()))
		check(t, err)
		layers, err := img.Layers()
		check(t, err)
		body, err := layers[0].Compressed()
		check(t, err)
		raw, err := io.ReadAll(body)
		check(t, err)
		kind, err := layers[0].MediaType()
		check(t, err)
		found[string(kind)] = append(found[string(kind)], raw)
	}
	return found
}

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// verified gives the statements of all bundles of the index by their
// predicate types, after they were verified.
func (p *published) verified(t *testing.T, trusted root.TrustedMaterial, policy verify.PolicyOption, options ...verify.VerifierOption) map[string]*intoto.Statement {
	t.Helper()
	found := p.referrers(t)
	if len(found) != 1 {
		t.Fatalf("found %d kinds of referrers", len(found))
	}
	statements := map[string]*intoto.Statement{}
	for _, raw := range found[bundleType] {
		var b bundle.Bundle
		check(t, b.UnmarshalJSON(raw))
		v, err := verify.NewVerifier(trusted, options...)
		check(t, err)
		digest, err := hex.DecodeString(strings.TrimPrefix(p.subject.Digest, "sha256:"))
		check(t, err)
		result, err := v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), policy))
		if err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		check(t, result.Statement.Validate())
		if _, twice := statements[result.Statement.PredicateType]; twice {
			t.Fatalf("%s is there twice", result.Statement.PredicateType)
		}
		statements[result.Statement.PredicateType] = result.Statement
		// The same bundle says nothing of another digest, and nothing to one
		// who does not trust its signer.
		digest[0]++
		if _, err := v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), policy)); err == nil {
			t.Fatal("it is valid for another digest")
		}
	}
	return statements
}

func publicKey(t *testing.T, public crypto.PublicKey) root.TrustedMaterial {
	t.Helper()
	hash := crypto.SHA256
	if k, ok := public.(*ecdsa.PublicKey); ok && k.Curve == elliptic.P384() {
		hash = crypto.SHA384
	}
	v, err := signature.LoadVerifier(public, hash)
	check(t, err)
	return root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(v, time.Time{}, time.Time{}), nil
	})
}

func TestKeys(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	for kind, key := range map[string]crypto.Signer{"P-256": curve(t, elliptic.P256()), "P-384": curve(t, elliptic.P384()), "ed25519": edwards, "RSA": modulus} {
		for _, native := range []bool{true, false} {
			t.Run(kind, func(t *testing.T) {
				der, err := x509.MarshalPKCS8PrivateKey(key)
				check(t, err)
				text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
				p := publish(t, native)
				p.attend(t, attestation.Options{
					Publish: config.Publish{Attest: true, Sign: &config.Sign{Key: "env://KEY"}}, Version: "1.2.3",
					Getenv: environment(map[string]string{"KEY": text}),
				})
				statements := p.verified(t, publicKey(t, key.Public()), verify.WithKey(), verify.WithNoObserverTimestamps())
				if statements[attestation.Provenance] == nil || statements[attestation.Signature] == nil || len(statements) != 2 {
					t.Errorf("found %v", statements)
				}
			})
		}
	}
}

func curve(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	check(t, err)
	return key
}

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// A key as cosign generate-key-pair leaves it.
func TestCosignKey(t *testing.T) {
	key := curve(t, elliptic.P256())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	sealed, err := encrypted.Encrypt(der, []byte("secret"))
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "cosign.key"), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: sealed}), 0o600))
	p := publish(t, true)
	p.attend(t, attestation.Options{
		Publish: config.Publish{Sign: &config.Sign{Key: "cosign.key"}}, Root: dir,
		Getenv: environment(map[string]string{"COSIGN_PASSWORD": "secret"}),
	})
	if got := p.verified(t, publicKey(t, key.Public()), verify.WithKey(), verify.WithNoObserverTimestamps()); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

func TestKeyless(t *testing.T) {
	for _, tt := range []struct {
		name      string
		log, time bool
		options   []verify.VerifierOption
	}{
		{"log", true, false, []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)}},
		{"timestamp", false, true, []verify.VerifierOption{verify.WithSignedTimestamps(1)}},
		{"both", true, true, []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t)
			sign := &config.Sign{Keyless: true, Fulcio: s.URL}
			if tt.log {
				sign.Rekor = s.URL
			}
			if tt.time {
				sign.Timestamp = s.URL + "/api/v1/timestamp"
			}
			p := publish(t, true)
			p.attend(t, attestation.Options{
				Publish: config.Publish{Attest: true, Sign: sign}, Getenv: environment(map[string]string{"SIGSTORE_ID_TOKEN": token("sigstore", time.Hour)}),
			})
			// One certificate serves both statements, and what is signed
			// already is not signed again.
			asked := s.asked()
			if n := count(asked, "POST /api/v1/log/entries"); tt.log && n != 2 {
				t.Errorf("recorded %d signatures: %q", n, asked)
			}
			if n := count(asked, "POST /api/v2/signingCert"); n != 2 {
				t.Errorf("asked for %d certificates in two runs: %q", n, asked)
			}
			id, err := verify.NewShortCertificateIdentity(issuer, "", identity, "")
			check(t, err)
			if got := p.verified(t, s, verify.WithCertificateIdentity(id), tt.options...); len(got) != 2 {
				t.Errorf("found %v", got)
			}
		})
	}
}

// In GitHub the token is asked for; a service that is busy is asked again; a
// signature that the log has already is taken from there.
func TestKeylessInGitHub(t *testing.T) {
	s := start(t)
	s.busy = 1
	p := publish(t, false)
	p.attend(t, attestation.Options{
		Publish: config.Publish{Sign: &config.Sign{Keyless: true, Fulcio: s.URL, Rekor: s.URL}},
		Getenv:  environment(map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": s.URL + "/token?v=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the job"}),
	})
	id, err := verify.NewShortCertificateIdentity(issuer, "", identity, "")
	check(t, err)
	if got := p.verified(t, s, verify.WithCertificateIdentity(id), verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

// A key's signature in the log, also when the log has it already.
func TestKeyInLog(t *testing.T) {
	s := start(t)
	key := curve(t, elliptic.P256())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	o := attestation.Options{
		Publish: config.Publish{Sign: &config.Sign{Key: "env://KEY", Rekor: s.URL}},
		Getenv:  environment(map[string]string{"KEY": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}),
	}
	first := publish(t, true)
	first.attend(t, o)
	// The same index in another registry: the same statement, but for its name.
	second := publish(t, true)
	second.subject, second.image.Repository = first.subject, first.image.Repository
	n, err := attestation.Open(t.Context(), o)
	check(t, err)
	other := *second.image
	check(t, n.Attend(t.Context(), second.client, second.plan, &other, first.subject, nil))
	trusted := root.TrustedMaterialCollection{publicKey(t, key.Public()), s}
	if got := first.verified(t, trusted, verify.WithKey(), verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

// Without a key the statement stands as it is.
func TestUnsigned(t *testing.T) {
	p := publish(t, true)
	p.attend(t, attestation.Options{Publish: config.Publish{Attest: true}, Version: "1.2.3", Getenv: environment(nil)})
	found := p.referrers(t)["application/vnd.in-toto+json"]
	if len(found) != 1 {
		t.Fatalf("found %d statements", len(found))
	}
	var s intoto.Statement
	check(t, protojson.Unmarshal(found[0], &s))
	check(t, s.Validate())
	if s.PredicateType != attestation.Provenance || s.Subject[0].Digest["sha256"] != strings.TrimPrefix(p.subject.Digest, "sha256:") {
		t.Errorf("got %s", found[0])
	}
	var shape struct {
		Predicate struct {
			BuildDefinition struct {
				ResolvedDependencies []intoto.ResourceDescriptor `json:"resolvedDependencies"`
			} `json:"buildDefinition"`
		} `json:"predicate"`
	}
	check(t, json.Unmarshal(found[0], &shape))
	for i := range shape.Predicate.BuildDefinition.ResolvedDependencies {
		check(t, shape.Predicate.BuildDefinition.ResolvedDependencies[i].Validate())
	}
	if strings.Contains(string(found[0]), "password") {
		t.Error("it holds a credential")
	}
}

func count(all []string, one string) int {
	return len(slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s != one }))
}
