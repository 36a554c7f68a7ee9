package blob

import (
	"errors"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// site is the region that a bucket is spoken to in.
type site struct {
	region string
	client *s3.Client
	signer *s3.PresignClient
}

func newSite(region string, client *s3.Client) *site {
	return &site{region, client, s3.NewPresignClient(client)}
}

// ask asks S3 where the bucket is known to be, and where S3 says it is if that is
// elsewhere. fn makes its whole request anew.
func ask[T any](b *bucket, fn func(*s3.Client) (T, error)) (T, error) {
	s := b.site.Load()
	out, err := fn(s.client)
	region := bucketRegion(err)
	if region == "" || region == s.region {
		return out, err
	}
	o := s.client.Options()
	o.Region = region
	s = newSite(region, s3.New(o))
	if out, err = fn(s.client); bucketRegion(err) == "" || bucketRegion(err) == region {
		b.site.Store(s)
	}
	return out, err
}

var (
	regionName = lazyregexp.New(`^[a-z0-9][a-z0-9-]{1,31}$`)
	// Words of AuthorizationHeaderMalformed, the same at AWS and at servers that
	// have learnt from it.
	expectedRegion = lazyregexp.New(`expecting ['"]([a-z0-9-]+)['"]`)
)

// bucketRegion is the region that the bucket is in by an answer of S3; empty: it
// does not say.
func bucketRegion(err error) string {
	if err == nil {
		return ""
	}
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok && re.Response != nil {
		if region := re.Response.Header.Get("X-Amz-Bucket-Region"); regionName.MatchString(region) {
			return region
		}
	}
	if code(err) == "AuthorizationHeaderMalformed" {
		if m := expectedRegion.FindStringSubmatch(err.Error()); m != nil {
			return m[1]
		}
	}
	return ""
}

// elsewhere says whether an error is that the bucket is in another region.
func elsewhere(err error) bool {
	switch code(err) {
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return true
	}
	return status(err) == http.StatusMovedPermanently
}
