package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/quote"
)

// savedImage is one image of docker save's manifest.json (Docker image
// specification v1.2, "Combined Image JSON + Filesystem Changeset Format").
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// configDigest gives the hex digits that the config's file is named for.
func (s savedImage) configDigest() string {
	return strings.TrimPrefix(strings.TrimSuffix(path.Base(s.Config), ".json"), "sha256:")
}

// maxSaved is how many images an archive may hold.
const maxSaved = 1000

// saved reads manifest.json. It gives nil if there is none, or if it is no
// list of images: web applications have files of that name too.
func (t *tarball) saved() ([]savedImage, error) {
	if _, ok := t.entries[dockerManifest]; !ok {
		return nil, nil
	}
	var raw json.RawMessage
	if err := readDocument(t, dockerManifest, &raw); err != nil {
		return nil, err
	}
	var images []savedImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, nil //nolint:nilerr // somebody else's
	}
	for _, s := range images {
		if s.Config == "" {
			return nil, nil
		}
	}
	if len(images) > maxSaved {
		return nil, fmt.Errorf("%s lists more than %d images", dockerManifest, maxSaved)
	}
	return images, nil
}

// section is a blob in a file.
type section struct {
	io.ReaderAt
	offset, size int64
}

func (s section) open() io.ReadCloser {
	return io.NopCloser(io.NewSectionReader(s, s.offset, s.size))
}

// savedLayer is a layer as it will be pushed, and what it is uncompressed.
type savedLayer struct {
	blob           section
	digest, diffID v1.Hash
}

// openSaved reads the images of docker save. A registry wants manifests with
// the digests of compressed layers, which such an archive does not have: all
// layers are read, and verified by the diff IDs in the configs.
func (a *Archive) openSaved(ctx context.Context, t *tarball, saved []savedImage) error {
	layers := map[entry]*savedLayer{} // several images may share one
	configs := map[entry][]byte{}
	names := map[entry]string{}
	total := int64(0)
	for _, s := range saved {
		e, err := t.find(s.Config)
		if err != nil {
			return err
		}
		if configs[e] == nil {
			if total += e.size; total > 8*content.MaxDocument {
				return errors.New("the configs of the images are too large")
			}
			raw := make([]byte, e.size)
			if _, err := io.ReadFull(io.NewSectionReader(t.file, e.offset, e.size), raw); err != nil {
				return fmt.Errorf("%s: %w", quote.Text(s.Config), err)
			}
			configs[e] = raw
		}
		for _, name := range s.Layers {
			e, err := t.find(name)
			if err != nil {
				return err
			}
			layers[e], names[e] = &savedLayer{}, name
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for e, l := range layers {
		g.Go(func() error {
			if err := a.readLayer(gctx, section{t.file, e.offset, e.size}, l); err != nil {
				return fmt.Errorf("layer %s: %s", quote.Text(names[e]), quote.Text(err.Error()))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range saved {
		e, _ := t.find(s.Config)
		own := make([]*savedLayer, len(s.Layers))
		for n, name := range s.Layers {
			e, _ := t.find(name)
			own[n] = layers[e]
		}
		img, err := imageOf(configs[e], own)
		if err != nil {
			return fmt.Errorf("%s: %w", quote.Text(s.Config), err)
		}
		if err := a.add(Found{Image: img, Names: s.RepoTags}); err != nil {
			return err
		}
	}
	return nil
}

// readLayer hashes a layer, and compresses it with gzip if it is not.
func (a *Archive) readLayer(ctx context.Context, s section, l *savedLayer) error {
	compression, _, err := content.Peek(s.open())
	if err != nil {
		return err
	}
	l.blob = s
	if compression == content.Gzip {
		in := newHashing(canceling{ctx, s.open()})
		plain, err := content.Decompress(io.NopCloser(in))
		if err != nil {
			return err
		}
		if l.diffID, _, err = v1.SHA256(plain); err != nil {
			return err
		}
		// The digest is of the whole file.
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
		l.digest = in.digest()
		return nil
	}
	plain, err := content.Decompress(s.open())
	if err != nil {
		return err
	}
	defer plain.Close()
	in := newHashing(canceling{ctx, plain})
	f, digest, err := compressed("", in)
	if err != nil {
		return err
	}
	a.keep(f)
	l.blob, l.digest, l.diffID = f.section(), digest, in.digest()
	return nil
}

// imageOf makes the image with this config of these layers.
func imageOf(config []byte, layers []*savedLayer) (v1.Image, error) {
	file, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("the config cannot be read: %s", quote.Text(err.Error()))
	}
	if len(file.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("the config has %d diff IDs for %d layers", len(file.RootFS.DiffIDs), len(layers))
	}
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.DockerManifestSchema2,
		Config: v1.Descriptor{MediaType: types.DockerConfigJSON, Digest: digest, Size: size},
		Layers: make([]v1.Descriptor, len(layers)),
	}
	blobs := map[v1.Hash]section{digest: {bytes.NewReader(config), 0, size}}
	for n, l := range layers {
		if l.diffID != file.RootFS.DiffIDs[n] {
			return nil, fmt.Errorf("layer %d has the diff ID %s instead of %s", n+1, l.diffID, file.RootFS.DiffIDs[n])
		}
		m.Layers[n] = v1.Descriptor{MediaType: types.DockerLayer, Digest: l.digest, Size: l.blob.size}
		blobs[l.digest] = l.blob
	}
	return imageFrom(m, func(d v1.Descriptor) (io.ReadCloser, error) {
		b, ok := blobs[d.Digest]
		if !ok {
			return nil, fmt.Errorf("no blob %s", d.Digest)
		}
		return b.open(), nil
	})
}

// imageFrom gives the image of a manifest that was made here.
func imageFrom(m v1.Manifest, open content.Open) (v1.Image, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return content.ImageOf(open, v1.Descriptor{MediaType: m.MediaType, Digest: digest, Size: size}, raw)
}
