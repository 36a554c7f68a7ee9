package blob_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

func bucketAt(t testing.TB, endpoint string, change func(*blob.S3Options)) blob.Store {
	t.Helper()
	// What the machine is configured with is not the test's.
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.(interface{ Setenv(string, string) }).Setenv(name, "/nonexistent")
	}
	o := blob.S3Options{Endpoint: endpoint, Plain: true, Bucket: "builds", AccessKey: "AKIATEST", SecretKey: "secret-of-the-test", SessionToken: "token-of-the-test"}
	if change != nil {
		change(&o)
	}
	s, err := blob.S3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOptionsFromEnv(t *testing.T) {
	all := map[string]string{
		"S3_ENDPOINT": "minio:9000", "S3_BUCKET": "builds", "S3_REGION": "eu-west-1", "S3_SSL": "false", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b", "S3_SESSION_TOKEN": "c",
	}
	o, err := blob.S3OptionsFromEnv(func(name string) string { return all[name] })
	if want := (blob.S3Options{Endpoint: "minio:9000", Bucket: "builds", Region: "eu-west-1", Plain: true, AccessKey: "a", SecretKey: "b", SessionToken: "c"}); err != nil || o != want {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, c := range []struct {
		env  map[string]string
		want string // empty: right
	}{
		{map[string]string{"S3_BUCKET": "builds"}, ""},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSL": "TRUE", "S3_PATH_STYLE": "1"}, ""},
		{nil, "S3_BUCKET is not set"},
		{map[string]string{"S3_BUCKET": "a/b"}, "no name of a bucket"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSL": "ja"}, "S3_SSL"},
		{map[string]string{"S3_BUCKET": "builds", "S3_PATH_STYLE": "x"}, "S3_PATH_STYLE"},
		{map[string]string{"S3_BUCKET": "builds", "S3_ACCESS_KEY": "a"}, "only one of"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SECRET_KEY": "precious"}, "only one of"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SESSION_TOKEN": "precious"}, "session token"},
		{map[string]string{"S3_BUCKET": "builds", "S3_ENDPOINT": "https://user:precious@host"}, "no endpoint of S3"},
		{map[string]string{"S3_BUCKET": "builds", "S3_ENDPOINT": "host/path"}, "no endpoint of S3"},
		{map[string]string{"S3_BUCKET": "builds", "S3_ENDPOINT": "ftp://host"}, "no endpoint of S3"},
		{map[string]string{"S3_BUCKET": "builds", "S3_ENDPOINT": "https://"}, "no endpoint of S3"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "AES256"}, ""},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms"}, ""},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms", "S3_SSE_KMS_KEY_ID": "alias/builds", "S3_SSE_BUCKET_KEY": "true"}, ""},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms:dsse", "S3_SSE_KMS_KEY_ID": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}, ""},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aes256"}, "S3_SSE"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "AES256", "S3_SSE_KMS_KEY_ID": "alias/builds"}, "S3_SSE_KMS_KEY_ID is set and"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE_KMS_KEY_ID": "alias/builds"}, "S3_SSE_KMS_KEY_ID is set and"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms", "S3_SSE_KMS_KEY_ID": "my key"}, "no key of KMS"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "AES256", "S3_SSE_BUCKET_KEY": "true"}, "S3_SSE_BUCKET_KEY is set and"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms:dsse", "S3_SSE_BUCKET_KEY": "true"}, "S3_SSE_BUCKET_KEY is set and"},
		{map[string]string{"S3_BUCKET": "builds", "S3_SSE": "aws:kms", "S3_SSE_BUCKET_KEY": "x"}, "S3_SSE_BUCKET_KEY"},
	} {
		_, err := blob.S3OptionsFromEnv(func(name string) string { return c.env[name] })
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "precious")) {
			t.Errorf("%v: got %v, want %q", c.env, err, c.want)
		}
	}
}

// Where a bucket is, seen in what is signed; nothing is sent.
func TestEndpoints(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		o    blob.S3Options
		want string
	}{
		{blob.S3Options{Region: "eu-west-1"}, "https://builds.s3.eu-west-1.amazonaws.com/a"},
		{blob.S3Options{Region: "ap-northeast-2", Endpoint: "s3.amazonaws.com"}, "https://builds.s3.ap-northeast-2.amazonaws.com/a"},
		{blob.S3Options{Endpoint: "https://s3.eu-west-3.amazonaws.com"}, "https://builds.s3.eu-west-3.amazonaws.com/a"},
		{blob.S3Options{Region: "cn-north-1", Endpoint: "s3.cn-north-1.amazonaws.com.cn"}, "https://builds.s3.cn-north-1.amazonaws.com.cn/a"},
		{blob.S3Options{Region: "eu-west-1", PathStyle: &yes}, "https://s3.eu-west-1.amazonaws.com/builds/a"},
		{blob.S3Options{Endpoint: "minio:9000", Plain: true}, "http://minio:9000/builds/a"},
		{blob.S3Options{Endpoint: "minio:9000"}, "https://minio:9000/builds/a"},
		{blob.S3Options{Endpoint: "http://minio:9000/"}, "http://minio:9000/builds/a"},
		{blob.S3Options{Endpoint: "storage.example.com", PathStyle: &no}, "https://builds.storage.example.com/a"},
		{blob.S3Options{Endpoint: "minio:9000", Prefix: "ci/pipegen/"}, "https://minio:9000/builds/ci/pipegen/a"},
	} {
		s := bucketAt(t, c.o.Endpoint, func(o *blob.S3Options) {
			o.Region, o.Plain, o.PathStyle, o.Prefix = c.o.Region, c.o.Plain, c.o.PathStyle, c.o.Prefix
		})
		signed, err := s.SignGet(t.Context(), "a", 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed.URL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if u.RawQuery = ""; u.String() != c.want {
			t.Errorf("%+v: %s, want %s", c.o, u, c.want)
		}
		if q.Get("X-Amz-Expires") != "300" || q.Get("X-Amz-Security-Token") != "token-of-the-test" || q.Get("X-Amz-SignedHeaders") != "host" || len(signed.Header) > 0 {
			t.Errorf("signed %v, to be sent with %v", q, signed.Header)
		}
		if d := time.Until(signed.Expires); d < 4*time.Minute || d > 5*time.Minute {
			t.Errorf("expires in %s", d)
		}
	}
	for name, o := range map[string]blob.S3Options{
		"no region": {Bucket: "builds", AccessKey: "a", SecretKey: "b"}, "no bucket": {Region: "eu-west-1"}, "prefix": {Bucket: "builds", Region: "eu-west-1", Prefix: "a"},
		"prefix that leads out": {Bucket: "builds", Region: "eu-west-1", Prefix: "../"},
	} {
		t.Setenv("AWS_REGION", "")
		t.Setenv("AWS_DEFAULT_REGION", "")
		if _, err := blob.S3(t.Context(), o); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What S3 refuses is said in plain words.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		status     int
		code       string
		want, hint string
		configured bool
	}{
		{404, "NoSuchBucket", "there is no such bucket", "create the bucket builds", true},
		{403, "AccessDenied", "AccessDenied: words of S3", "a policy of this identity has to allow s3:", true},
		{403, "InvalidAccessKeyId", "InvalidAccessKeyId", "S3_ACCESS_KEY", true},
		{403, "SignatureDoesNotMatch", "SignatureDoesNotMatch", "S3_SECRET_KEY", true},
		{400, "ExpiredToken", "ExpiredToken", "S3_SESSION_TOKEN", true},
		{400, "AuthorizationHeaderMalformed", "AuthorizationHeaderMalformed", "another region than us-east-1", true},
		{301, "PermanentRedirect", "PermanentRedirect", "another region than us-east-1", true},
		{400, "KMS.NotFoundException", "KMS.NotFoundException", "S3_SSE_KMS_KEY_ID", true},
		{403, "RequestTimeTooSkewed", "RequestTimeTooSkewed", "clock", true},
		{507, "XMinioStorageFull", "XMinioStorageFull: words of S3", "", false},
	} {
		t.Run(c.code, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(c.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>words of S3</Message></Error>", c.code)
			}))
			defer server.Close()
			s := bucketAt(t, server.URL, func(o *blob.S3Options) { o.Patience = -1 })
			_, _, gerr := s.Get(t.Context(), "logs/a", 0)
			_, uerr := s.Upload(t.Context(), "logs/a", 1)
			for what, err := range map[string]error{
				"Put": s.Put(t.Context(), "logs/a", strings.NewReader("1"), 1), "Get": gerr, "Upload": uerr, "Delete": s.Delete(t.Context(), "logs/a"),
				"List": s.List(t.Context(), "logs/", nil), "Sweep": s.Sweep(t.Context(), "logs/", time.Now()), "Check": s.Check(t.Context()),
			} {
				switch {
				case err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint):
					t.Errorf("%s: got %v (%s)", what, err, failure.Hint(err))
				case errors.Is(err, failure.ErrInput) != (c.configured && what == "Check"):
					t.Errorf("%s: the error of input: %v", what, err)
				case errors.Is(err, blob.ErrNotFound):
					t.Errorf("%s: not found", what)
				}
			}
		})
	}
}

// standIn is a server of S3 that keeps one object and its parts, and refuses and breaks
// off as it is told.
type standIn struct {
	mu       sync.Mutex
	object   []byte
	parts    map[int][]byte
	requests []string
	refuse   int // answers 503 to so many requests
	breakOff int // breaks off so many bodies, after a third
	aborted  bool
	left     []string // uploads that were begun and not ended, oldest first; they share the parts
	deny     string   // what may not be listed: uploads, parts
	headers  []http.Header
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	s.headers = append(s.headers, r.Header)
	if s.refuse > 0 || err != nil {
		s.refuse--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	switch {
	case r.Method == http.MethodGet && (q.Has("uploads") || q.Has("uploadId")):
		s.list(w, q)
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.parts = map[int][]byte{}
		fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
	case r.Method == http.MethodPut && q.Has("partNumber"):
		n, _ := strconv.Atoi(q.Get("partNumber"))
		s.parts[n] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodPost && q.Has("uploadId"):
		var done struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(body, &done); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.object = nil
		for i, p := range done.Part {
			if p.PartNumber != i+1 || p.ETag != etag(s.parts[p.PartNumber]) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, "<Error><Code>InvalidPart</Code></Error>")
				return
			}
			s.object = append(s.object, s.parts[p.PartNumber]...)
		}
		fmt.Fprint(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		s.aborted = true
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.object = body
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		w.Header().Set("ETag", etag(s.object))
		if match := r.Header.Get("If-Match"); match != "" && match != etag(s.object) {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		if s.breakOff--; s.breakOff >= 0 && r.Method == http.MethodGet {
			http.ServeContent(&short{w, len(s.object) / 3}, r, "", time.Now(), bytes.NewReader(s.object))
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(s.object))
	}
}

// list lists uploads, or the parts of one, two a page.
func (s *standIn) list(w http.ResponseWriter, q url.Values) {
	if what := map[bool]string{true: "uploads", false: "parts"}[q.Has("uploads")]; s.deny == what {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>AccessDenied</Code></Error>")
		return
	}
	if q.Has("uploads") {
		fmt.Fprint(w, "<ListMultipartUploadsResult>")
		for i, id := range s.left {
			for _, key := range []string{"a", "another"} {
				fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>2026-01-0%dT00:00:00Z</Initiated></Upload>", key, id, i+1)
			}
		}
		fmt.Fprint(w, "</ListMultipartUploadsResult>")
		return
	}
	fmt.Fprint(w, "<ListPartsResult>")
	after, _ := strconv.Atoi(q.Get("part-number-marker"))
	n := 0
	for _, i := range slices.Sorted(maps.Keys(s.parts)) {
		if i <= after {
			continue
		}
		if n++; n > 2 {
			fmt.Fprintf(w, "<IsTruncated>true</IsTruncated><NextPartNumberMarker>%d</NextPartNumberMarker>", i-1)
			break
		}
		fmt.Fprintf(w, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><Size>%d</Size></Part>", i, etag(s.parts[i]), len(s.parts[i]))
	}
	fmt.Fprint(w, "</ListPartsResult>")
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// short lets only so many bytes through.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.left -= n
	if _, err := s.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestPutInParts(t *testing.T) {
	const mib = 1 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), 20*mib/16+1)
	for _, c := range []struct {
		length int
		parts  int // 0: one request
	}{{0, 0}, {1, 0}, {8*mib - 1, 0}, {8 * mib, 1}, {8*mib + 1, 2}, {16 * mib, 2}, {20*mib + 3, 3}} {
		for _, known := range []bool{true, false} {
			in := &standIn{refuse: 1}
			server := httptest.NewServer(in)
			size := int64(-1)
			if known {
				size = int64(c.length)
			}
			err := bucketAt(t, server.URL, nil).Put(t.Context(), "a", bytes.NewReader(data[:c.length]), size)
			server.Close()
			if err != nil || !bytes.Equal(in.object, data[:c.length]) || len(in.parts) != c.parts {
				t.Errorf("%d bytes, known: %v: %v; %d parts, %d bytes", c.length, known, err, len(in.parts), len(in.object))
			}
		}
	}
	// What does not become whole is dropped.
	in := &standIn{}
	server := httptest.NewServer(in)
	defer server.Close()
	for name, size := range map[string]int64{"less": 21 * mib, "more": 12 * mib} {
		in.aborted = false
		err := bucketAt(t, server.URL, nil).Put(t.Context(), "a", bytes.NewReader(data[:20*mib]), size)
		if !errors.Is(err, failure.ErrInput) || !in.aborted || in.object != nil {
			t.Errorf("%s: %v, aborted: %v, %d bytes", name, err, in.aborted, len(in.object))
		}
	}
}

func TestReadingGoesOn(t *testing.T) {
	in := &standIn{object: bytes.Repeat([]byte("0123456789"), 100_000), breakOff: 2}
	server := httptest.NewServer(in)
	defer server.Close()
	s := bucketAt(t, server.URL, nil)
	for _, offset := range []int64{0, 10} {
		in.breakOff = 2
		if got := read(t, s, "a", offset); got != string(in.object[offset:]) {
			t.Errorf("%d bytes come from %d", len(got), offset)
		}
	}
	// What became another blob meanwhile is not mixed with it.
	in.breakOff = 1
	r, _, err := s.Get(t.Context(), "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in.mu.Lock()
	in.object = bytes.Repeat([]byte("x"), len(in.object))
	in.mu.Unlock()
	if got, err := io.ReadAll(r); err == nil {
		t.Errorf("%d bytes of two blobs", len(got))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, _, err = s.Get(ctx, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err := io.ReadAll(r); err != nil && !errors.Is(err, stopped) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestUploadInParts(t *testing.T) {
	in := &standIn{}
	server := httptest.NewServer(in)
	defer server.Close()
	s := bucketAt(t, server.URL, nil)
	for size, want := range map[int64]struct {
		parts int
		size  int64
	}{1: {1, 8 << 20}, 16 << 20: {2, 8 << 20}, 1 << 30: {128, 8 << 20}, 200 << 30: {9753, 21 << 20}} {
		u, err := s.Upload(t.Context(), "a", size)
		if err != nil || u.ID != "u1" || u.PartSize != want.size || len(u.Parts) != want.parts {
			t.Errorf("%d bytes: %d parts of %d, %v", size, len(u.Parts), u.PartSize, err)
			continue
		}
		seen := map[string]bool{}
		for i, p := range u.Parts {
			address, err := url.Parse(p.URL)
			if err != nil {
				t.Fatal(err)
			}
			q := address.Query()
			if q.Get("partNumber") != fmt.Sprint(i+1) || q.Get("uploadId") != "u1" || q.Get("X-Amz-Expires") != "1800" || !strings.Contains(q.Get("X-Amz-SignedHeaders"), "content-length") {
				t.Fatalf("part %d: %v", i+1, q)
			}
			seen[p.URL] = true
		}
		if len(seen) != want.parts {
			t.Errorf("%d addresses for %d parts", len(seen), want.parts)
		}
	}
	for _, c := range []struct {
		upload string
		etags  []string
	}{{"", []string{"x"}}, {"u1", nil}, {"u1", []string{"x", ""}}, {"u1", make([]string, 10_001)}, {"u1", []string{"x"}}} {
		if err := s.Complete(t.Context(), "a", c.upload, c.etags); !errors.Is(err, failure.ErrInput) {
			t.Errorf("completing %q with %d parts: %v", c.upload, len(c.etags), err)
		}
	}
	for _, size := range []int64{0, -1} {
		if _, err := s.Upload(t.Context(), "a", size); !errors.Is(err, failure.ErrInput) {
			t.Errorf("an upload of %d bytes: %v", size, err)
		}
	}
}

// However much is put, only a few parts of it are in memory.
func TestPutKeepsLittle(t *testing.T) {
	const size, most = 120 << 20, 4 * 8 << 20
	var read, written atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		switch q := r.URL.Query(); {
		case q.Has("uploads"):
			fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
		case q.Has("partNumber"):
			time.Sleep(50 * time.Millisecond) // so that there is time to read too much
			written.Add(n)
			w.Header().Set("ETag", `"e"`)
		default:
			fmt.Fprint(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
		}
	}))
	defer server.Close()
	ahead := int64(0)
	source := readerOf(func(p []byte) (int, error) {
		ahead = max(ahead, read.Load()-written.Load())
		clear(p)
		read.Add(int64(len(p)))
		return len(p), nil
	})
	if err := bucketAt(t, server.URL, nil).Put(t.Context(), "a", io.LimitReader(source, size), -1); err != nil {
		t.Fatal(err)
	}
	if ahead > most || written.Load() != size {
		t.Errorf("%d bytes were read ahead, %d written", ahead, written.Load())
	}
}

type readerOf func(p []byte) (int, error)

func (f readerOf) Read(p []byte) (int, error) { return f(p) }

// Without keys of its own, a store takes them from where AWS's tools do.
func TestDefaultChain(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEENVIRONMENT")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	t.Setenv("AWS_REGION", "eu-central-1")
	for own, want := range map[string]string{"": "AKIAOFTHEENVIRONMENT", "AKIAGIVEN": "AKIAGIVEN"} {
		s := bucketAt(t, "", func(o *blob.S3Options) {
			o.AccessKey, o.SecretKey, o.SessionToken = own, own, ""
		})
		signed, err := s.SignGet(t.Context(), "a", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed.URL)
		if err != nil {
			t.Fatal(err)
		}
		if q := u.Query(); !strings.HasPrefix(q.Get("X-Amz-Credential"), want+"/") || q.Has("X-Amz-Security-Token") != (own == "") || u.Host != "builds.s3.eu-central-1.amazonaws.com" {
			t.Errorf("own keys %q: signed %s", own, u.Redacted())
		}
	}
}
