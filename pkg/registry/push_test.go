package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	staticlayer "github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// randomImage has layers of so many bytes that do not compress.
func randomImage(t testing.TB, size int64, layers int) v1.Image {
	t.Helper()
	img, err := random.Image(size, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t testing.TB, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// attested makes an index as BuildKit pushes it: an image and an attestation.
func attested(t testing.TB, platform string) (v1.Image, v1.ImageIndex) {
	t.Helper()
	img := registrytest.Image(t, platform, nil)
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	layer := staticlayer.NewLayer([]byte(`{"predicateType":"https://slsa.dev/provenance/v1"}`), "application/vnd.in-toto+json")
	attestation, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		t.Fatal(err)
	}
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digestOf(t, img)},
		}},
	)
	return img, idx
}

func TestPush(t *testing.T) {
	s := registrytest.New(t)
	c := registry.New(anonymous)
	ctx := t.Context()
	img := randomImage(t, 1000, 3)
	digest := digestOf(t, img)

	d, err := c.Push(ctx, s.Host+"/team/app:v1", img, nil)
	if err != nil || d.Digest != digest || d.MediaType != string(types.DockerManifestSchema2) || d.Size <= 0 {
		t.Fatalf("Push: %+v, %v", d, err)
	}
	requests := s.Requests()
	if last := requests[len(requests)-1]; last != "PUT /v2/team/app/manifests/v1" {
		t.Errorf("the last request is %s", last)
	}
	got, _, err := c.Pull(ctx, s.Host+"/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil || digestOf(t, got) != digest {
		t.Errorf("Image: %s, %v", digestOf(t, got), err)
	}

	// Again, by another client: nothing is sent but the tag.
	s.Requests()
	if d, err := registry.New(anonymous).Push(ctx, s.Host+"/team/app:v2", img, nil); err != nil || d.Digest != digest {
		t.Fatalf("Push again: %+v, %v", d, err)
	}
	for _, r := range s.Requests() {
		if strings.Contains(r, "/blobs/") {
			t.Errorf("unneeded %s", r)
		}
	}
	// One more layer: only that one and the config are sent.
	more, err := mutate.AppendLayers(img, staticlayer.NewLayer([]byte("more"), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.New(anonymous).Push(ctx, s.Host+"/team/app@"+digestOf(t, more), more, nil); err != nil {
		t.Fatal(err)
	}
	uploads := slices.DeleteFunc(s.Requests(), func(r string) bool { return !strings.HasPrefix(r, "PATCH ") })
	if len(uploads) != 2 {
		t.Errorf("%d uploads", len(uploads))
	}
	for _, ref := range []string{s.Host + "/team/app", s.Host + "/team/app@" + digest, "no reference"} {
		if _, err := c.Push(ctx, ref, more, nil); !errors.Is(err, failure.ErrInput) {
			t.Errorf("Push to %s: %v", ref, err)
		}
	}
}

func TestPushIndex(t *testing.T) {
	s := registrytest.New(t)
	c := registry.New(anonymous)
	img, idx := attested(t, "linux/arm64")
	d, err := c.Push(t.Context(), s.Host+"/app:v1", img, idx)
	if err != nil || d.Digest != digestOf(t, idx) || !registry.IsIndex(d.MediaType) {
		t.Fatalf("Push: %+v, %v", d, err)
	}
	got, gotIndex, err := c.Pull(t.Context(), s.Host+"/app@"+d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(t, got) != digestOf(t, img) || gotIndex == nil || digestOf(t, gotIndex) != d.Digest {
		t.Errorf("Pull: %s, %v", digestOf(t, got), gotIndex)
	}
	// All of it goes on to another registry.
	other := registrytest.New(t)
	if d2, err := c.Push(t.Context(), other.Host+"/app:v1", got, gotIndex); err != nil || d2 != d {
		t.Errorf("Push elsewhere: %+v, %v", d2, err)
	}
	if _, idx, err := c.Pull(t.Context(), other.Host+"/app@"+digestOf(t, img)); err != nil || idx != nil {
		t.Errorf("Pull of a bare image: %v, %v", idx, err)
	}
}

func TestPullOfSeveralImages(t *testing.T) {
	s := registrytest.New(t)
	c := registry.New(anonymous)
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: registrytest.Image(t, "linux/amd64", nil)}, mutate.IndexAddendum{Add: registrytest.Image(t, "linux/arm64", nil)})
	if _, err := c.Push(t.Context(), s.Host+"/app:v1", nil, idx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Pull(t.Context(), s.Host+"/app:v1"); err == nil || !strings.Contains(err.Error(), "index of 2 images") {
		t.Errorf("Image of an index of two: %v", err)
	}
	if _, _, err := c.Pull(t.Context(), s.Host+"/app:none"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Image of nothing: %v", err)
	}
}

func TestPushToImmutableTag(t *testing.T) {
	s := registrytest.New(t, registrytest.Immutable(http.StatusBadRequest, `{"errors":[{"code":"TAG_INVALID","message":"The image tag 'v1' already exists and cannot be overwritten because the repository is immutable."}]}`))
	c := registry.New(anonymous)
	first, second := randomImage(t, 10, 1), randomImage(t, 10, 1)
	for range 2 {
		if _, err := c.Push(t.Context(), s.Host+"/app:v1", first, nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Push(t.Context(), s.Host+"/app:v1", second, nil)
	var immutable *registry.ImmutableError
	if !errors.As(err, &immutable) || immutable.Holds != digestOf(t, first) || immutable.Wanted != digestOf(t, second) {
		t.Errorf("got %v", err)
	}
}

// hangUp breaks a connection after it read so many bytes of the body.
func hangUp(w http.ResponseWriter, r *http.Request, after int64) {
	_, _ = io.CopyN(io.Discard, r.Body, after)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func TestPushThroughBrokenConnections(t *testing.T) {
	var patches, puts atomic.Int32
	s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodPatch && patches.Add(1) == 1:
			hangUp(w, r, 200<<10)
		case r.Method == http.MethodPatch && patches.Load() == 2:
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, "", http.StatusBadGateway)
		case r.Method == http.MethodPatch && patches.Load() == 3:
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"the upload is gone"}]}`, http.StatusNotFound)
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/") && puts.Add(1) == 1:
			hangUp(w, r, 0)
		default:
			return false
		}
		return true
	}))
	c := registry.New(anonymous)
	img := randomImage(t, 2<<20, 1)
	d, err := c.Push(t.Context(), s.Host+"/app:v1", img, nil)
	if err != nil || d.Digest != digestOf(t, img) {
		t.Fatalf("Push: %+v, %v", d, err)
	}
	got, _, err := c.Pull(t.Context(), s.Host+"/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if patches.Load() < 4 || puts.Load() < 2 {
		t.Errorf("%d uploads, %d commits", patches.Load(), puts.Load())
	}
}

func TestPushRefused(t *testing.T) {
	var patches atomic.Int32
	s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		patches.Add(1)
		http.Error(w, `{"errors":[{"code":"DENIED","message":"quota exceeded"}]}`, http.StatusForbidden)
		return true
	}))
	_, err := registry.New(anonymous).Push(t.Context(), s.Host+"/app:v1", randomImage(t, 10, 1), nil)
	var e *registry.Error
	if !errors.As(err, &e) || e.Op != "pushing" || e.Status != http.StatusForbidden || e.Code != "DENIED" || failure.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
	if n := patches.Load(); n > 2 { // layer and config
		t.Errorf("%d attempts", n)
	}
}

// broken is a layer that cannot be read.
type brokenLayer struct{ v1.Layer }

func (brokenLayer) Compressed() (io.ReadCloser, error) { return nil, errors.New("the disk is gone") }

func TestPushOfUnreadableLayer(t *testing.T) {
	s := registrytest.New(t)
	img, err := mutate.AppendLayers(empty.Image, brokenLayer{staticlayer.NewLayer([]byte("x"), types.DockerLayer)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = registry.New(anonymous).Push(t.Context(), s.Host+"/app:v1", img, nil)
	if err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("got %v", err)
	}
}

func TestPushCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	s := registrytest.New(t, handle(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		cancel(why)
		_, _ = io.Copy(io.Discard, r.Body) // until the client hangs up
		return true
	}))
	if _, err := registry.New(anonymous).Push(ctx, s.Host+"/app:v1", randomImage(t, 4<<20, 2), nil); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if d := s.Digest(t, "app:v1"); d != "" {
		t.Errorf("the tag holds %s", d)
	}
}

// TestDownloadGoesOn lets each connection bring a part of a blob only.
func TestDownloadGoesOn(t *testing.T) {
	data := make([]byte, 3<<20)
	fill := rand.NewChaCha8([32]byte{})
	_, _ = fill.Read(data)
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges %t", ranges), func(t *testing.T) {
			layer := staticlayer.NewLayer(data, types.DockerLayer)
			img, err := mutate.AppendLayers(empty.Image, layer)
			if err != nil {
				t.Fatal(err)
			}
			digest := digestOf(t, layer)
			var mu sync.Mutex
			var starts []string
			s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest) {
					return false
				}
				mu.Lock()
				starts = append(starts, r.Header.Get("Range"))
				part := len(starts) << 20
				mu.Unlock()
				from := 0
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && ranges {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
					w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					from = 0
					w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				}
				_, _ = w.Write(data[from:min(part, len(data))])
				return true // and the server breaks the connection
			}))
			c := registry.New(anonymous)
			if _, err := c.Push(t.Context(), s.Host+"/app:v1", img, nil); err != nil {
				t.Fatal(err)
			}
			got, _, err := c.Pull(t.Context(), s.Host+"/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			layers, err := got.Layers()
			if err != nil {
				t.Fatal(err)
			}
			r, err := layers[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if read, err := io.ReadAll(r); err != nil || !bytes.Equal(read, data) {
				t.Errorf("read %d bytes, %v", len(read), err)
			}
			if len(starts) != 3 || starts[0] != "" || !strings.HasPrefix(starts[1], "bytes=") || !strings.HasPrefix(starts[2], "bytes=") {
				t.Errorf("transfers from %q", starts)
			}
		})
	}
}

func TestDownloadVerifies(t *testing.T) {
	for name, answer := range map[string]string{"other bytes": "lAyer of linux/amd64", "too few": "layer", "too many": "layer of linux/amd64 and more"} {
		t.Run(name, func(t *testing.T) {
			img := registrytest.Image(t, "linux/amd64", nil)
			layers, _ := img.Layers()
			digest := digestOf(t, layers[0])
			s := registrytest.New(t, handle(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest) {
					return false
				}
				_, _ = io.WriteString(w, answer)
				return true
			}))
			s.Push(t, "app:v1", img)
			got, _, err := registry.New(anonymous).Pull(t.Context(), s.Host+"/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			layers, _ = got.Layers()
			r, err := layers[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := io.ReadAll(r); err == nil {
				t.Error("accepted")
			}
		})
	}
}
