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

// before gives what an earlier publication with the same content holds, and
// the annotations for publishing it again. Everything must still be there.
func before(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image) ([]part, map[string]string, error) {
	held, raw, err := c.Get(ctx, img.Repository+"@"+img.Retag)
	if err != nil {
		return nil, nil, vanished(err)
	}
	if registry.IsIndex(held.MediaType) != img.Index {
		return nil, nil, failure.Input("the plan says to publish %s again, which is %s", img.Retag, held.MediaType)
	}
	if !img.Index {
		of, err := c.Platform(ctx, img.Repository, held.Digest)
		if err != nil {
			return nil, nil, vanished(err)
		}
		image, err := descriptor(held)
		made := part{image: image, raw: raw}
		made.image.Platform = &v1.Platform{OS: of.OS, Architecture: of.Architecture, Variant: of.Variant, OSVersion: of.OSVersion}
		return []part{made}, nil, err
	}
	f, err := flatten(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("index %s: %w", img.Retag, err)
	}
	if len(f.indexes) > 0 || len(f.images) == 0 {
		return nil, nil, fmt.Errorf("index %s is none that pipegen published: it holds %d images and %d indexes", img.Retag, len(f.images), len(f.indexes))
	}
	var notes struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &notes); err != nil {
		return nil, nil, fmt.Errorf("index %s: %w", img.Retag, err)
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
	made := make([]part, len(f.images))
	for i, d := range f.images {
		if d.Platform == nil {
			return nil, nil, errors.Join(g.Wait(), fmt.Errorf("index %s does not say what platform %s is for", img.Retag, d.Digest))
		}
		made[i].image = d
	}
	made[0].attestations = f.attestations
	return made, again(p, img, notes.Annotations), g.Wait()
}

// vanished adds what to do when what was there at planning is gone.
func vanished(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return failure.WithHint(err, "it was there when the plan was made (a lifecycle rule may have removed it): plan again")
	}
	return err
}
