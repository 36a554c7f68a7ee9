package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Check implements [Store].
func (b *bucket) Check(ctx context.Context) error {
	return b.refused(ctx, "", "", b.list(ctx))
}

// list lists a key: answers to HEAD would not say what is wrong.
func (b *bucket) list(ctx context.Context) error {
	_, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.Bucket, Prefix: &b.Prefix, MaxKeys: aws.Int32(1)}, impatient)
	return err
}

// refused says what S3 would not do with the bucket itself, for which a right
// is needed.
func (b *bucket) refused(ctx context.Context, doing, right string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hint, configured, reason := b.explain(err)
	if right != "" && code(err) == "AccessDenied" {
		hint = "the identity needs " + right + " for the bucket"
	}
	if err = fmt.Errorf("%sthe bucket %s at %s: %w", doing, b.Bucket, b.where(), reason); configured {
		err = failure.Input("%w", err)
	}
	return withHint(err, hint)
}

// where names the endpoint for people.
func (b *bucket) where() string { return cmp.Or(b.base, "AWS in "+b.Region) }

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
	hint, _, reason := b.explain(err)
	return withHint(fmt.Errorf("%s %s in the bucket %s at %s: %w", doing, quote.Text(key), b.Bucket, b.where(), reason), hint)
}

func withHint(err error, hint string) error {
	if hint == "" {
		return err
	}
	return failure.WithHint(err, "%s", hint)
}

// explain gives what to do about an error of the SDK, whether that is about the
// configuration, and the heart of the error.
func (b *bucket) explain(err error) (hint string, configured bool, reason error) {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		reason = plain(api)
	} else {
		reason = innermost(err)
	}
	switch c := code(err); {
	case c == "NoSuchBucket":
		return fmt.Sprintf("create the bucket %s (pipegen server init-bucket), or correct S3_BUCKET, S3_REGION and S3_ENDPOINT", b.Bucket), true, errors.New("there is no such bucket")
	case c == "PermanentRedirect", c == "AuthorizationHeaderMalformed", c == "IllegalLocationConstraintException", status(err) == http.StatusMovedPermanently:
		if region := bucketRegion(err); region != "" && region != b.Region {
			return "set S3_REGION to the bucket's region", true, fmt.Errorf("it is in the region %s, not in %s", quote.Text(region), b.Region)
		}
		return fmt.Sprintf("the bucket is in another region than %s: set S3_REGION and S3_ENDPOINT", b.Region), true, reason
	case c == "InvalidAccessKeyId", c == "SignatureDoesNotMatch", c == "InvalidToken", c == "ExpiredToken", c == "XAdminUserNotFound": // the last one is versitygw's
		return "the keys are wrong or have expired: check S3_ACCESS_KEY, S3_SECRET_KEY and S3_SESSION_TOKEN, or AWS's own credentials", true, reason
	case c == "BucketAlreadyExists":
		return "somebody else has a bucket of this name: set S3_BUCKET to another", true, reason
	case c == "RequestTimeTooSkewed":
		return "set this machine's clock", true, reason
	case c == "AccessDenied", status(err) == http.StatusForbidden:
		return "the identity needs s3:ListBucket and s3:ListBucketMultipartUploads for the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload for what is in it", true, reason
	case strings.Contains(err.Error(), "get credentials"), strings.Contains(err.Error(), "get identity"):
		return "set S3_ACCESS_KEY and S3_SECRET_KEY, or give this machine credentials as AWS's tools take them", true, errors.New("there are no credentials for it")
	case status(err) == 0:
		return "check S3_ENDPOINT and S3_SSL, and whether the endpoint can be reached from here", false, reason
	}
	return "", false, reason
}

// code is that of S3's answer; empty: there is none.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

func status(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

func bucketRegion(err error) string {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok && re.Response != nil {
		return re.Response.Header.Get("X-Amz-Bucket-Region")
	}
	return ""
}

func plain(api smithy.APIError) error {
	if m := api.ErrorMessage(); m != "" && m != api.ErrorCode() {
		return fmt.Errorf("%s: %s", quote.Text(api.ErrorCode()), quote.Text(m))
	}
	return errors.New(quote.Text(api.ErrorCode()))
}

// innermost leaves out what the SDK says around an error of the network,
// addresses among it.
func innermost(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
