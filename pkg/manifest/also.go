package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// also publishes what was published of an image, and of those that its build
// made beside it, in the plan's other registries: the same bytes, with all
// that refers to them, under the tags that stand, by the same rules. Registries
// fail independently; the error joins theirs.
func also(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, pub *plan.Published, o Options) error {
	var failed []error
	for i := range pub.Parts {
		part, err := p.Part(img, pub.Parts[i].Name)
		if err == nil {
			err = copies(ctx, c, p, part, &pub.Parts[i], o)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("its part %s: %w", pub.Parts[i].Name, err))
		}
	}
	if err := copies(ctx, c, p, img, pub, o); err != nil {
		failed = append(failed, err)
	}
	if ctx.Err() != nil && len(failed) > 0 {
		return context.Cause(ctx)
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

// copies copies one image to each of its other repositories.
func copies(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, pub *plan.Published, o Options) error {
	to := standing(p.Copies(img), pub.Tags)
	if pub.Digest == "" || len(to) == 0 {
		return nil
	}
	source := pub.Repository + "@" + pub.Digest
	held, raw, err := c.Get(ctx, source)
	if err != nil {
		return err
	}
	referrers, err := c.ListReferrers(ctx, source)
	if err != nil {
		return err
	}
	pub.Also = make([]plan.Copied, len(to))
	errs, warnings := make([]error, len(to)), make([][]string, len(to))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i := range to {
		g.Go(func() error {
			w := &writer{client: c, plan: p, image: there(img, to[i]), options: o, raw: raw, mediaType: held.MediaType, digest: held.Digest}
			w.options.Warn = func(text string) { warnings[i] = append(warnings[i], to[i].Repository+": "+text) }
			if pub.Also[i], errs[i] = w.copied(ctx, source, referrers.Manifests); errs[i] != nil {
				errs[i] = fmt.Errorf("publishing to %s: %w", to[i].Repository, errs[i])
			}
			return nil
		})
	}
	_ = g.Wait() // errs has them all
	for _, text := range slices.Concat(warnings...) {
		o.Warn(text)
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}

// standing leaves of the tags that would go elsewhere those that the image's
// own repository has: what a later publication holds there it holds here.
func standing(copies []plan.Copy, tags []string) []plan.Copy {
	for i := range copies {
		copies[i].Tags = slices.DeleteFunc(copies[i].Tags, func(tag string) bool { return !slices.Contains(tags, tag) })
	}
	return slices.DeleteFunc(copies, func(c plan.Copy) bool { return len(c.Tags) == 0 })
}

// there is the image as it is in another repository. Without its fixed tag the
// first of its tags is empty.
func there(img *plan.Image, to plan.Copy) *plan.Image {
	as := *img
	as.Repository, as.Tags, as.KeyTag = to.Repository, []string{""}, ""
	for _, tag := range to.Tags {
		switch tag {
		case img.Tags[0]:
			as.Tags[0] = tag
		case img.KeyTag:
			as.KeyTag = tag
		default:
			as.Tags = append(as.Tags, tag)
		}
	}
	return &as
}

// copied copies to one repository what is there first, then what refers to it,
// the tags last.
func (w *writer) copied(ctx context.Context, source string, referrers []v1.Descriptor) (plan.Copied, error) {
	to := plan.Copied{Repository: w.image.Repository, Tags: []string{}}
	if _, err := w.client.Copy(ctx, source, to.Repository); err != nil {
		return to, err
	}
	if err := w.client.CopyReferrers(ctx, referrers, source, to.Repository); err != nil {
		return to, err
	}
	var pub plan.Published
	err := w.tags(ctx, &pub)
	to.Tags, to.Kept = append(to.Tags, pub.Tags...), pub.Kept
	return to, err
}
