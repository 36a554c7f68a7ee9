package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	// partSize is that of parts where not more than maxParts of them come of it
	// (both limits are S3's: parts but the last have at least 5 MiB).
	partSize = 8 << 20
	maxParts = 10_000
	// sending is how many parts of a blob travel at once; each is in memory.
	sending = 2
)

// sizeOfParts gives the size of the parts of a blob; -1: its size is not known.
func sizeOfParts(size int64) int64 {
	const step = 1 << 20
	least := (size + maxParts - 1) / maxParts
	return max(partSize, (least+step-1)/step*step)
}

// Put sends what fits into one part at once, and the rest in parts.
func (b *bucket) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	in := &source{ctx: ctx, r: r, size: size}
	first, err := in.next(make([]byte, in.room()))
	if err != nil {
		return err
	}
	if in.ended {
		_, err = ask(b, func(c *s3.Client) (*s3.PutObjectOutput, error) {
			return c.PutObject(ctx, b.Encryption.put(&s3.PutObjectInput{
				Bucket: &b.Bucket, Key: b.key(key), Body: bytes.NewReader(first), ContentLength: aws.Int64(int64(len(first))),
			}))
		})
	} else if err = b.putParts(ctx, key, first, in); in.err != nil {
		return in.err // nothing is wrong with S3
	}
	return b.fail(ctx, "writing", key, err)
}

// source gives what is put in parts.
type source struct {
	ctx   context.Context //nolint:containedctx // of Put
	r     io.Reader
	size  int64 // -1: not known
	n     int64 // bytes given
	ended bool
	err   error
}

// room is the size of the next part, or one byte more than is left.
func (s *source) room() int64 {
	part := sizeOfParts(s.size)
	if s.size < 0 {
		return part
	}
	return min(part, s.size-s.n+1)
}

// next fills buf as far as there is something, and checks the size.
func (s *source) next(buf []byte) ([]byte, error) {
	n, err := io.ReadFull(reading{s.ctx, s.r}, buf)
	s.n += int64(n)
	s.ended = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case err != nil && !s.ended:
		s.err = err
	case s.size >= 0 && (s.n > s.size || s.ended && s.n != s.size):
		s.err = wrongSize(s.n, s.size)
	}
	return buf[:n], s.err
}

// begin begins an upload in parts.
func (b *bucket) begin(ctx context.Context, key string) (*s3.CreateMultipartUploadOutput, error) {
	return ask(b, func(c *s3.Client) (*s3.CreateMultipartUploadOutput, error) {
		return c.CreateMultipartUpload(ctx, b.Encryption.begin(&s3.CreateMultipartUploadInput{Bucket: &b.Bucket, Key: b.key(key)}))
	})
}

// putParts sends the first part and what follows it.
func (b *bucket) putParts(ctx context.Context, key string, first []byte, in *source) error {
	begun, err := b.begin(ctx, key)
	if err != nil {
		return err
	}
	done, err := b.sendParts(ctx, key, begun.UploadId, first, in)
	if err == nil {
		_, err = ask(b, func(c *s3.Client) (*s3.CompleteMultipartUploadOutput, error) {
			return c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
				Bucket: &b.Bucket, Key: b.key(key), UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
			})
		})
	}
	if err != nil {
		b.abort(ctx, key, begun.UploadId)
	}
	return err
}

func (b *bucket) sendParts(ctx context.Context, key string, upload *string, first []byte, in *source) ([]types.CompletedPart, error) {
	g, gctx := errgroup.WithContext(ctx)
	free := make(chan []byte, sending)
	for range sending - 1 {
		free <- nil
	}
	var sent []*types.CompletedPart
	for data := first; len(data) > 0; {
		number := int32(len(sent) + 1) //nolint:gosec // at most 10,000
		part := &types.CompletedPart{PartNumber: &number}
		sent = append(sent, part)
		g.Go(b.sendPart(gctx, key, upload, part, data, free))
		if in.ended {
			break
		}
		var buf []byte
		select {
		case buf = <-free:
		case <-gctx.Done():
			return nil, g.Wait()
		}
		if room := in.room(); int64(cap(buf)) < room {
			buf = make([]byte, room)
		} else {
			buf = buf[:room]
		}
		var err error
		if data, err = in.next(buf); err != nil {
			_ = g.Wait()
			return nil, err
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	parts := make([]types.CompletedPart, len(sent))
	for i, p := range sent {
		parts[i] = *p
	}
	return parts, nil
}

// sendPart sends a part, and then gives its memory to the next.
func (b *bucket) sendPart(ctx context.Context, key string, upload *string, part *types.CompletedPart, data []byte, free chan<- []byte) func() error {
	return func() error {
		out, err := ask(b, func(c *s3.Client) (*s3.UploadPartOutput, error) {
			return c.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &b.Bucket, Key: b.key(key), UploadId: upload, PartNumber: part.PartNumber,
				Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
			})
		})
		if err != nil {
			return err
		}
		part.ETag = out.ETag
		free <- data
		return nil
	}
}

// abort drops an upload, even if nobody waits any more. Sweep gets what it
// leaves.
func (b *bucket) abort(ctx context.Context, key string, upload *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, _ = b.site.Load().client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.Bucket, Key: b.key(key), UploadId: upload}, impatient)
}
