package attestation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func block(t testing.TB, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(t testing.TB, k any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return block(t, "PRIVATE KEY", der, err)
}

func TestKeys(t *testing.T) {
	key := newKey(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, serr := encrypted.Encrypt(der, []byte("password"))
	sec1, eerr := x509.MarshalECPrivateKey(key)
	public, perr := x509.MarshalPKIXPublicKey(key.Public())
	for _, tt := range []struct {
		name, text, password string
		want                 crypto.Signer
		problem              string
	}{
		{"PKCS 8", pkcs8(t, key), "", key, ""},
		{"SEC 1", block(t, "EC PRIVATE KEY", sec1, eerr), "", key, ""},
		{"PKCS 1", block(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long), nil), "", long, ""},
		{"ed25519", pkcs8(t, edwards), "", edwards, ""},
		{"cosign", block(t, "ENCRYPTED SIGSTORE PRIVATE KEY", sealed, serr), "password", key, ""},
		{"cosign 1", block(t, "ENCRYPTED COSIGN PRIVATE KEY", sealed, serr), "password", key, ""},
		{"wrong password", block(t, "ENCRYPTED SIGSTORE PRIVATE KEY", sealed, serr), "passwort", nil, "the password does not open it"},
		{"no password", block(t, "ENCRYPTED SIGSTORE PRIVATE KEY", sealed, serr), "", nil, "it is encrypted, and there is no password"},
		{"public", block(t, "PUBLIC KEY", public, perr), "", nil, "it is a public key"},
		{"broken", block(t, "PRIVATE KEY", der[:20], nil), "", nil, "it cannot be read"},
		{"certificate", block(t, "CERTIFICATE", der, nil), "", nil, `"CERTIFICATE" is no private key`},
		{"no PEM", "top secret", "", nil, "it is no PEM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{
				Publish: config.Publish{Sign: &config.Sign{Key: "env://KEY"}},
				Getenv:  environment(map[string]string{"KEY": tt.text, "COSIGN_PASSWORD": tt.password}),
			}
			n, err := Open(t.Context(), o)
			if tt.want != nil {
				if err != nil {
					t.Fatal(err)
				}
				if got := n.signer.(*keyed).Public(); !tt.want.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got) {
					t.Error("it is another key")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.problem) || !errors.Is(err, failure.ErrInput) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error()+failure.Hint(err), "secret") || strings.Contains(err.Error(), "passwort") {
				t.Errorf("%v tells a secret", err)
			}
		})
	}
}

// The same statement has the same signature, whatever the kind of key: what
// is published twice is the same bytes.
func TestSameSignature(t *testing.T) {
	for range 2 {
		k := memory{newKey(t)}
		first, err := signWith(t.Context(), k, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		second, err := signWith(t.Context(), k, []byte("message"))
		if err != nil || string(first) != string(second) || !verify(k.Public(), []byte("message"), first) || verify(k.Public(), []byte("another"), first) {
			t.Errorf("%v: %x and %x", err, first, second)
		}
	}
}

func TestOpenNothing(t *testing.T) {
	if n, err := Open(t.Context(), Options{}); n != nil || err != nil {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestNoIdentity(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"none": nil, "no JWT": {"SIGSTORE_ID_TOKEN": "secret"}, "expired": {"SIGSTORE_ID_TOKEN": "e30.eyJzdWIiOiJhIiwiZXhwIjoxfQ.secret"},
		"nobody's": {"SIGSTORE_ID_TOKEN": "e30.e30.secret"},
	} {
		_, err := Open(t.Context(), Options{Publish: config.Publish{Sign: &config.Sign{Keyless: true}}, Getenv: environment(env)})
		if !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(pkcs8(f, newKey(f)), "")
	f.Add("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "x")
	f.Fuzz(func(t *testing.T, text, password string) {
		k, err := parseKey([]byte(text), password)
		if (k == nil) == (err == nil) {
			t.Errorf("got %v, %v", k, err)
		}
	})
}
