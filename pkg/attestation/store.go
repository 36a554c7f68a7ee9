package attestation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	emptyConfigType = "application/vnd.oci.empty.v1+json"
	createdKey      = "org.opencontainers.image.created"
	// maxContent is the largest statement that is read, in bytes.
	maxContent = 4 << 20
)

// store puts statements beside one manifest, as OCI's referrers (distribution
// specification 1.1).
type store struct {
	client     *registry.Client
	repository string
	subject    registry.Descriptor
	created    time.Time
}

// referrer is a manifest that refers to the subject and holds one blob.
type referrer struct {
	artifactType string
	annotations  map[string]string
	content      []byte
}

func (s *store) ref(digest string) string { return s.repository + "@" + digest }

// list gives the referrers of the subject.
func (s *store) list(ctx context.Context) (*v1.IndexManifest, error) {
	return s.client.ListReferrers(ctx, s.ref(s.subject.Digest))
}

// like gives what referrers of the same kind hold.
func (s *store) like(ctx context.Context, r referrer) ([][]byte, error) {
	index, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, d := range index.Manifests {
		if !s.resembles(d, r) {
			continue
		}
		content, err := s.read(ctx, d.Digest.String())
		if errors.Is(err, registry.ErrNotFound) {
			continue // a list may be older than what it lists
		}
		if err != nil {
			return nil, err
		}
		out = append(out, content)
	}
	return out, nil
}

// resembles compares by what a list says, which not every registry fills in.
func (s *store) resembles(d v1.Descriptor, r referrer) bool {
	if d.ArtifactType != "" && d.ArtifactType != r.artifactType && d.ArtifactType != emptyConfigType {
		return false
	}
	for k, v := range r.annotations {
		if have, ok := d.Annotations[k]; ok && have != v {
			return false
		}
	}
	return d.MediaType == types.OCIManifestSchema1
}

// read gives the first blob of a referrer.
func (s *store) read(ctx context.Context, digest string) ([]byte, error) {
	img, _, err := s.client.Pull(ctx, s.ref(digest))
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		return nil, err
	}
	if size, err := layers[0].Size(); err != nil || size > maxContent {
		return nil, err
	}
	body, err := layers[0].Compressed()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, maxContent))
}

// put stores a referrer, and sees to it that it is listed. What is there
// already is left alone.
func (s *store) put(ctx context.Context, r referrer) error {
	made, err := s.artifact(r)
	if err != nil {
		return err
	}
	index, err := s.list(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == made.desc.Digest }) {
		return nil
	}
	if _, err := s.client.Push(ctx, s.ref(made.desc.Digest.String()), made, nil); err != nil {
		return err
	}
	return s.client.Enlist(ctx, s.ref(s.subject.Digest), made.desc)
}

// artifact is a referrer as an image of the library, which uploads it.
type artifact struct {
	raw      []byte
	desc     v1.Descriptor
	manifest v1.Manifest
	layer    v1.Layer
}

var emptyConfig = []byte("{}")

// artifact makes the manifest (OCI image specification 1.1, "Guidelines for
// Artifact Usage"), in the order of keys in which cosign writes it.
func (s *store) artifact(r referrer) (*artifact, error) {
	subject, err := v1.NewHash(s.subject.Digest)
	if err != nil {
		return nil, err
	}
	annotations := maps.Clone(r.annotations)
	if !s.created.IsZero() {
		annotations[createdKey] = s.created.UTC().Format(time.RFC3339)
	}
	a := &artifact{layer: static.NewLayer(r.content, types.MediaType(r.artifactType))}
	layer, err := partial.Descriptor(a.layer)
	if err != nil {
		return nil, err
	}
	a.manifest = v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config:      v1.Descriptor{MediaType: emptyConfigType, Digest: hashOfBytes(emptyConfig), Size: int64(len(emptyConfig))},
		Layers:      []v1.Descriptor{*layer},
		Annotations: annotations,
		Subject:     &v1.Descriptor{MediaType: types.MediaType(s.subject.MediaType), Digest: subject, Size: s.subject.Size},
	}
	a.raw, err = json.Marshal(struct {
		v1.Manifest
		ArtifactType string `json:"artifactType"`
	}{a.manifest, r.artifactType})
	a.desc = v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: hashOfBytes(a.raw), Size: int64(len(a.raw)),
		ArtifactType: r.artifactType, Annotations: annotations,
	}
	return a, err
}

func hashOfBytes(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

func (a *artifact) MediaType() (types.MediaType, error)     { return a.desc.MediaType, nil }
func (a *artifact) Size() (int64, error)                    { return a.desc.Size, nil }
func (a *artifact) Digest() (v1.Hash, error)                { return a.desc.Digest, nil }
func (a *artifact) Manifest() (*v1.Manifest, error)         { return a.manifest.DeepCopy(), nil }
func (a *artifact) RawManifest() ([]byte, error)            { return a.raw, nil }
func (a *artifact) ConfigName() (v1.Hash, error)            { return a.manifest.Config.Digest, nil }
func (a *artifact) ConfigFile() (*v1.ConfigFile, error)     { return &v1.ConfigFile{}, nil }
func (a *artifact) RawConfigFile() ([]byte, error)          { return emptyConfig, nil }
func (a *artifact) Layers() ([]v1.Layer, error)             { return []v1.Layer{a.layer}, nil }
func (a *artifact) LayerByDigest(v1.Hash) (v1.Layer, error) { return a.layer, nil }
func (a *artifact) LayerByDiffID(v1.Hash) (v1.Layer, error) { return a.layer, nil }
