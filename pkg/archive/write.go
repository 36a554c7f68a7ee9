package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// WriteDockerTar writes an archive as docker save makes it. ref becomes its
// RepoTag, and has to have a tag; "" is none. The archive is an OCI image
// layout too, as Docker's are since version 25, so that the manifest, and with it the
// digest, survives. Layers stay as they are but for those compressed
// with zstd, which Docker before 23 does not load: these are compressed with
// gzip, which gives another digest.
func WriteDockerTar(ctx context.Context, path string, img v1.Image, ref string) error {
	r, err := tagOf(ref)
	if err != nil {
		return err
	}
	return replaceFile(path, func(w io.Writer) error {
		img, release, err := withoutZstd(ctx, filepath.Dir(path), img)
		if err != nil {
			return err
		}
		defer release()
		all, err := layout(img, nil, r)
		if err != nil {
			return err
		}
		saved, err := savedOf(img, ref)
		if err != nil {
			return err
		}
		all[dockerManifest] = document(saved)
		return all.tar(ctx, w)
	})
}

// WriteOCITar writes an OCI image layout as a tar, with all as it is in the
// image. idx, which holds img and its attestations, may be nil. ref has to have
// a tag; "" is none.
func WriteOCITar(ctx context.Context, path string, img v1.Image, idx v1.ImageIndex, ref string) error {
	r, err := tagOf(ref)
	if err != nil {
		return err
	}
	return replaceFile(path, func(w io.Writer) error {
		all, err := layout(img, idx, r)
		if err != nil {
			return err
		}
		return all.tar(ctx, w)
	})
}

// WriteLayout is WriteOCITar for a directory. One that is there already is
// replaced if it is empty or an OCI image layout; anything else is an
// error that wraps failure.ErrInput.
func WriteLayout(ctx context.Context, dir string, img v1.Image, idx v1.ImageIndex, ref string) error {
	r, err := tagOf(ref)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := os.Lstat(filepath.Join(dir, layoutMarker)); err != nil {
			return failure.Input("writing %s: there is a directory that is no OCI image layout", dir)
		}
	}
	return replaceDir(dir, func(tmp string) error {
		all, err := layout(img, idx, r)
		if err != nil {
			return err
		}
		return all.directory(ctx, tmp)
	})
}

// tagOf reads the name that an image is given.
func tagOf(ref string) (registry.Reference, error) {
	if ref == "" {
		return registry.Reference{}, nil
	}
	r, err := registry.ParseReference(ref)
	if err == nil && (r.Tag == "" || r.Digest != "") {
		err = failure.Input("reference %q: an archive needs a name with a tag and no digest", ref)
	}
	return r, err
}

// layout gives the files of an OCI image layout.
func layout(img v1.Image, idx v1.ImageIndex, ref registry.Reference) (files, error) {
	all := files{}
	var top partial.Describable = img
	if idx != nil {
		top = idx
		if err := holds(idx, img); err != nil {
			return nil, err
		}
		if err := all.addIndex(idx); err != nil {
			return nil, err
		}
	} else if err := all.addImage(img); err != nil {
		return nil, err
	}
	d, err := partial.Descriptor(top)
	if err != nil {
		return nil, err
	}
	own := v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest}
	if ref.Tag != "" {
		full := ref.String()
		if rest, ok := strings.CutPrefix(full, "index.docker.io/"); ok {
			full = "docker.io/" + rest
		}
		own.Annotations = map[string]string{containerdName: full, spec.AnnotationRefName: ref.Tag}
	}
	if idx == nil {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		own.Platform = config.Platform()
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{own}})
	if err != nil {
		return nil, err
	}
	marker, err := json.Marshal(spec.ImageLayout{Version: spec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	all[layoutIndex], all[layoutMarker] = document(index), document(marker)
	return all, nil
}

// holds says whether an image is a child of an index.
func holds(idx v1.ImageIndex, img v1.Image) error {
	m, err := idx.IndexManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(m.Manifests, func(d v1.Descriptor) bool { return d.Digest == digest }) {
		return fmt.Errorf("the index does not hold the image %s", digest)
	}
	return nil
}

// savedOf gives the manifest.json of docker save.
func savedOf(img v1.Image, ref string) ([]byte, error) {
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if !m.Config.MediaType.IsConfig() || len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, errors.New("docker load takes images only: the config is of another kind, or does not match the layers")
	}
	s := savedImage{Config: blobName(m.Config.Digest), Layers: []string{}}
	if ref != "" {
		s.RepoTags = []string{ref}
	}
	for _, l := range m.Layers {
		s.Layers = append(s.Layers, blobName(l.Digest))
	}
	return json.Marshal([]savedImage{s})
}

// withoutZstd gives the image with gzip in place of zstd; it is to be released
// after use. Annotations of a layer that is compressed anew are dropped: they
// describe its old form.
func withoutZstd(ctx context.Context, dir string, img v1.Image) (_ v1.Image, release func(), err error) {
	var spools []*spool
	release = func() {
		for _, s := range spools {
			_ = s.Close()
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	m, err := img.Manifest()
	if err != nil {
		return nil, nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	m = m.DeepCopy()
	blobs := map[v1.Hash]func() (io.ReadCloser, error){}
	for n, l := range layers {
		d := &m.Layers[n]
		if !strings.HasSuffix(string(d.MediaType), "zstd") {
			blobs[d.Digest] = l.Compressed
			continue
		}
		plain, err := l.Uncompressed()
		if err != nil {
			return nil, nil, err
		}
		s, digest, err := compressed(dir, canceling{ctx, plain})
		_ = plain.Close()
		if err != nil {
			return nil, nil, err
		}
		spools = append(spools, s)
		*d = v1.Descriptor{MediaType: types.OCILayer, Digest: digest, Size: s.size}
		if m.MediaType == types.DockerManifestSchema2 {
			d.MediaType = types.DockerLayer
		}
		blobs[digest] = func() (io.ReadCloser, error) { return s.section().open(), nil }
	}
	if len(spools) == 0 {
		return img, release, nil
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, nil, err
	}
	blobs[m.Config.Digest] = document(config).open
	if m.MediaType == "" { // optional in OCI manifests
		if m.MediaType, err = img.MediaType(); err != nil {
			return nil, nil, err
		}
	}
	img, err = imageFrom(*m, func(d v1.Descriptor) (io.ReadCloser, error) { return blobs[d.Digest]() })
	return img, release, err
}
