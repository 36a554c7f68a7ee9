package blob

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Encryption says how S3 encrypts what is written to it.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/serv-side-encryption.html
type Encryption struct {
	// AES256, aws:kms or aws:kms:dsse; empty: nothing is said, and the bucket's
	// own default holds.
	Algorithm string
	// Id, alias or ARN of a key of KMS; empty: that of AWS for S3. Only with
	// aws:kms and aws:kms:dsse.
	KMSKey string
	// Whether one key of the bucket stands for many calls of KMS; nil: as the
	// bucket has it. Only with aws:kms.
	BucketKey *bool
}

var (
	algorithms = []string{string(types.ServerSideEncryptionAes256), string(types.ServerSideEncryptionAwsKms), string(types.ServerSideEncryptionAwsKmsDsse)}
	kmsKey     = lazyregexp.New(`^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+|alias/[A-Za-z0-9/_-]+|(mrk-)?[a-f0-9-]{32,36})$`)
)

func (e Encryption) check() error {
	switch {
	case e.Algorithm != "" && !slices.Contains(algorithms, e.Algorithm):
		return failure.WithHint(failure.Input("S3_SSE is %q", e.Algorithm), "it is one of %s", strings.Join(algorithms, ", "))
	case e.KMSKey != "" && !strings.HasPrefix(e.Algorithm, "aws:kms"):
		return failure.WithHint(failure.Input("S3_SSE_KMS_KEY_ID is set and S3_SSE is not aws:kms"), "set S3_SSE=aws:kms, or no key")
	case e.KMSKey != "" && !kmsKey.MatchString(e.KMSKey):
		return failure.WithHint(failure.Input("S3_SSE_KMS_KEY_ID %q is no key of KMS", e.KMSKey), "an id, alias/NAME, or arn:aws:kms:REGION:ACCOUNT:key/ID")
	case e.BucketKey != nil && e.Algorithm != string(types.ServerSideEncryptionAwsKms):
		return failure.WithHint(failure.Input("S3_SSE_BUCKET_KEY is set and S3_SSE is not aws:kms"), "bucket keys are for aws:kms alone")
	}
	return nil
}

func (e Encryption) key() *string {
	if e.KMSKey == "" {
		return nil
	}
	return &e.KMSKey
}

func (e Encryption) put(in *s3.PutObjectInput) *s3.PutObjectInput {
	in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = types.ServerSideEncryption(e.Algorithm), e.key(), e.BucketKey
	return in
}

func (e Encryption) begin(in *s3.CreateMultipartUploadInput) *s3.CreateMultipartUploadInput {
	in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = types.ServerSideEncryption(e.Algorithm), e.key(), e.BucketKey
	return in
}
