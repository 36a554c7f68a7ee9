package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Lookup gives what this very plan published of an image, by the image's fixed
// tag: what WritePublished leaves, for builds on top of the image that run
// where that file is not. Tags holds the fixed tag alone.
//
// The error wraps registry.ErrNotFound when the plan has not published the
// image: there is no such tag, or it holds a publication of another plan, which
// the annotations of an index tell by commit and time, and labels by the content
// key.
func Lookup(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image) (plan.Published, error) {
	pub, err := lookup(ctx, c, p, img)
	if err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			err = failure.WithHint(err, "look at the jobs that build and publish %s, and run this again once they are done", img.Name)
		}
		return plan.Published{}, fmt.Errorf("image %s: %w", img.Name, err)
	}
	return pub, nil
}

func lookup(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image) (plan.Published, error) {
	if len(img.Tags) == 0 {
		return plan.Published{}, failure.Input("it has no tags")
	}
	ref := img.Repository + ":" + img.Tags[0]
	held, raw, err := c.Get(ctx, ref)
	if err != nil {
		return plan.Published{}, err
	}
	said, err := plan.PublicationOf(ctx, c, ref, held, raw)
	if err != nil {
		return plan.Published{}, err
	}
	var own struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &own); err != nil {
		return plan.Published{}, fmt.Errorf("%s: %w", ref, err)
	}
	switch {
	case said.Key != "" && said.Key != img.Key:
		return plan.Published{}, fmt.Errorf("%s holds other content, of key %.12s: %w", ref, said.Key, registry.ErrNotFound)
	case own.Annotations[plan.CommitAnnotation] == "": // labels are of the build, which may be an older one
	case said.Commit != p.Head, !said.Created.Equal(p.Created):
		return plan.Published{}, fmt.Errorf("%s was published for commit %.7s, planned at %s: %w", ref, said.Commit, timestamp(said.Created), registry.ErrNotFound)
	}
	pub := plan.Published{
		Name: img.Name, Repository: img.Repository, Digest: held.Digest, Size: held.Size, MediaType: held.MediaType, Tags: []string{img.Tags[0]},
	}
	if !registry.IsIndex(held.MediaType) {
		return pub, nil
	}
	f, err := flatten(raw)
	if err != nil {
		return plan.Published{}, fmt.Errorf("%s: %w", ref, err)
	}
	for _, d := range f.images {
		child := plan.Child{Digest: d.Digest.String(), Size: d.Size, MediaType: string(d.MediaType)}
		if d.Platform != nil {
			child.Platform = registry.NormalPlatform(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant, "").String()
		}
		pub.Children = append(pub.Children, child)
	}
	return pub, nil
}
