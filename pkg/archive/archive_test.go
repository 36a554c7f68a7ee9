package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/pipegen/pipegen/pkg/archive"
)

// openAll opens a path and closes it with the test.
func openAll(t testing.TB, path string) []archive.Found {
	t.Helper()
	a, err := archive.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a.Images()
}

func openOne(t testing.TB, path string) archive.Found {
	t.Helper()
	images := openAll(t, path)
	if len(images) != 1 {
		t.Fatalf("%d images in %s", len(images), path)
	}
	return images[0]
}

// readAll reads an image whole; its blobs verify themselves.
func readAll(t testing.TB, img v1.Image) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for n, l := range layers {
		want, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(r)
		_ = r.Close()
		if err != nil || got != want {
			t.Errorf("layer %d: %s instead of %s, %v", n, got, want, err)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	first, second := tarOf(t, dir("etc/", 0o755), file("etc/a", strings.Repeat("a", 5000))), tarOf(t, file("b", "b"))
	const ref = "registry.example:5000/team/app:v1"
	tests := map[string]struct {
		image v1.Image
		// Whether a docker tar gives the same digest.
		docker bool
	}{
		"OCI":          {imageOf(t, true, layerOf(t, first, types.OCILayer), layerOf(t, second, types.OCILayer)), true},
		"Docker":       {imageOf(t, false, layerOf(t, first, types.DockerLayer), layerOf(t, second, types.DockerLayer)), true},
		"same twice":   {imageOf(t, true, layerOf(t, first, types.OCILayer), layerOf(t, first, types.OCILayer)), true},
		"no layers":    {imageOf(t, true), true},
		"zstd":         {imageOf(t, true, layerOf(t, first, types.OCILayerZStd), layerOf(t, second, types.OCILayer)), false},
		"uncompressed": {imageOf(t, true, layerOf(t, first, types.OCIUncompressedLayer)), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, tmp, want := t.Context(), t.TempDir(), digestOf(t, tt.image)
			path := func(name string) string { return filepath.Join(tmp, name) }
			check := func(f archive.Found, digest string) {
				t.Helper()
				readAll(t, f.Image)
				if got := digestOf(t, f.Image); got != digest {
					t.Errorf("digest %s instead of %s", got, digest)
				}
				if !slices.Equal(f.Names, []string{ref}) || f.Index != nil {
					t.Errorf("names %q, index %v", f.Names, f.Index)
				}
			}
			if err := archive.WriteDockerTar(ctx, path("docker.tar"), tt.image, ref); err != nil {
				t.Fatal(err)
			}
			docker := openOne(t, path("docker.tar"))
			if tt.docker {
				check(docker, want)
			} else {
				readAll(t, docker.Image)
				if err := validate.Image(docker.Image); err != nil {
					t.Error(err) // all layers are gzip now
				}
			}
			// Another reader takes it.
			other, err := tarball.ImageFromPath(path("docker.tar"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := must(other.ConfigName()), must(tt.image.ConfigName()); a != b {
				t.Errorf("another reader finds the config %s instead of %s", a, b)
			}
			if err := archive.WriteOCITar(ctx, path("oci.tar"), tt.image, nil, ref); err != nil {
				t.Fatal(err)
			}
			check(openOne(t, path("oci.tar")), want)
			if err := archive.WriteLayout(ctx, path("layout"), openOne(t, path("oci.tar")).Image, nil, ref); err != nil {
				t.Fatal(err)
			}
			check(openOne(t, path("layout")), want)
			if err := archive.WriteOCITar(ctx, path("oci2.tar"), openOne(t, path("layout")).Image, nil, ref); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, path("oci.tar")), read(t, path("oci2.tar"))) {
				t.Error("the same image gave other bytes")
			}
			fixed(t, path("oci.tar"))
			fixed(t, path("docker.tar"))
			if err := archive.WriteDockerTar(ctx, path("docker2.tar"), openOne(t, path("layout")).Image, ref); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, path("docker.tar")), read(t, path("docker2.tar"))) {
				t.Error("the same image gave other bytes for Docker")
			}
			write(t, path("oci.tar.gz"), gzipped(t, read(t, path("oci.tar"))))
			check(openOne(t, path("oci.tar.gz")), want)
			onlyThere(t, tmp, "docker.tar", "oci.tar", "layout", "oci2.tar", "docker2.tar", "oci.tar.gz")
			if index, err := layout.ImageIndexFromPath(path("layout")); err != nil {
				t.Error(err)
			} else if err := validate.Index(index); err != nil && tt.docker {
				t.Error(err)
			}
		})
	}
}

// fixed fails if a tar tells when or by whom it was written.
func fixed(t testing.TB, path string) {
	t.Helper()
	in := tar.NewReader(bytes.NewReader(read(t, path)))
	for before := ""; ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Uname != "" || h.Name <= before {
			t.Errorf("%s is of %v, %d %q, after %s", h.Name, h.ModTime, h.Uid, h.Uname, before)
		}
		before = h.Name
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Docker before version 25 saved layers uncompressed, and a layer that was
// there already as a link.
func TestOldDockerSave(t *testing.T) {
	plain := tarOf(t, file("a", "a"))
	l := layerOf(t, plain, types.DockerLayer)
	img := imageOf(t, false, l, l)
	config := must(img.RawConfigFile())
	saved := tarOf(t,
		dir("1111/", 0o755), file("1111/VERSION", "1.0"), file("1111/layer.tar", string(plain)),
		dir("2222/", 0o755), symlink("2222/layer.tar", "../1111/layer.tar"),
		file("cafe.json", string(config)),
		file("manifest.json", `[{"Config":"cafe.json","RepoTags":["app:v1","app:v2"],"Layers":["1111/layer.tar","2222/layer.tar"]}]`),
		file("repositories", "{}"))
	tmp := t.TempDir()
	var digests []string
	for name, data := range map[string][]byte{"app.tar": saved, "app.tgz": gzipped(t, saved)} {
		f := openOne(t, write(t, filepath.Join(tmp, name), data))
		if err := validate.Image(f.Image); err != nil {
			t.Error(err)
		}
		if !slices.Equal(f.Names, []string{"app:v1", "app:v2"}) || must(f.Image.ConfigName()) != must(img.ConfigName()) {
			t.Errorf("%s: %+v", name, f)
		}
		digests = append(digests, digestOf(t, f.Image))
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %s", digests)
	}
}

func TestSeveralImages(t *testing.T) {
	one := imageFor(t, "amd64", true, layerOf(t, tarOf(t, file("a", "1")), types.OCILayer))
	two := imageFor(t, "arm64", true, layerOf(t, tarOf(t, file("a", "2")), types.OCILayer))
	attestedOne := mutate.AppendManifests(empty.Index, imageChild(one, "amd64"), attestationOf(t, one))
	both := mutate.AppendManifests(empty.Index, imageChild(one, "amd64"), imageChild(two, "arm64"), attestationOf(t, one), attestationOf(t, two))
	named := func(name string, d mutate.IndexAddendum) mutate.IndexAddendum {
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
		return d
	}
	type found struct {
		digest   string
		names    string
		attested int
		index    string // its digest, if it matters
	}
	tests := map[string]struct {
		index v1.ImageIndex
		want  []found
	}{
		"by name": {mutate.AppendManifests(empty.Index, named("v2", imageChild(two, "arm64")), named("v1", imageChild(one, "amd64"))),
			[]found{{digestOf(t, two), "v2", 0, ""}, {digestOf(t, one), "v1", 0, ""}}},
		"one twice": {mutate.AppendManifests(empty.Index, named("v1", imageChild(one, "amd64")), named("v2", imageChild(one, "amd64"))),
			[]found{{digestOf(t, one), "v1 v2", 0, ""}}},
		"BuildKit's, nested": {mutate.AppendManifests(empty.Index, named("v1", mutate.IndexAddendum{Add: attestedOne})),
			[]found{{digestOf(t, one), "v1", 1, digestOf(t, attestedOne)}}},
		"nested, two platforms": {mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: both}),
			[]found{{digestOf(t, one), "", 1, ""}, {digestOf(t, two), "", 1, ""}}},
		"attestations at the top": {both, []found{{digestOf(t, one), "", 1, ""}, {digestOf(t, two), "", 1, ""}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			if _, err := layout.Write(filepath.Join(tmp, "layout"), tt.index); err != nil {
				t.Fatal(err)
			}
			images := openAll(t, filepath.Join(tmp, "layout"))
			if len(images) != len(tt.want) {
				t.Fatalf("%d images instead of %d", len(images), len(tt.want))
			}
			for n, want := range tt.want {
				f := images[n]
				if got := digestOf(t, f.Image); got != want.digest || strings.Join(f.Names, " ") != want.names {
					t.Errorf("image %d: %s %q, want %+v", n, got, f.Names, want)
				}
				if (f.Index != nil) != (want.attested > 0) {
					t.Fatalf("image %d: index %v", n, f.Index)
				}
				if f.Index == nil {
					continue
				}
				m := must(f.Index.IndexManifest())
				if len(m.Manifests) != 1+want.attested || m.Manifests[0].Digest.String() != want.digest {
					t.Errorf("image %d: index of %+v", n, m.Manifests)
				}
				if want.index != "" && digestOf(t, f.Index) != want.index {
					t.Errorf("image %d: the index has another digest", n)
				}
				// Written with the attestations, and read again.
				if err := archive.WriteOCITar(t.Context(), filepath.Join(tmp, "again.tar"), f.Image, f.Index, "app:v1"); err != nil {
					t.Fatal(err)
				}
				again := openOne(t, filepath.Join(tmp, "again.tar"))
				if digestOf(t, again.Image) != want.digest || digestOf(t, again.Index) != digestOf(t, f.Index) || !slices.Equal(again.Names, []string{"docker.io/library/app:v1"}) {
					t.Errorf("image %d is another when written and read: %+v", n, again)
				}
			}
		})
	}
	if err := archive.WriteOCITar(t.Context(), filepath.Join(t.TempDir(), "x.tar"), two, attestedOne, ""); err == nil {
		t.Error("an index without the image was written")
	}
}

// Docker saves the index of all platforms with the blobs of its own.
func TestMissingPlatforms(t *testing.T) {
	one := imageFor(t, "amd64", true, layerOf(t, tarOf(t, file("a", "1")), types.OCILayer))
	two := imageFor(t, "arm64", true, layerOf(t, tarOf(t, file("a", "2")), types.OCILayer))
	both := mutate.AppendManifests(empty.Index, imageChild(one, "amd64"), imageChild(two, "arm64"), attestationOf(t, one), attestationOf(t, two))
	path := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(path, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: both})); err != nil {
		t.Fatal(err)
	}
	lose := func(img v1.Image) {
		if err := os.Remove(filepath.Join(path, "blobs", "sha256", must(img.Digest()).Hex)); err != nil {
			t.Fatal(err)
		}
	}
	lose(two)
	f := openOne(t, path)
	if digestOf(t, f.Image) != digestOf(t, one) || len(must(f.Index.IndexManifest()).Manifests) != 2 {
		t.Errorf("found %+v", f)
	}
	lose(one)
	if _, err := archive.Open(t.Context(), path); err == nil || errors.Is(err, archive.ErrNoImage) {
		t.Errorf("with no image left: %v", err)
	}
}

// Docker since version 25 writes both forms in one tar.
func TestBothForms(t *testing.T) {
	for name, mediaType := range map[string]types.MediaType{"compressed": types.OCILayer, "uncompressed": types.OCIUncompressedLayer} {
		t.Run(name, func(t *testing.T) {
			img := imageOf(t, true, layerOf(t, tarOf(t, file("a", "1")), mediaType))
			path := filepath.Join(t.TempDir(), "app.tar")
			if err := archive.WriteDockerTar(t.Context(), path, img, "app:v1"); err != nil {
				t.Fatal(err)
			}
			f := openOne(t, path)
			if same := digestOf(t, f.Image) == digestOf(t, img); same != (mediaType == types.OCILayer) {
				t.Errorf("same digest: %t", same)
			}
			if err := validate.Image(f.Image); err != nil || !slices.Equal(f.Names, []string{"app:v1"}) {
				t.Errorf("%q, %v", f.Names, err)
			}
		})
	}
}

func TestNoImage(t *testing.T) {
	chart := mutate.ConfigMediaType(imageOf(t, true), "application/vnd.cncf.helm.config.v1+json")
	tmp := t.TempDir()
	if _, err := layout.Write(filepath.Join(tmp, "chart"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: chart})); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(tmp, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(tmp, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	source := tarOf(t, file("manifest.json", `{"name":"a web application"}`), file("index.json", "{}"))
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "long": bytes.Repeat([]byte("text "), 1000), "zeros": make([]byte, 4096), "half a block": make([]byte, 100),
		"gz": gzipped(t, []byte("hello")), "bad.gz": {0x1f, 0x8b, 1}, "bad.zst": {0x28, 0xb5, 0x2f, 0xfd, 0xff},
		"source.tar": source, "source.tgz": gzipped(t, source), "list.tar": tarOf(t, file("manifest.json", `[1, 2]`)), "other.tar": tarOf(t, file("manifest.json", `[{"a":1}]`)),
	} {
		write(t, filepath.Join(tmp, name), data)
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := archive.Open(t.Context(), filepath.Join(tmp, e.Name())); !errors.Is(err, archive.ErrNoImage) {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
	if _, err := archive.Open(t.Context(), filepath.Join(tmp, "none")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, archive.ErrNoImage) {
		t.Errorf("no file: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	img := imageOf(t, true, layerOf(t, tarOf(t, file("a", strings.Repeat("a", 3000))), types.OCILayer))
	config, manifest := must(img.RawConfigFile()), must(img.RawManifest())
	blob := func(h v1.Hash, data []byte) entry { return file("blobs/sha256/"+h.Hex, string(data)) }
	l := must(img.Layers())[0].(interface{ Compressed() (io.ReadCloser, error) })
	packed := must(io.ReadAll(must(l.Compressed())))
	marker := file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	m := must(img.Manifest())
	desc := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: must(img.Digest()), Size: int64(len(manifest))}
	index := func(d ...v1.Descriptor) entry {
		return file("index.json", mustJSON(t, v1.IndexManifest{SchemaVersion: 2, Manifests: d}))
	}
	manifestBlob, configBlob, layerBlob := blob(desc.Digest, manifest), blob(m.Config.Digest, config), blob(m.Layers[0].Digest, packed)
	whole := []entry{marker, index(desc), manifestBlob, configBlob, layerBlob}
	docker := func(s string) entry { return file("manifest.json", s) }
	openOne(t, write(t, filepath.Join(t.TempDir(), "whole.tar"), tarOf(t, whole...))) // the parts are right
	short := desc
	short.Size--
	circle := v1.Descriptor{MediaType: types.OCIImageIndex, Digest: desc.Digest, Size: desc.Size}
	tests := map[string][]byte{
		"cut off":             tarOf(t, whole...)[:4000],
		"cut off gzip":        gzipped(t, tarOf(t, whole...))[:300],
		"layout's version":    tarOf(t, file("oci-layout", `{"imageLayoutVersion":"9"}`), index(desc)),
		"no JSON":             tarOf(t, marker, file("index.json", "{")),
		"no digest":           tarOf(t, marker, file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json"}]}`)),
		"hostile digest":      tarOf(t, marker, file("index.json", `{"manifests":[{"digest":"sha256:../../etc/passwd"}]}`)),
		"no manifest":         tarOf(t, marker, index(desc), configBlob, layerBlob),
		"no config":           tarOf(t, marker, index(desc), manifestBlob, layerBlob),
		"no layer":            tarOf(t, marker, index(desc), manifestBlob, configBlob),
		"other manifest":      tarOf(t, marker, index(desc), blob(desc.Digest, bytes.ToUpper(manifest)), configBlob, layerBlob),
		"other config":        tarOf(t, marker, index(desc), manifestBlob, blob(m.Config.Digest, bytes.ToUpper(config)), layerBlob),
		"short layer":         tarOf(t, marker, index(desc), manifestBlob, configBlob, blob(m.Layers[0].Digest, packed[1:])),
		"wrong size":          tarOf(t, marker, index(short), manifestBlob, configBlob, layerBlob),
		"manifest as index":   tarOf(t, marker, index(circle), manifestBlob),
		"many children":       tarOf(t, marker, index(slices.Repeat([]v1.Descriptor{desc}, 2000)...), manifestBlob, configBlob, layerBlob),
		"links in a circle":   tarOf(t, marker, symlink("index.json", "oci-layout2"), symlink("oci-layout2", "index.json")),
		"link that leads out": tarOf(t, marker, symlink("index.json", "../../../../etc/passwd")),
		"saved, bad JSON":     tarOf(t, docker(`[{"Config":`)),
		"saved, no config":    tarOf(t, docker(`[{"Config":"c.json","Layers":["l.tar"]}]`), file("l.tar", "x")),
		"saved, no layer":     tarOf(t, docker(`[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", string(config))),
		"saved, other layer":  tarOf(t, docker(`[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", string(config)), file("l.tar", "x")),
		"saved, bad gzip":     tarOf(t, docker(`[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", string(config)), file("l.tar", string(packed[:40]))),
		"saved, no layers":    tarOf(t, docker(`[{"Config":"c.json"}]`), file("c.json", string(config))),
		"saved, bad config":   tarOf(t, docker(`[{"Config":"c.json"}]`), file("c.json", "{")),
		"saved, outside":      tarOf(t, docker(`[{"Config":"../../../../../etc/passwd"}]`)),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "app.tar"), data)
			_, err := archive.Open(t.Context(), path)
			if err == nil || errors.Is(err, archive.ErrNoImage) || !strings.Contains(err.Error(), "app.tar") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("other layer", func(t *testing.T) {
		other := slices.Clone(packed)
		other[len(other)-1]++
		f := openOne(t, write(t, filepath.Join(t.TempDir(), "app.tar"), tarOf(t, marker, index(desc), manifestBlob, configBlob, blob(m.Layers[0].Digest, other))))
		for name, err := range map[string]error{
			"layout": archive.WriteLayout(t.Context(), filepath.Join(t.TempDir(), "x"), f.Image, nil, ""),
			"docker": archive.WriteDockerTar(t.Context(), filepath.Join(t.TempDir(), "x"), f.Image, ""),
			"unpack": archive.Unpack(t.Context(), filepath.Join(t.TempDir(), "x"), f.Image, nil),
		} {
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
	})
	t.Run("layout that leads out", func(t *testing.T) {
		dir := t.TempDir()
		secret := write(t, filepath.Join(t.TempDir(), "secret"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
		write(t, filepath.Join(dir, "index.json"), []byte("{}"))
		if err := os.Symlink(secret, filepath.Join(dir, "oci-layout")); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Open(t.Context(), dir); err == nil || errors.Is(err, archive.ErrNoImage) {
			t.Errorf("got %v", err)
		}
	})
}
