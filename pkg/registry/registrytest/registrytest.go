// Package registrytest serves a registry on loopback to tests, counts what is
// asked of it, and makes images to put into it.
package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Server is a registry on a port of its own; it ends with the test.
type Server struct {
	// Host is host:port.
	Host string

	mu       sync.Mutex
	requests []string
}

// New serves an empty registry, behind the wrappers in their order: the first
// sees a request first. What wrappers answer themselves is counted too.
func New(t testing.TB, wrappers ...func(http.Handler) http.Handler) *Server {
	t.Helper()
	return start(t, (*httptest.Server).Start, wrappers)
}

// NewTLS is New with a certificate that nobody trusts; the client of the
// returned server does.
func NewTLS(t testing.TB, wrappers ...func(http.Handler) http.Handler) (*Server, http.RoundTripper) {
	t.Helper()
	var client *http.Client
	s := start(t, func(h *httptest.Server) {
		h.StartTLS()
		client = h.Client()
	}, wrappers)
	return s, client.Transport
}

func start(t testing.TB, run func(*httptest.Server), wrappers []func(http.Handler) http.Handler) *Server {
	t.Helper()
	s := &Server{}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	for _, wrap := range slices.Backward(wrappers) {
		h = wrap(h)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	run(server)
	t.Cleanup(server.Close)
	_, s.Host, _ = strings.Cut(server.URL, "://")
	return s
}

// Requests gives method and path of what was asked since the last call.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// Image makes an image with one small layer. platform is os/arch[/variant];
// labels may be nil.
func Image(t testing.TB, platform string, labels map[string]string) v1.Image {
	t.Helper()
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	layer := static.NewLayer([]byte("layer of "+platform), types.OCILayer)
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant, file.OSVersion, file.OSFeatures = p.OS, p.Architecture, p.Variant, p.OSVersion, p.OSFeatures
	file.Config.Labels = maps.Clone(labels)
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Push writes an image to HOST/PATH[:TAG] and gives its digest.
func (s *Server) Push(t testing.TB, ref string, img v1.Image) string {
	t.Helper()
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, tagged := strings.Cut(ref, ":")
	target := s.Host + "/" + repository + "@" + digest.String()
	if tagged {
		target = s.Host + "/" + repository + ":" + tag
	}
	r, err := name.ParseReference(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// Put writes the bytes of a manifest, as they are, to PATH:TAG or
// PATH@DIGEST.
func (s *Server) Put(t testing.TB, ref, mediaType string, raw []byte) {
	t.Helper()
	repository, id, ok := strings.Cut(ref, "@")
	if !ok {
		repository, id, _ = strings.Cut(ref, ":")
	}
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", s.Host, repository, id)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: %s: %s", url, resp.Status, body)
	}
}

// Index reads the index that PATH:TAG or PATH@DIGEST holds, and its bytes.
func (s *Server) Index(t testing.TB, ref string) (v1.IndexManifest, []byte) {
	t.Helper()
	r, err := name.ParseReference(s.Host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Get(r)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(desc.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return m, desc.Manifest
}

// Digest gives what PATH:TAG holds, or "" when there is no such tag.
func (s *Server) Digest(t testing.TB, ref string) string {
	t.Helper()
	r, err := name.ParseReference(s.Host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(r)
	if err != nil {
		return ""
	}
	return desc.Digest.String()
}

// TokenAuth asks for a bearer token, which its own /token gives for the user
// and password. scopes is called with the scope of every token asked for.
func TokenAuth(user, password string, scopes func(string)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
					http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user or password"}]}`, http.StatusUnauthorized)
					return
				}
				scopes(strings.Join(r.URL.Query()["scope"], " "))
				_, _ = io.WriteString(w, `{"token":"T"}`)
				return
			}
			if r.Header.Get("Authorization") != "Bearer T" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// BasicAuth asks for user and password.
func BasicAuth(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Immutable refuses to move a tag that exists, with this status and body.
func Immutable(status int, body string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && !strings.Contains(r.URL.Path, "/manifests/sha256:") {
				held := httptest.NewRecorder()
				next.ServeHTTP(held, httptest.NewRequestWithContext(r.Context(), http.MethodHead, r.URL.Path, nil))
				if held.Code == http.StatusOK {
					http.Error(w, body, status)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}
