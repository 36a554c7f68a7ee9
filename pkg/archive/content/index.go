package content

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Index gives the index whose bytes d names.
func Index(open Open, d v1.Descriptor) (v1.ImageIndex, error) {
	raw, err := ReadAll(open, d)
	if err != nil {
		return nil, err
	}
	return IndexOf(open, d, raw)
}

// IndexOf gives the index with these bytes.
func IndexOf(open Open, d v1.Descriptor, raw []byte) (v1.ImageIndex, error) {
	m, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", name(d), err)
	}
	if m.MediaType != "" && !m.MediaType.IsIndex() {
		return nil, fmt.Errorf("%s is a %q, no index", name(d), quote.Text(string(m.MediaType)))
	}
	return &index{open, d, raw, m}, nil
}

type index struct {
	open     Open
	desc     v1.Descriptor
	raw      []byte
	manifest *v1.IndexManifest
}

func (i *index) MediaType() (types.MediaType, error)       { return i.desc.MediaType, nil }
func (i *index) Digest() (v1.Hash, error)                  { return i.desc.Digest, nil }
func (i *index) Size() (int64, error)                      { return int64(len(i.raw)), nil }
func (i *index) IndexManifest() (*v1.IndexManifest, error) { return i.manifest.DeepCopy(), nil }
func (i *index) RawManifest() ([]byte, error)              { return bytes.Clone(i.raw), nil }

func (i *index) Image(h v1.Hash) (v1.Image, error) {
	d, err := i.child(h)
	if err != nil {
		return nil, err
	}
	return Image(i.open, d)
}

func (i *index) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	d, err := i.child(h)
	if err != nil {
		return nil, err
	}
	return Index(i.open, d)
}

func (i *index) child(h v1.Hash) (v1.Descriptor, error) {
	for _, d := range i.manifest.Manifests {
		if d.Digest == h {
			return d, nil
		}
	}
	return v1.Descriptor{}, fmt.Errorf("index %s has no %s", name(i.desc), h)
}

// BuildKit's annotations of an attestation's descriptor in an index
// (docs/attestations/attestation-storage.md of moby/buildkit).
const (
	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
)

// IsAttestation says whether a descriptor in an index is of an attestation of
// an image beside it, not of an image.
func IsAttestation(d v1.Descriptor) bool {
	return d.Annotations[referenceType] == "attestation-manifest" ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// Part is one image below an index.
type Part struct {
	Image v1.Image
	// Index holds the image and its attestations; nil if there are none. It is
	// the index that was read if that holds nothing else, else one made for
	// this image.
	Index v1.ImageIndex
	// Under says in the order from the outermost index which descriptors led
	// to the image; its own is the last.
	Under []v1.Descriptor
}

// Limits of what is followed below an index.
const (
	maxDepth    = 4
	maxChildren = 1000
	maxBytes    = 64 << 20 // of manifests and indexes in all
)

// Images gives the images below an index in its order, following nested
// indexes. Children of other kinds are left out. So are those that are not
// there: Docker saves the index of all platforms with the blobs of some. An
// index with nothing but such is an error.
func Images(open Open, idx v1.ImageIndex) ([]Part, error) { return images(open, idx, false) }

// ImagesOfLayout is Images for the index.json of an OCI image layout, a list
// whose every entry has to be there, and which is itself no index to be pushed.
func ImagesOfLayout(open Open, idx v1.ImageIndex) ([]Part, error) { return images(open, idx, true) }

func images(open Open, idx v1.ImageIndex, list bool) ([]Part, error) {
	w := &walk{open: open, present: map[v1.Hash]error{}}
	parts, err := w.index(idx, nil, list)
	if err == nil && len(parts) == 0 {
		err = w.missing
	}
	return parts, err
}

type walk struct {
	open     Open
	children int
	bytes    int64
	missing  error // the first that was left out
	present  map[v1.Hash]error
}

// index gives the images below idx. list says that it is a layout's list, no
// index of its own.
func (w *walk) index(idx v1.ImageIndex, under []v1.Descriptor, list bool) ([]Part, error) {
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	if w.children += len(m.Manifests); w.children > maxChildren || len(under) >= maxDepth {
		return nil, fmt.Errorf("an index has more than %d children, or is more than %d indexes deep", maxChildren, maxDepth)
	}
	var parts []Part
	own := 0 // images that are children of this index itself
	var attestations []v1.Descriptor
	for _, d := range m.Manifests {
		if IsAttestation(d) {
			attestations = append(attestations, d)
			continue
		}
		more, err := w.child(d, append(slices.Clone(under), d))
		if !list && errors.Is(err, fs.ErrNotExist) {
			w.missing = cmp.Or(w.missing, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(more) > 0 && !d.MediaType.IsIndex() {
			own++
		}
		parts = append(parts, more...)
	}
	for n := range parts {
		p := &parts[n]
		if len(p.Under) != len(under)+1 {
			continue
		}
		children, err := w.attested(p, attestations, own == 1)
		switch {
		case err != nil:
			return nil, err
		case len(children) == 1:
		case !list && len(children) == len(m.Manifests):
			p.Index = idx
		default:
			if p.Index, err = w.make(children); err != nil {
				return nil, err
			}
		}
	}
	return parts, nil
}

// child gives the image that d is, or those of the index that it is.
func (w *walk) child(d v1.Descriptor, under []v1.Descriptor) ([]Part, error) {
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
		return nil, nil
	}
	if w.bytes += max(0, d.Size); w.bytes > maxBytes {
		return nil, fmt.Errorf("manifests of more than %d bytes in all", maxBytes)
	}
	if d.MediaType.IsIndex() {
		idx, err := Index(w.open, d)
		if err != nil {
			return nil, err
		}
		return w.index(idx, under, false)
	}
	img, err := Image(w.open, d)
	if err != nil {
		return nil, err
	}
	if m, err := img.Manifest(); err != nil || !m.Config.MediaType.IsConfig() {
		return nil, err
	}
	return []Part{{Image: img, Under: under}}, nil
}

// attested gives the descriptors of an image and of those attestations that
// are of it. One that names no image is of the only one there is.
func (w *walk) attested(p *Part, attestations []v1.Descriptor, alone bool) ([]v1.Descriptor, error) {
	image := p.Under[len(p.Under)-1]
	children := []v1.Descriptor{image}
	for _, d := range attestations {
		of := d.Annotations[referenceDigest]
		if of != image.Digest.String() && (of != "" || !alone) {
			continue
		}
		err, known := w.present[d.Digest]
		if !known {
			_, err = ReadAll(w.open, d)
			w.present[d.Digest] = err
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		children = append(children, d)
	}
	return children, nil
}

// make makes an index.
func (w *walk) make(children []v1.Descriptor) (v1.ImageIndex, error) {
	m := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: children}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return IndexOf(w.open, v1.Descriptor{MediaType: m.MediaType, Digest: digest, Size: size}, raw)
}
