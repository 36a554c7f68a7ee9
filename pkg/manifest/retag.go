package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// publication is what an earlier publication with the same content holds, and the
// annotations for publishing it again.
type publication struct {
	made  []part
	notes map[string]string
	// What it says of other images of the project.
	images imagesOf
}

// before looks at an earlier publication. Everything must still be there.
func before(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image) (publication, error) {
	held, raw, err := c.Get(ctx, img.Repository+"@"+img.Retag)
	if err != nil {
		return publication{}, vanished(err)
	}
	if registry.IsIndex(held.MediaType) != img.Index {
		return publication{}, failure.Input("the plan says to publish %s again, which is %s", img.Retag, held.MediaType)
	}
	if !img.Index {
		of, err := c.Platform(ctx, img.Repository, held.Digest)
		if err != nil {
			return publication{}, vanished(err)
		}
		if held, raw, err = published(ctx, c, p, img, held, raw); err != nil {
			return publication{}, err
		}
		image, err := descriptor(held)
		made := part{image: image, raw: raw}
		made.image.Platform = &v1.Platform{OS: of.OS, Architecture: of.Architecture, Variant: of.Variant, OSVersion: of.OSVersion}
		return publication{made: []part{made}}, err
	}
	f, err := flatten(raw)
	if err != nil {
		return publication{}, fmt.Errorf("index %s: %w", img.Retag, err)
	}
	if len(f.indexes) > 0 || len(f.images) == 0 {
		return publication{}, fmt.Errorf("index %s is none that pipegen published: it holds %d images and %d indexes", img.Retag, len(f.images), len(f.indexes))
	}
	var notes struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &notes); err != nil {
		return publication{}, fmt.Errorf("index %s: %w", img.Retag, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, d := range append(f.images, f.attestations...) {
		g.Go(func() error {
			got, err := c.Head(ctx, img.Repository+"@"+d.Digest.String())
			if err == nil {
				err = same(got, registry.Descriptor{MediaType: string(d.MediaType), Digest: d.Digest.String(), Size: d.Size})
			}
			return vanished(err)
		})
	}
	images, err := readImages(notes.Annotations)
	made := make([]part, len(f.images))
	for i, d := range f.images {
		if d.Platform == nil {
			return publication{}, errors.Join(g.Wait(), fmt.Errorf("index %s does not say what platform %s is for", img.Retag, d.Digest))
		}
		made[i].image = d
	}
	made[0].attestations = f.attestations
	return publication{made, again(p, img, notes.Annotations), images}, errors.Join(err, g.Wait())
}

// published gives a bare manifest with the annotations of this publication, so
// that it too says of which commit it is now: its labels are those of the build.
// Config and layers stay, and so what is pulled. Docker's manifests have no
// annotations; they are left as they are.
func published(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, held registry.Descriptor, raw []byte) (registry.Descriptor, []byte, error) {
	if held.MediaType != string(types.OCIManifestSchema1) {
		return held, raw, nil
	}
	said, err := plan.PublicationOf(ctx, c, img.Repository, held, raw)
	if err != nil {
		return held, nil, err
	}
	fields := map[string]json.RawMessage{}
	notes := map[string]string{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return held, nil, fmt.Errorf("manifest %s: %w", held.Digest, err)
	}
	if own, ok := fields["annotations"]; ok {
		if err := json.Unmarshal(own, &notes); err != nil {
			return held, nil, fmt.Errorf("manifest %s: its annotations: %w", held.Digest, err)
		}
	}
	before := notes[plan.BasesAnnotation]
	if before == "" && len(said.Bases) > 0 {
		before = listed(said.Bases)
	}
	maps.Copy(notes, recorded(map[string]string{}, p, img, before))
	if fields["annotations"], err = json.Marshal(notes); err != nil {
		return held, nil, err
	}
	if raw, err = json.Marshal(fields); err != nil {
		return held, nil, err
	}
	return registry.Descriptor{MediaType: held.MediaType, Digest: registry.Digest(raw), Size: int64(len(raw))}, raw, nil
}

// vanished adds what to do when what was there at planning is gone.
func vanished(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return failure.WithHint(err, "it was there when the plan was made (a lifecycle rule may have removed it): plan again")
	}
	return err
}
