package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/quote"
)

// containerdName is the annotation with the whole name of an image, which
// containerd and BuildKit write beside org.opencontainers.image.ref.name.
const containerdName = "io.containerd.image.name"

// source gives the files of an archive or a layout, and their sizes.
type source interface {
	open(name string) (io.ReadCloser, int64, error)
}

// directory is a layout on disk. Links that lead out of it are not followed.
type directory struct{ *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	info, err := d.Stat(filepath.FromSlash(name))
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", quote.Text(name), withoutPath(err))
	}
	f, err := d.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", quote.Text(name), withoutPath(err))
	}
	return f, info.Size(), nil
}

func (a *Archive) openDir(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return withoutPath(err)
	}
	a.keep(root)
	for _, name := range []string{layoutMarker, layoutIndex} {
		if _, err := root.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return ErrNoImage
		}
	}
	return a.openLayout(directory{root})
}

// openLayout reads an image layout (OCI image specification, image-layout.md).
// All that the images need has to be there.
func (a *Archive) openLayout(src source) error {
	var marker spec.ImageLayout
	if err := readDocument(src, layoutMarker, &marker); err != nil {
		return err
	}
	if marker.Version != spec.ImageLayoutVersion {
		return fmt.Errorf("%s: version %q of the layout is not known", layoutMarker, quote.Text(marker.Version))
	}
	var raw json.RawMessage
	if err := readDocument(src, layoutIndex, &raw); err != nil {
		return err
	}
	open := func(d v1.Descriptor) (io.ReadCloser, error) { return openBlob(src, d) }
	index, err := content.IndexOf(open, v1.Descriptor{MediaType: types.OCIImageIndex}, raw)
	if err != nil {
		return fmt.Errorf("%s: %s", layoutIndex, quote.Text(err.Error()))
	}
	parts, err := content.ImagesOfLayout(open, index)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := complete(src, p); err != nil {
			return err
		}
		if err := a.add(Found{Image: p.Image, Index: p.Index, Names: names(p.Under)}); err != nil {
			return err
		}
	}
	return nil
}

// openBlob opens a blob whose size is right.
func openBlob(src source, d v1.Descriptor) (io.ReadCloser, error) {
	r, size, err := src.open("blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex)
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		_ = r.Close()
		return nil, fmt.Errorf("blob %s has %d bytes instead of %d", d.Digest, size, d.Size)
	}
	return r, nil
}

// complete says what an image lacks. Layers that may not be distributed need
// not be in a layout.
func complete(src source, p content.Part) error {
	m, err := p.Image.Manifest()
	if err != nil {
		return err
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Digest.Hex == "" {
			return errors.New("a manifest names a blob without a digest")
		}
		r, err := openBlob(src, d)
		if errors.Is(err, fs.ErrNotExist) && !d.MediaType.IsDistributable() {
			continue
		}
		if err != nil {
			return err
		}
		_ = r.Close()
	}
	_, err = p.Image.ConfigFile()
	return err
}

// names gives an image's names from the nearest descriptor that has some.
func names(under []v1.Descriptor) []string {
	for _, d := range slices.Backward(under) {
		for _, key := range []string{containerdName, spec.AnnotationRefName} {
			if name := d.Annotations[key]; name != "" {
				return []string{name}
			}
		}
	}
	return nil
}

// uncompressed says whether one of the images has a layer that its manifest
// calls uncompressed.
func (a *Archive) uncompressed() (bool, error) {
	for _, f := range a.found {
		m, err := f.Image.Manifest()
		if err != nil {
			return false, err
		}
		for _, l := range m.Layers {
			if l.MediaType == types.OCIUncompressedLayer || l.MediaType == types.DockerUncompressedLayer {
				return true, nil
			}
		}
	}
	return false, nil
}

// nameAsSaved gives images of a layout the RepoTags of the manifest.json beside
// it, which knows them by their config.
func (a *Archive) nameAsSaved(saved []savedImage) error {
	for n := range a.found {
		config, err := a.found[n].Image.RawConfigFile()
		if err != nil {
			return err
		}
		digest, _, err := v1.SHA256(bytes.NewReader(config))
		if err != nil {
			return err
		}
		for _, s := range saved {
			if s.configDigest() == digest.Hex && len(s.RepoTags) > 0 {
				a.found[n].Names = s.RepoTags
			}
		}
	}
	return nil
}
