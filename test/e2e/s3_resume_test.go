//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
)

// A client is killed when nine of ten parts of its context are there. Another
// one, which packs the same directory, sends what is missing and nothing else.
func TestS3UploadGoesOn(t *testing.T) {
	v := startVersity(t)
	for name, endpoint := range map[string]string{"versitygw": v.url(), "moto": serveMoto(t)} {
		t.Run(name, func(t *testing.T) {
			o := v.options()
			var parts, sent atomic.Int64
			cut := make(chan struct{})
			o.Endpoint = counting(t, endpoint, func(r *http.Request) bool {
				if r.Method != http.MethodPut || !r.URL.Query().Has("partNumber") {
					return true
				}
				if n := parts.Add(1); n == 10 {
					close(cut)
					return false
				}
				sent.Add(r.ContentLength)
				return true
			})
			if name == "moto" {
				makeBucket(t, endpoint+"/"+o.Bucket)
			}
			s := openS3(t, o)
			from := t.TempDir()
			if err := os.WriteFile(filepath.Join(from, "noise"), noise(78<<20), 0o644); err != nil {
				t.Fatal(err)
			}
			pack := func() (*os.File, buildcontext.Packed) {
				file, p, err := buildcontext.PackFile(t.Context(), from, t.TempDir(), buildcontext.PackOptions{})
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.Close() })
				return f, p
			}
			archive, p := pack()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-cut
				time.Sleep(time.Second) // what is under way arrives
				cancel()
			}()
			c := contexts(t, s)
			if _, err := c.UploadContext(ctx, api.ContextRequest{Digest: p.Digest, Size: p.Size}, archive, nil); err == nil {
				t.Fatal("the upload was not cut off")
			}
			before := sent.Swap(0)
			again, q := pack()
			if q.Digest != p.Digest {
				t.Fatalf("packed %s, and then %s", p.Digest, q.Digest)
			}
			var first, last atomic.Int64
			if _, err := c.UploadContext(t.Context(), api.ContextRequest{Digest: q.Digest, Size: q.Size}, again, func(n int64) {
				first.CompareAndSwap(0, n)
				last.Store(max(last.Load(), n))
			}); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes; %d were sent before the end, %d after it", p.Size, before, sent.Load())
			if before < p.Size*8/10 || before+sent.Load() != p.Size || last.Load() != p.Size || first.Load() < 8<<20 {
				t.Errorf("of %d bytes %d were sent, then %d; progress from %d to %d", p.Size, before, sent.Load(), first.Load(), last.Load())
			}
			want, err := os.ReadFile(archive.Name())
			if err != nil {
				t.Fatal(err)
			}
			if got := readBlob(t, s, strings.Replace("contexts/"+p.Digest, ":", "/", 1), 0); !bytes.Equal(got, want) {
				t.Error("the blob has other bytes")
			}
		})
	}
}

// The region that a bucket is in is found, and what clients are given is signed
// for it.
func TestS3AnotherRegion(t *testing.T) {
	v := startVersity(t)
	o := v.options()
	o.Region = "eu-west-1"
	s := openS3(t, o)
	u := begin(t, s, "contexts/sha256/elsewhere", 4)
	u.put(t, "text")
	if err := s.Complete(t.Context(), "contexts/sha256/elsewhere", u.ID, u.etags); err != nil {
		t.Fatal(err)
	}
	if got := readBlob(t, s, "contexts/sha256/elsewhere", 0); string(got) != "text" {
		t.Errorf("the blob is %q", got)
	}
}

// counting passes requests on to a server, under the name that the client gave
// it; those that pass refuses get no answer until their client is gone.
func counting(t *testing.T, to string, pass func(*http.Request) bool) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !pass(r) {
			_, _ = io.Copy(io.Discard, r.Body) // or else its end is not seen
			<-r.Context().Done()
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// makeBucket makes a bucket on a server that lets anybody do that.
func makeBucket(t *testing.T, address string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("making a bucket: %s", res.Status)
	}
}
