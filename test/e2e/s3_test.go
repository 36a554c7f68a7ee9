//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// S3 is spoken to two servers: versitygw, which checks signatures, and moto,
// which does not, and differs from it in what it answers.
func TestS3(t *testing.T) {
	v := startVersity(t)
	moto := serveMoto(t)
	for name, endpoint := range map[string]string{"versitygw": v.url(), "moto": moto} {
		o := v.options()
		o.Endpoint = endpoint
		for _, want := range []bool{name == "moto", false} { // versitygw has one
			if p, err := blob.PrepareBucket(t.Context(), o); err != nil || p.Created != want {
				t.Fatalf("%s: %+v (%v), created: want %v", name, p, err, want)
			}
		}
		for _, prefix := range []string{"", "shared/pipegen/"} {
			t.Run(name+"/"+prefix, func(t *testing.T) {
				o := o
				o.Prefix = prefix
				s := openS3(t, o)
				t.Run("blobs", func(t *testing.T) { s3Blobs(t, s) })
				t.Run("uploads", func(t *testing.T) { s3Uploads(t, s, name == "versitygw") })
				t.Run("sweep", func(t *testing.T) { s3Sweep(t, s) })
			})
		}
	}
	// The directory store keeps to the same contract.
	t.Run("directory", func(t *testing.T) { s3Blobs(t, blob.Dir(filepath.Join(t.TempDir(), "blobs"))) })
}

func openS3(t *testing.T, o blob.S3Options) blob.Store {
	t.Helper()
	s, err := blob.S3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// noise gives bytes that cannot be compressed.
func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	return data
}

// readBlob reads a blob from an offset.
func readBlob(t *testing.T, s blob.Store, key string, offset int64) []byte {
	t.Helper()
	r, info, err := s.Get(t.Context(), key, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != key || int64(len(data)) != max(info.Size-offset, 0) || time.Since(info.Modified) > time.Hour {
		t.Errorf("%d bytes from %d of %+v", len(data), offset, info)
	}
	return data
}

func s3Blobs(t *testing.T, s blob.Store) {
	large := noise(20<<20 + 5)
	for key, data := range map[string][]byte{"logs/empty": nil, "logs/a": []byte("short"), "contexts/sha256/large": large} {
		for _, size := range []int64{int64(len(data)), -1} {
			if err := s.Put(t.Context(), key, struct{ io.Reader }{bytes.NewReader(data)}, size); err != nil {
				t.Fatal(err)
			}
			if got := readBlob(t, s, key, 0); !bytes.Equal(got, data) {
				t.Errorf("%s: other bytes come back, %d of them", key, len(got))
			}
		}
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Size != int64(len(data)) || info.Key != key {
			t.Errorf("%s: %+v, %v", key, info, err)
		}
	}
	if got := readBlob(t, s, "contexts/sha256/large", 20<<20); !bytes.Equal(got, large[20<<20:]) {
		t.Errorf("%d bytes from an offset", len(got))
	}
	for _, offset := range []int64{5, 6, 100} {
		if got := readBlob(t, s, "logs/a", offset); len(got) > 0 {
			t.Errorf("%q from %d", got, offset)
		}
	}
	for wrong, size := range map[string]int64{"logs/less": 3 << 20, "logs/more": 1 << 20, "logs/much less": 30 << 20, "logs/much more": 9 << 20} {
		key := strings.ReplaceAll(wrong, " ", "-")
		data := large[:2<<20]
		if strings.Contains(wrong, "much") {
			data = large
		}
		if err := s.Put(t.Context(), key, bytes.NewReader(data), size); err == nil || !strings.Contains(err.Error(), "bytes") {
			t.Errorf("%s: %v", wrong, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: something is there: %v", wrong, err)
		}
	}
	broken := errors.New("broken")
	err := s.Put(t.Context(), "logs/broken", io.MultiReader(bytes.NewReader(large), readerOf(func([]byte) (int, error) { return 0, broken })), -1)
	if !errors.Is(err, broken) || failure.Hint(err) != "" {
		t.Errorf("a source that breaks: %v", err)
	}
	var keys []string
	if err := s.List(t.Context(), "logs/", func(i blob.Info) error { keys = append(keys, fmt.Sprint(i.Key, " ", i.Size)); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	if got := strings.Join(keys, ", "); got != "logs/a 5, logs/empty 0" {
		t.Errorf("listed %s", got)
	}
	stop := errors.New("stop")
	if err := s.List(t.Context(), "", func(blob.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped listing: %v", err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "logs/a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Get(t.Context(), "logs/a", 0); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("reading what was deleted: %v", err)
	}
	if _, _, err := s.Get(t.Context(), "logs/a", 7); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("reading from an offset what was deleted: %v", err)
	}
	for _, key := range []string{"", "/etc/passwd", "../x", "a/../b", "a//b", "a\nb", ".hidden", "ä"} {
		if err := s.Put(t.Context(), key, strings.NewReader(""), 0); !errors.Is(err, failure.ErrInput) {
			t.Errorf("the key %q: %v", key, err)
		}
	}
}

type readerOf func([]byte) (int, error)

func (f readerOf) Read(p []byte) (int, error) { return f(p) }

// contexts is the part of a controller that takes contexts.
func contexts(t *testing.T, s blob.Store) *api.Client {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		switch {
		case errors.Is(err, blob.ErrNotFound):
			w.WriteHeader(http.StatusNotFound)
		case err != nil:
			t.Error(err)
			w.WriteHeader(http.StatusBadRequest)
		default:
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.HandleFunc("POST /v1/contexts", func(w http.ResponseWriter, r *http.Request) {
		var req api.ContextRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			answer(w, nil, err)
			return
		}
		key := strings.Replace("contexts/"+req.Digest, ":", "/", 1)
		if _, err := s.Stat(r.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			answer(w, api.ContextUpload{Exists: true}, err)
			return
		}
		up, err := s.Upload(r.Context(), key, req.Size)
		if err != nil {
			answer(w, nil, err)
			return
		}
		answer(w, api.ContextUpload{Upload: up.ID, PartSize: up.PartSize, Parts: up.Parts, Have: up.Have}, nil)
	})
	mux.HandleFunc("POST /v1/contexts/{digest}/complete", func(w http.ResponseWriter, r *http.Request) {
		var req api.ContextComplete
		err := json.NewDecoder(r.Body).Decode(&req)
		if err == nil {
			err = s.Complete(r.Context(), strings.Replace("contexts/"+r.PathValue("digest"), ":", "/", 1), req.Upload, req.ETags)
		}
		answer(w, struct{}{}, err)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c, err := api.NewClient(api.ClientOptions{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// packLarge packs a directory of 20 MB.
func packLarge(t *testing.T) (*os.File, buildcontext.Packed) {
	t.Helper()
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "noise"), noise(20<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	name, p, err := buildcontext.PackFile(t.Context(), from, t.TempDir(), buildcontext.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, p
}

// The client puts a context in parts to signed addresses; the agent reads it by
// one. Neither has a key of S3. A server that is not exact fails where it should
// refuse.
func s3Uploads(t *testing.T, s blob.Store, exact bool) {
	archive, p := packLarge(t)
	c := contexts(t, s)
	var most atomic.Int64
	for i, want := range []bool{true, false} {
		most.Store(0)
		sent, err := c.UploadContext(t.Context(), api.ContextRequest{Digest: p.Digest, Size: p.Size}, archive, func(n int64) { most.Store(max(most.Load(), n)) })
		if err != nil {
			t.Fatal(err)
		}
		if sent != want || (most.Load() > 0) != want {
			t.Errorf("submit %d: sent %v, %d bytes", i+1, sent, most.Load())
		}
	}
	key := strings.Replace("contexts/"+p.Digest, ":", "/", 1)
	signed, err := s.SignGet(t.Context(), key, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(signed.Expires); d < 4*time.Minute || d > 5*time.Minute {
		t.Errorf("the address holds for %s", d)
	}
	to := filepath.Join(t.TempDir(), "workspace")
	in := c.Download(t.Context(), api.ContextSource{SignedURL: signed, Digest: p.Digest, Size: p.Size}, nil)
	if err := errors.Join(buildcontext.Unpack(t.Context(), in, to, buildcontext.UnpackOptions{Digest: p.Digest}), in.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "noise")); err != nil || !bytes.Equal(got, noise(20<<20)) {
		t.Errorf("the agent has %d other bytes, %v", len(got), err)
	}
	t.Run("twice at once", func(t *testing.T) {
		// Of two uploads that end, the first one stays.
		first, second := begin(t, s, "contexts/sha256/race", 5), begin(t, s, "contexts/sha256/race", 5)
		first.put(t, "first")
		second.put(t, "other")
		for _, u := range []*begun{first, second, first} {
			if err := s.Complete(t.Context(), "contexts/sha256/race", u.ID, u.etags); err != nil {
				t.Fatal(err)
			}
		}
		if got := readBlob(t, s, "contexts/sha256/race", 0); string(got) != "first" {
			t.Errorf("the blob is %q", got)
		}
	})
	t.Run("wrong", func(t *testing.T) {
		u := begin(t, s, "contexts/sha256/wrong", 1)
		u.put(t, "1")
		if err := s.Complete(t.Context(), "contexts/sha256/wrong", u.ID, []string{`"00000000000000000000000000000000"`}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("another part: %v", err)
		}
		if !exact {
			return
		}
		if err := s.Complete(t.Context(), "contexts/sha256/wrong", "c3f7b5c0-0000-4000-8000-000000000000", u.etags); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("another upload: %v", err)
		}
	})
}

type begun struct {
	*blob.Upload
	etags []string
}

// begin begins an upload in one part.
func begin(t *testing.T, s blob.Store, key string, size int64) *begun {
	t.Helper()
	u, err := s.Upload(t.Context(), key, size)
	if err != nil {
		t.Fatal(err)
	}
	return &begun{Upload: u}
}

// put sends the part, up to where the upload is to be completed.
func (b *begun) put(t *testing.T, text string) {
	t.Helper()
	status, etag := put(t, b.Parts[0], text)
	if status != http.StatusOK || len(b.Parts) != 1 {
		t.Fatalf("putting one of %d parts: %d", len(b.Parts), status)
	}
	b.etags = []string{etag}
}

func put(t *testing.T, to api.SignedURL, text string) (status int, etag string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, to.URL, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range to.Header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header.Get("ETag")
}

func s3Sweep(t *testing.T, s blob.Store) {
	ours, other := begin(t, s, "contexts/sha256/left", 1), begin(t, s, "logs/left", 1)
	ours.put(t, "1")
	other.put(t, "1")
	for _, c := range []struct {
		before time.Time
		gone   bool
	}{{time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), false}, {time.Now().Add(time.Hour), true}} {
		if err := s.Sweep(t.Context(), "contexts/", c.before); err != nil {
			t.Fatal(err)
		}
		status, _ := put(t, ours.Parts[0], "1")
		if gone := status != http.StatusOK; gone != c.gone {
			t.Errorf("swept what began before %s: the part answers %d", c.before, status)
		}
	}
	if err := s.Complete(t.Context(), "logs/left", other.ID, other.etags); err != nil {
		t.Errorf("an upload of other keys: %v", err)
	}
}

// A signed address is good for one key, one method and its time.
func TestS3Signed(t *testing.T) {
	v := startVersity(t)
	s := openS3(t, v.options())
	for _, key := range []string{"contexts/a", "contexts/b"} {
		if err := s.Put(t.Context(), key, strings.NewReader(key), -1); err != nil {
			t.Fatal(err)
		}
	}
	get, err := s.SignGet(t.Context(), "contexts/a", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	status := func(method, address string, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := status(http.MethodGet, get.URL, ""); got != http.StatusOK {
		t.Errorf("reading: %d", got)
	}
	for name, got := range map[string]int{
		"another key":    status(http.MethodGet, strings.Replace(get.URL, "contexts/a", "contexts/b", 1), ""),
		"writing":        status(http.MethodPut, get.URL, "x"),
		"deleting":       status(http.MethodDelete, get.URL, ""),
		"no signature":   status(http.MethodGet, strings.SplitN(get.URL, "?", 2)[0], ""),
		"a longer time":  status(http.MethodGet, strings.Replace(get.URL, "X-Amz-Expires=2", "X-Amz-Expires=3000", 1), ""),
		"another bucket": status(http.MethodGet, strings.Replace(get.URL, "/pipegen/", "/other/", 1), ""),
	} {
		if got != http.StatusForbidden {
			t.Errorf("%s: %d", name, got)
		}
	}
	up, err := s.Upload(t.Context(), "contexts/c", 3)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]int{
		"more than announced": status(http.MethodPut, up.Parts[0].URL, "four"),
		"another part":        status(http.MethodPut, strings.Replace(up.Parts[0].URL, "partNumber=1", "partNumber=2", 1), "123"),
		"another key":         status(http.MethodPut, strings.Replace(up.Parts[0].URL, "contexts/c", "contexts/a", 1), "123"),
	} {
		if got != http.StatusForbidden {
			t.Errorf("%s: %d", name, got)
		}
	}
	if got := status(http.MethodPut, up.Parts[0].URL, "123"); got != http.StatusOK {
		t.Errorf("the part: %d", got)
	}
	for deadline := time.Now().Add(20 * time.Second); status(http.MethodGet, get.URL, "") != http.StatusForbidden; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the address does not expire")
		}
	}
	for _, d := range []time.Duration{0, 2 * time.Hour} {
		if _, err := s.SignGet(t.Context(), "contexts/a", d); !errors.Is(err, failure.ErrInput) {
			t.Errorf("signing for %s: %v", d, err)
		}
	}
}
