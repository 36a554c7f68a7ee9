package blob_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// What a server answers to each of the requests that prepare a bucket, and what
// comes of it.
func TestPrepareBucket(t *testing.T) {
	const none = "404 NoSuchBucket"
	const ours = `<Rule><ID>uploads-that-never-ended</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>`
	const old = `<Rule><ID>uploads-that-never-ended</ID><Status>Disabled</Status><Filter><Prefix></Prefix></Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>`
	const theirs = `<Rule><ID>reports</ID><Status>Enabled</Status><Filter><Prefix>reports/</Prefix></Filter><Expiration><Days>3</Days></Expiration></Rule>`
	const theirUploads = `<Rule><ID>cut</ID><Status>Enabled</Status><Prefix></Prefix><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>`
	all := []string{"list", "create", "publicAccessBlock", "put lifecycle"}
	there := []string{"list", "lifecycle", "put lifecycle"}
	noRule := map[string]string{"lifecycle": "404 NoSuchLifecycleConfiguration"}
	for name, c := range map[string]struct {
		answers map[string]string // status and code, by what is asked
		rules   string            // that are there
		sse     blob.Encryption
		asked   []string
		did     blob.Prepared
		wrote   []string // ids of the rules that are written
		want    string   // of the error; empty: none
		hint    string
	}{
		"new": {answers: map[string]string{"list": none}, asked: all, did: blob.Prepared{Created: true, Ruled: true}, wrote: []string{"uploads-that-never-ended"}},
		"new, encrypted": {
			answers: map[string]string{"list": none}, sse: blob.Encryption{Algorithm: "aws:kms", KMSKey: "alias/builds"},
			asked: []string{"list", "create", "publicAccessBlock", "encryption", "put lifecycle"}, did: blob.Prepared{Created: true, Ruled: true}, wrote: []string{"uploads-that-never-ended"},
		},
		"there":                  {answers: noRule, asked: there, did: blob.Prepared{Ruled: true}, wrote: []string{"uploads-that-never-ended"}},
		"there, with the rule":   {rules: ours, asked: there[:2]},
		"there, the rule is off": {rules: theirs + old, asked: there, did: blob.Prepared{Ruled: true}, wrote: []string{"reports", "uploads-that-never-ended"}},
		"there, with others":     {rules: theirs, asked: there, did: blob.Prepared{Ruled: true}, wrote: []string{"reports", "uploads-that-never-ended"}},
		"there, with such a one": {rules: theirs + theirUploads, asked: there[:2]},
		"there, not allowed": {
			answers: map[string]string{"lifecycle": "403 AccessDenied"}, asked: there[:2],
			did: blob.Prepared{Lacks: []string{"no rule drops uploads that never ended: s3:GetLifecycleConfiguration is not allowed"}},
		},
		"there, may not write": {
			answers: map[string]string{"lifecycle": "404 NoSuchLifecycleConfiguration", "put lifecycle": "403 AccessDenied"}, asked: there,
			did: blob.Prepared{Lacks: []string{"no rule drops uploads that never ended: s3:PutLifecycleConfiguration is not allowed"}}, wrote: []string{"uploads-that-never-ended"},
		},
		"another's": {answers: map[string]string{"list": "403 AccessDenied"}, asked: all[:1], want: "the bucket builds at", hint: "s3:ListBucket on arn:aws:s3:::builds"},
		"no right":  {answers: map[string]string{"list": none, "create": "403 AccessDenied"}, asked: all[:2], want: "creating the bucket builds at", hint: "s3:CreateBucket"},
		"taken":     {answers: map[string]string{"list": none, "create": "409 BucketAlreadyExists"}, asked: all[:2], want: "BucketAlreadyExists", hint: "S3_BUCKET"},
		"open": {
			answers: map[string]string{"list": none, "publicAccessBlock": "403 AccessDenied"}, asked: all[:3], did: blob.Prepared{Created: true},
			want: "closing to the public the bucket builds", hint: "s3:PutBucketPublicAccessBlock",
		},
		"no lifecycle": {
			answers: map[string]string{"list": none, "put lifecycle": "403 AccessDenied"}, asked: all, did: blob.Prepared{Created: true},
			wrote: []string{"uploads-that-never-ended"}, want: "setting the lifecycle of the bucket builds", hint: "s3:PutLifecycleConfiguration",
		},
		"a smaller server": {
			answers: map[string]string{"list": none, "publicAccessBlock": "501 NotImplemented", "put lifecycle": "405 MethodNotAllowed"}, asked: all,
			did:   blob.Prepared{Created: true, Lacks: []string{"this server of S3 does not have the block of public access", "this server of S3 does not have the end of uploads"}},
			wrote: []string{"uploads-that-never-ended"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, wrote []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				what := "create"
				switch q := r.URL.Query(); {
				case q.Has("publicAccessBlock"):
					what = "publicAccessBlock"
				case q.Has("encryption"):
					what = "encryption"
					if text := string(body); !strings.Contains(text, "<SSEAlgorithm>aws:kms<") || !strings.Contains(text, "<KMSMasterKeyID>alias/builds<") {
						t.Errorf("the encryption is %s", text)
					}
				case q.Has("lifecycle") && r.Method == http.MethodGet:
					what = "lifecycle"
				case q.Has("lifecycle"):
					what = "put lifecycle"
					for _, m := range regexp.MustCompile(`<ID>([^<]*)</ID>`).FindAllStringSubmatch(string(body), -1) {
						wrote = append(wrote, m[1])
					}
				case r.Method == http.MethodGet:
					what = "list"
				}
				asked = append(asked, what)
				status, code := 200, ""
				_, _ = fmt.Sscan(c.answers[what], &status, &code)
				w.WriteHeader(status)
				switch {
				case code != "":
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>words of S3</Message></Error>", code)
				case what == "list":
					fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
				case what == "lifecycle":
					fmt.Fprintf(w, "<LifecycleConfiguration>%s</LifecycleConfiguration>", c.rules)
				}
			}))
			defer server.Close()
			var o blob.S3Options
			bucketAt(t, server.URL, func(of *blob.S3Options) { of.Encryption = c.sse; o = *of })
			did, err := blob.PrepareBucket(t.Context(), o)
			if did.Created != c.did.Created || did.Ruled != c.did.Ruled || !slices.Equal(did.Lacks, c.did.Lacks) || !slices.Equal(asked, c.asked) {
				t.Errorf("did %+v, asked %q", did, asked)
			}
			if !slices.Equal(wrote, c.wrote) {
				t.Errorf("wrote the rules %q, want %q", wrote, c.wrote)
			}
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint)) {
				t.Errorf("got %v (%s), want %q (%s)", err, failure.Hint(err), c.want, c.hint)
			}
		})
	}
}
