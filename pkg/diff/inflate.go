package diff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// maxObject bounds the memory that one object may take, and maxRatio what it
// may take for every byte that it is compressed to.
const (
	maxObject = 1 << 30
	maxRatio  = 1032
)

var errTooLarge = fmt.Errorf("an object is larger than %d bytes, which only git itself can read", maxObject)

// inflate decompresses the zlib stream that data begins with, which has to make
// this many bytes and have the right checksum.
func inflate(data []byte, size int64) ([]byte, error) {
	if size > maxObject {
		return nil, errTooLarge
	}
	if size/maxRatio > int64(len(data)) {
		return nil, damaged("%d compressed bytes cannot hold %d", len(data), size)
	}
	out := make([]byte, size)
	err := inflating(data, func(z io.Reader) error {
		if n, err := io.ReadFull(z, out); err != nil {
			return damaged("%d bytes where %d should be: %v", n, size, err)
		}
		// Only the end brings the checksum.
		if n, err := z.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			return damaged("more than %d bytes, or not those that were written: %v", size, err)
		}
		return nil
	})
	return out, err
}

// inflateSome fills out with what the stream begins with, and gives how much
// that is if it is less.
func inflateSome(out, data []byte) (n int, err error) {
	err = inflating(data, func(z io.Reader) error {
		n, err = io.ReadFull(z, out)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return damaged("what is compressed cannot be read: %v", err)
		}
		return nil
	})
	return n, err
}

// inflater is a decompressor with its input, kept since making one takes longer
// than most objects do.
type inflater struct {
	in  bytes.Reader
	out io.ReadCloser
}

var inflaters = sync.Pool{New: func() any { return &inflater{} }}

func inflating(data []byte, read func(io.Reader) error) (err error) {
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	z.in.Reset(data)
	if z.out == nil {
		z.out, err = zlib.NewReader(&z.in)
	} else {
		err = z.out.(zlib.Resetter).Reset(&z.in, nil)
	}
	if err != nil {
		return damaged("what is compressed cannot be read: %v", err)
	}
	err = read(z.out)
	z.in.Reset(nil) // the data is not kept
	return err
}
