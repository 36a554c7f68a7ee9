package attestation

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

func client() *registry.Client {
	return registry.New(registry.Options{Keychain: anonymous{}, RPS: 1e6})
}

// subject is an image in a new registry.
func subject(t *testing.T, wrappers ...func(http.Handler) http.Handler) (*registrytest.Server, *store) {
	t.Helper()
	s := registrytest.New(t, wrappers...)
	digest := s.Push(t, "images", registrytest.Image(t, "linux/amd64", nil))
	d, err := client().Head(t.Context(), s.Host+"/images@"+digest)
	if err != nil {
		t.Fatal(err)
	}
	return s, &store{client: client(), repository: s.Host + "/images", subject: d, created: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}
}

func note(content string) referrer {
	return referrer{artifactType: payloadType, content: []byte(content), annotations: map[string]string{predicateAnnotation: content}}
}

// Many who keep the list by the tag lose nothing of each other, nor of what was
// there before.
func TestFallbackKeepsOthers(t *testing.T) {
	server, s := subject(t)
	foreign := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"digest":"%s","size":2,"artifactType":"application/spdx+json"}],"annotations":{"of":"others"}}`, s.subject.Digest)
	server.Put(t, "images:"+strings.Replace(s.subject.Digest, ":", "-", 1), "application/vnd.oci.image.index.v1+json", []byte(foreign))
	const writers = 4
	var wg sync.WaitGroup
	failed := make([]error, writers)
	for i := range writers {
		own := *s
		own.client = client()
		wg.Go(func() { failed[i] = own.put(t.Context(), note(fmt.Sprint(i))) })
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	index, err := s.list(t.Context())
	if err != nil || index.Annotations["of"] != "others" {
		t.Fatalf("%v, %v", index, err)
	}
	seen := map[string]bool{}
	for _, d := range index.Manifests {
		seen[d.ArtifactType+d.Annotations[predicateAnnotation]] = true
	}
	for _, want := range []string{"application/spdx+json", payloadType + "0", payloadType + "1", payloadType + "2", payloadType + "3"} {
		if !seen[want] {
			t.Errorf("%s is lost", want)
		}
	}
	// Again it costs nothing but looking.
	server.Requests()
	if err := s.put(t.Context(), note("0")); err != nil {
		t.Fatal(err)
	}
	for _, r := range server.Requests() {
		if !strings.HasPrefix(r, http.MethodGet) && !strings.HasPrefix(r, http.MethodHead) {
			t.Errorf("wrote again: %s", r)
		}
	}
}

// A registry that keeps the list itself gets no tag.
func TestNativeReferrers(t *testing.T) {
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	_, s := subject(t, func(http.Handler) http.Handler { return server.Config.Handler })
	if err := s.put(t.Context(), note("a")); err != nil {
		t.Fatal(err)
	}
	tags, err := s.client.List(t.Context(), s.repository)
	if err != nil || len(tags) != 0 {
		t.Errorf("tags %q, %v", tags, err)
	}
	index, err := s.list(t.Context())
	if err != nil || len(index.Manifests) != 1 {
		t.Errorf("got %v, %v", index, err)
	}
}

// One that has the list but never fills it has it by the tag as well.
func TestEmptyReferrers(t *testing.T) {
	_, s := subject(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/referrers/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	if err := s.put(t.Context(), note("a")); err != nil {
		t.Fatal(err)
	}
	held, raw, err := s.client.Get(t.Context(), s.repository+":"+strings.Replace(s.subject.Digest, ":", "-", 1))
	if err != nil || !registry.IsIndex(held.MediaType) || strings.Count(string(raw), `"digest"`) != 1 {
		t.Errorf("got %s, %v", raw, err)
	}
}

// A bundle of somebody else's key, or of another statement, is no reason not
// to sign.
func TestSignedByOthers(t *testing.T) {
	_, s := subject(t)
	p, img, _, bases := example()
	img.Repository = s.repository
	for range 2 {
		n, err := Open(t.Context(), Options{
			Publish: config.Publish{Sign: &config.Sign{Key: "env://KEY"}}, Getenv: environment(map[string]string{"KEY": pkcs8(t, newKey(t))}),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := n.Attend(t.Context(), s.client, p, img, s.subject, bases); err != nil {
				t.Fatal(err)
			}
		}
	}
	index, err := s.list(t.Context())
	if err != nil || len(index.Manifests) != 2 {
		t.Errorf("two keys left %d signatures, %v", len(index.Manifests), err)
	}
}
