package controller

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Sealer encrypts what must not be readable at rest.
type Sealer interface {
	Seal(plain []byte) []byte
	// Open gives what was sealed; an error if it was not sealed with this key.
	Open(sealed []byte) ([]byte, error)
}

// keySize is that of AES-256.
const keySize = 32

// KeyFile seals with AES-256-GCM by the key in a file of 32 random bytes,
// which is made (mode 0600) if it is not there. A file of another size, or one
// that others than its owner and group may read, is a failure.ErrInput.
func KeyFile(path string) (Sealer, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("making the key %s: %w", path, err)
		}
		key, err = readKey(path) // whoever was first
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", path, err)
	}
	return newSealer(key)
}

// leastSecret is how long a secret is that a key is made from: 43 letters and
// digits at random are worth 256 bits.
const leastSecret = 43

// Key seals with AES-256-GCM by a key that is derived (HKDF, RFC 5869) from a
// secret. One of less than 43 characters is a failure.ErrInput: it has to be
// random, as nothing makes up for one that can be guessed.
func Key(secret string) (Sealer, error) {
	if len(secret) < leastSecret {
		return nil, failure.WithHint(failure.Input("it is shorter than %d characters", leastSecret), "for example: openssl rand -hex 32")
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "pipegen: secrets at rest", keySize)
	if err != nil {
		return nil, err
	}
	return newSealer(key)
}

func newSealer(key []byte) (Sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return sealer{gcm}, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o037 != 0 { // its group may be what a secret of Kubernetes is mounted for
		return nil, failure.WithHint(failure.Input("others than its owner and group may read it, or others than its owner may write it"), "chmod 600 %s", path)
	}
	key, err := io.ReadAll(io.LimitReader(f, keySize+1))
	if err != nil {
		return nil, err
	}
	if len(key) != keySize {
		return nil, failure.Input("it is not %d bytes long", keySize)
	}
	return key, nil
}

// makeKey writes a new key to a file that is not there; if it is by now, it stays.
func makeKey(path string) error {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	f, err := os.CreateTemp(filepath.Dir(path), ".key-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

type sealer struct{ cipher.AEAD }

func (s sealer) Seal(plain []byte) []byte {
	return s.AEAD.Seal(nil, nil, plain, nil) //nolint:gosec // no nonce: this AEAD makes a random one itself
}

func (s sealer) Open(sealed []byte) ([]byte, error) {
	plain, err := s.AEAD.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, failure.WithHint(errors.New("it was sealed with another key, or is damaged"), "the key file belongs to the database: put back the one it was made with")
	}
	return plain, nil
}
