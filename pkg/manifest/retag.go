package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
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

// vanished adds what to do when what was there at planning is gone.
func vanished(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return failure.WithHint(err, "it was there when the plan was made (a lifecycle rule may have removed it): plan again")
	}
	return err
}
