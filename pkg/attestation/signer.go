package attestation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
)

// signer signs statements, and says by what its signatures are verified.
type signer interface {
	// sign signs a statement. The proof is what a verifier needs beside it.
	sign(ctx context.Context, payload []byte) (signature []byte, by proof, err error)
	// knows says whether a bundle's proof is one that this signer gives.
	knows(ctx context.Context, material verification) (crypto.PublicKey, bool)
}

// proof tells a verifier whose a signature is: the hint of a key, or a
// certificate (DER).
type proof struct {
	public      crypto.PublicKey
	certificate []byte
	// What logs and authorities attest of the signature.
	log       json.RawMessage
	timestamp []byte
}

// newSigner makes the signer that the configuration names.
func newSigner(ctx context.Context, o Options) (signer, error) {
	s := o.Publish.Sign
	switch {
	case s.Keyless:
		return newKeyless(ctx, o)
	case s.Key == "":
		return nil, failure.Input("it names neither a key nor keyless")
	}
	witness := witnessOf(o)
	if scheme, rest, ok := strings.Cut(s.Key, "://"); ok && scheme != "env" {
		if scheme != "awskms" {
			return nil, failure.WithHint(failure.Input("keys of %s are not known", scheme), "use a file, env://NAME, or awskms://ENDPOINT/KEY")
		}
		k, err := newKMS(ctx, o, rest)
		if err != nil {
			return nil, err
		}
		return &keyed{key: k, witness: witness}, nil
	}
	k, err := readKey(o)
	if err != nil {
		return nil, err
	}
	return &keyed{key: memory{k}, witness: witness}, nil
}

// key signs digests.
type key interface {
	Public() crypto.PublicKey
	// signDigest signs what hash made of a message; for ed25519, which signs
	// messages whole, hash is 0.
	signDigest(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error)
}

// keyed signs with one key that verifiers know.
type keyed struct {
	key
	witness witness
}

func (k *keyed) sign(ctx context.Context, payload []byte) ([]byte, proof, error) {
	signature, err := signWith(ctx, k.key, preAuthentication(payloadType, payload))
	if err != nil {
		return nil, proof{}, err
	}
	by := proof{public: k.Public()}
	return signature, by, k.witness.attest(ctx, &by, payload, signature)
}

func (k *keyed) knows(_ context.Context, m verification) (crypto.PublicKey, bool) {
	return k.Public(), m.PublicKey != nil && (k.witness.rekor == "" || len(m.TlogEntries) > 0)
}

func signWith(ctx context.Context, k key, message []byte) ([]byte, error) {
	hash := hashOf(k.Public())
	if hash == 0 {
		return k.signDigest(ctx, message, 0)
	}
	h := hash.New()
	h.Write(message)
	return k.signDigest(ctx, h.Sum(nil), hash)
}

// hashOf is the hash that Sigstore's clients take for a kind of key; 0 for
// ed25519.
func hashOf(public crypto.PublicKey) crypto.Hash {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
	case ed25519.PublicKey:
		return 0
	}
	return crypto.SHA256
}

// verify says whether a signature of a message is by a key.
func verify(public crypto.PublicKey, message, signature []byte) bool {
	digest := message
	hash := hashOf(public)
	if hash != 0 {
		h := hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, signature)
	}
	return false
}

// memory is a private key in memory. Its signatures are the same for the same
// message.
type memory struct{ crypto.Signer }

func (m memory) signDigest(_ context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	// Without a source of randomness ECDSA is that of RFC 6979.
	return m.Sign(nil, digest, hash)
}

// preAuthentication is what is signed of an envelope
// (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md).
func preAuthentication(typ string, payload []byte) []byte {
	var b bytes.Buffer
	for _, part := range []string{"DSSEv1", strconv.Itoa(len(typ)), typ, strconv.Itoa(len(payload))} {
		b.WriteString(part + " ")
	}
	b.Write(payload)
	return b.Bytes()
}

// hint is what Sigstore's clients call a key by.
func hint(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

func pemOf(by proof) ([]byte, error) {
	if by.certificate != nil {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.certificate}), nil
	}
	der, err := x509.MarshalPKIXPublicKey(by.public)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
