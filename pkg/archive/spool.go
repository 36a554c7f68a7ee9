package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"

	"github.com/pipegen/pipegen/pkg/archive/content"
)

// spool is a temporary file. Where a system lets an open file be removed, it
// has no name, so that nothing stays however the process ends.
type spool struct {
	*os.File
	size int64
}

// newSpool makes one in dir, or in the system's directory for such files.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".pipegen-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	return &spool{File: f}, nil
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.File.Write(p)
	s.size += int64(n)
	return n, err
}

func (s *spool) Close() error {
	err := s.File.Close()
	_ = os.Remove(s.Name())
	return err
}

func (s *spool) section() section { return section{s.File, 0, s.size} }

// decompressed gives a file with the decompressed bytes of another.
func (a *Archive) decompressed(ctx context.Context, f *os.File) (*os.File, error) {
	plain, err := content.Decompress(io.NopCloser(canceling{ctx, io.NewSectionReader(f, 0, 1<<62)}))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	s, err := newSpool("")
	if err != nil {
		return nil, err
	}
	a.keep(s)
	_, err = io.Copy(s, plain)
	return s.File, err
}

// compressed spools what it reads compressed with gzip, and gives the digest
// of that. The same bytes give the same digest.
func compressed(dir string, r io.Reader) (*spool, v1.Hash, error) {
	s, err := newSpool(dir)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	sum := sha256.New()
	z := gzip.NewWriter(io.MultiWriter(s, sum))
	_, err = io.Copy(z, r)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = s.Close()
		return nil, v1.Hash{}, err
	}
	return s, hashOf(sum), nil
}

// hashing hashes what is read.
type hashing struct {
	r   io.Reader
	sum hash.Hash
}

func newHashing(r io.Reader) *hashing { return &hashing{r, sha256.New()} }

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	_, _ = h.sum.Write(p[:n])
	return n, err
}

func (h *hashing) digest() v1.Hash { return hashOf(h.sum) }

func hashOf(sum hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
}
