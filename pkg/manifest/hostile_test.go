package manifest

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// TestHostileRegistry publishes while the registry misbehaves about a child:
// no tag is written, and one line says why.
func TestHostileRegistry(t *testing.T) {
	oci := string(types.OCIManifestSchema1)
	for name, tt := range map[string]struct {
		fault registrytest.Fault
		part  string
		known bool // whether the platform was verified before
		want  string
	}{
		"gone":                           {registrytest.Says(404, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`), "/manifests/sha256:", false, "404 Not Found"},
		"gone, platform known":           {registrytest.Says(404, ``), "/manifests/sha256:", true, "404 Not Found"},
		"other bytes":                    {registrytest.Says(200, "{}", "Content-Type", oci), "/manifests/sha256:", false, "the bytes that the registry sent have the digest"},
		"other digest in the header":     {registrytest.Says(200, "", "Content-Type", oci, "Content-Length", "400", "Docker-Content-Digest", registry.Digest(nil)), "/manifests/sha256:", true, "the registry answers with the digest " + registry.Digest(nil)},
		"no digest in the header":        {registrytest.Says(200, "{}", "Content-Type", oci), "/manifests/sha256:", true, "the bytes that the registry sent have the digest"},
		"of another size":                {func(w http.ResponseWriter, r *http.Request) { says(w, r, oci, "401") }, "/manifests/sha256:", true, "the registry holds 401"},
		"of another type":                {func(w http.ResponseWriter, r *http.Request) { says(w, r, string(types.DockerManifestSchema2), "400") }, "/manifests/sha256:", true, "was reported as"},
		"a page for people":              {registrytest.Says(200, "<html>", "Content-Type", "text/html"), "/manifests/sha256:", false, "the bytes that the registry sent"},
		"truncated":                      {registrytest.Truncates, "/manifests/sha256:", false, "unexpected EOF"},
		"a config that is gone":          {registrytest.Says(404, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`), "/blobs/", false, "404 Not Found"},
		"another config":                 {registrytest.Says(200, `{"os":"linux","architecture":"amd64"}`), "/blobs/", false, "is not the one that the manifest names"},
		"a truncated config":             {registrytest.Truncates, "/blobs/", false, "unexpected EOF"},
		"hangs up":                       {registrytest.HangsUp, "/manifests/sha256:", false, "EOF"},
		"to http://169.254.169.254":      {registrytest.Says(307, "", "Location", "http://169.254.169.254/latest"), "/manifests/sha256:", false, "169.254.169.254"},
		"a server that is always unwell": {registrytest.Says(503, ""), "/manifests/sha256:", false, "503 Service Unavailable"},
		"not allowed":                    {registrytest.Says(403, `{"errors":[{"code":"DENIED","message":"no"}]}`), "/manifests/sha256:", false, "403 Forbidden: DENIED: no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var on atomic.Bool
			var writes atomic.Int64
			w := newWorld(t, []string{"linux/amd64"}, func(next http.Handler) http.Handler {
				fault := registrytest.Faulty("GET HEAD", tt.part, 0, tt.fault)(next)
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					switch {
					case !on.Load():
						next.ServeHTTP(rw, r)
					case r.Method == http.MethodPut:
						writes.Add(1)
						next.ServeHTTP(rw, r)
					default:
						fault.ServeHTTP(rw, r)
					}
				})
			})
			w.client = registry.New(registry.Options{Keychain: anonymous{}, Patience: 300 * time.Millisecond})
			if tt.known {
				if _, err := w.client.Platform(t.Context(), w.Host+"/images", w.results[0].Digest); err != nil {
					t.Fatal(err)
				}
			}
			on.Store(true)
			_, err := w.publish(t)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "image app: build app@amd64") || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("got %v", err)
			}
			if n := writes.Load(); n > 0 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

// says answers as if all were well but for the type or the size.
func says(w http.ResponseWriter, r *http.Request, mediaType, size string) {
	_, digest, _ := strings.Cut(r.URL.Path, "/manifests/")
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", size)
	w.Header().Set("Docker-Content-Digest", digest)
}

// A write that the registry says it took, under another digest, is none.
func TestLiesAboutWrites(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"}, atTag(fixedTag, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			registrytest.Says(201, "", "Docker-Content-Digest", registry.Digest([]byte("x")))(rw, r)
			return
		}
		next.ServeHTTP(rw, r)
	}))
	if pub, err := w.publish(t); err == nil || len(pub.Tags) > 0 || !strings.Contains(err.Error(), "the registry stored the digest") {
		t.Errorf("got %+v, %v", pub, err)
	}
}

// Whatever waits ends with its caller: for a tag that does not show what was
// written, and for a registry that asks for patience.
func TestPublishCancelled(t *testing.T) {
	for name, fault := range map[string]registrytest.Fault{
		"waiting for a tag":      registrytest.Says(404, ""),
		"waiting for a registry": registrytest.Says(429, "", "Retry-After", "60"),
		"waiting for an answer":  func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var written atomic.Bool
			w := newWorld(t, []string{"linux/amd64"}, atTag(fixedTag, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if written.Load() {
					time.AfterFunc(20*time.Millisecond, cancel)
					fault(rw, r)
					return
				}
				next.ServeHTTP(rw, r)
				written.Store(r.Method == http.MethodPut)
			}))
			w.options.firstLook = time.Minute
			if pub, err := Publish(ctx, w.client, w.plan, w.image, w.results, w.options); err == nil || ctx.Err() == nil || len(pub.Tags) > 0 {
				t.Errorf("got %+v, %v", pub, err)
			}
		})
	}
}
