package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Check implements [Store].
func (b *bucket) Check(ctx context.Context) error {
	return b.refused(ctx, "", b.list(ctx))
}

// list lists a key: answers to HEAD would not say what is wrong.
func (b *bucket) list(ctx context.Context) error {
	_, err := ask(b, func(c *s3.Client) (*s3.ListObjectsV2Output, error) {
		return c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.Bucket, Prefix: &b.Prefix, MaxKeys: aws.Int32(1)}, impatient)
	})
	return err
}

// refused says what S3 would not do with the bucket itself.
func (b *bucket) refused(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hint, configured, reason := b.explain(ctx, "", err)
	if err = fmt.Errorf("%sthe bucket %s at %s: %w", doing, b.Bucket, b.where(), reason); configured {
		err = failure.Input("%w", err)
	}
	return withHint(err, hint)
}

// where names the endpoint for people.
func (b *bucket) where() string {
	region := b.site.Load().region
	switch {
	case b.base != "":
		return b.base
	case region != b.Region:
		return "AWS in " + region + ", which it was found in instead of " + b.Region
	}
	return "AWS in " + region
}

// fail says what S3 would not do with a key. Addresses in the SDK's errors may
// be signed, so they are left out.
func (b *bucket) fail(ctx context.Context, doing, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, failure.ErrInput):
		return err
	}
	switch code(err) {
	case "NoSuchKey", "NotFound", "NoSuchUpload":
		return fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	hint, _, reason := b.explain(ctx, key, err)
	return withHint(fmt.Errorf("%s %s in the bucket %s at %s: %w", doing, quote.Text(key), b.Bucket, b.where(), reason), hint)
}

func withHint(err error, hint string) error {
	if hint == "" {
		return err
	}
	return failure.WithHint(err, "%s", hint)
}

// explain gives what to do about an error of the SDK with a key or, if that is
// empty, the bucket itself, whether that is about the configuration, and the
// heart of the error.
func (b *bucket) explain(ctx context.Context, key string, err error) (hint string, configured bool, reason error) {
	reason = errors.New(amazon.Plain(err))
	switch c := code(err); {
	case c == "NoSuchBucket":
		return fmt.Sprintf("create the bucket %s (pipegen server init-bucket), or correct S3_BUCKET, S3_REGION and S3_ENDPOINT", b.Bucket), true, errors.New("there is no such bucket")
	case elsewhere(err):
		if region := bucketRegion(err); region != "" && region != b.site.Load().region {
			return "set S3_REGION to the bucket's region, and S3_ENDPOINT to that of this region if it is set", true, fmt.Errorf("it is in the region %s, not in %s", quote.Text(region), b.site.Load().region)
		}
		return fmt.Sprintf("the bucket is in another region than %s: set S3_REGION and S3_ENDPOINT", b.site.Load().region), true, reason
	case amazon.Skewed(err):
		return "set this machine's clock: S3 takes requests that are at most 15 minutes old", true, reason
	case amazon.Expired(err):
		return "the session of the credentials is over: renew S3_ACCESS_KEY, S3_SECRET_KEY and S3_SESSION_TOKEN, or leave them out and let AWS's own ways renew theirs", true, reason
	case c == "InvalidAccessKeyId", c == "SignatureDoesNotMatch", c == "InvalidToken", c == "XAdminUserNotFound": // the last one is versitygw's
		return "the keys are wrong or have expired: check S3_ACCESS_KEY, S3_SECRET_KEY and S3_SESSION_TOKEN, or AWS's own credentials", true, reason
	case c == "BucketAlreadyExists":
		return "somebody else has a bucket of this name: set S3_BUCKET to another", true, reason
	case strings.HasPrefix(c, "KMS."), c == "InvalidEncryptionAlgorithmError":
		return "check S3_SSE and S3_SSE_KMS_KEY_ID, or the bucket's default encryption: the key has to be there, in the bucket's region, and enabled", true, reason
	case amazon.Denied(err):
		return b.caller.Permission(ctx, b.arn(key), err) + b.also(err), true, reason
	case status(err) == http.StatusForbidden:
		return "the identity needs s3:ListBucket and s3:ListBucketMultipartUploads for the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListMultipartUploadParts and s3:AbortMultipartUpload for what is in it", true, reason
	case strings.Contains(err.Error(), "get credentials"), strings.Contains(err.Error(), "get identity"):
		return "set S3_ACCESS_KEY and S3_SECRET_KEY, or give this machine credentials as AWS's tools take them", true, errors.New("there are no credentials for it")
	case amazon.Throttled(err):
		return "S3 is asked too often: fewer controllers and builds at once, or another prefix", false, reason
	case status(err) == 0:
		return "check S3_ENDPOINT and S3_SSL, and whether the endpoint can be reached from here", false, reason
	}
	return "", false, reason
}

// arn names a blob or, if key is empty, the bucket as policies do.
func (b *bucket) arn(key string) string {
	partition := "aws"
	switch region := b.site.Load().region; {
	case strings.HasPrefix(region, "cn-"):
		partition = "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		partition = "aws-us-gov"
	}
	arn := "arn:" + partition + ":s3:::" + b.Bucket
	if key != "" {
		arn += "/" + b.Prefix + key
	}
	return arn
}

// also is what else may be why S3 refuses to write.
func (b *bucket) also(err error) string {
	if amazon.Action(err) == "s3:PutObject" && b.Encryption.Algorithm == "" && strings.Contains(err.Error(), "explicit deny") {
		return ", or set S3_SSE if the bucket takes nothing that is not encrypted"
	}
	return ""
}

// code is that of S3's answer; empty: there is none.
func code(err error) string { return amazon.Code(err) }

func status(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}
