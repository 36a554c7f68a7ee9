package blob

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pipegen/pipegen/pkg/amazon"
)

// resumable is how many uploads of a key are looked at for parts, the newest
// first.
const resumable = 3

// unfinished finds the upload of a blob of this size that has the most of its
// parts already; nil: there is none, or looking is not allowed.
func (b *bucket) unfinished(ctx context.Context, key string, size int64) (*Upload, error) {
	var all []types.MultipartUpload
	err := b.begun(ctx, key, func(u types.MultipartUpload) error {
		if aws.ToString(u.Key) == *b.key(key) {
			all = append(all, u)
		}
		return nil
	})
	if err != nil {
		return nil, unlessRefused(err)
	}
	slices.SortFunc(all, func(x, y types.MultipartUpload) int { return aws.ToTime(y.Initiated).Compare(aws.ToTime(x.Initiated)) })
	var best *Upload
	most := 0
	for _, u := range all[:min(len(all), resumable)] {
		have, n, err := b.parts(ctx, key, u.UploadId, size)
		if err != nil {
			return nil, unlessRefused(err)
		}
		if n > most {
			best, most = &Upload{ID: aws.ToString(u.UploadId), PartSize: sizeOfParts(size), Have: have}, n
		}
	}
	return best, nil
}

// parts gives the ETags of those parts of an upload that are as long as they
// have to be, and their number.
func (b *bucket) parts(ctx context.Context, key string, upload *string, size int64) (have []string, n int, err error) {
	partSize := sizeOfParts(size)
	have = make([]string, (size+partSize-1)/partSize)
	for from, more := (*string)(nil), true; more; {
		page, err := ask(b, func(c *s3.Client) (*s3.ListPartsOutput, error) {
			return c.ListParts(ctx, &s3.ListPartsInput{Bucket: &b.Bucket, Key: b.key(key), UploadId: upload, PartNumberMarker: from}, impatient)
		})
		if err != nil {
			return nil, 0, err
		}
		for _, p := range page.Parts {
			i := int64(aws.ToInt32(p.PartNumber)) - 1
			if i >= 0 && i < int64(len(have)) && aws.ToInt64(p.Size) == min(partSize, size-i*partSize) && have[i] == "" {
				have[i] = aws.ToString(p.ETag)
				n++
			}
		}
		from = page.NextPartNumberMarker
		more = aws.ToBool(page.IsTruncated) && from != nil
	}
	return have, n, nil
}

// begun gives each upload that was begun and not ended, of keys that begin with
// prefix.
func (b *bucket) begun(ctx context.Context, prefix string, each func(types.MultipartUpload) error) error {
	in := &s3.ListMultipartUploadsInput{Bucket: &b.Bucket, Prefix: b.key(prefix)}
	for more := true; more; {
		page, err := ask(b, func(c *s3.Client) (*s3.ListMultipartUploadsOutput, error) { return c.ListMultipartUploads(ctx, in) })
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if err := each(u); err != nil {
				return err
			}
		}
		in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
		more = aws.ToBool(page.IsTruncated) && in.KeyMarker != nil
	}
	return nil
}

// unlessRefused leaves out that uploads may not be listed, or cannot be, or have
// ended since: then a new one is begun.
func unlessRefused(err error) error {
	if amazon.Denied(err) || unknown(err) || code(err) == "NoSuchUpload" {
		return nil
	}
	return err
}
