package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// users are the credentials for registries, by host.
type users map[string]*authn.Basic

func (u users) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if auth := u[r.RegistryStr()]; auth != nil {
		return auth, nil
	}
	return authn.Anonymous, nil
}

// listing has the registry list referrers itself.
func listing(http.Handler) http.Handler {
	return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
}

// signing leaves a manifest that refers to what is published.
func (w *world) signing(t testing.TB) {
	w.options.Attend = func(_ context.Context, img *plan.Image, subject registry.Descriptor, _ []plan.Base) error {
		digest, err := v1.NewHash(subject.Digest)
		if err != nil {
			return err
		}
		signature := mutate.Subject(registrytest.Image(t, "unknown/unknown", map[string]string{"of": subject.Digest}), v1.Descriptor{
			MediaType: types.MediaType(subject.MediaType), Digest: digest, Size: subject.Size,
		}).(v1.Image)
		own, err := signature.Digest()
		if err != nil {
			return err
		}
		ref, err := name.NewDigest(img.Repository + "@" + own.String())
		if err != nil {
			return err
		}
		return remote.Write(ref, signature)
	}
}

// attested pushes a build as BuildKit does, with an attestation.
func (w *world) attested(t testing.TB, platform string) {
	t.Helper()
	m := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range []string{platform, "unknown/unknown"} {
		img := registrytest.Image(t, p, map[string]string{"for": platform})
		digest, err := v1.NewHash(w.Push(t, "images", img))
		if err != nil {
			t.Fatal(err)
		}
		size, err := img.Size()
		if err != nil {
			t.Fatal(err)
		}
		of, _ := v1.ParsePlatform(p)
		m.Manifests = append(m.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: size, Platform: of})
	}
	m.Manifests[1].Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": m.Manifests[0].Digest.String()}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	w.Put(t, "images@"+registry.Digest(raw), string(types.OCIImageIndex), raw)
	w.add(platform, registry.Digest(raw), int64(len(raw)), string(types.OCIImageIndex))
}

// written are the requests that change something.
func written(requests []string) []string {
	return slices.DeleteFunc(requests, func(r string) bool { return strings.HasPrefix(r, "GET ") || strings.HasPrefix(r, "HEAD ") })
}

// holds checks that a repository has an index with all that it names, and what
// refers to it, and that tags name it.
func holds(t *testing.T, c *registry.Client, repository, digest string, tags []string, referrers int) {
	t.Helper()
	_, raw, err := c.Get(t.Context(), repository+"@"+digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.ListReferrers(t.Context(), repository+"@"+digest)
	if err != nil || len(list.Manifests) != referrers {
		t.Fatalf("%s: %d referrers, %v", repository, len(list.Manifests), err)
	}
	for _, d := range append(m.Manifests, list.Manifests...) {
		img, _, err := c.Pull(t.Context(), repository+"@"+d.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if err != nil {
				t.Errorf("%s: a layer of %s: %v", repository, d.Digest, err)
			}
		}
	}
	for _, tag := range tags {
		if d, err := c.Head(t.Context(), repository+":"+tag); err != nil || d.Digest != digest {
			t.Errorf("%s:%s holds %s, %v", repository, tag, d.Digest, err)
		}
	}
}

func TestAlso(t *testing.T) {
	w := newWorld(t, nil)
	w.attested(t, "linux/amd64")
	w.attested(t, "linux/arm64")
	w.signing(t)
	w.image.Tags = append(w.image.Tags, "app-v1")
	// One with a user and a list of referrers, one with tokens and without.
	first := registrytest.New(t, registrytest.BasicAuth("one", "first"), listing)
	second := registrytest.New(t, registrytest.TokenAuth("two", "second", func(string) {}))
	keys := users{first.Host: {Username: "one", Password: "first"}, second.Host: {Username: "two", Password: "second"}}
	w.client = registry.New(registry.Options{Keychain: keys, RPS: 10_000})
	w.plan.Publish.Also = []config.Also{{Registry: first.Host + "/public"}, {Registry: second.Host + "/a/b", Images: []string{"a*"}, Tags: []string{"key-*", "latest"}}}
	pub := w.mustPublish(t)
	tags := [][]string{{fixedTag, "app-latest", "app-v1"}, {keyTag, "app-latest"}}
	for i, repository := range []string{first.Host + "/public", second.Host + "/a/b"} {
		if len(pub.Also) != 2 || pub.Also[i].Repository != repository || !slices.Equal(pub.Also[i].Tags, tags[i]) || len(pub.Also[i].Kept) > 0 {
			t.Fatalf("published %+v", pub.Also)
		}
		holds(t, w.client, repository, pub.Digest, tags[i], 1)
	}
	if d, err := w.client.Head(t.Context(), second.Host+"/a/b:app-v1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a tag that was not asked for: %+v, %v", d, err)
	}
	// Everything is there before a tag is, the fixed one first.
	var order []string
	for _, r := range written(first.Requests()) {
		if tag, ok := strings.CutPrefix(r, "PUT /v2/public/manifests/"); ok {
			order = append(order, tag[:min(len(tag), 9)])
		}
	}
	n := len(order)
	if n < 8 || order[n-3] != fixedTag[:9] || slices.Contains(order[:n-3], "app-lates") || order[n-4] == fixedTag[:9] {
		t.Errorf("written in the order %q", order)
	}

	// Again nothing is written.
	second.Requests()
	w.client = registry.New(registry.Options{Keychain: keys, RPS: 10_000})
	again := w.mustPublish(t)
	if again.Digest != pub.Digest || len(again.Also) != 2 || !slices.Equal(again.Also[0].Tags, tags[0]) {
		t.Errorf("again: %+v", again)
	}
	for _, r := range slices.Concat(written(first.Requests()), written(second.Requests())) {
		t.Errorf("wrote again: %s", r)
	}
}

// A registry that refuses costs the others nothing, and it says which it was.
func TestAlsoFails(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	immutable := registrytest.New(t, registrytest.Immutable(http.StatusBadRequest, `{"errors":[{"code":"TAG_INVALID","message":"tag is immutable"}]}`))
	forbidden := registrytest.New(t, registrytest.Faulty("POST PUT", "/", 0, registrytest.Says(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"no"}]}`)))
	good := registrytest.New(t)
	old := immutable.Push(t, "a:"+fixedTag, registrytest.Image(t, "linux/amd64", map[string]string{"other": "content"}))
	for _, s := range []*registrytest.Server{immutable, forbidden, good} {
		w.plan.Publish.Also = append(w.plan.Publish.Also, config.Also{Registry: s.Host + "/a"})
	}
	pub, err := w.publish(t)
	held, ok := errors.AsType[*registry.ImmutableError](err)
	if !ok || held.Tag != immutable.Host+"/a:"+fixedTag || held.Holds != old {
		t.Errorf("got %v", err)
	}
	if text := err.Error(); !strings.Contains(text, "image app: publishing to "+immutable.Host+"/a: ") || !strings.Contains(text, "publishing to "+forbidden.Host+"/a: ") || strings.Contains(text, good.Host) {
		t.Errorf("got %v", err)
	}
	for _, tag := range []string{fixedTag, "app-latest"} {
		if good.Digest(t, "a:"+tag) != pub.Digest || w.Digest(t, "images:"+tag) != pub.Digest {
			t.Errorf("%s is missing where nothing failed", tag)
		}
	}
	if immutable.Digest(t, "a:app-latest") != "" {
		t.Error("a moving tag went before the fixed one")
	}
}

// What the image's own repository does not give up the others keep too, and
// each by itself keeps what is later.
func TestAlsoDoesNotGoBack(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	there := registrytest.New(t)
	w.plan.Publish.Also = []config.Also{{Registry: there.Host + "/a"}}
	publish := func(change func(*plan.Plan)) plan.Published {
		t.Helper()
		p, results := w.other(t, func(p *plan.Plan) { change(p) })
		pub, err := Publish(t.Context(), w.client, p, &p.Images[0], results, w.options)
		if err != nil {
			t.Fatal(err)
		}
		return pub
	}
	later := func(p *plan.Plan) {
		p.Head, p.Committed, p.Pipeline = commit(11), p.Committed.Add(time.Hour), "101"
		p.Images[0].Tags = []string{"app-20261121-later", "app-latest"}
	}
	newest := publish(later)
	// The own repository lost it, the other one did not.
	w.Put(t, "images:app-latest", "application/vnd.oci.image.manifest.v1+json", rawOf(t, registrytest.Image(t, "linux/amd64", nil)))
	w.warnings = nil
	pub := publish(func(p *plan.Plan) { p.Images[0].Tags = []string{"app-20261121-older", "app-latest"} })
	if !slices.Equal(pub.Also[0].Tags, []string{"app-20261121-older"}) || len(pub.Also[0].Kept) != 1 || pub.Also[0].Kept[0].Tag != "app-latest" {
		t.Errorf("got %+v", pub.Also)
	}
	if got := there.Digest(t, "a:app-latest"); got != newest.Digest {
		t.Errorf("the tag went back to %s", got)
	}
	if len(w.warnings) != 1 || !strings.HasPrefix(w.warnings[0], there.Host+"/a: image app: tag app-latest was left as it is: ") {
		t.Errorf("warnings %q", w.warnings)
	}
	// The own repository has a later one; the other has none at all.
	publish(later)
	fresh := registrytest.New(t)
	w.plan.Publish.Also = []config.Also{{Registry: fresh.Host + "/a"}}
	if pub := publish(func(p *plan.Plan) { p.Images[0].Tags = []string{"app-20261121-oldest", "app-latest"} }); !slices.Equal(pub.Also[0].Tags, []string{"app-20261121-oldest"}) {
		t.Errorf("got %+v", pub.Also)
	}
	if fresh.Digest(t, "a:app-latest") != "" {
		t.Error("an older publication took a tag elsewhere")
	}
}

func rawOf(t *testing.T, img v1.Image) []byte {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// However far the copying comes, doing it again completes it.
func TestAlsoInterrupted(t *testing.T) {
	for allowed := 0; allowed < 34; allowed += 3 {
		w := newWorld(t, nil)
		w.attested(t, "linux/amd64")
		w.signing(t)
		var left atomic.Int64
		left.Store(int64(allowed))
		there := registrytest.New(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if left.Add(-1) < 0 {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		w.plan.Publish.Also = []config.Also{{Registry: there.Host + "/a"}}
		_, err := w.publish(t)
		if allowed < 20 && err == nil {
			t.Errorf("%d requests were enough", allowed)
		}
		left.Store(1 << 30)
		w.client = newClient()
		pub := w.mustPublish(t)
		holds(t, w.client, there.Host+"/a", pub.Digest, []string{fixedTag, "app-latest"}, 1)
	}
}

// A publication without builds, a bare manifest, and several images of one
// build go elsewhere as well.
func TestAlsoOfAll(t *testing.T) {
	there := registrytest.New(t)
	w := newWorld(t, []string{"linux/amd64"})
	first := w.mustPublish(t)
	w.plan.Publish.Also = []config.Also{{Registry: there.Host + "/a"}}
	w.image.Retag, w.image.Builds, w.results = first.Digest, nil, nil
	w.image.Tags[0] = "app-20261122-abc1234"
	pub := w.mustPublish(t)
	holds(t, w.client, there.Host+"/a", pub.Digest, []string{"app-20261122-abc1234", "app-latest"}, 0)

	w = newWorld(t, []string{"linux/amd64"})
	w.plan.Publish.Also, w.image.Index = []config.Also{{Registry: there.Host + "/bare"}}, false
	if pub := w.mustPublish(t); there.Digest(t, "bare:app-latest") != pub.Digest {
		t.Errorf("bare: %+v", pub)
	}

	w = newParts(t, "repository", []string{"app", "app-x"})
	w.plan.Publish.Also = []config.Also{{Registry: there.Host + "/parts", Tags: []string{"*"}}}
	pub = w.mustPublish(t)
	if len(pub.Parts) != 1 || len(pub.Parts[0].Also) != 1 || pub.Parts[0].Also[0].Repository != there.Host+"/parts/app-x" {
		t.Fatalf("parts: %+v", pub.Parts)
	}
	holds(t, w.client, there.Host+"/parts/app", pub.Digest, []string{"1-abc1234", "key-0123456789ab", "latest"}, 0)
	holds(t, w.client, there.Host+"/parts/app-x", pub.Parts[0].Digest, []string{"1-abc1234", "key-0123456789ab", "latest"}, 0)
}

// Where the image is not meant nothing is asked.
func TestAlsoOfOthers(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	asked := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked %s", r.URL) }))
	t.Cleanup(asked.Close)
	w.plan.Publish.Also = []config.Also{{Registry: strings.TrimPrefix(asked.URL, "http://") + "/a", Images: []string{"base-*"}}}
	if pub := w.mustPublish(t); pub.Also != nil {
		t.Errorf("got %+v", pub.Also)
	}
}
