package attestation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
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
	// How often the list under the tag is written when others write it too, how
	// often the registry's own is looked at until it shows what was written,
	// and the first pause, which doubles up to the longest.
	entries     = 12
	looks       = 4
	firstPause  = 100 * time.Millisecond
	longestLook = 2 * time.Second
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

// fallback is the tag that lists referrers where the registry does not.
func (s *store) fallback() string {
	return s.repository + ":" + strings.Replace(s.subject.Digest, ":", "-", 1)
}

// list gives the referrers of the subject. native says whether the registry
// keeps the list; otherwise it is that of the fallback tag, whose digest is held.
func (s *store) list(ctx context.Context) (index *v1.IndexManifest, native bool, held string, err error) {
	index, err = s.client.Referrers(ctx, s.ref(s.subject.Digest))
	if !errors.Is(err, registry.ErrUnsupported) {
		return index, true, "", err
	}
	index, held, err = s.tagged(ctx)
	return index, false, held, err
}

// tagged reads the list under the fallback tag; an empty one where there is none.
func (s *store) tagged(ctx context.Context) (*v1.IndexManifest, string, error) {
	none := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	held, raw, err := s.client.Get(ctx, s.fallback())
	if errors.Is(err, registry.ErrNotFound) {
		return none, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil || !registry.IsIndex(held.MediaType) {
		return nil, "", fmt.Errorf("%s, which should list what refers to %s, holds something else", s.fallback(), s.subject.Digest)
	}
	return index, held.Digest, nil
}

// like gives what referrers of the same kind hold.
func (s *store) like(ctx context.Context, r referrer) ([][]byte, error) {
	index, _, _, err := s.list(ctx)
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
	index, _, _, err := s.list(ctx)
	if err != nil {
		return err
	}
	if lists(index, made.desc.Digest) {
		return nil
	}
	if _, err := s.client.Push(ctx, s.ref(made.desc.Digest.String()), made, nil); err != nil {
		return err
	}
	return s.listed(ctx, made.desc)
}

// listed looks whether a referrer is listed, and enters it under the fallback
// tag where the registry does not: it has no list, or one that stays empty,
// whose clients look at the tag.
func (s *store) listed(ctx context.Context, d v1.Descriptor) error {
	pause := firstPause
	for look := range entries {
		index, native, held, err := s.list(ctx)
		if err == nil && native && look >= looks-1 {
			index, held, err = s.tagged(ctx)
			native = false
		}
		if err != nil || lists(index, d.Digest) {
			return err
		}
		if !native {
			if err := s.enter(ctx, index, d, held); err != nil {
				return err
			}
		}
		if err := wait(ctx, pause/2+rand.N(pause)); err != nil { //nolint:gosec // jitter
			return err
		}
		pause = min(2*pause, longestLook)
	}
	return fmt.Errorf("%s: others overwrote the list of referrers %d times", s.fallback(), entries)
}

// enter adds an entry to the list under the fallback tag. What others entered
// stays; what they enter at the same moment the caller finds missing, as they
// do ours.
func (s *store) enter(ctx context.Context, index *v1.IndexManifest, d v1.Descriptor, held string) error {
	index.Manifests = append(index.Manifests, d)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if now, err := s.client.Head(ctx, s.fallback()); err == nil && now.Digest != held {
		return nil // read it again
	}
	_, err = s.client.Put(ctx, s.fallback(), string(types.OCIImageIndex), raw)
	return err
}

func lists(index *v1.IndexManifest, digest v1.Hash) bool {
	return slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == digest })
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
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
