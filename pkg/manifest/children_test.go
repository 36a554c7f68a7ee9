package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

func TestChildrenAreVerified(t *testing.T) {
	amd64 := []string{"linux/amd64"}
	tests := map[string]struct {
		change func(t *testing.T, w *world)
		want   []string
		input  bool
	}{
		"other platform": {func(t *testing.T, w *world) {
			w.image.Builds[0].Platform, w.results[0].Platform = "linux/arm64", "linux/arm64"
		},
			[]string{"linux/arm64", "linux/amd64", "app@amd64"}, false},
		"other variant": {func(t *testing.T, w *world) { w.push(t, "linux/arm/v6", registrytest.Image(t, "linux/arm/v7", nil)) }, []string{"linux/arm/v6", "linux/arm/v7"}, false},
		"gone":          {func(_ *testing.T, w *world) { w.results[0].Digest = registry.Digest(nil) }, []string{"404", "app@amd64"}, false},
		"other size":    {func(_ *testing.T, w *world) { w.results[0].Size++ }, []string{"bytes"}, false},
		"other media type": {func(_ *testing.T, w *world) { w.results[0].MediaType = string(types.DockerManifestSchema2) },
			[]string{"was reported as"}, false},
		"no image": {func(t *testing.T, w *world) {
			raw := []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","size":2,"digest":"` + registry.Digest([]byte("{}")) + `"}}`)
			w.Put(t, "images@"+registry.Digest(raw), string(types.OCIManifestSchema1), raw)
			w.results[0].Digest, w.results[0].Size = registry.Digest(raw), int64(len(raw))
		}, []string{"no image"}, false},
		"no manifest": {func(t *testing.T, w *world) {
			raw := []byte(`[truncated`)
			w.Put(t, "images@"+registry.Digest(raw), string(types.OCIManifestSchema1), raw)
			w.results[0].Digest, w.results[0].Size = registry.Digest(raw), int64(len(raw))
		}, []string{"cannot be read"}, false},
		"a result too few": {func(_ *testing.T, w *world) { w.results = nil }, []string{"app@amd64", "missing"}, true},
		"a result twice": {func(_ *testing.T, w *world) {
			w.image.Builds = append(w.image.Builds, w.image.Builds[0])
			w.results = append(w.results, w.results[0])
		}, []string{"app@amd64"}, true},
		"a result too many":  {func(_ *testing.T, w *world) { w.results = append(w.results, plan.Result{ID: "x@arm64"}) }, []string{"x@arm64"}, true},
		"of another commit":  {func(_ *testing.T, w *world) { w.results[0].Head = commit(1) }, []string{"another plan"}, true},
		"of another key":     {func(_ *testing.T, w *world) { w.results[0].Key = "x" }, []string{"another plan"}, true},
		"another repository": {func(_ *testing.T, w *world) { w.results[0].Ref = w.Host + "/evil:x" }, []string{"evil"}, true},
		"another platform":   {func(_ *testing.T, w *world) { w.results[0].Platform = "linux/arm64" }, []string{"linux/arm64"}, true},
		"no tags":            {func(_ *testing.T, w *world) { w.image.Tags = nil }, []string{"no tags"}, true},
		"no builds":          {func(_ *testing.T, w *world) { w.image.Builds = nil }, []string{"no builds"}, true},
		"bare, but two": {func(t *testing.T, w *world) {
			w.image.Index = false
			w.push(t, "linux/arm64", registrytest.Image(t, "linux/arm64", nil))
		}, []string{"index: false"}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, amd64)
			tt.change(t, w)
			pub, err := w.publish(t)
			if err == nil {
				t.Fatalf("published %+v", pub)
			}
			for _, want := range append(tt.want, "image app") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if errors.Is(err, failure.ErrInput) != tt.input || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q", err)
			}
			if w.Digest(t, "images:"+fixedTag) != "" {
				t.Error("a tag was written")
			}
		})
	}
}

func TestPlatformsAreNormalised(t *testing.T) {
	for build, held := range map[string]string{
		"linux/arm64":    "linux/arm64/v8",
		"linux/arm64/v9": "linux/arm64",
		"linux/arm/v6":   "linux/arm",
		"linux/arm/v7":   "linux/arm/v7",
		"linux/arm":      "Linux/armhf",
		"linux/arm/v5":   "linux/arm/5",
		"linux/amd64":    "linux/x86_64",
		"linux/amd64/v3": "linux/x86-64/v3",
		"linux/386":      "linux/i386",
		"linux/x86_64":   "linux/amd64/v1",
		"linux/aarch64":  "linux/arm64",
		"windows/amd64":  "windows/amd64:10.0.17763.1",
	} {
		w := newWorld(t, nil)
		w.push(t, build, registrytest.Image(t, held, nil))
		pub, err := w.publish(t)
		if err != nil {
			t.Errorf("%s with a config of %s: %v", build, held, err)
			continue
		}
		index, _ := w.Index(t, "images@"+pub.Digest)
		want := normal(t, build)
		build := want
		if _, version, ok := strings.Cut(held, ":"); ok {
			want += ":" + version
		}
		if got := index.Manifests[0].Platform.String(); got != want || pub.Children[0].Platform != build {
			t.Errorf("%s with a config of %s: %s in the index, %s published", build, held, got, pub.Children[0].Platform)
		}
	}
}

func normal(t *testing.T, platform string) string {
	t.Helper()
	p, err := config.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	return p.String()
}

// nested pushes what BuildKit makes with provenance: an index of the image
// and an attestation of it.
func (w *world) nested(t testing.TB, platform string, change func(m *v1.IndexManifest)) (image, attestation v1.Hash) {
	t.Helper()
	img := registrytest.Image(t, platform, nil)
	w.Push(t, "images", img)
	image, _ = img.Digest()
	size, _ := img.Size()
	raw := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"of":"` + image.String() + `"}`)
	w.Put(t, "images@"+registry.Digest(raw), string(types.OCIManifestSchema1), raw)
	attestation, err := v1.NewHash(registry.Digest(raw))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := v1.ParsePlatform(platform)
	m := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
		{MediaType: types.OCIManifestSchema1, Digest: image, Size: size, Platform: p},
		{MediaType: types.OCIManifestSchema1, Digest: attestation, Size: int64(len(raw)), Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{referenceType: attestationType, referenceDigest: image.String()}},
	}}
	if change != nil {
		change(&m)
	}
	raw, err = json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	w.Put(t, "images@"+registry.Digest(raw), string(types.OCIImageIndex), raw)
	w.add(platform, registry.Digest(raw), int64(len(raw)), string(types.OCIImageIndex))
	return image, attestation
}

func TestAttestationsAreKept(t *testing.T) {
	w := newWorld(t, nil)
	amd64, ofAMD64 := w.nested(t, "linux/amd64", nil)
	arm64, ofARM64 := w.nested(t, "linux/arm64", nil)
	pub := w.mustPublish(t)
	index, _ := w.Index(t, "images@"+pub.Digest)
	var got []v1.Hash
	for _, d := range index.Manifests {
		got = append(got, d.Digest)
	}
	if want := []v1.Hash{amd64, arm64, ofAMD64, ofARM64}; !slices.Equal(got, want) {
		t.Errorf("children %v, want %v", got, want)
	}
	if a := index.Manifests[3]; a.Annotations[referenceDigest] != arm64.String() || a.Annotations[referenceType] != attestationType || a.Platform.String() != "unknown/unknown" {
		t.Errorf("attestation: %+v", a)
	}
	if len(pub.Children) != 2 {
		t.Errorf("published: %+v", pub.Children)
	}

	w.plan.Publish.MediaType = "docker"
	w.image.Tags = []string{"app-docker"}
	pub = w.mustPublish(t)
	if index, _ := w.Index(t, "images@"+pub.Digest); len(index.Manifests) != 2 || len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "2 attestations") {
		t.Errorf("%d children, warnings %v", len(index.Manifests), w.warnings)
	}

	w = newWorld(t, nil)
	image, _ := w.nested(t, "linux/amd64", nil)
	w.image.Index = false
	if pub := w.mustPublish(t); pub.Digest != image.String() || len(w.warnings) != 1 {
		t.Errorf("bare: %+v, warnings %v", pub, w.warnings)
	}
}

func TestNestedIndexes(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(m *v1.IndexManifest)
		want   string
	}{
		"two images":                  {func(m *v1.IndexManifest) { m.Manifests = append(m.Manifests, m.Manifests[0]) }, "2 images"},
		"no image":                    {func(m *v1.IndexManifest) { m.Manifests = m.Manifests[1:] }, "0 images"},
		"attestation of another":      {func(m *v1.IndexManifest) { m.Manifests[1].Annotations[referenceDigest] = registry.Digest(nil) }, "not the build's image"},
		"image of another size":       {func(m *v1.IndexManifest) { m.Manifests[0].Size++ }, "bytes"},
		"a layer among the manifests": {func(m *v1.IndexManifest) { m.Manifests[0].MediaType = types.OCILayer }, "media type"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.nested(t, "linux/amd64", tt.change)
			if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("too deep", func(t *testing.T) {
		w := newWorld(t, nil)
		w.nested(t, "linux/amd64", nil)
		for range maxDepth {
			r := &w.results[0]
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, r.MediaType, r.Digest, r.Size)
			w.Put(t, "images@"+registry.Digest(raw), string(types.OCIImageIndex), raw)
			r.Digest, r.Size = registry.Digest(raw), int64(len(raw))
		}
		if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), "deep") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBareManifest(t *testing.T) {
	w := newWorld(t, []string{"linux/arm64"})
	w.image.Index = false
	pub := w.mustPublish(t)
	if pub.Digest != w.results[0].Digest || w.Digest(t, "images:app-latest") != pub.Digest || pub.MediaType != w.results[0].MediaType {
		t.Errorf("published %+v", pub)
	}
}

func TestChildInAnotherRepository(t *testing.T) {
	other := registrytest.New(t)
	for _, host := range []string{"", other.Host} {
		w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
		from, server := w.Host, w.Server
		if host != "" {
			from, server = host, other
		}
		server.Push(t, "builds/app", registrytest.Image(t, "linux/arm64", nil))
		w.image.Repository = w.Host + "/published"
		for i := range w.results {
			ref := from + "/builds/app:x"
			if i == 0 {
				server.Push(t, "builds/app", registrytest.Image(t, "linux/amd64", nil))
			}
			w.results[i].Ref, w.image.Builds[i].Destination = ref, ref
		}
		pub := w.mustPublish(t)
		for _, c := range pub.Children {
			if w.Digest(t, "published@"+c.Digest) != c.Digest {
				t.Errorf("%s is not in the image's repository", c.Digest)
			}
		}
		if w.Digest(t, "published:app-latest") != pub.Digest {
			t.Error("not published")
		}
	}
}
