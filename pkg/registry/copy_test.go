package registry_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// pushIndex writes an index of two platforms, with an index in it.
func pushIndex(t *testing.T, s *registrytest.Server, repository string) string {
	t.Helper()
	put := func(m v1.IndexManifest) v1.Descriptor {
		t.Helper()
		m.SchemaVersion, m.MediaType = 2, types.OCIImageIndex
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := v1.NewHash(registry.Digest(raw))
		if err != nil {
			t.Fatal(err)
		}
		s.Put(t, repository+"@"+digest.String(), string(types.OCIImageIndex), raw)
		return v1.Descriptor{MediaType: types.OCIImageIndex, Digest: digest, Size: int64(len(raw))}
	}
	image := func(platform string) v1.Descriptor {
		t.Helper()
		img := registrytest.Image(t, platform, nil)
		digest, err := v1.NewHash(s.Push(t, repository, img))
		if err != nil {
			t.Fatal(err)
		}
		size, err := img.Size()
		if err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: size}
	}
	inner := put(v1.IndexManifest{Manifests: []v1.Descriptor{image("linux/arm64")}})
	return put(v1.IndexManifest{Manifests: []v1.Descriptor{image("linux/amd64"), inner}}).Digest.String()
}

func TestCopyIndex(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	digest := pushIndex(t, from, "app/a")
	c := registry.New(anonymous)
	for _, dst := range []struct {
		server     *registrytest.Server
		repository string
	}{{to, "app"}, {from, "app/b"}} {
		from.Requests()
		d, err := c.Copy(t.Context(), from.Host+"/app/a@"+digest, dst.server.Host+"/"+dst.repository)
		if err != nil || d.Digest != digest || !registry.IsIndex(d.MediaType) {
			t.Fatalf("got %+v, %v", d, err)
		}
		index, _ := dst.server.Index(t, dst.repository+"@"+digest)
		below, _ := dst.server.Index(t, dst.repository+"@"+index.Manifests[1].Digest.String())
		for _, m := range []v1.Descriptor{index.Manifests[0], below.Manifests[0]} {
			if _, err := c.Platform(t.Context(), dst.server.Host+"/"+dst.repository, m.Digest.String()); err != nil {
				t.Error(err)
			}
		}
		for _, r := range from.Requests() {
			if dst.server == from && strings.HasPrefix(r, "PATCH ") {
				t.Errorf("%s: within one registry nothing is sent", r)
			}
		}
		// What is there is one request.
		from.Requests()
		to.Requests()
		if _, err := c.Copy(t.Context(), from.Host+"/app/a@"+digest, dst.server.Host+"/"+dst.repository); err != nil {
			t.Fatal(err)
		}
		if got := append(from.Requests(), to.Requests()...); len(got) != 1 || !strings.HasPrefix(got[0], "HEAD ") {
			t.Errorf("again it took %q", got)
		}
	}
}

// An upload that breaks off is begun again.
func TestCopyBrokenUpload(t *testing.T) {
	from := registrytest.New(t)
	to := registrytest.New(t, registrytest.Faulty("PATCH", "/blobs/uploads/", 2, registrytest.HangsUp))
	digest := pushIndex(t, from, "app")
	c := registry.New(anonymous)
	if _, err := c.Copy(t.Context(), from.Host+"/app@"+digest, to.Host+"/app"); err != nil {
		t.Fatal(err)
	}
	if to.Digest(t, "app@"+digest) != digest {
		t.Error("it is not there")
	}
}

func TestCopyReferrers(t *testing.T) {
	from, to := registrytest.New(t), registrytest.New(t)
	digest := from.Push(t, "app", registrytest.Image(t, "linux/amd64", nil))
	c := registry.New(anonymous)
	source, target := from.Host+"/app@"+digest, to.Host+"/copy@"+digest
	held, err := c.Head(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"a", "b"} {
		img := mutate.Subject(registrytest.Image(t, "linux/amd64", map[string]string{"l": label}), v1.Descriptor{MediaType: types.MediaType(held.MediaType), Digest: hash, Size: held.Size}).(v1.Image)
		own, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewDigest(from.Host + "/app@" + own.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.ListReferrers(t.Context(), source)
	if err != nil || len(list.Manifests) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	gone := list.Manifests[0]
	gone.Digest.Hex = strings.Repeat("0", 64)
	if _, err := c.Copy(t.Context(), source, to.Host+"/copy"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.CopyReferrers(t.Context(), append([]v1.Descriptor{gone}, list.Manifests...), source, to.Host+"/copy"); err != nil {
			t.Fatal(err)
		}
		there, err := c.ListReferrers(t.Context(), target)
		if err != nil || len(there.Manifests) != 2 {
			t.Fatalf("%+v, %v", there, err)
		}
		for _, d := range there.Manifests {
			if to.Digest(t, "copy@"+d.Digest.String()) != d.Digest.String() {
				t.Errorf("%s is listed, and is not there", d.Digest)
			}
		}
		to.Requests()
	}
	// A registry that does not take one is at fault.
	closed := registrytest.New(t, registrytest.Faulty("POST", "/blobs/uploads/", 0, registrytest.Says(http.StatusNotFound, "")))
	if err := c.CopyReferrers(t.Context(), list.Manifests, source, closed.Host+"/copy"); err == nil {
		t.Error("nothing was copied, and nothing said")
	}
}
