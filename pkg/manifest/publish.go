// Package manifest joins what the builds of an image pushed, by digest, into
// an index, and puts the image's tags on it.
package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Options say how an image is published; the zero value is good for use.
type Options struct {
	// AllowRollback moves tags also from a later publication back to this one.
	AllowRollback bool
	// Warn takes one line that is safe for a log; nil: warnings are dropped.
	Warn func(string)
	// Ancestor says whether commit old is an ancestor of commit new. When it
	// is nil or fails, the recorded times and pipeline numbers decide.
	Ancestor func(ctx context.Context, old, new string) (bool, error)
	// Attend is called with what was joined, and what that was built on, when
	// the registry has it under its digest and no tag names it yet: what it
	// leaves is there before anybody pulls by a tag. Its error ends the
	// publication of the image. nil: nothing is done.
	Attend func(ctx context.Context, img *plan.Image, subject registry.Descriptor, bases []plan.Base) error

	// firstLook is the constant of that name for tests; 0: the constant.
	firstLook time.Duration
}

// Publish joins the results of an image's builds and puts its tags on them:
// the fixed tag of the plan first, then the key tag, the moving tags last. It
// is safe to repeat: what is done already is left alone, and the same plan
// and results give the same bytes. An image that the plan only retags has no
// results: what an earlier publication joined is joined anew, under this
// plan's tags. Where the project's own build made several images, each is
// published, and what comes back is of the project's own, or, if none of them
// is, of what carries its key tag. Builds that push nothing have nothing to
// publish: without others, the digest that comes back is empty.
//
// Once the tags stand, what they name is copied to the registries of
// publish.also, under the same tags and by the same rules; a registry that
// fails costs the others nothing.
//
// A moving tag that holds a later publication is left and listed in Kept. An
// error wraps *registry.ImmutableError when the registry does not let a tag be
// moved, and failure.ErrInput when results and plan do not fit each other.
// Tags that were written before an error stay; they are in the returned value.
func Publish(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, results []plan.Result, o Options) (plan.Published, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if !img.Pushes() {
		return plan.Published{Name: img.Name, Repository: img.Repository, Tags: []string{}}, nil
	}
	some, results := pushing(img, results)
	names, err := several(some, results)
	var pub plan.Published
	switch {
	case err != nil:
	case len(names) > 0:
		pub, err = publishAll(ctx, c, p, some, names, results, o)
	default:
		pub, err = publish(ctx, c, p, some, results, nil, o)
	}
	if err == nil {
		err = also(ctx, c, p, some, &pub, o)
	}
	if err != nil {
		return pub, fmt.Errorf("image %s: %w", img.Name, err)
	}
	return pub, nil
}

// publish publishes one image. images is what its index says of those of its
// project; nil: nothing.
func publish(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, results []plan.Result, images imagesOf, o Options) (plan.Published, error) {
	if len(img.Tags) == 0 {
		return plan.Published{}, failure.WithHint(failure.Input("it has no tags"), "a tree with uncommitted changes is not published from CI")
	}
	repository, err := registry.ParseReference(img.Repository)
	if err != nil {
		return plan.Published{}, err
	}
	c.WillPush(repository.Repository())
	var made []part
	var notes map[string]string // annotations of the index
	if img.Retag != "" {
		var held publication
		held, err = before(ctx, c, p, img)
		if err == nil && held.images != nil {
			return publishAgain(ctx, c, p, img, held, o)
		}
		made, notes = held.made, held.notes
	} else if results, err = match(p, img, results); err == nil {
		made, err = parts(ctx, c, img, results)
		notes = annotations(p, img, results)
		if images != nil {
			notes[plan.PartsAnnotation] = images.annotation()
		}
	}
	if err != nil {
		return plan.Published{}, err
	}
	return finish(ctx, c, p, img, made, notes, o)
}

// finish joins what is there, and puts the image's tags on it.
func finish(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, made []part, notes map[string]string, o Options) (plan.Published, error) {
	var err error
	pub := plan.Published{Name: img.Name, Repository: img.Repository, Tags: []string{}}
	w := &writer{client: c, plan: p, image: img, options: o}
	if img.Index {
		var left int
		w.raw, w.mediaType, left, err = join(p, notes, made)
		if err != nil {
			return plan.Published{}, err
		}
		if left > 0 {
			o.Warn(fmt.Sprintf("image %s: a Docker manifest list cannot hold its %d attestations", img.Name, left))
		}
	} else {
		w.raw, w.mediaType = made[0].raw, string(made[0].image.MediaType)
		if n := len(made[0].attestations); n > 0 {
			o.Warn(fmt.Sprintf("image %s: published without an index, and so without its %d attestations", img.Name, n))
		}
	}
	w.digest = registry.Digest(w.raw)
	pub.Digest, pub.Size, pub.MediaType = w.digest, int64(len(w.raw)), w.mediaType
	for _, m := range made {
		pub.Children = append(pub.Children, plan.Child{
			Digest: m.image.Digest.String(), Size: m.image.Size, MediaType: string(m.image.MediaType),
			Platform: registry.NormalPlatform(m.image.Platform.OS, m.image.Platform.Architecture, m.image.Platform.Variant, "").String(),
		})
	}
	if err := w.attended(ctx, notes); err != nil {
		return pub, err
	}
	err = w.tags(ctx, &pub)
	return pub, err
}

// attended has what was joined attended to before tags are put on it.
func (w *writer) attended(ctx context.Context, notes map[string]string) error {
	if w.options.Attend == nil {
		return nil
	}
	ref := w.image.Repository + "@" + w.digest
	d, err := w.client.Head(ctx, ref)
	if errors.Is(err, registry.ErrNotFound) {
		d, err = w.client.Put(ctx, ref, w.mediaType, w.raw)
	}
	if err != nil {
		return err
	}
	return w.options.Attend(ctx, w.image, d, plan.BasesOf(notes))
}

// match puts the results in the order of the image's builds, which they must
// cover exactly.
func match(p *plan.Plan, img *plan.Image, results []plan.Result) ([]plan.Result, error) {
	switch {
	case len(img.Builds) == 0:
		return nil, failure.Input("it has no builds")
	case !img.Index && len(img.Builds) != 1:
		return nil, failure.Input("index: false needs one platform, it has %d", len(img.Builds))
	}
	out := make([]plan.Result, 0, len(img.Builds))
	for i := range img.Builds {
		b := &img.Builds[i]
		at := slices.IndexFunc(results, func(r plan.Result) bool { return r.ID == b.ID })
		if at < 0 {
			return nil, failure.Input("the result of build %s is missing", b.ID)
		}
		r := results[at]
		if err := checkResult(&r); err != nil {
			return nil, fmt.Errorf("the result of build %s: %w", b.ID, err)
		}
		pushed, err := registry.ParseReference(r.Ref)
		if err != nil {
			return nil, err
		}
		planned, err := registry.ParseReference(b.Destination)
		if err != nil {
			return nil, err
		}
		made, err := config.ParsePlatform(r.Platform)
		if err != nil {
			return nil, err
		}
		want, err := config.ParsePlatform(b.Platform)
		if err != nil {
			return nil, failure.Input("build %s: %w", b.ID, err)
		}
		switch {
		case made != want:
			return nil, failure.Input("the result of build %s is for %s, the plan says %s", b.ID, made, want)
		case r.Head != p.Head || r.Key != img.Key:
			return nil, failure.Input("the result of build %s is of another plan", b.ID)
		case pushed.Repository() != planned.Repository():
			return nil, failure.Input("build %s was pushed to %s, the plan says %s", b.ID, pushed.Repository(), planned.Repository())
		}
		r.Platform = b.Platform
		out = append(out, r)
	}
	for i, r := range results {
		if slices.ContainsFunc(results[:i], func(before plan.Result) bool { return before.ID == r.ID }) {
			return nil, failure.Input("there are two results of build %q", r.ID)
		}
		if !slices.ContainsFunc(img.Builds, func(b plan.Build) bool { return b.ID == r.ID }) {
			return nil, failure.Input("there is a result of %q, which is no build of it", r.ID)
		}
	}
	return out, nil
}

// join makes the index: images in the order of the plan, then their
// attestations. left is how many of these a Docker list, which has no
// annotations to refer by, had to leave out.
func join(p *plan.Plan, notes map[string]string, made []part) (raw []byte, mediaType string, left int, err error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Annotations: notes}
	docker := p.Publish.MediaType == "docker"
	if docker {
		index.MediaType, index.Annotations = types.DockerManifestList, nil
	}
	seen := map[string]bool{}
	for _, m := range made {
		if d := m.image.Platform.String(); seen[d] {
			return nil, "", 0, failure.Input("two of its builds are for %s", d)
		} else {
			seen[d] = true
		}
		m.image.Annotations = described(m.image.Annotations, notes, m.bases)
		if docker {
			m.image.Annotations, m.image.ArtifactType = nil, ""
		}
		index.Manifests = append(index.Manifests, m.image)
	}
	for _, m := range made {
		if docker {
			left += len(m.attestations)
			continue
		}
		index.Manifests = append(index.Manifests, m.attestations...)
	}
	raw, err = json.Marshal(index)
	return raw, string(index.MediaType), left, err
}

// tags puts the tags on what was joined, the moving ones side by side. One of
// these that fails does not keep the others from being moved.
func (w *writer) tags(ctx context.Context, pub *plan.Published) error {
	if fixed := w.image.Tags[0]; fixed != "" {
		if err := w.fix(ctx, fixed); err != nil {
			return err
		}
		pub.Tags = append(pub.Tags, fixed)
	}
	if key := w.image.KeyTag; key != "" {
		switch err := w.fix(ctx, key); {
		case err == nil:
			pub.Tags = append(pub.Tags, key)
		case ctx.Err() != nil:
			return err
		default:
			w.keep(pub, key, err.Error())
		}
	}
	moving := w.image.Tags[1:]
	reasons, errs := make([]string, len(moving)), make([]error, len(moving))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, tag := range moving {
		g.Go(func() error {
			reasons[i], errs[i] = w.move(ctx, tag)
			return nil
		})
	}
	_ = g.Wait() // errs has them all
	var failed []error
	for i, tag := range moving {
		switch {
		case errs[i] != nil:
			failed = append(failed, errs[i])
		case reasons[i] != "":
			w.keep(pub, tag, reasons[i])
		default:
			pub.Tags = append(pub.Tags, tag)
		}
	}
	if ctx.Err() != nil && len(failed) > 0 {
		return context.Cause(ctx)
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

func (w *writer) keep(pub *plan.Published, tag, reason string) {
	pub.Kept = append(pub.Kept, plan.KeptTag{Tag: tag, Reason: reason})
	w.options.Warn(fmt.Sprintf("image %s: tag %s was left as it is: %s", w.image.Name, tag, reason))
}
