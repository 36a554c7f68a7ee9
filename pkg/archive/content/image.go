package content

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Image gives the image whose manifest d is. The manifest is read at once, the
// config when it is asked for, layers as they are used.
func Image(open Open, d v1.Descriptor) (v1.Image, error) {
	raw, err := ReadAll(open, d)
	if err != nil {
		return nil, err
	}
	return ImageOf(open, d, raw)
}

// ImageOf gives the image with these bytes of a manifest.
func ImageOf(open Open, d v1.Descriptor, raw []byte) (v1.Image, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name(d), err)
	}
	if m.MediaType != "" && !m.MediaType.IsImage() {
		return nil, fmt.Errorf("%s is a %q, no manifest of an image", name(d), quote.Text(string(m.MediaType)))
	}
	i := &image{open: open, desc: d, raw: raw, manifest: m}
	i.config = sync.OnceValues(func() ([]byte, error) { return ReadAll(open, m.Config) })
	return i, nil
}

type image struct {
	open     Open
	desc     v1.Descriptor
	raw      []byte
	manifest *v1.Manifest
	config   func() ([]byte, error)
}

func (i *image) MediaType() (types.MediaType, error) { return i.desc.MediaType, nil }
func (i *image) Size() (int64, error)                { return int64(len(i.raw)), nil }
func (i *image) Digest() (v1.Hash, error)            { return i.desc.Digest, nil }
func (i *image) Manifest() (*v1.Manifest, error)     { return i.manifest.DeepCopy(), nil }
func (i *image) RawManifest() ([]byte, error)        { return bytes.Clone(i.raw), nil }
func (i *image) ConfigName() (v1.Hash, error)        { return i.manifest.Config.Digest, nil }
func (i *image) ConfigFile() (*v1.ConfigFile, error) { return partial.ConfigFile(i) }
func (i *image) RawConfigFile() ([]byte, error)      { return i.config() }
func (i *image) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	diffIDs, err := partial.DiffIDs(i)
	if err != nil {
		return nil, err
	}
	for n, id := range diffIDs {
		if id == h && n < len(i.manifest.Layers) {
			return &layer{i, n}, nil
		}
	}
	return nil, fmt.Errorf("no layer has the diff ID %s", h)
}

func (i *image) Layers() ([]v1.Layer, error) {
	layers := make([]v1.Layer, len(i.manifest.Layers))
	for n := range layers {
		layers[n] = &layer{i, n}
	}
	return layers, nil
}

func (i *image) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	for n, d := range i.manifest.Layers {
		if d.Digest == h {
			return &layer{i, n}, nil
		}
	}
	if h == i.manifest.Config.Digest {
		return partial.ConfigLayer(i)
	}
	return nil, fmt.Errorf("no layer has the digest %s", h)
}

// layer is the n-th of an image.
type layer struct {
	image *image
	n     int
}

func (l *layer) desc() v1.Descriptor { return l.image.manifest.Layers[l.n] }

func (l *layer) Digest() (v1.Hash, error)            { return l.desc().Digest, nil }
func (l *layer) Size() (int64, error)                { return l.desc().Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.desc().MediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return openVerified(l.image.open, l.desc()) }

// Descriptor keeps annotations and URLs when the layer gets into another image.
func (l *layer) Descriptor() (*v1.Descriptor, error) {
	d := l.desc()
	return d.DeepCopy(), nil
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	return Decompress(r)
}

// DiffID is what the config says; what has no such config (an attestation may
// not) is read to know it.
func (l *layer) DiffID() (v1.Hash, error) {
	if l.image.manifest.Config.MediaType.IsConfig() {
		diffIDs, err := partial.DiffIDs(l.image)
		if err != nil {
			return v1.Hash{}, err
		}
		if l.n < len(diffIDs) {
			return diffIDs[l.n], nil
		}
	}
	r, err := l.Uncompressed()
	if err != nil {
		return v1.Hash{}, err
	}
	defer r.Close()
	h, _, err := v1.SHA256(r)
	return h, err
}
