package attestation

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// fakeKMS answers as AWS KMS does, in its JSON 1.1 protocol, for one key.
func fakeKMS(t *testing.T, key *ecdsa.PrivateKey) {
	t.Helper()
	const arn = "arn:aws:kms:eu-west-1:123456789012:alias/images"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			KeyID                         string `json:"KeyId"`
			MessageType, SigningAlgorithm string
			Message                       []byte
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/kms/aws4_request") {
			t.Errorf("%v: asked with %v", err, r.Header)
		}
		if in.KeyID != arn {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": "NotFoundException", "message": "Alias is not found."})
			return
		}
		switch r.Header.Get("X-Amz-Target") {
		case "TrentService.GetPublicKey":
			der, _ := x509.MarshalPKIXPublicKey(key.Public())
			_ = json.NewEncoder(w).Encode(map[string]any{"PublicKey": der, "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": []string{"ECDSA_SHA_256"}})
		case "TrentService.Sign":
			if in.MessageType != "DIGEST" || in.SigningAlgorithm != "ECDSA_SHA_256" || len(in.Message) != 32 {
				t.Errorf("signing %+v", in)
			}
			sig, _ := ecdsa.SignASN1(rand.Reader, key, in.Message) // another one each time
			_ = json.NewEncoder(w).Encode(map[string]any{"Signature": sig})
		default:
			t.Errorf("asked for %s", r.Header.Get("X-Amz-Target"))
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_KMS", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestKMS(t *testing.T) {
	key := newKey(t)
	fakeKMS(t, key)
	_, s := subject(t)
	p, img, _, bases := example()
	img.Repository = s.repository
	o := Options{
		Publish: config.Publish{Sign: &config.Sign{Key: "awskms:///arn:aws:kms:eu-west-1:123456789012:alias/images"}}, Getenv: environment(nil),
	}
	for range 2 {
		n, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Attend(t.Context(), s.client, p, img, s.subject, bases); err != nil {
			t.Fatal(err)
		}
	}
	// Its signatures differ, but one is enough.
	index, _, _, err := s.list(t.Context())
	if err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%d signatures, %v", len(index.Manifests), err)
	}
	raw, err := s.read(t.Context(), index.Manifests[0].Digest.String())
	var b bundle
	if err != nil || json.Unmarshal(raw, &b) != nil || !verify(key.Public(), preAuthentication(payloadType, b.Envelope.Payload), b.Envelope.Signatures[0].Sig) {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestNoKMS(t *testing.T) {
	fakeKMS(t, newKey(t))
	for _, key := range []string{"awskms:///", "awskms://host", "gcpkms://projects/x", "awskms:///arn:aws:kms:eu-west-1:123456789012:alias/unknown"} {
		_, err := Open(t.Context(), Options{Publish: config.Publish{Sign: &config.Sign{Key: key}}, Getenv: environment(nil)})
		if err == nil || failure.Hint(err) == "" {
			t.Errorf("%s: got %v", key, err)
		}
	}
}
