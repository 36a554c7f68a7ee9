package attestation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxKey bounds what is read of a file that should be a key.
const maxKey = 64 << 10

// minRSA is the shortest key of RSA that Sigstore's verifiers take, in bits.
const minRSA = 2048

// readKey reads the private key that the configuration names: a file, or
// env://NAME for one in a variable. It is PEM: cosign's own, encrypted with a
// password, or PKCS #8, SEC 1 or PKCS #1. What it says of a key that cannot be
// read holds nothing of the key.
func readKey(o Options) (crypto.Signer, error) {
	s := o.Publish.Sign
	var text []byte
	if name, ok := strings.CutPrefix(s.Key, "env://"); ok {
		text = []byte(o.Getenv(name))
		if len(text) == 0 {
			return nil, failure.WithHint(failure.Input("the variable %s, which should hold the key, is not set", quote.Text(name)), "give the job that publishes this variable")
		}
	} else {
		file := s.Key
		if !filepath.IsAbs(file) {
			file = filepath.Join(o.Root, file)
		}
		info, err := os.Stat(file)
		if err == nil && info.Size() > maxKey {
			err = fmt.Errorf("%s has %d bytes", s.Key, info.Size())
		}
		if err == nil {
			text, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, failure.Input("reading the key: %w", err)
		}
	}
	k, err := parseKey(text, o.Getenv(s.PasswordVariable()))
	if err != nil {
		return nil, failure.WithHint(failure.Input("the key %s: %w", quote.Text(s.Key), err), "a key pair is made with: cosign generate-key-pair (its password is taken from $%s)", s.PasswordVariable())
	}
	return k, nil
}

func parseKey(text []byte, password string) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is no PEM")
	}
	var k any
	var err error
	switch block.Type {
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		der, derr := encrypted.Decrypt(block.Bytes, []byte(password))
		switch {
		case derr != nil && password == "":
			return nil, errors.New("it is encrypted, and there is no password")
		case derr != nil:
			return nil, errors.New("the password does not open it")
		}
		k, err = x509.ParsePKCS8PrivateKey(der)
	case "PRIVATE KEY":
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		k, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PUBLIC KEY":
		return nil, errors.New("it is a public key, the private one is needed")
	default:
		return nil, fmt.Errorf("a PEM of type %q is no private key", quote.Text(block.Type))
	}
	if err != nil {
		return nil, errors.New("it cannot be read as a private key")
	}
	switch k := k.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSA {
			return nil, fmt.Errorf("it is of RSA with %d bits, fewer than %d", k.N.BitLen(), minRSA)
		}
		return k, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign", k)
}
