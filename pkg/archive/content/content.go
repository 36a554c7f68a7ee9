// Package content makes images and indexes out of whatever opens their blobs
// (an archive, a registry), and verifies all that is read.
package content

import (
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Open opens what a descriptor names, a manifest or a blob; it need not verify
// it. Size and digest of d are plausible. An error that wraps fs.ErrNotExist
// says that it is not there.
type Open func(d v1.Descriptor) (io.ReadCloser, error)

// MaxDocument is how many bytes a manifest, an index or a config may have.
// Registries take manifests up to 4 MiB (OCI distribution specification).
const MaxDocument = 8 << 20

// ReadAll reads a document whole and verified.
func ReadAll(open Open, d v1.Descriptor) ([]byte, error) {
	if d.Size > MaxDocument {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that a document may have", name(d), d.Size, MaxDocument)
	}
	r, err := openVerified(open, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func openVerified(open Open, d v1.Descriptor) (io.ReadCloser, error) {
	if d.Digest.Hex == "" || d.Size < 0 {
		return nil, fmt.Errorf("the descriptor of a %q has no valid digest and size", quote.Text(string(d.MediaType)))
	}
	r, err := open(d)
	if err != nil {
		return nil, err
	}
	return Verify(r, d.Digest, d.Size)
}

func name(d v1.Descriptor) string { return d.Digest.String() }

// Verify gives r's bytes, and an error in the end's stead if they are not of
// that size and digest. It closes r when the digest's algorithm is unknown.
func Verify(r io.ReadCloser, want v1.Hash, size int64) (io.ReadCloser, error) {
	if v, ok := r.(*verified); ok && v.want == want && v.size == size {
		return r, nil
	}
	h, err := v1.Hasher(want.Algorithm)
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return &verified{ReadCloser: r, sum: h, want: want, size: size}, nil
}

type verified struct {
	io.ReadCloser
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	want v1.Hash
	size int64
	n    int64
	err  error
}

func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.ReadCloser.Read(p)
	_, _ = v.sum.Write(p[:n])
	v.n += int64(n)
	switch {
	case v.n > v.size:
		v.err = fmt.Errorf("%s is longer than the %d bytes that it should have", v.want, v.size)
	case v.n == v.size && fmt.Sprintf("%x", v.sum.Sum(nil)) != v.want.Hex:
		v.err = fmt.Errorf("the bytes of %s have the digest %s:%x", v.want, v.want.Algorithm, v.sum.Sum(nil))
	case errors.Is(err, io.EOF) && v.n < v.size:
		v.err = fmt.Errorf("%s ends after %d of %d bytes", v.want, v.n, v.size)
	default:
		v.err = err
	}
	return n, v.err
}
