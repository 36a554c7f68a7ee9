package blob

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/pipegen/pipegen/pkg/amazon"
)

// Prepared says what PrepareBucket did.
type Prepared struct {
	// The bucket was not there before.
	Created bool
	// The rule that drops uploads which never ended was not there before, or was
	// another one.
	Ruled bool
	// The region that the bucket is in.
	Region string
	// What it did without, in plain words: what a server of the protocol does
	// not know, or what may not be asked of a bucket that was there already.
	Lacks []string
}

// PrepareBucket creates the bucket unless it is there, closed to the public and
// with the encryption of the options as its default, and gives it a rule by which
// uploads that never ended are gone after a day. A bucket that is there must be
// usable, and keeps all its other settings and rules.
func PrepareBucket(ctx context.Context, o S3Options) (Prepared, error) {
	s, err := S3(ctx, o)
	if err != nil {
		return Prepared{}, err
	}
	p := preparing{bucket: s.(*bucket)}
	switch err := p.list(ctx); {
	case code(err) == "NoSuchBucket":
		err = p.create(ctx)
		if err != nil {
			return p.Prepared, err
		}
	case err != nil:
		return p.Prepared, p.refused(ctx, "", err)
	}
	p.Region = p.site.Load().region
	return p.Prepared, p.rule(ctx)
}

type preparing struct {
	*bucket
	Prepared
}

func (p *preparing) create(ctx context.Context) error {
	c := p.site.Load().client
	in := &s3.CreateBucketInput{Bucket: &p.Bucket}
	if region := p.site.Load().region; p.base == "" && region != "us-east-1" { // which must not be named
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(region)}
	}
	if _, err := c.CreateBucket(ctx, in, impatient); err != nil {
		return p.refused(ctx, "creating ", err)
	}
	p.Created = true
	_, err := c.PutPublicAccessBlock(ctx, &s3.PutPublicAccessBlockInput{Bucket: &p.Bucket, PublicAccessBlockConfiguration: &types.PublicAccessBlockConfiguration{
		BlockPublicAcls: aws.Bool(true), BlockPublicPolicy: aws.Bool(true), IgnorePublicAcls: aws.Bool(true), RestrictPublicBuckets: aws.Bool(true),
	}})
	if err := p.done(ctx, "closing to the public ", "the block of public access", err); err != nil {
		return err
	}
	e := p.Encryption
	if e.Algorithm == "" {
		return nil
	}
	_, err = c.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{Bucket: &p.Bucket, ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryption(e.Algorithm), KMSMasterKeyID: e.key()},
			BucketKeyEnabled:                   e.BucketKey,
		}},
	}})
	return p.done(ctx, "setting the encryption of ", "a default encryption", err)
}

// done takes what a server of the protocol does not know as a lack.
func (p *preparing) done(ctx context.Context, doing, lack string, err error) error {
	if unknown(err) {
		p.Lacks = append(p.Lacks, "this server of S3 does not have "+lack)
		return nil
	}
	return p.refused(ctx, doing, err)
}

// ruleID names the rule by which uploads end.
const ruleID = "uploads-that-never-ended"

// rule writes the rule beside those that are there.
func (p *preparing) rule(ctx context.Context) error {
	c := p.site.Load().client
	in := &s3.PutBucketLifecycleConfigurationInput{Bucket: &p.Bucket, LifecycleConfiguration: new(types.BucketLifecycleConfiguration)}
	if !p.Created {
		there, err := c.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &p.Bucket}, impatient)
		switch {
		case err == nil:
			in.LifecycleConfiguration.Rules = there.Rules
			in.TransitionDefaultMinimumObjectSize = there.TransitionDefaultMinimumObjectSize
		case code(err) != "NoSuchLifecycleConfiguration":
			return p.ruleless(ctx, "reading the lifecycle of ", err)
		}
	}
	var other []types.LifecycleRule // and then all
	for _, r := range in.LifecycleConfiguration.Rules {
		if endsUploads(r, p.Prefix) {
			return nil
		}
		if aws.ToString(r.ID) != ruleID {
			other = append(other, r)
		}
	}
	other = append(other, types.LifecycleRule{
		ID: aws.String(ruleID), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: &p.Prefix},
		AbortIncompleteMultipartUpload: &types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(1)},
	})
	in.LifecycleConfiguration.Rules = other
	if _, err := c.PutBucketLifecycleConfiguration(ctx, in); err != nil {
		return p.ruleless(ctx, "setting the lifecycle of ", err)
	}
	p.Ruled = true
	return nil
}

// ruleless says that the rule is not there: a bucket of others can do without,
// since controllers drop uploads too.
func (p *preparing) ruleless(ctx context.Context, doing string, err error) error {
	if !p.Created && amazon.Denied(err) {
		p.Lacks = append(p.Lacks, fmt.Sprintf("no rule drops uploads that never ended: %s is not allowed", amazon.Action(err)))
		return nil
	}
	return p.done(ctx, doing, "the end of uploads", err)
}

// endsUploads says whether a rule drops uploads of all keys that begin with
// prefix, soon enough, whoever wrote it.
func endsUploads(r types.LifecycleRule, prefix string) bool {
	abort := r.AbortIncompleteMultipartUpload
	if r.Status != types.ExpirationStatusEnabled || abort == nil || aws.ToInt32(abort.DaysAfterInitiation) > 7 {
		return false
	}
	of := aws.ToString(r.Prefix) //nolint:staticcheck // as old rules have it
	if f := r.Filter; f != nil {
		if f.And != nil || f.Tag != nil || f.ObjectSizeGreaterThan != nil || f.ObjectSizeLessThan != nil {
			return false
		}
		of = aws.ToString(f.Prefix)
	}
	return strings.HasPrefix(prefix, of)
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
