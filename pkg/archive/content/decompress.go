package content

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression of a layer, as its first bytes tell.
type Compression int

// What layers come in. Other compressions are taken for none.
const (
	None Compression = iota
	Gzip
	Zstd
)

var magics = map[Compression][]byte{
	Gzip: {0x1f, 0x8b},
	Zstd: {0x28, 0xb5, 0x2f, 0xfd}, // RFC 8878, 3.1.1
}

// maxWindow is how much memory a zstd frame may ask for: what the zstd program
// itself decodes without being told to use more.
const maxWindow = 128 << 20

// Peek tells a stream's compression from its first bytes, and gives the whole
// stream again.
func Peek(r io.Reader) (Compression, *bufio.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return None, nil, err
	}
	for c, magic := range magics {
		if bytes.HasPrefix(head, magic) {
			return c, b, nil
		}
	}
	return None, b, nil
}

// Decompress gives the bytes of a gzip or zstd stream, or r's own if they are
// neither. Closing it closes r; so does an error.
func Decompress(r io.ReadCloser) (io.ReadCloser, error) {
	c, b, err := Peek(r)
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(b)
		if err != nil {
			_ = r.Close()
			return nil, err
		}
		return stream{z, r.Close}, nil
	case Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			_ = r.Close()
			return nil, err
		}
		return stream{z, func() error { z.Close(); return r.Close() }}, nil
	}
	return stream{b, r.Close}, nil
}

type stream struct {
	io.Reader
	close func() error
}

func (s stream) Close() error { return s.close() }
