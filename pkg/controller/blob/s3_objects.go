package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func (b *bucket) Stat(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	out, err := ask(b, func(c *s3.Client) (*s3.HeadObjectOutput, error) {
		return c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.Bucket, Key: b.key(key)})
	})
	if err != nil {
		return Info{}, b.fail(ctx, "looking for", key, err)
	}
	return Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}, nil
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := ask(b, func(c *s3.Client) (*s3.DeleteObjectOutput, error) {
		return c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.Bucket, Key: b.key(key)})
	})
	if err = b.fail(ctx, "deleting", key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (b *bucket) List(ctx context.Context, prefix string, each func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	for next, more := (*string)(nil), true; more; {
		page, err := ask(b, func(c *s3.Client) (*s3.ListObjectsV2Output, error) {
			return c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.Bucket, Prefix: b.key(prefix), ContinuationToken: next})
		})
		if err != nil {
			return b.fail(ctx, "listing", prefix, err)
		}
		next = page.NextContinuationToken
		more = aws.ToBool(page.IsTruncated) && next != nil
		for _, o := range page.Contents {
			key := strings.TrimPrefix(aws.ToString(o.Key), b.Prefix)
			if checkKey(key) != nil {
				continue
			}
			if err := each(Info{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bucket) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, Info, error) {
	if err := checkKey(key); err != nil {
		return nil, Info{}, err
	}
	if offset < 0 {
		return nil, Info{}, fmt.Errorf("reading %s from %d", key, offset)
	}
	reading, cancel := context.WithCancel(ctx)
	o := &object{ctx: reading, cancel: cancel, bucket: b, key: key, at: offset}
	if err := o.open(); err != nil {
		cancel()
		if offset > 0 && code(err) == "InvalidRange" {
			return b.pastEnd(ctx, key, offset, err)
		}
		return nil, Info{}, b.fail(ctx, "reading", key, err)
	}
	return o, o.info, nil
}

// pastEnd is what Get gives for an offset that S3 refuses.
func (b *bucket) pastEnd(ctx context.Context, key string, offset int64, refused error) (io.ReadCloser, Info, error) {
	info, err := b.Stat(ctx, key)
	if err == nil && offset < info.Size {
		err = b.fail(ctx, "reading", key, refused)
	}
	if err != nil {
		return nil, Info{}, err
	}
	return io.NopCloser(strings.NewReader("")), info, nil
}

// object is a blob that is read. Reading goes on where a connection broke.
type object struct {
	ctx    context.Context //nolint:containedctx // of Get
	cancel context.CancelFunc
	bucket *bucket
	key    string
	info   Info
	etag   *string
	at     int64
	body   io.ReadCloser
	breaks int // since the last byte
}

// maxBreaks is how often a connection may break without having brought a byte.
const maxBreaks = 5

func (o *object) open() error {
	in := &s3.GetObjectInput{Bucket: &o.bucket.Bucket, Key: o.bucket.key(o.key), IfMatch: o.etag}
	if o.at > 0 {
		in.Range = aws.String("bytes=" + strconv.FormatInt(o.at, 10) + "-")
	}
	out, err := ask(o.bucket, func(c *s3.Client) (*s3.GetObjectOutput, error) { return c.GetObject(o.ctx, in) })
	if err != nil {
		return err
	}
	size := aws.ToInt64(out.ContentLength)
	if o.at > 0 {
		_, total, _ := strings.Cut(aws.ToString(out.ContentRange), "/")
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			_ = out.Body.Close()
			return fmt.Errorf("the answer is no part of it: its range is %q", aws.ToString(out.ContentRange))
		}
	}
	o.body, o.etag = out.Body, out.ETag
	o.info = Info{Key: o.key, Size: size, Modified: aws.ToTime(out.LastModified)}
	return nil
}

func (o *object) Read(p []byte) (int, error) {
	for {
		n, err := o.body.Read(p)
		if o.at += int64(n); n > 0 {
			o.breaks = 0
		}
		if err == nil || errors.Is(err, io.EOF) && o.at >= o.info.Size {
			return n, err
		}
		if n > 0 {
			return n, nil // it will come again
		}
		if o.breaks++; o.breaks > maxBreaks || o.ctx.Err() != nil {
			return 0, o.bucket.fail(o.ctx, "reading", o.key, err)
		}
		_ = o.body.Close()
		o.body = io.NopCloser(strings.NewReader("")) // until there is another
		if o.at >= o.info.Size {
			return 0, io.EOF
		}
		if err := o.open(); err != nil {
			return 0, o.bucket.fail(o.ctx, "reading", o.key, err)
		}
	}
}

func (o *object) Close() error {
	o.cancel()
	return o.body.Close()
}
