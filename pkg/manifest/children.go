package manifest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

const (
	// How many builds are looked at side by side.
	parallel = 8
	// How deep indexes may be nested, and how much they may hold.
	maxDepth, maxChildren = 3, 1000
)

// BuildKit's annotations of an attestation's descriptor in an index, which say
// what it is and of which image (docs/attestations/attestation-storage.md of
// moby/buildkit).
const (
	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
	attestationType = "attestation-manifest"
)

// part is what one build gives to the index: an image, and attestations of it.
type part struct {
	image        v1.Descriptor
	attestations []v1.Descriptor
	// What the image was built on; nil when an earlier publication says so.
	bases []plan.Base
	// raw is the image's manifest; nil when only its presence was looked up.
	raw []byte
}

// parts fetches and checks what the builds made, in the order of the plan.
func parts(ctx context.Context, c *registry.Client, img *plan.Image, results []plan.Result) ([]part, error) {
	out := make([]part, len(results))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range results {
		g.Go(func() error {
			var err error
			if out[i], err = fetch(ctx, c, img, &img.Builds[i], &results[i]); err != nil {
				return fmt.Errorf("build %s: %w", results[i].ID, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// fetch gives a build's part, after copying it to the image's repository if
// it was pushed to another.
func fetch(ctx context.Context, c *registry.Client, img *plan.Image, b *plan.Build, r *plan.Result) (part, error) {
	want, err := config.ParsePlatform(b.Platform)
	if err != nil {
		return part{}, failure.Input("%w", err)
	}
	pushed, err := registry.ParseReference(r.Ref)
	if err != nil {
		return part{}, err
	}
	repository, err := registry.ParseReference(img.Repository)
	if err != nil {
		return part{}, err
	}
	if pushed.Repository() != repository.Repository() {
		if _, err := c.Copy(ctx, pushed.Repository()+"@"+r.Digest, img.Repository); err != nil {
			return part{}, missing(err)
		}
	}
	reported := registry.Descriptor{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size}
	images, attestations, err := expand(ctx, c, img.Repository, reported, 0)
	if err != nil {
		return part{}, missing(err)
	}
	if len(images) != 1 {
		held := make([]string, len(images))
		for i, d := range images {
			held[i] = "one that does not say its platform"
			if d.Platform != nil {
				held[i] = quote.Text(d.Platform.String())
			}
		}
		return part{}, fmt.Errorf("%s holds %d images (%s), where a build for %s makes one", r.Digest, len(images), strings.Join(held, ", "), want)
	}
	made, err := verify(ctx, c, img, images[0], want, r)
	if err != nil {
		return part{}, missing(err)
	}
	for _, a := range attestations {
		if a, err = pointed(a, made.image.Digest); err != nil {
			return part{}, err
		}
		held, err := c.Head(ctx, img.Repository+"@"+a.Digest.String())
		if err == nil {
			err = same(held, registry.Descriptor{MediaType: string(a.MediaType), Digest: a.Digest.String(), Size: a.Size})
		}
		if err != nil {
			return part{}, missing(err)
		}
		made.attestations = append(made.attestations, a)
	}
	made.bases = r.Bases
	return made, nil
}

// pointed has an attestation point to the image that it is of, also one that
// left it to its place in the build's own index. No runtime takes it for an
// image.
func pointed(a v1.Descriptor, image v1.Hash) (v1.Descriptor, error) {
	if of := a.Annotations[referenceDigest]; of != "" && of != image.String() {
		return v1.Descriptor{}, fmt.Errorf("attestation %s is of %s, which is not the build's image", a.Digest, quote.Text(of))
	}
	notes := map[string]string{}
	maps.Copy(notes, a.Annotations)
	notes[referenceType], notes[referenceDigest] = attestationType, image.String()
	a.Annotations, a.Platform = notes, &v1.Platform{OS: "unknown", Architecture: "unknown"}
	return a, nil
}

// missing adds what to do when something that a build pushed is gone.
func missing(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return failure.WithHint(err, "what the build pushed is no longer there (a lifecycle rule may have removed it): run the build again")
	}
	return err
}

// expand gives the images and attestations that a manifest is or holds, at
// any depth of nested indexes. What it is must be what was reported.
func expand(ctx context.Context, c *registry.Client, repository string, d registry.Descriptor, depth int) (images, attestations []v1.Descriptor, err error) {
	if !registry.IsIndex(d.MediaType) {
		image, err := descriptor(d)
		return []v1.Descriptor{image}, nil, err
	}
	if depth == maxDepth {
		return nil, nil, fmt.Errorf("index %s: nested more than %d deep", d.Digest, maxDepth)
	}
	held, raw, err := c.Get(ctx, repository+"@"+d.Digest)
	if err == nil {
		err = same(held, d)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := flatten(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	images, attestations = f.images, f.attestations
	for _, n := range f.indexes {
		more, moreAttestations, err := expand(ctx, c, repository, registry.Descriptor{MediaType: string(n.MediaType), Digest: n.Digest.String(), Size: n.Size}, depth+1)
		if err != nil {
			return nil, nil, err
		}
		images, attestations = append(images, more...), append(attestations, moreAttestations...)
		if len(images)+len(attestations) > maxChildren {
			return nil, nil, fmt.Errorf("index %s: holds more than %d manifests", d.Digest, maxChildren)
		}
	}
	return images, attestations, nil
}

func descriptor(d registry.Descriptor) (v1.Descriptor, error) {
	hash, err := v1.NewHash(d.Digest)
	return v1.Descriptor{MediaType: types.MediaType(d.MediaType), Digest: hash, Size: d.Size}, err
}

// flat is what one index holds, by kind.
type flat struct {
	images, attestations, indexes []v1.Descriptor
}

// flatten sorts the children of an index. Every descriptor that it returns
// has a media type, a sha256 digest and a size that a manifest can have.
func flatten(raw []byte) (flat, error) {
	m, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return flat{}, fmt.Errorf("it cannot be read: %s", quote.Text(err.Error()))
	}
	if len(m.Manifests) > maxChildren {
		return flat{}, fmt.Errorf("holds more than %d manifests", maxChildren)
	}
	var f flat
	for _, d := range m.Manifests {
		// What a child is comes from the registry, by its digest.
		d.Data, d.URLs = nil, nil
		switch {
		case !digestPattern.MatchString(d.Digest.String()):
			return flat{}, fmt.Errorf("a child's digest %q is none", quote.Text(d.Digest.String()))
		case d.Size <= 0:
			return flat{}, fmt.Errorf("child %s has a size of %d", d.Digest, d.Size)
		case d.MediaType.IsIndex():
			f.indexes = append(f.indexes, d)
		case !d.MediaType.IsImage():
			return flat{}, fmt.Errorf("child %s has media type %q, which is neither an image's nor an index's", d.Digest, quote.Text(string(d.MediaType)))
		case content.IsAttestation(d):
			f.attestations = append(f.attestations, d)
		default:
			f.images = append(f.images, d)
		}
	}
	return f, nil
}

// verify checks that an image is there, is what its descriptor says, and is
// for the platform that was built. A platform that this process or the build
// has verified already costs one request, another two: a digest never changes
// what it names.
func verify(ctx context.Context, c *registry.Client, img *plan.Image, d v1.Descriptor, want config.Platform, r *plan.Result) (part, error) {
	ref := img.Repository + "@" + d.Digest.String()
	reported := registry.Descriptor{MediaType: string(d.MediaType), Digest: d.Digest.String(), Size: d.Size}
	got, known := c.KnownPlatform(reported.Digest)
	var held registry.Descriptor
	var raw []byte
	var err error
	if known && img.Index {
		held, err = c.Head(ctx, ref)
	} else {
		held, raw, err = c.Get(ctx, ref)
	}
	if err == nil {
		err = same(held, reported)
	}
	if err != nil {
		return part{}, err
	}
	switch {
	case known:
	case r.Verified:
		got = registry.NormalPlatform(want.OS, want.Arch, want.Variant, r.OSVersion)
		got.OSFeatures = r.OSFeatures
	default:
		read, err := c.Config(ctx, img.Repository, raw)
		if err != nil {
			return part{}, err
		}
		got = read.Platform
	}
	// Where the config gives no variant, the one that was built for is not
	// contradicted.
	if got.OS != want.OS || got.Architecture != want.Arch || got.Variant != want.Variant && !got.Unspecific {
		return part{}, failure.WithHint(fmt.Errorf("it is for %s, but its image %s is for %s", want, d.Digest, got),
			"is its base image, or what is copied into it, made for %s?", want)
	}
	p := v1.Platform{OS: want.OS, Architecture: want.Arch, Variant: want.Variant, OSVersion: got.OSVersion, OSFeatures: got.OSFeatures}
	if said := d.Platform; said != nil {
		p.OSVersion = cmp.Or(p.OSVersion, said.OSVersion)
		if len(p.OSFeatures) == 0 {
			p.OSFeatures = said.OSFeatures
		}
	}
	d.Platform = &p
	return part{image: d, raw: raw}, nil
}

// same says how what the registry holds differs from what was reported.
func same(held, reported registry.Descriptor) error {
	if held.MediaType != reported.MediaType {
		return fmt.Errorf("%s was reported as %s, but the registry holds %s", reported.Digest, quote.Text(reported.MediaType), quote.Text(held.MediaType))
	}
	if held.Size != reported.Size {
		return fmt.Errorf("%s was reported with %d bytes, but the registry holds %d", reported.Digest, reported.Size, held.Size)
	}
	return nil
}
