package blob

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// S3Options say where a bucket is, and who uses it.
type S3Options struct {
	Bucket string
	// Host, with a port if it has one, or URL without a path. Empty, or AWS's
	// own s3.amazonaws.com or s3.REGION.amazonaws.com: AWS's for the region.
	Endpoint string
	// Empty: the SDK's (AWS_REGION and the like), or for another endpoint than
	// AWS's us-east-1, which such servers take.
	Region string
	// Whether an endpoint without a scheme is spoken to in plain HTTP.
	Plain bool
	// Whether buckets are named in paths instead of host names; nil: at all
	// endpoints but AWS's own.
	PathStyle *bool
	// Comes before each key, with a slash at its end; may be empty.
	Prefix string
	// Empty: the SDK's default chain (environment, files, web identity, container
	// and instance roles). SessionToken may be empty.
	AccessKey, SecretKey, SessionToken string
	// How the server encrypts what is written; the zero value: as the bucket has it.
	Encryption Encryption
	// How long a request is tried again while S3 cannot be reached or is out of
	// order; 0: 90 seconds; less: not at all.
	Patience time.Duration
}

// S3OptionsFromEnv reads S3_ENDPOINT, S3_BUCKET, S3_REGION, S3_SSL (default true),
// S3_PATH_STYLE, S3_ACCESS_KEY, S3_SECRET_KEY and S3_SESSION_TOKEN, and S3_SSE,
// S3_SSE_KMS_KEY_ID and S3_SSE_BUCKET_KEY for the encryption. Wrong values wrap
// failure.ErrInput.
func S3OptionsFromEnv(getenv func(string) string) (S3Options, error) {
	o := S3Options{
		Bucket: getenv("S3_BUCKET"), Endpoint: getenv("S3_ENDPOINT"), Region: getenv("S3_REGION"),
		AccessKey: getenv("S3_ACCESS_KEY"), SecretKey: getenv("S3_SECRET_KEY"), SessionToken: getenv("S3_SESSION_TOKEN"),
		Encryption: Encryption{Algorithm: getenv("S3_SSE"), KMSKey: getenv("S3_SSE_KMS_KEY_ID")},
	}
	if o.Bucket == "" {
		return o, failure.WithHint(failure.Input("S3_BUCKET is not set"), "set it to the bucket that keeps contexts and logs")
	}
	for _, v := range []struct {
		name string
		set  func(bool)
	}{
		{"S3_SSL", func(on bool) { o.Plain = !on }},
		{"S3_PATH_STYLE", func(on bool) { o.PathStyle = &on }},
		{"S3_SSE_BUCKET_KEY", func(on bool) { o.Encryption.BucketKey = &on }},
	} {
		text := getenv(v.name)
		if text == "" {
			continue
		}
		on, err := strconv.ParseBool(text)
		if err != nil {
			return o, failure.Input("%s is %q: it has to be true or false", v.name, text)
		}
		v.set(on)
	}
	return o, o.check()
}

var (
	bucketName = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]$`)
	awsHost    = lazyregexp.New(`^s3[.-](?:([a-z0-9-]+)\.)?amazonaws\.com(?:\.cn)?$`)
)

func (o S3Options) check() error {
	if !bucketName.MatchString(o.Bucket) {
		return failure.WithHint(failure.Input("%q is no name of a bucket", o.Bucket), "3 to 255 letters, digits and ._- such as pipegen-builds")
	}
	if (o.AccessKey == "") != (o.SecretKey == "") {
		return failure.WithHint(failure.Input("only one of the access key and the secret key is given"), "set both S3_ACCESS_KEY and S3_SECRET_KEY, or neither to use AWS's own ways")
	}
	if o.SessionToken != "" && o.AccessKey == "" {
		return failure.Input("a session token is given without its access key")
	}
	if o.Prefix != "" && (!strings.HasSuffix(o.Prefix, "/") || checkPrefix(o.Prefix) != nil) {
		return failure.Input("%q is no prefix of keys: it has to end with a slash", o.Prefix)
	}
	if _, _, err := o.endpoint(); err != nil {
		return err
	}
	return o.Encryption.check()
}

// endpoint gives the endpoint's URL and the region that it names; no URL: AWS's own.
func (o S3Options) endpoint() (base, region string, err error) {
	if o.Endpoint == "" {
		return "", "", nil
	}
	text := o.Endpoint
	if !strings.Contains(text, "://") {
		text = map[bool]string{false: "https://", true: "http://"}[o.Plain] + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" ||
		u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", "", failure.WithHint(failure.Input("%q is no endpoint of S3", quote.URL(o.Endpoint)), "it looks like s3.eu-central-1.amazonaws.com, minio:9000 or https://storage.example.com")
	}
	if m := awsHost.FindStringSubmatch(u.Host); m != nil && u.Scheme == "https" {
		return "", m[1], nil
	}
	return u.Scheme + "://" + u.Host, "", nil
}

// bucket is a store in a bucket of S3, or of what speaks its protocol.
type bucket struct {
	S3Options
	base   string // URL of the endpoint, or empty
	caller *amazon.Caller
	site   atomic.Pointer[site]
}

const (
	defaultPatience = 90 * time.Second
	checkPatience   = 3 * time.Second
	longestPause    = 5 * time.Second
	// quiet is how long S3 may let a request wait.
	quiet = 2 * time.Minute
)

// S3 gives a store in a bucket. It sends nothing; Check tells whether the
// bucket can be used. Wrong options wrap failure.ErrInput.
func S3(ctx context.Context, o S3Options) (Store, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	base, region, err := o.endpoint()
	if err != nil {
		return nil, err
	}
	o.Region = cmp.Or(o.Region, region)
	load := []func(*config.LoadOptions) error{config.WithRegion(o.Region)}
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, failure.Input("reading AWS's configuration: %w", err)
	}
	o.Region = cfg.Region
	b := &bucket{S3Options: o, base: base, caller: amazon.NewCaller(cfg)}
	client := s3.NewFromConfig(cfg, func(so *s3.Options) {
		if base != "" {
			so.BaseEndpoint = &base
		}
		b.base = aws.ToString(so.BaseEndpoint) // which the SDK's configuration may have, too
		if b.Region == "" && b.base != "" {
			b.Region = "us-east-1"
		}
		so.Region, so.UsePathStyle = b.Region, b.base != ""
		if o.PathStyle != nil {
			so.UsePathStyle = *o.PathStyle
		}
		// Not every server knows the newer checksums; payloads are signed, and
		// contexts named by their hash.
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		so.Retryer = patient(cmp.Or(o.Patience, defaultPatience))
		so.HTTPClient = awshttp.NewBuildableClient().WithReadTimeout(quiet).WithTransportOptions(func(t *http.Transport) {
			t.ResponseHeaderTimeout, t.MaxIdleConnsPerHost = quiet, 32
		})
	})
	if b.Region == "" {
		return nil, failure.WithHint(failure.Input("no region is given for the bucket %s", o.Bucket), "set S3_REGION or AWS_REGION")
	}
	if base != "" { // whose identities STS does not know
		b.caller = new(amazon.Caller)
	}
	b.site.Store(newSite(b.Region, client))
	return b, nil
}

// patient tries again what may pass, with pauses that grow, for about d.
func patient(d time.Duration) aws.Retryer {
	attempts := 1
	for sum := time.Duration(0); sum < d; attempts++ {
		sum += pause(attempts)
	}
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		// The usual quota lets no request outlast an outage.
		o.RateLimiter = ratelimit.None
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			p := pause(attempt)
			return p*3/4 + rand.N(p/2), nil //nolint:gosec // nothing is to be kept from being guessed
		})
	})
}

func pause(attempt int) time.Duration {
	return min(100*time.Millisecond<<min(max(attempt-1, 0), 10), longestPause)
}

// impatient is for requests that somebody waits for.
func impatient(o *s3.Options) { o.Retryer = patient(checkPatience) }

func (b *bucket) key(key string) *string { return aws.String(b.Prefix + key) }
