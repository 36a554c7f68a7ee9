// Package sigstore checks what pipegen signs with the verifiers of Sigstore.
package sigstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
)

// Who the identity tokens of the tests are for, and from.
const (
	identity = "https://gitlab.example.org/group/images//.gitlab-ci.yml@refs/heads/main"
	issuer   = "https://gitlab.example.org"
)

// services are Fulcio, Rekor, an authority for timestamps and GitHub's issuer
// of tokens on one address, and what a verifier trusts of them.
type services struct {
	root.BaseTrustedMaterial
	*httptest.Server
	virtual *ca.VirtualSigstore

	fulcio    *root.FulcioCertificateAuthority
	fulcioKey *ecdsa.PrivateKey
	stamps    *root.SigstoreTimestampingAuthority
	stampKey  *ecdsa.PrivateKey

	mu       sync.Mutex
	requests []string
	recorded map[string]string // entries by what was proposed
	busy     int               // how many requests are answered with 503 first
}

func (s *services) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return []root.CertificateAuthority{s.fulcio}
}

func (s *services) TimestampingAuthorities() []root.TimestampingAuthority {
	return []root.TimestampingAuthority{s.stamps}
}

func (s *services) RekorLogs() map[string]*root.TransparencyLog { return s.virtual.RekorLogs() }

func start(t *testing.T) *services {
	t.Helper()
	s := &services{recorded: map[string]string{}}
	var err error
	s.virtual, err = ca.NewVirtualSigstore()
	check(t, err)
	rootCert, rootKey, err := ca.GenerateRootCa()
	check(t, err)
	intermediate, key, err := ca.GenerateFulcioIntermediate(rootCert, rootKey)
	check(t, err)
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	s.fulcioKey = key
	s.fulcio = &root.FulcioCertificateAuthority{Root: rootCert, Intermediates: []*x509.Certificate{intermediate}, ValidityPeriodStart: from, ValidityPeriodEnd: to}
	stampCA, stampCAKey, err := ca.GenerateTSAIntermediate(rootCert, rootKey)
	check(t, err)
	s.stampKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	leaf, err := ca.GenerateTSALeafCert(time.Now().Add(-time.Minute), s.stampKey, stampCA, stampCAKey)
	check(t, err)
	s.stamps = &root.SigstoreTimestampingAuthority{Root: rootCert, Intermediates: []*x509.Certificate{stampCA}, Leaf: leaf, ValidityPeriodStart: from, ValidityPeriodEnd: to}

	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", s.certify)
	mux.HandleFunc("POST /api/v1/log/entries", s.record)
	mux.HandleFunc("GET /api/v1/log/entries/{id}", s.entry)
	mux.HandleFunc("POST /api/v1/timestamp", s.stamp)
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of the job" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"value": token(r.URL.Query().Get("audience"), time.Hour)})
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		busy := s.busy > 0
		s.busy--
		s.mu.Unlock()
		if busy {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *services) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.requests
	s.requests = nil
	return asked
}

// token is a JWT that nobody signed: verifying is Fulcio's.
func token(audience string, life time.Duration) string {
	claims, _ := json.Marshal(map[string]any{"sub": identity, "iss": issuer, "aud": audience, "exp": time.Now().Add(life).Unix()})
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode(claims) + "." + encode([]byte("signature"))
}

// certify does what Fulcio does: it checks that the caller has the key, and
// that the token is for it.
func (s *services) certify(w http.ResponseWriter, r *http.Request) {
	var in struct {
		PublicKeyRequest struct {
			PublicKey struct {
				Algorithm string `json:"algorithm"`
				Content   string `json:"content"`
			} `json:"publicKey"`
			ProofOfPossession []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
	}
	if r.Header.Get("Authorization") != "Bearer "+token("sigstore", time.Hour) {
		// The expiry has whole seconds: another one may have begun.
		if r.Header.Get("Authorization") != "Bearer "+token("sigstore", time.Hour-time.Second) {
			http.Error(w, `{"message":"There was an error processing the identity token"}`, http.StatusUnauthorized)
			return
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	block, _ := pem.Decode([]byte(in.PublicKeyRequest.PublicKey.Content))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	sum := sha256.Sum256([]byte(identity))
	if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), sum[:], in.PublicKeyRequest.ProofOfPossession) {
		http.Error(w, `{"message":"The signature supplied in the request could not be verified"}`, http.StatusBadRequest)
		return
	}
	name, _ := url.Parse(identity)
	text, _ := asn1.Marshal(issuer)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{name},
		NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: text}},
	}, s.fulcio.Intermediates[0], public, s.fulcioKey)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var chain []string
	for _, raw := range [][]byte{der, s.fulcio.Intermediates[0].Raw, s.fulcio.Root.Raw} {
		chain = append(chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": chain}}})
}

// record does what Rekor does, by its own code for entries.
func (s *services) record(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(raw), runtime.JSONConsumer())
	var made types.EntryImpl
	var body []byte
	if err == nil {
		made, err = types.CreateVersionedEntry(proposed)
	}
	if err == nil {
		body, err = types.CanonicalizeEntry(r.Context(), made)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"code":400,"message":%q}`, err.Error()), http.StatusBadRequest)
		return
	}
	id := fmt.Sprintf("%x", sha256.Sum256(body))
	s.mu.Lock()
	_, there := s.recorded[id]
	s.mu.Unlock()
	if there {
		w.Header().Set("Location", "/api/v1/log/entries/"+id)
		http.Error(w, `{"code":409,"message":"an equivalent entry already exists"}`, http.StatusConflict)
		return
	}
	entry, err := s.logged(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	s.recorded[id] = entry
	s.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, entry)
}

func (s *services) logged(body []byte) (string, error) {
	logID, err := s.virtual.RekorLogID()
	if err != nil {
		return "", err
	}
	at := time.Now().Unix()
	encoded := base64.StdEncoding.EncodeToString(body)
	promise, err := s.virtual.RekorSignPayload(tlog.RekorPayload{Body: encoded, IntegratedTime: at, LogIndex: 7, LogID: logID})
	if err != nil {
		return "", err
	}
	proof, err := s.virtual.GetInclusionProof(body)
	if err != nil {
		return "", err
	}
	entry, err := json.Marshal(map[string]any{"uuid": map[string]any{
		"body": encoded, "integratedTime": at, "logID": logID, "logIndex": 7,
		"verification": map[string]any{"signedEntryTimestamp": promise, "inclusionProof": proof},
	}})
	return string(entry), err
}

func (s *services) entry(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(w, s.recorded[r.PathValue("id")])
}

func (s *services) stamp(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	request, err := timestamp.ParseRequest(raw)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Time: time.Now(), Nonce: request.Nonce,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: request.Certificates,
	}
	answer, err := stamp.CreateResponseWithOpts(s.stamps.Leaf, s.stampKey, request.HashAlgorithm)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
