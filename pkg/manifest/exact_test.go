package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// What the tag of a build holds by now does not matter.
func TestChildrenAreNamedByDigest(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
	for _, arch := range []string{"amd64", "arm64"} {
		w.Push(t, "images:"+fixedTag+"-"+arch, registrytest.Image(t, "linux/s390x", nil))
	}
	w.Requests()
	pub := w.mustPublish(t)
	for i, child := range pub.Children {
		if child.Digest != w.results[i].Digest {
			t.Errorf("child %d is %s, not %s", i, child.Digest, w.results[i].Digest)
		}
	}
	for _, r := range w.Requests() {
		if strings.HasSuffix(r, "-amd64") || strings.HasSuffix(r, "-arm64") {
			t.Errorf("resolved again: %s", r)
		}
	}
}

func TestDuplicatePlatforms(t *testing.T) {
	for _, pair := range [][2]string{{"linux/arm64", "linux/arm64/v8"}, {"linux/arm", "linux/arm/v7"}, {"linux/amd64", "linux/x86_64"}} {
		w := newWorld(t, nil)
		for _, p := range pair {
			w.push(t, p, registrytest.Image(t, normal(t, p), nil))
		}
		if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), "two of its builds are for "+normal(t, pair[0])) {
			t.Errorf("%v: got %v", pair, err)
		}
	}
}

// What an image wants of Windows is in its config, and comes into the index.
func TestFeaturesOfWindows(t *testing.T) {
	for name, tt := range map[string]struct {
		config, descriptor []string // features
		want               string
	}{
		"config": {[]string{"win32k"}, nil, "win32k"}, "descriptor": {nil, []string{"win32k"}, "win32k"},
		"both": {[]string{"one"}, []string{"two"}, "one"}, "none": {nil, nil, ""},
	} {
		img := registrytest.Image(t, "windows/amd64:10.0.20348.2322", nil)
		file, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		file = file.DeepCopy()
		file.OSFeatures = tt.config
		if img, err = mutate.ConfigFile(img, file); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, nil)
		w.push(t, "windows/amd64", img)
		if tt.descriptor != nil {
			r := &w.results[0]
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"data":"e30=","urls":["https://example.org/"],"platform":{"os":"windows","architecture":"amd64","os.features":["%s"]}}]}`,
				r.MediaType, r.Digest, r.Size, strings.Join(tt.descriptor, `","`))
			w.Put(t, "images@"+registry.Digest(raw), string(types.OCIImageIndex), raw)
			r.Digest, r.Size, r.MediaType = registry.Digest(raw), int64(len(raw)), string(types.OCIImageIndex)
		}
		pub := w.mustPublish(t)
		index, _ := w.Index(t, "images@"+pub.Digest)
		d := index.Manifests[0]
		if got := strings.Join(d.Platform.OSFeatures, " "); got != tt.want || d.Platform.OSVersion != "10.0.20348.2322" || d.Data != nil || d.URLs != nil {
			t.Errorf("%s: got %+v of %+v", name, d, d.Platform)
		}
	}
}

// A build may push an index in an index, whose attestation does not say of
// what it is, or not even that it is one of an image.
func TestIndexesInIndexes(t *testing.T) {
	for name, change := range map[string]func(m *v1.IndexManifest){
		"as BuildKit makes it": nil,
		"without a reference":  func(m *v1.IndexManifest) { m.Manifests[1].Annotations = nil },
		"without a platform":   func(m *v1.IndexManifest) { m.Manifests[1].Platform = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, []string{"linux/arm64"})
			image, attestation := w.nested(t, "linux/amd64", change)
			r := &w.results[1]
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, types.OCIImageIndex, r.MediaType, r.Digest, r.Size)
			w.Put(t, "images@"+registry.Digest(raw), string(types.OCIImageIndex), raw)
			r.Digest, r.Size = registry.Digest(raw), int64(len(raw))
			pub := w.mustPublish(t)
			index, _ := w.Index(t, "images@"+pub.Digest)
			if len(index.Manifests) != 3 || index.Manifests[1].Digest != image || index.Manifests[1].Platform.String() != "linux/amd64" {
				t.Fatalf("got %+v", index.Manifests)
			}
			a := index.Manifests[2]
			if a.Digest != attestation || a.Platform.String() != "unknown/unknown" || a.Annotations[referenceDigest] != image.String() || a.Annotations[referenceType] != attestationType {
				t.Errorf("attestation: %+v", a)
			}
		})
	}
}

// Whatever the children are, an OCI index holds them; a list of Docker's does
// on request, and names each by the type that it has.
func TestMediaTypes(t *testing.T) {
	for form, want := range map[string]types.MediaType{"": types.OCIImageIndex, "oci": types.OCIImageIndex, "docker": types.DockerManifestList} {
		w := newWorld(t, []string{"linux/amd64"})
		img := mutate.ConfigMediaType(mutate.MediaType(registrytest.Image(t, "linux/arm64", nil), types.DockerManifestSchema2), types.DockerConfigJSON)
		w.push(t, "linux/arm64", img)
		w.plan.Publish.MediaType = form
		pub := w.mustPublish(t)
		index, raw := w.Index(t, "images:app-latest")
		if pub.MediaType != string(want) || index.MediaType != want || index.Manifests[0].MediaType != types.OCIManifestSchema1 || index.Manifests[1].MediaType != types.DockerManifestSchema2 {
			t.Errorf("%q: %s", form, raw)
		}
		if strings.Contains(string(raw), "annotations") != (form != "docker") {
			t.Errorf("%q: annotations in %s", form, raw)
		}
	}
}

// Each descriptor has its own image's bases, and what its builder noted.
func TestDescriptors(t *testing.T) {
	w := newWorld(t, []string{"linux/arm64"})
	w.nested(t, "linux/amd64", func(m *v1.IndexManifest) {
		m.Manifests[0].Annotations = map[string]string{"com.example.team": "base", ociTitle: "another", ociBaseName: "stale:1"}
	})
	w.results[1].Bases = []plan.Base{{Ref: "tools:1", Digest: registry.Digest([]byte("tools"))}, {Ref: "debian:12", Digest: registry.Digest([]byte("debian")), Final: true}}
	pub := w.mustPublish(t)
	index, _ := w.Index(t, "images@"+pub.Digest)
	one, two := index.Manifests[0].Annotations, index.Manifests[1].Annotations
	if one[ociBaseName] != "alpine:3" || two[ociBaseName] != "debian:12" || two[ociBaseDigest] != registry.Digest([]byte("debian")) {
		t.Errorf("bases: %v, %v", one, two)
	}
	if want := `["tools:1@` + registry.Digest([]byte("tools")) + `","debian:12@` + registry.Digest([]byte("debian")) + `"]`; two[plan.BasesAnnotation] != want {
		t.Errorf("got %s, want %s", two[plan.BasesAnnotation], want)
	}
	if two["com.example.team"] != "base" || two[ociTitle] != "app" {
		t.Errorf("got %v", two)
	}
	for _, d := range []map[string]string{one, two} {
		for _, key := range []string{ociTitle, ociRevision, ociSource, ociCreated, plan.CommitAnnotation, plan.CommittedAnnotation, plan.PipelineAnnotation, plan.KeyAnnotation} {
			if d[key] == "" || d[key] != index.Annotations[key] {
				t.Errorf("%s: %q on a descriptor, %q on the index", key, d[key], index.Annotations[key])
			}
		}
	}
	if index.Annotations[ociBaseName] != "" {
		t.Errorf("the index has the base %s, which is one image's", index.Annotations[ociBaseName])
	}
}

// The fixed tag is there before the key tag, and both before any tag moves.
func TestOrderOfTags(t *testing.T) {
	var mu sync.Mutex
	var order []string
	w := newWorld(t, []string{"linux/amd64"}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, tag, _ := strings.Cut(r.URL.Path, "/manifests/")
			if r.Method == http.MethodPut && tag != "" && !strings.HasPrefix(tag, "sha256:") {
				mu.Lock()
				order = append(order, tag)
				mu.Unlock()
			}
			next.ServeHTTP(rw, r)
		})
	})
	w.image.Tags = append(w.image.Tags, "app-1", "app-2")
	w.mustPublish(t)
	if len(order) != 5 || order[0] != fixedTag || order[1] != keyTag || slices.Contains(order[2:], fixedTag) {
		t.Errorf("written in the order %v", order)
	}
}

// Commit 10 is published, then 11, then 12, which takes 11 back: it has the
// content of 10, and is published without a build. Then comes a late pipeline
// of 11.
func TestRevert(t *testing.T) {
	for _, form := range []string{"index", "bare"} {
		for name, ancestor := range map[string]func(context.Context, string, string) (bool, error){
			"git": func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }, "times": nil,
		} {
			t.Run(form+" by "+name, func(t *testing.T) {
				w := newWorld(t, nil)
				w.push(t, "linux/amd64", registrytest.Image(t, "linux/amd64", map[string]string{
					plan.HeadLabel: w.plan.Head, plan.KeyAnnotation: w.image.Key, ociCreated: timestamp(w.plan.Created),
					plan.BasesAnnotation: `[{"ref":"alpine:3","digest":"` + registry.Digest([]byte("alpine")) + `"}]`,
				}))
				w.image.Index = form == "index"
				w.options.Ancestor = ancestor
				first := w.mustPublish(t)
				at := func(n int) func(p *plan.Plan) {
					return func(p *plan.Plan) {
						later := time.Duration(n-10) * time.Hour
						p.Head, p.Committed, p.Created, p.Pipeline = commit(n), p.Committed.Add(later), p.Created.Add(later), fmt.Sprint(n*10)
						p.Images[0].Tags = []string{fmt.Sprintf("app-20261121-000000%d", n), "app-latest"}
					}
				}
				p11, results := w.other(t, at(11))
				p11.Images[0].Key, p11.Images[0].KeyTag, results[0].Key = strings.Repeat("f", 64), "app-key-ffffffffffff", strings.Repeat("f", 64)
				if _, err := Publish(t.Context(), w.client, p11, &p11.Images[0], results, w.options); err != nil {
					t.Fatal(err)
				}
				p12, _ := w.other(t, at(12))
				p12.Images[0].Retag, p12.Images[0].Builds = first.Digest, nil
				revert, err := Publish(t.Context(), w.client, p12, &p12.Images[0], nil, w.options)
				if err != nil || w.Digest(t, "images:app-latest") != revert.Digest {
					t.Fatalf("the revert: %+v, %v", revert, err)
				}
				if repeated, err := Publish(t.Context(), w.client, p12, &p12.Images[0], nil, w.options); err != nil || repeated.Digest != revert.Digest {
					t.Errorf("again: %s, not %s (%v)", repeated.Digest, revert.Digest, err)
				}
				late, err := Publish(t.Context(), w.client, p11, &p11.Images[0], results, w.options)
				if err != nil || w.Digest(t, "images:app-latest") != revert.Digest || len(late.Kept) != 1 {
					t.Errorf("the late pipeline won: %+v, %v", late, err)
				}
				said, err := plan.ReadPublication(t.Context(), w.client, w.Host+"/images:app-latest")
				if err != nil || said.Commit != commit(12) || said.Key != w.image.Key || len(said.Bases) != 1 || said.Bases[0].Ref != "alpine:3" {
					t.Errorf("it says %+v, %v", said, err)
				}
				if got, err := w.client.Platform(t.Context(), w.Host+"/images", revert.Children[0].Digest); err != nil || got.String() != "linux/amd64" {
					t.Errorf("its image: %v, %v", got, err)
				}
			})
		}
	}
}

// Labels are looked for past attestations and images that have none.
func TestLabelsOfLaterChildren(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	plain := registrytest.Image(t, "linux/s390x", nil)
	labelled := registrytest.Image(t, "linux/arm64", map[string]string{plan.HeadLabel: commit(11)})
	list := v1.IndexManifest{SchemaVersion: 2, MediaType: types.DockerManifestList, Manifests: []v1.Descriptor{
		{MediaType: types.OCIManifestSchema1, Size: 2, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(registry.Digest([]byte("{}")), "sha256:")}, Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}},
	}}
	w.Put(t, "images@"+registry.Digest([]byte("{}")), string(types.OCIManifestSchema1), []byte("{}"))
	for _, img := range []v1.Image{plain, labelled} {
		w.Push(t, "images", img)
		digest, _ := img.Digest()
		size, _ := img.Size()
		list.Manifests = append(list.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: size, Digest: digest})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	w.Put(t, "images:app-latest", string(types.DockerManifestList), raw)
	w.options.Ancestor = func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
	if pub := w.mustPublish(t); len(pub.Kept) != 1 || !strings.Contains(pub.Kept[0].Reason, "descendant") {
		t.Errorf("the tag was moved: %+v", pub)
	}
}
