package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Lookup gives what this very plan published of an image, by the image's fixed
// tag: what WritePublished leaves, for builds on top of the image that run
// where that file is not. Tags holds the fixed tag alone. Images that the
// project's own build made beside it, or in its place, are looked up too, by
// what its index or its key tag says of them.
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
	if !img.Pushes() {
		return plan.Published{}, failure.Input("it is not pushed, so there is nothing to look up")
	}
	tag := img.Tags[0]
	held, raw, err := c.Get(ctx, img.Repository+":"+tag)
	lacking := err // of the fixed tag
	if errors.Is(err, registry.ErrNotFound) && img.KeyTag != "" {
		tag = img.KeyTag
		if held, raw, err = c.Get(ctx, img.Repository+":"+tag); errors.Is(err, registry.ErrNotFound) {
			err = lacking
		}
	}
	if err != nil {
		return plan.Published{}, err
	}
	ref := img.Repository + ":" + tag
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
		Name: img.Name, Repository: img.Repository, Digest: held.Digest, Size: held.Size, MediaType: held.MediaType, Tags: []string{tag},
	}
	images, err := readImages(own.Annotations)
	if err != nil {
		return plan.Published{}, fmt.Errorf("%s: %w", ref, err)
	}
	if _, own := images[img.Name]; lacking != nil && (images == nil || own) {
		return plan.Published{}, lacking
	}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if name == img.Name {
			continue
		}
		part, err := p.Part(img, name)
		if err != nil {
			return plan.Published{}, err
		}
		there, err := lookup(ctx, c, p, part)
		if err != nil {
			return plan.Published{}, fmt.Errorf("its part %s: %w", name, err)
		}
		pub.Parts = append(pub.Parts, there)
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
