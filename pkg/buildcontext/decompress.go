package buildcontext

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/failure"
)

// maxWindow is how much a zstd decoder keeps: what RFC 8878 (section 3.1.1.1.2)
// asks of every decoder.
const maxWindow = 8 << 20

// decompress reads gzip (RFC 1952) or zstd (RFC 8878), by what it begins with.
func decompress(in io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(in, 64<<10)
	magic, err := r.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, damaged(err)
		}
		return z, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, damaged(err)
		}
		return z.IOReadCloser(), nil
	case err != nil && len(magic) < 4:
		return nil, failure.Input("the archive is truncated: it has %d bytes", len(magic))
	}
	return nil, failure.Input("the archive is compressed neither with gzip nor with zstd")
}
