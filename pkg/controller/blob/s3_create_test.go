package blob_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// What a server answers to each of the requests that create a bucket, and what
// comes of it.
func TestCreateBucket(t *testing.T) {
	const none = "404 NoSuchBucket"
	all := []string{"list", "create", "publicAccessBlock", "lifecycle"}
	for name, c := range map[string]struct {
		answers map[string]string // status and code, by what is asked
		asked   []string
		created bool
		lacks   []string
		want    string // of the error; empty: none
		hint    string
	}{
		"new":       {map[string]string{"list": none}, all, true, nil, "", ""},
		"there":     {nil, all[:1], false, nil, "", ""},
		"another's": {map[string]string{"list": "403 AccessDenied"}, all[:1], false, nil, "the bucket builds at", "s3:ListBucket"},
		"no right":  {map[string]string{"list": none, "create": "403 AccessDenied"}, all[:2], false, nil, "creating the bucket builds at", "s3:CreateBucket"},
		"taken":     {map[string]string{"list": none, "create": "409 BucketAlreadyExists"}, all[:2], false, nil, "BucketAlreadyExists", "S3_BUCKET"},
		"open": {
			map[string]string{"list": none, "publicAccessBlock": "403 AccessDenied"}, all[:3], true, nil, "closing to the public the bucket builds", "s3:PutBucketPublicAccessBlock",
		},
		"a smaller server": {
			map[string]string{"list": none, "publicAccessBlock": "501 NotImplemented", "lifecycle": "405 MethodNotAllowed"},
			all, true, []string{"the block of public access", "the end of uploads"}, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				what := "create"
				switch q := r.URL.Query(); {
				case r.Method == http.MethodGet:
					what = "list"
				case q.Has("publicAccessBlock"):
					what = "publicAccessBlock"
				case q.Has("lifecycle"):
					what = "lifecycle"
				}
				asked = append(asked, what)
				status, code := 200, ""
				_, _ = fmt.Sscan(c.answers[what], &status, &code)
				w.WriteHeader(status)
				if code != "" {
					fmt.Fprintf(w, "<Error><Code>%s</Code><Message>words of S3</Message></Error>", code)
				} else if what == "list" {
					fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
				}
			}))
			defer server.Close()
			var o blob.S3Options
			bucketAt(t, server.URL, func(of *blob.S3Options) { o = *of })
			created, lacks, err := blob.CreateBucket(t.Context(), o)
			if created != c.created || !slices.Equal(lacks, c.lacks) || !slices.Equal(asked, c.asked) {
				t.Errorf("created %v, lacks %q, asked %q", created, lacks, asked)
			}
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint)) {
				t.Errorf("got %v (%s), want %q (%s)", err, failure.Hint(err), c.want, c.hint)
			}
		})
	}
}
