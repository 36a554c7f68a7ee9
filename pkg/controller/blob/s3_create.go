package blob

import (
	"context"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// CreateBucket creates the bucket, closed to the public and with uploads that
// never ended gone after a day, and says whether it was not there before. One
// that is there must be usable, and stays as it is. What a server of the
// protocol does not know of these is left out and said in lacks.
func CreateBucket(ctx context.Context, o S3Options) (created bool, lacks []string, err error) {
	s, err := S3(ctx, o)
	if err != nil {
		return false, nil, err
	}
	b := s.(*bucket)
	if err := b.list(ctx); code(err) != "NoSuchBucket" {
		return false, nil, b.refused(ctx, "", "", err)
	}
	in := &s3.CreateBucketInput{Bucket: &b.Bucket}
	if b.base == "" && b.Region != "us-east-1" { // which must not be named
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(b.Region)}
	}
	_, err = b.client.CreateBucket(ctx, in, impatient)
	if err := b.refused(ctx, "creating ", "s3:CreateBucket", err); err != nil {
		return false, nil, err
	}
	_, err = b.client.PutPublicAccessBlock(ctx, &s3.PutPublicAccessBlockInput{Bucket: &b.Bucket, PublicAccessBlockConfiguration: &types.PublicAccessBlockConfiguration{
		BlockPublicAcls: aws.Bool(true), BlockPublicPolicy: aws.Bool(true), IgnorePublicAcls: aws.Bool(true), RestrictPublicBuckets: aws.Bool(true),
	}})
	if unknown(err) {
		lacks, err = append(lacks, "the block of public access"), nil
	}
	if err := b.refused(ctx, "closing to the public ", "s3:PutBucketPublicAccessBlock", err); err != nil {
		return true, lacks, err
	}
	_, err = b.client.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{Bucket: &b.Bucket, LifecycleConfiguration: &types.BucketLifecycleConfiguration{
		Rules: []types.LifecycleRule{{
			ID: aws.String("uploads-that-never-ended"), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")},
			AbortIncompleteMultipartUpload: &types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(1)},
		}},
	}})
	if unknown(err) {
		lacks, err = append(lacks, "the end of uploads"), nil
	}
	return true, lacks, b.refused(ctx, "setting the lifecycle of ", "s3:PutLifecycleConfiguration", err)
}

// unknown says whether a server does not know what it was asked to do.
func unknown(err error) bool {
	if err == nil {
		return false
	}
	switch code(err) {
	case "NotImplemented", "MethodNotAllowed", "MalformedXML":
		return true
	}
	return status(err) == http.StatusNotImplemented || status(err) == http.StatusMethodNotAllowed
}
