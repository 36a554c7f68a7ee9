package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/pipegen/pipegen/pkg/archive/content"
)

// file is one to be written: a document, or a blob.
type file struct {
	size int64
	open func() (io.ReadCloser, error)
}

func document(raw []byte) file {
	return file{int64(len(raw)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
}

// files are what makes up an archive, by name.
type files map[string]file

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// add adds a blob, which is verified as it is written.
func (all files) add(h v1.Hash, size int64, open func() (io.ReadCloser, error)) {
	all[blobName(h)] = file{size, func() (io.ReadCloser, error) {
		r, err := open()
		if err != nil {
			return nil, err
		}
		return content.Verify(r, h, size)
	}}
}

func (all files) addDocument(h v1.Hash, raw []byte) {
	all.add(h, int64(len(raw)), document(raw).open)
}

func (all files) addImage(img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	all.addDocument(digest, raw)
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	name, err := img.ConfigName()
	if err != nil {
		return err
	}
	all.addDocument(name, config)
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return err
		}
		if d.MediaType.IsDistributable() {
			all.add(d.Digest, d.Size, l.Compressed)
		}
	}
	return nil
}

func (all files) addIndex(idx v1.ImageIndex) error {
	digest, err := idx.Digest()
	if err != nil {
		return err
	}
	raw, err := idx.RawManifest()
	if err != nil {
		return err
	}
	all.addDocument(digest, raw)
	m, err := idx.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			child, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return err
			}
			if err := all.addIndex(child); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			child, err := idx.Image(d.Digest)
			if err != nil {
				return err
			}
			if err := all.addImage(child); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the index holds a %q, which is no image", d.MediaType)
		}
	}
	return nil
}

// tar writes the files sorted, with nothing in the headers that the image does
// not decide.
func (all files) tar(ctx context.Context, w io.Writer) error {
	out := tar.NewWriter(w)
	dirs := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := writeDirs(out, path.Dir(name), dirs); err != nil {
			return err
		}
		f := all[name]
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: f.size, Mode: 0o644, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		if err := f.copy(ctx, out); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeDirs writes the headers of a directory and those above it, once.
func writeDirs(out *tar.Writer, dir string, done map[string]bool) error {
	if done[dir] {
		return nil
	}
	done[dir] = true
	if err := writeDirs(out, path.Dir(dir), done); err != nil {
		return err
	}
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func (f file) copy(ctx context.Context, w io.Writer) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(onlyWriter{w}, canceling{ctx, r}, make([]byte, 256<<10))
	return err
}

// onlyWriter keeps io.CopyBuffer to its buffer.
type onlyWriter struct{ io.Writer }

// directory writes the files to a directory.
func (all files) directory(ctx context.Context, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		err = all[name].copy(ctx, f)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}
