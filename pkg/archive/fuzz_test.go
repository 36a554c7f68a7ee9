package archive_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/archive"
)

func FuzzOpen(f *testing.F) {
	img := imageOf(f, true, layerOf(f, tarOf(f, file("a", "1")), types.OCILayer), layerOf(f, tarOf(f, file("b", "1")), types.OCILayerZStd))
	tmp := f.TempDir()
	for name, write := range map[string]func(path string) error{
		"docker": func(path string) error { return archive.WriteDockerTar(f.Context(), path, img, "app:v1") },
		"oci":    func(path string) error { return archive.WriteOCITar(f.Context(), path, img, nil, "app:v1") },
	} {
		path := filepath.Join(tmp, name)
		if err := write(path); err != nil {
			f.Fatal(err)
		}
		f.Add(read(f, path))
		f.Add(gzipped(f, read(f, path)))
	}
	f.Add(tarOf(f, file("manifest.json", `[{"Config":"c","Layers":["l","l"]}]`), symlink("l", "c"), file("c", `{"rootfs":{"diff_ids":[]}}`)))
	f.Add(tarOf(f, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":-1}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		tmp := t.TempDir()
		a, err := archive.Open(t.Context(), write(t, filepath.Join(tmp, "in"), data))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("an error that is not fit for a log: %q", err)
			}
			return
		}
		defer func() { _ = a.Close() }()
		for _, found := range a.Images() {
			layers, err := found.Image.Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				if r, err := l.Uncompressed(); err == nil {
					_, _ = io.Copy(io.Discard, r)
					_ = r.Close()
				}
			}
			_ = archive.WriteOCITar(t.Context(), filepath.Join(tmp, "out"), found.Image, found.Index, "")
			_ = os.Remove(filepath.Join(tmp, "out"))
		}
		onlyThere(t, tmp, "in")
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, dir("d/", 0o000), file("d/a", "1"), symlink("l", "/etc")), tarOf(f, file("d/.wh.a", ""), file("l/x", "2"), hardlink("h", "l")))
	f.Add(tarOf(f, symlink("x", ".."), file("x/out", "1")), tarOf(f, file("../.wh..wh..opq", "")))
	f.Add(tarOf(f, dir("./", 0o000), hardlink("a", "a"), file("a", "")), tarOf(f, file(".wh..wh..opq", "")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		tmp := t.TempDir()
		write(t, filepath.Join(tmp, "outside"), []byte("precious"))
		img := imageOf(t, true, layerOf(t, lower, types.OCIUncompressedLayer), layerOf(t, upper, types.OCIUncompressedLayer))
		names := []string{"outside"}
		err := archive.UnpackAs(t.Context(), filepath.Join(tmp, "root"), img, nil, false)
		if err == nil {
			names = append(names, "root")
		} else if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("an error that is not fit for a log: %q", err)
		}
		onlyThere(t, tmp, names...)
		if string(read(t, filepath.Join(tmp, "outside"))) != "precious" {
			t.Error("a file outside was written")
		}
	})
}
