package blob_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// regional is a server of S3 with a bucket in eu-central-1, whose answers to
// requests that are signed for another region are those of AWS or like them.
type regional struct {
	says  string // header, words, or nothing of where it is
	deny  bool   // refuses what is signed for the right region
	wrong atomic.Int64
}

func (s *regional) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	signed := r.Header.Get("Authorization") + r.URL.Query().Get("X-Amz-Credential")
	switch {
	case !strings.Contains(signed, "/eu-central-1/s3/"):
		s.wrong.Add(1)
		message := "The authorization header is malformed"
		switch s.says {
		case "header":
			w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
		case "words":
			message += "; the region 'us-east-1' is wrong; expecting 'eu-central-1'"
		case "nonsense":
			w.Header().Set("X-Amz-Bucket-Region", "evil.example.com/#")
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<Error><Code>AuthorizationHeaderMalformed</Code><Message>%s</Message></Error>", message)
	case s.deny:
		w.Header().Set("X-Amz-Bucket-Region", "eu-central-1")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
	case r.Method == http.MethodGet:
		fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
	}
}

// A bucket in another region is found, once, whatever is asked first; addresses
// are signed for where it is.
func TestAnotherRegion(t *testing.T) {
	for _, says := range []string{"header", "words"} {
		for what, first := range map[string]func(s blob.Store) error{
			"Check":  func(s blob.Store) error { return s.Check(t.Context()) },
			"Put":    func(s blob.Store) error { return s.Put(t.Context(), "a", strings.NewReader("text"), 4) },
			"Delete": func(s blob.Store) error { return s.Delete(t.Context(), "a") },
		} {
			t.Run(says+" "+what, func(t *testing.T) {
				in := &regional{says: says}
				server := httptest.NewServer(in)
				defer server.Close()
				s := bucketAt(t, server.URL, nil)
				for range 2 {
					if err := first(s); err != nil {
						t.Fatalf("%v (%s)", err, failure.Hint(err))
					}
				}
				signed, err := s.SignGet(t.Context(), "a", time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				u, err := url.Parse(signed.URL)
				if err != nil || !strings.Contains(u.Query().Get("X-Amz-Credential"), "/eu-central-1/") {
					t.Errorf("signed %s, %v", u.Redacted(), err)
				}
				if n := in.wrong.Load(); n != 1 {
					t.Errorf("%d requests to the wrong region", n)
				}
			})
		}
	}
	for _, c := range []struct {
		in         *regional
		want, hint string
	}{
		{&regional{}, "AuthorizationHeaderMalformed", "set S3_REGION"},
		{&regional{says: "nonsense"}, "AuthorizationHeaderMalformed", "S3_REGION"},
		{&regional{says: "header", deny: true}, "AccessDenied", "s3:ListBucket on arn:aws:s3:::builds"},
	} {
		server := httptest.NewServer(c.in)
		err := bucketAt(t, server.URL, nil).Check(t.Context())
		server.Close()
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) {
			t.Errorf("%+v: %v (%s)", c.in.says, err, failure.Hint(err))
		}
	}
}

// Each refusal names the action that was refused and what on; and what AWS says
// of who was refused goes before what is known here.
func TestDenied(t *testing.T) {
	const who = "arn:aws:sts::123456789012:assumed-role/pipegen/one"
	for message, c := range map[string]struct{ who, key string }{
		"Access Denied": {who: "this identity"},
		"User: " + who + " is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:123456789012:key/1 because no identity-based policy allows it": {who: who, key: "kms:GenerateDataKey"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>%s</Message></Error>", message)
		}))
		defer server.Close()
		s := bucketAt(t, server.URL, func(o *blob.S3Options) { o.Prefix = "ci/" })
		_, _, gerr := s.Get(t.Context(), "logs/a", 0)
		_, uerr := s.Upload(t.Context(), "logs/a", 1)
		for action, err := range map[string]error{
			"s3:PutObject on arn:aws:s3:::builds/ci/logs/a": s.Put(t.Context(), "logs/a", strings.NewReader("1"), 1), "s3:GetObject on": gerr, "s3:PutObject on": uerr,
			"s3:DeleteObject on": s.Delete(t.Context(), "logs/a"), "s3:ListBucket on": s.Check(t.Context()),
			"s3:ListBucketMultipartUploads on": s.Sweep(t.Context(), "logs/", time.Now()),
			"s3:PutObject on arn":              s.Complete(t.Context(), "logs/a", "u", []string{"x"}),
		} {
			want := action
			if c.key != "" {
				want = c.key
			}
			if hint := failure.Hint(err); err == nil || !strings.Contains(hint, want) || !strings.Contains(hint, c.who) {
				t.Errorf("%s: %v (%s)", action, err, hint)
			}
		}
	}
}

// Whatever is asked, S3 may be too busy for it for a while.
func TestThrottling(t *testing.T) {
	for what, ask := range map[string]func(s blob.Store) error{
		"Check": func(s blob.Store) error { return s.Check(t.Context()) },
		"Put":   func(s blob.Store) error { return s.Put(t.Context(), "a", strings.NewReader("text"), 4) },
		"Get": func(s blob.Store) error {
			r, _, err := s.Get(t.Context(), "a", 0)
			if err == nil {
				err = r.Close()
			}
			return err
		},
		"Upload": func(s blob.Store) error { _, err := s.Upload(t.Context(), "a", 1); return err },
		"Complete": func(s blob.Store) error {
			return errors.Join(s.Complete(t.Context(), "a", "u1", []string{`"d41d8cd98f00b204e9800998ecf8427e"`}))
		},
		"Sweep":  func(s blob.Store) error { return s.Sweep(t.Context(), "", time.Now()) },
		"Delete": func(s blob.Store) error { return s.Delete(t.Context(), "a") },
	} {
		t.Run(what, func(t *testing.T) {
			in := &standIn{parts: map[int][]byte{1: nil}}
			var refused atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n := refused.Add(1); n <= 2 {
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusTooManyRequests}[n == 1])
					fmt.Fprint(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
					return
				}
				in.ServeHTTP(w, r)
			}))
			defer server.Close()
			if err := ask(bucketAt(t, server.URL, nil)); err != nil || refused.Load() < 3 {
				t.Errorf("%v after %d requests", err, refused.Load())
			}
		})
	}
}
