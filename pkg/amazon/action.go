package amazon

import (
	"errors"
	"strings"

	"github.com/aws/smithy-go"
)

// prefixes of actions, where they are not the service's name in small letters.
var prefixes = map[string]string{"Secrets Manager": "secretsmanager", "CloudWatch Logs": "logs", "ECR PUBLIC": "ecr-public"}

// permissions of calls of S3 that are not named as the call is.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
var permissions = map[string]string{
	"HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "ListMultipartUploads": "ListBucketMultipartUploads", "ListParts": "ListMultipartUploadParts",
	"HeadObject": "GetObject", "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject",
	"PutPublicAccessBlock": "PutBucketPublicAccessBlock", "PutBucketEncryption": "PutEncryptionConfiguration",
	"GetBucketLifecycleConfiguration": "GetLifecycleConfiguration", "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
}

// Action gives the action of IAM that a failed call needed, such as
// s3:PutObject; empty: the error is of no call.
func Action(err error) string {
	call, ok := errors.AsType[*smithy.OperationError](err)
	if !ok {
		return ""
	}
	prefix, known := prefixes[call.Service()]
	if !known {
		prefix = strings.ToLower(call.Service())
	}
	name := call.Operation()
	if p, other := permissions[name]; other && prefix == "s3" {
		name = p
	}
	return prefix + ":" + name
}
