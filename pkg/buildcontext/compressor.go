package buildcontext

import (
	"context"
	"hash"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

const (
	// blockSize is how much is compressed by itself. It decides the bytes of
	// archives: smaller ones compress worse, larger ones take memory.
	blockSize  = 1 << 20
	maxWorkers = 4
)

// compressor compresses blocks of one size, each to a zstd frame of its own,
// many at once, and writes the frames in order. So the bytes do not depend on
// how many there are at once. Frames one after the other are an archive
// that every reader of zstd takes (RFC 8878, section 3).
type compressor struct {
	group   *errgroup.Group
	ctx     context.Context //nolint:containedctx // of the group
	free    chan *block     // may be filled
	filled  chan *block     // to be compressed, by anybody
	ordered chan *block     // to be written, in this order
	current *block
}

type block struct {
	in, out []byte
	done    chan struct{} // gets an element when out is there
}

func newCompressor(ctx context.Context, w io.Writer, workers int) *compressor {
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	// One is being filled, one being written.
	count := workers + 2
	c := &compressor{free: make(chan *block, count), filled: make(chan *block, count), ordered: make(chan *block, count)}
	c.group, c.ctx = errgroup.WithContext(ctx)
	for range count {
		c.free <- &block{done: make(chan struct{}, 1)}
	}
	for range workers {
		c.group.Go(c.compress)
	}
	c.group.Go(func() error { return c.write(w) })
	return c
}

func (c *compressor) compress() error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(blockSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	for b := range c.filled {
		b.out = enc.EncodeAll(b.in, b.out[:0])
		b.done <- struct{}{}
	}
	return enc.Close()
}

func (c *compressor) write(w io.Writer) error {
	for b := range c.ordered {
		select {
		case <-b.done:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
		if _, err := w.Write(b.out); err != nil {
			return err
		}
		b.in = b.in[:0]
		c.free <- b
	}
	return nil
}

// Write takes bytes in. It waits while all blocks are in use.
func (c *compressor) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if c.current == nil {
			select {
			case c.current = <-c.free:
			case <-c.ctx.Done():
				return 0, context.Cause(c.ctx)
			}
			if c.current.in == nil {
				c.current.in, c.current.out = make([]byte, 0, blockSize), make([]byte, 0, blockSize+blockSize/64)
			}
		}
		b := c.current
		n := min(len(p), blockSize-len(b.in))
		b.in, p = append(b.in, p[:n]...), p[n:]
		if len(b.in) == blockSize {
			c.submit()
		}
	}
	return written, nil
}

// submit never waits: the channels hold all the blocks there are.
func (c *compressor) submit() {
	c.ordered <- c.current
	c.filled <- c.current
	c.current = nil
}

// close ends the archive, and waits until all is written or given up. With
// an error, it is given up; the first one of all is the result.
func (c *compressor) close(err error) error {
	if err == nil && c.current != nil {
		c.submit()
	}
	close(c.filled)
	close(c.ordered)
	if failed := c.group.Wait(); err == nil {
		return failed
	}
	return err
}

// summed counts and hashes what is written.
type summed struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.hash.Write(p[:n])
	s.n += int64(n)
	return n, err
}
