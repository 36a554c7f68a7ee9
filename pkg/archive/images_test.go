package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

var someTime = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// entry is one of a tar; only Name is needed.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: someTime}, data}
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: someTime}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777, ModTime: someTime}}
}

func hardlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, ModTime: someTime}}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layer is one in memory.
type layer struct {
	plain, packed []byte
	mediaType     types.MediaType
}

func (l layer) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.packed))
	return h, err
}

func (l layer) DiffID() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(l.plain))
	return h, err
}

func (l layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.packed)), nil
}

func (l layer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.plain)), nil
}

func (l layer) Size() (int64, error)                { return int64(len(l.packed)), nil }
func (l layer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// layerOf packs a tar as a media type says.
func layerOf(t testing.TB, plain []byte, mediaType types.MediaType) layer {
	t.Helper()
	switch mediaType {
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		return layer{plain, plain, mediaType}
	case types.OCILayerZStd:
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return layer{plain, w.EncodeAll(plain, nil), mediaType}
	}
	return layer{plain, gzipped(t, plain), mediaType}
}

func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(plain)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imageOf makes an image for linux/amd64 of OCI's types, or of Docker's.
func imageOf(t testing.TB, oci bool, layers ...v1.Layer) v1.Image {
	t.Helper()
	return imageFor(t, "amd64", oci, layers...)
}

func imageFor(t testing.TB, arch string, oci bool, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := empty.Image
	if oci {
		img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
	}
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// unpackable makes an image of gzip layers.
func unpackable(t testing.TB, layers ...[]entry) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, entries := range layers {
		all = append(all, layerOf(t, tarOf(t, entries...), types.OCILayer))
	}
	return imageOf(t, true, all...)
}

// attestationOf makes what BuildKit puts beside an image, with its descriptor.
func attestationOf(t testing.TB, img v1.Image) mutate.IndexAddendum {
	t.Helper()
	statement := layer{plain: []byte(`{"of":"` + digestOf(t, img) + `"}`), mediaType: "application/vnd.in-toto+json"}
	statement.packed = statement.plain
	return mutate.IndexAddendum{Add: imageFor(t, "unknown", true, statement), Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digestOf(t, img)},
	}}
}

func imageChild(img v1.Image, arch string) mutate.IndexAddendum {
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
}

func digestOf(t testing.TB, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// onlyThere fails if a directory holds other names than these: nothing
// temporary stays.
func onlyThere(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	for _, e := range entries {
		if !want[e.Name()] {
			t.Errorf("%s is left", filepath.Join(dir, e.Name()))
		}
		delete(want, e.Name())
	}
	for name := range want {
		t.Errorf("%s lacks %s", dir, name)
	}
}
