package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// static gives the same credentials for every host.
type static struct{ auth authn.Authenticator }

func (s static) Resolve(authn.Resource) (authn.Authenticator, error) { return s.auth, nil }

var anonymous = registry.Options{Keychain: static{authn.Anonymous}}

// handle answers requests itself, or says false to pass them on.
func handle(f func(w http.ResponseWriter, r *http.Request) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !f(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

const image = "application/vnd.oci.image.manifest.v1+json"

func TestManifests(t *testing.T) {
	s := registrytest.New(t)
	c := registry.New(anonymous)
	ctx := t.Context()
	repository := s.Host + "/team/app"

	if _, err := c.Head(ctx, repository+":v1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Head of nothing: %v", err)
	}
	digest := s.Push(t, "team/app:v1", registrytest.Image(t, "linux/arm64/v8", nil))
	d, err := c.Head(ctx, repository+":v1")
	if err != nil || d.Digest != digest || d.MediaType != image || d.Size <= 0 {
		t.Errorf("Head: %+v, %v", d, err)
	}
	got, raw, err := c.Get(ctx, repository+"@"+digest)
	if err != nil || got != d || int64(len(raw)) != d.Size || registry.Digest(raw) != digest {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if put, err := c.Put(ctx, repository+":v2", image, raw); err != nil || put != d {
		t.Errorf("Put: %+v, %v", put, err)
	}
	tags, err := c.List(ctx, repository)
	if err != nil || !slices.Equal(tags, []string{"v1", "v2"}) {
		t.Errorf("List: %v, %v", tags, err)
	}
	if _, known := c.KnownPlatform(digest); known {
		t.Error("the platform is known before its config was read")
	}
	p, err := c.Platform(ctx, repository, digest)
	if err != nil || p.String() != "linux/arm64" || p.Unspecific {
		t.Errorf("Platform: %+v, %v", p, err)
	}
	if known, ok := c.KnownPlatform(digest); !ok || !reflect.DeepEqual(known, p) {
		t.Errorf("KnownPlatform: %+v, %v", known, ok)
	}
	for _, ref := range []string{repository, "bad ref"} {
		if _, _, err := c.Get(ctx, ref); !errors.Is(err, failure.ErrInput) {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	pings := 0
	for _, r := range s.Requests() {
		if r == "GET /v2/" {
			pings++
		}
	}
	// One is of the Push above, by another client.
	if pings != 2 {
		t.Errorf("%d pings", pings)
	}
}

func TestGetVerifies(t *testing.T) {
	img := registrytest.Image(t, "linux/amd64", nil)
	tests := []struct {
		name, ref, want string
		handler         func(w http.ResponseWriter, digest string)
	}{
		{"other bytes", "@", "have the digest", func(w http.ResponseWriter, digest string) {
			w.Header().Set("Docker-Content-Digest", digest)
			w.Header().Set("Content-Type", image)
			fmt.Fprint(w, "{}")
		}},
		{"lying header", ":v1", "its bytes have", func(w http.ResponseWriter, digest string) {
			w.Header().Set("Docker-Content-Digest", digest)
			w.Header().Set("Content-Type", image)
			fmt.Fprint(w, "{}")
		}},
		{"page of HTML", ":v1", "media type", func(w http.ResponseWriter, _ string) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<p>sign in</p>")
		}},
		{"endless", ":v1", "more than", func(w http.ResponseWriter, _ string) {
			w.Header().Set("Content-Type", image)
			for range 5 << 10 {
				fmt.Fprint(w, strings.Repeat("a", 1<<10))
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			digest, _ := img.Digest()
			s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				tt.handler(w, digest.String())
				return true
			}))
			ref := s.Host + "/app:v1"
			if tt.ref == "@" {
				ref = s.Host + "/app@" + digest.String()
			}
			_, _, err := registry.New(anonymous).Get(t.Context(), ref)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something with %q", err, tt.want)
			}
		})
	}
}

func TestHeadWithoutHeaders(t *testing.T) {
	s := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusOK)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s.Put(t, "app:v1", image, []byte("{}"))
	d, err := registry.New(anonymous).Head(t.Context(), s.Host+"/app:v1")
	if err != nil || d.Digest != registry.Digest([]byte("{}")) || d.Size != 2 {
		t.Errorf("Head: %+v, %v", d, err)
	}
}

func TestConfigVerifies(t *testing.T) {
	img := registrytest.Image(t, "linux/amd64", nil)
	s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		fmt.Fprint(w, `{"os":"linux","architecture":"arm64"}`)
		return true
	}))
	digest := s.Push(t, "app", img)
	c := registry.New(anonymous)
	if p, err := c.Platform(t.Context(), s.Host+"/app", digest); err == nil || !strings.Contains(err.Error(), "is not the one") {
		t.Errorf("Platform: %v, %v", p, err)
	}
	for raw, want := range map[string]string{
		"{":  "cannot be read",
		"{}": "no image",
		`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":99999999,"digest":"` + digest + `"}}`: "bytes",
	} {
		if _, err := c.Config(t.Context(), s.Host+"/app", []byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Config of %s: %v", raw, err)
		}
	}
}

func TestImmutableTags(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		// Whether anything else is refused too.
		all bool
		is  bool
	}{
		"ECR":                  {400, `{"errors":[{"code":"TAG_INVALID","message":"The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the repository is immutable."}]}`, true, true},
		"ECR's API":            {400, `{"errors":[{"code":"ImageTagAlreadyExistsException","message":"tag"}]}`, true, true},
		"ECR Public":           {400, `{"errors":[{"code":"TAG_INVALID","message":"The image tag 'v1' already exists in the 'alias/app' repository and cannot be overwritten because the tag is immutable."}]}`, true, true},
		"tag invalid":          {400, `{"errors":[{"code":"TAG_INVALID","message":"manifest tag"}]}`, true, true},
		"Harbor":               {412, `{"errors":[{"code":"PRECONDITION","message":"Failed to process request due to 'app:v1' configured as immutable."}]}`, true, true},
		"Docker Hub":           {403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied - This tag is already assigned to an image in this repository and cannot be updated due to immutability settings. To push this image, use a different tag."}]}`, true, true},
		"Google":               {400, `{"errors":[{"code":"MANIFEST_INVALID","message":"cannot update tag v1. The repository has enabled tag immutability"}]}`, true, true},
		"Artifactory":          {403, `{"errors":[{"code":"DENIED","message":"Not enough permissions to delete/overwrite artifact 'app/v1/manifest.json' (user 'ci' needs DELETE permission)."}]}`, true, true},
		"Artifactory, tersely": {403, `{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid","detail":{"description":"HTTP 403 Forbidden"}}]}`, false, true},
		"GHCR":                 {403, `{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}`, false, true},
		"GitLab":               {403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, false, true},
		"Azure":                {405, `{"errors":[{"code":"UNSUPPORTED","message":"The operation is disallowed on this registry, repository or image. View troubleshooting steps at https://aka.ms/acr/faq/#why-does-my-pull-or-push-request-fail-with-disallowed-operation"}]}`, true, true},
		"Nexus":                {400, `Repository does not allow updating assets: docker-hosted`, true, true},
		"DTR":                  {409, `{"errors":[{"code":"UNKNOWN","message":"tag=v1 cannot be overwritten because app is an immutable repository"}]}`, true, true},
		"a proxy":              {403, `<html><h1>403 Forbidden</h1></html>`, false, true},
		"no right":             {403, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, true, false},
		"read-only":            {405, `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			locked := atomic.Bool{}
			s := registrytest.New(t, registrytest.Immutable(tt.status, tt.body), handle(func(w http.ResponseWriter, r *http.Request) bool {
				if tt.all && locked.Load() && r.Method == http.MethodPut {
					http.Error(w, tt.body, tt.status)
					return true
				}
				return false
			}))
			c := registry.New(anonymous)
			ref := s.Host + "/app:v1"
			if _, err := c.Put(t.Context(), ref, image, []byte("{}")); err != nil {
				t.Fatal(err)
			}
			locked.Store(true)
			_, err := c.Put(t.Context(), ref, image, []byte("{ }"))
			var immutable *registry.ImmutableError
			if errors.As(err, &immutable) != tt.is {
				t.Fatalf("Put of other bytes: %v", err)
			}
			if tt.is {
				want := registry.ImmutableError{Tag: ref, Holds: registry.Digest([]byte("{}")), Wanted: registry.Digest([]byte("{ }")), Said: immutable.Said}
				if *immutable != want || !strings.HasPrefix(immutable.Said, strconv.Itoa(tt.status)+" ") || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %+v, want %+v", *immutable, want)
				}
			}
			if _, err := c.Put(t.Context(), ref, image, []byte("{}")); err != nil {
				t.Errorf("Put of the same bytes: %v", err)
			}
		})
	}
}

func TestListPages(t *testing.T) {
	const pages = 10
	list := func(next func(page int) string) *registrytest.Server {
		return registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/tags/list") {
				return false
			}
			page, _ := strconv.Atoi(r.URL.Query().Get("page")) // none: the first
			if n := next(page); n != "" {
				w.Header().Set("Link", "<"+n+`>; rel="next"`)
			}
			fmt.Fprintf(w, `{"name":"app","tags":["t%d-a","t%d-b"]}`, page, page)
			return true
		}))
	}
	s := list(func(page int) string {
		if page+1 == pages {
			return ""
		}
		return fmt.Sprintf("/v2/app/tags/list?page=%d", page+1)
	})
	tags, err := registry.New(anonymous).List(t.Context(), s.Host+"/app")
	if err != nil || len(tags) != 2*pages || tags[len(tags)-1] != "t9-b" {
		t.Errorf("List: %v, %v", tags, err)
	}
	s = list(func(int) string { return "/v2/app/tags/list?page=1" })
	if tags, err := registry.New(anonymous).List(t.Context(), s.Host+"/app"); err == nil {
		t.Errorf("List of a circle: %d tags", len(tags))
	}
	s = list(func(int) string { return "http://127.0.0.1:1/v2/app/tags/list?page=1" })
	if tags, err := registry.New(anonymous).List(t.Context(), s.Host+"/app"); err == nil {
		t.Errorf("List led to another host: %d tags", len(tags))
	}
}

func TestCopy(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	digest := from.Push(t, "app/a", registrytest.Image(t, "linux/amd64", nil))
	c := registry.New(anonymous)
	for _, dst := range []string{from.Host + "/app/b", to.Host + "/app"} {
		from.Requests()
		d, err := c.Copy(t.Context(), from.Host+"/app/a@"+digest, dst)
		if err != nil || d.Digest != digest {
			t.Fatalf("Copy to %s: %+v, %v", dst, d, err)
		}
		if got, err := c.Platform(t.Context(), dst, digest); err != nil || got.String() != "linux/amd64" {
			t.Errorf("the copy at %s: %v, %v", dst, got, err)
		}
		if strings.HasPrefix(dst, from.Host) {
			for _, r := range from.Requests() {
				if strings.HasPrefix(r, "PATCH ") {
					t.Errorf("%s: a layer was sent within one registry", r)
				}
			}
		}
	}
	if _, err := c.Copy(t.Context(), from.Host+"/app/a:v1", to.Host+"/app"); !errors.Is(err, failure.ErrInput) {
		t.Errorf("Copy by tag: %v", err)
	}
	missing := from.Host + "/app/a@" + registry.Digest(nil)
	if _, err := c.Copy(t.Context(), missing, to.Host+"/app"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Copy of nothing: %v", err)
	}
}
