package awstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// request is what a request to AWS asks for.
type request struct {
	*http.Request
	// Access key that signed it; empty: nobody did.
	key string
	// As in the scope of the signature and in IAM's actions.
	service, region string
	// The service of the signature's scope.
	scope string
	// Name of the operation in the API, such as RunTask.
	operation string
	// Parameters of JSON protocols, and of query protocols.
	input map[string]any
	form  url.Values
	// Of S3.
	bucket, object string
	// The body of all but S3's.
	body []byte
}

var (
	credential = regexp.MustCompile(`Credential=([^/,\s]+)/[0-9]{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request`)
	// targets are services by the first part of X-Amz-Target.
	targets = map[string]string{
		"AmazonEC2ContainerServiceV20141113": "ecs", "AmazonEC2ContainerRegistry_V20150921": "ecr", "SpencerFrontendService": "ecr-public",
		"Logs_20140328": "logs", "secretsmanager": "secretsmanager", "AmazonSSM": "ssm", "AmazonSQS": "sqs", "TrentService": "kms",
		"ServiceQuotasV20190624": "servicequotas", "AWSEvents": "events",
	}
)

// largestBody is what requests but those of S3 may have.
const largestBody = 16 << 20

// read finds out what a request asks for. Of bodies of S3 it reads nothing.
func read(r *http.Request) (*request, error) {
	out := &request{Request: r}
	scope := r.Header.Get("Authorization")
	if given := r.URL.Query().Get("X-Amz-Credential"); given != "" {
		scope = "Credential=" + given
	}
	if m := credential.FindStringSubmatch(scope); m != nil {
		out.key, out.region, out.service, out.scope = m[1], m[2], m[3], m[3]
	}
	target, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if out.service == "s3" {
		out.bucket, out.object, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		return out, out.s3()
	}
	var err error
	if out.body, err = io.ReadAll(io.LimitReader(r.Body, largestBody)); err != nil {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	out.replace(out.body)
	if target != "" {
		service, known := targets[target]
		if !known {
			return nil, fmt.Errorf("the service %s is not known", target)
		}
		out.service, out.operation = service, operation
		if len(out.body) == 0 {
			return out, nil
		}
		if err := json.Unmarshal(out.body, &out.input); err != nil {
			return nil, fmt.Errorf("reading a request for %s: %w", r.Header.Get("X-Amz-Target"), err)
		}
		return out, nil
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		if out.form, err = url.ParseQuery(string(out.body)); err != nil {
			return nil, fmt.Errorf("reading a request: %w", err)
		}
		out.operation = out.form.Get("Action")
	}
	if out.service == "" && strings.HasPrefix(out.operation, "AssumeRole") {
		out.service = "sts" // with a token of an identity, it is not signed
	}
	if out.service == "" || out.operation == "" {
		return nil, fmt.Errorf("%s %s is no request to a service that is known", r.Method, r.URL.Path)
	}
	return out, nil
}

// replace gives a request another body.
func (r *request) replace(body []byte) {
	r.body = body
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// text gives a parameter, whatever the protocol.
func (r *request) text(name string) string {
	if s, ok := r.input[name].(string); ok {
		return s
	}
	return r.form.Get(name)
}

// texts gives a parameter that is a list.
func (r *request) texts(name string) []string { return words(r.input[name]) }

func words(value any) []string {
	var out []string
	list, _ := value.([]any)
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// objects gives a parameter that is a list of structures.
func objects(value any) []map[string]any {
	var out []map[string]any
	list, _ := value.([]any)
	for _, e := range list {
		if o, ok := e.(map[string]any); ok {
			out = append(out, o)
		}
	}
	return out
}

// field gives a text of a structure.
func field(o map[string]any, name string) string {
	s, _ := o[name].(string)
	return s
}

// s3 names the operation of S3's REST protocol.
func (r *request) s3() error {
	q := r.URL.Query()
	for _, c := range []struct {
		method, query string
		object        bool
		operation     string
	}{
		{"POST", "uploads", true, "CreateMultipartUpload"},
		{"PUT", "partNumber", true, "UploadPart"},
		{"POST", "uploadId", true, "CompleteMultipartUpload"},
		{"DELETE", "uploadId", true, "AbortMultipartUpload"},
		{"GET", "uploadId", true, "ListParts"},
		{"GET", "attributes", true, "GetObjectAttributes"},
		{"GET", "", true, "GetObject"},
		{"HEAD", "", true, "HeadObject"},
		{"PUT", "", true, "PutObject"},
		{"DELETE", "", true, "DeleteObject"},
		{"GET", "uploads", false, "ListMultipartUploads"},
		{"GET", "location", false, "GetBucketLocation"},
		{"GET", "encryption", false, "GetBucketEncryption"},
		{"PUT", "encryption", false, "PutBucketEncryption"},
		{"GET", "lifecycle", false, "GetBucketLifecycleConfiguration"},
		{"PUT", "lifecycle", false, "PutBucketLifecycleConfiguration"},
		{"GET", "publicAccessBlock", false, "GetPublicAccessBlock"},
		{"PUT", "publicAccessBlock", false, "PutPublicAccessBlock"},
		{"GET", "versioning", false, "GetBucketVersioning"},
		{"PUT", "versioning", false, "PutBucketVersioning"},
		{"POST", "delete", false, "DeleteObjects"},
		{"GET", "", false, "ListObjectsV2"},
		{"HEAD", "", false, "HeadBucket"},
		{"PUT", "", false, "CreateBucket"},
		{"DELETE", "", false, "DeleteBucket"},
	} {
		if c.method == r.Method && c.object == (r.object != "") && (c.query == "" || q.Has(c.query)) {
			r.operation = c.operation
			return nil
		}
	}
	return fmt.Errorf("%s %s is no request of S3 that is known", r.Method, r.URL)
}
