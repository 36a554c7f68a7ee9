package archive_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/archive"
)

// lying has the diff ID of another layer.
type lying struct{ layer }

func (lying) DiffID() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(nil))
	return h, err
}

// generated is an uncompressed layer with one file, made as it is read.
type generated struct {
	size int64
	seed byte
	// then is called once when so many bytes were read after the digest.
	after int64
	then  func()

	hash v1.Hash
}

func (g *generated) open() io.Reader {
	var head bytes.Buffer
	_ = tar.NewWriter(&head).WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", g.seed), Typeflag: tar.TypeReg, Mode: 0o644, Size: g.size, ModTime: someTime})
	return io.MultiReader(&head, io.LimitReader(rand.NewChaCha8([32]byte{g.seed}), g.size), bytes.NewReader(make([]byte, 1024)))
}

func (g *generated) Digest() (v1.Hash, error) {
	var err error
	if g.hash.Hex == "" {
		g.hash, _, err = v1.SHA256(g.open())
	}
	return g.hash, err
}

func (g *generated) DiffID() (v1.Hash, error)            { return g.Digest() }
func (g *generated) Size() (int64, error)                { return 512 + g.size + 1024, nil }
func (g *generated) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (g *generated) Uncompressed() (io.ReadCloser, error) {
	return g.Compressed()
}

func (g *generated) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(&counting{Reader: g.open(), left: g.after, then: g.then}), nil
}

type counting struct {
	io.Reader
	left int64
	then func()
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.left -= int64(n); c.left <= 0 && c.then != nil {
		c.then()
		c.then = nil
	}
	return n, err
}

type imageLayers []*generated

func (i imageLayers) image(t testing.TB) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for _, l := range i {
		layers = append(layers, l)
	}
	return imageOf(t, true, layers...)
}

// allocated gives how many bytes f takes from the heap in all.
func allocated(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	runtime.GC()
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

// TestMemory has an image of 120 MB go every way there is. What is allocated
// in all, garbage included, bounds what is in use at once.
func TestMemory(t *testing.T) {
	const size, ceiling = 60 << 20, 24 << 20
	img := imageLayers{{size: size, seed: 1}, {size: size, seed: 2}}.image(t)
	tmp := t.TempDir()
	path := func(name string) string { return filepath.Join(tmp, name) }
	ctx := t.Context()
	steps := []struct {
		name string
		do   func() error
	}{
		{"write tar", func() error { return archive.WriteOCITar(ctx, path("oci.tar"), img, nil, "") }},
		{"read tar, write docker tar", func() error {
			a, err := archive.Open(ctx, path("oci.tar"))
			if err != nil {
				return err
			}
			defer func() { _ = a.Close() }()
			return archive.WriteDockerTar(ctx, path("docker.tar"), a.Images()[0].Image, "app:v1")
		}},
		{"read docker tar, write layout", func() error {
			a, err := archive.Open(ctx, path("docker.tar"))
			if err != nil {
				return err
			}
			defer func() { _ = a.Close() }()
			return archive.WriteLayout(ctx, path("layout"), a.Images()[0].Image, nil, "app:v1")
		}},
		{"unpack", func() error {
			a, err := archive.Open(ctx, path("layout"))
			if err != nil {
				return err
			}
			defer func() { _ = a.Close() }()
			return archive.Unpack(ctx, path("root"), a.Images()[0].Image, nil)
		}},
	}
	for _, s := range steps {
		var err error
		if n := allocated(func() { err = s.do() }); err != nil || n > ceiling {
			t.Errorf("%s: allocated %d MB, %v", s.name, n>>20, err)
		} else {
			t.Logf("%s: allocated %.1f MB", s.name, float64(n)/(1<<20))
		}
	}
	onlyThere(t, tmp, "oci.tar", "docker.tar", "layout", "root")
	onlyThere(t, path("root"), "file1", "file2")
}
