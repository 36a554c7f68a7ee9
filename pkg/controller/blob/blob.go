// Package blob keeps large things by name: contexts and logs, in a directory
// or in S3.
package blob

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// ErrNotSigned says that a store cannot be reached by signed URLs.
	ErrNotSigned = errors.New("the store has no signed URLs")
)

// Store keeps blobs. All methods may be called at once. Keys are names with
// slashes such as contexts/sha256/HEX and logs/RUN: of letters, digits and ._-=+@,
// no part beginning with a dot, at most 512 bytes. Other keys are errors that
// wrap failure.ErrInput. No key may be another one's directory.
type Store interface {
	// Put writes a blob whole or not at all, in the place of one that is there.
	// The size is that of what r has, or else it is an error; -1: not known.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// Get reads from an offset to the end, which is nothing from the size on;
	// ErrNotFound.
	Get(ctx context.Context, key string, offset int64) (io.ReadCloser, Info, error)
	// Stat describes a blob; ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete deletes; what is not there is deleted already.
	Delete(ctx context.Context, key string) error
	// List gives each blob whose key begins with prefix, in no order.
	List(ctx context.Context, prefix string, each func(Info) error) error
	// Upload begins an upload by others, with addresses to put its parts to, or
	// goes on with one of the same size that was not ended; ErrNotSigned.
	Upload(ctx context.Context, key string, size int64) (*Upload, error)
	// Complete makes a blob of an upload's parts. If there is one by then, it
	// stays, and the upload is dropped. ErrNotFound: there is no such upload.
	// Parts that are missing or not those of etags wrap failure.ErrInput.
	Complete(ctx context.Context, key, upload string, etags []string) error
	// SignGet gives an address to read one blob from, whether it is there or
	// not, for at most an hour; ErrNotSigned.
	SignGet(ctx context.Context, key string, d time.Duration) (api.SignedURL, error)
	// Sweep removes what uploads and puts of keys that begin with prefix have
	// left if they began before a time and never ended.
	Sweep(ctx context.Context, prefix string, before time.Time) error
	// Check says soon whether the store can be used. What the configuration has
	// wrong wraps failure.ErrInput.
	Check(ctx context.Context) error
}

// Info describes a blob.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time
}

// Upload is a multipart upload that was begun.
type Upload struct {
	// Name of the upload among those of its key.
	ID string
	// Bytes of each part but the last.
	PartSize int64
	// In order.
	Parts []api.SignedURL
	// ETags of the parts that are there already, at their places among Parts;
	// empty: to be put. Nil: none is there.
	Have []string
}

const maxKey = 512

// checkKey refuses keys that some store could not keep, or not as they are.
func checkKey(key string) error {
	if len(key) > maxKey {
		return failure.Input("the key %s… is too long", quote.Text(key[:40]))
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || len(part) > 255 || strings.ContainsFunc(part, notInKey) {
			return failure.Input("%q is no key of a blob", key)
		}
	}
	return nil
}

// checkPrefix is checkKey for the beginning of one.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkKey(prefix + "x")
}

func notInKey(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("._-=+@", r)
}

// reading ends with the context.
type reading struct {
	ctx context.Context //nolint:containedctx // of one call
	r   io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if cause := context.Cause(r.ctx); cause != nil {
		return 0, cause
	}
	return r.r.Read(p)
}

// wrongSize is what is wrong with a source that has other than the announced bytes.
func wrongSize(got, want int64) error {
	if got > want {
		return failure.Input("there are more than %d bytes", want)
	}
	return failure.Input("there are %d bytes instead of %d", got, want)
}
