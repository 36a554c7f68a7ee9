package blob

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// maxSigned is how long a signed address holds at most.
	maxSigned = time.Hour
	// uploading is how long there is for putting parts. Whoever needs longer
	// announces the context again.
	uploading = 30 * time.Minute
)

// SignGet signs with the store's own credentials: an address does not outlive
// them.
func (b *bucket) SignGet(ctx context.Context, key string, d time.Duration) (api.SignedURL, error) {
	if err := checkKey(key); err != nil {
		return api.SignedURL{}, err
	}
	if d < time.Second || d > maxSigned {
		return api.SignedURL{}, failure.Input("an address cannot be signed for %s: it has to be between a second and %s", d, maxSigned)
	}
	signed, err := b.site.Load().signer.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &b.Bucket, Key: b.key(key)}, s3.WithPresignExpires(d))
	if err != nil {
		return api.SignedURL{}, b.fail(ctx, "signing an address of", key, err)
	}
	return b.signedURL(ctx, signed, d), nil
}

func (b *bucket) signedURL(ctx context.Context, signed *v4.PresignedHTTPRequest, d time.Duration) api.SignedURL {
	u := api.SignedURL{URL: signed.URL, Expires: time.Now().Add(d).Truncate(time.Second)}
	if c, err := b.site.Load().client.Options().Credentials.Retrieve(ctx); err == nil && c.CanExpire && c.Expires.Before(u.Expires) {
		u.Expires = c.Expires
	}
	for name, values := range signed.SignedHeader {
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Content-Length": // every request has these
			continue
		}
		if u.Header == nil {
			u.Header = map[string]string{}
		}
		u.Header[name] = values[0]
	}
	return u
}

// Upload signs each part's number and size, so that not more can be put. It goes
// on with an upload of the same size that was not ended.
func (b *bucket) Upload(ctx context.Context, key string, size int64) (*Upload, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if size < 1 {
		return nil, failure.Input("an upload of %d bytes", size)
	}
	u, err := b.unfinished(ctx, key, size)
	if err != nil {
		return nil, b.fail(ctx, "looking for uploads of", key, err)
	}
	began := u == nil
	if began {
		begun, err := b.begin(ctx, key)
		if err != nil {
			return nil, b.fail(ctx, "beginning an upload of", key, err)
		}
		u = &Upload{ID: aws.ToString(begun.UploadId), PartSize: sizeOfParts(size)}
	}
	for at := int64(0); at < size; at += u.PartSize {
		number := int32(len(u.Parts) + 1) //nolint:gosec // at most 10,000
		signed, err := b.site.Load().signer.PresignUploadPart(ctx, &s3.UploadPartInput{
			Bucket: &b.Bucket, Key: b.key(key), UploadId: &u.ID, PartNumber: &number, ContentLength: aws.Int64(min(u.PartSize, size-at)),
		}, s3.WithPresignExpires(uploading))
		if err != nil {
			if began {
				b.abort(ctx, key, &u.ID)
			}
			return nil, b.fail(ctx, "signing an address of", key, err)
		}
		u.Parts = append(u.Parts, b.signedURL(ctx, signed, uploading))
	}
	return u, nil
}

func (b *bucket) Complete(ctx context.Context, key, upload string, etags []string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if upload == "" || len(etags) == 0 || len(etags) > maxParts {
		return failure.Input("completing %s: no upload, or %d parts", key, len(etags))
	}
	parts := make([]types.CompletedPart, len(etags))
	for i, etag := range etags {
		if etag == "" {
			return failure.Input("completing %s: part %d has no ETag", key, i+1)
		}
		parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: &etag}
	}
	_, err := ask(b, func(c *s3.Client) (*s3.CompleteMultipartUploadOutput, error) {
		return c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &b.Bucket, Key: b.key(key), UploadId: &upload, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, IfNoneMatch: aws.String("*"),
		})
	})
	switch code(err) {
	case "PreconditionFailed":
		b.abort(ctx, key, &upload)
		return nil
	case "NoSuchUpload":
		// The answer to an earlier request may have been lost.
		_, serr := b.Stat(ctx, key)
		return serr
	case "InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML":
		return failure.Input("completing %s: its parts are not those that were sent: %s", key, code(err))
	}
	return b.fail(ctx, "completing", key, err)
}

// Sweep drops uploads that were begun and not ended.
func (b *bucket) Sweep(ctx context.Context, prefix string, before time.Time) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	err := b.begun(ctx, prefix, func(u types.MultipartUpload) error {
		if !aws.ToTime(u.Initiated).Before(before) {
			return nil
		}
		_, err := ask(b, func(c *s3.Client) (*s3.AbortMultipartUploadOutput, error) {
			return c.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.Bucket, Key: u.Key, UploadId: u.UploadId})
		})
		if err := b.fail(ctx, "dropping an upload of", aws.ToString(u.Key), err); err != nil && !errors.Is(err, ErrNotFound) {
			return &swept{err}
		}
		return nil
	})
	if s, ok := errors.AsType[*swept](err); ok {
		return s.error
	}
	return b.fail(ctx, "listing uploads of", prefix, err)
}

// swept is an error that is said already.
type swept struct{ error }
