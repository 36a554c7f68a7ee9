package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// imagesOf are the images of one project by name, with their digests; the
// project's own has none. Nil: the project has that one image alone.
type imagesOf map[string]string

// annotation is the value of plan.PartsAnnotation.
func (m imagesOf) annotation() string {
	raw, err := json.Marshal(m)
	if err != nil {
		return "" // strings always marshal
	}
	return string(raw)
}

// readImages reads plan.PartsAnnotation; nil where there is none.
func readImages(annotations map[string]string) (imagesOf, error) {
	text, ok := annotations[plan.PartsAnnotation]
	if !ok {
		return nil, nil
	}
	var m imagesOf
	if err := json.Unmarshal([]byte(text), &m); err != nil || len(m) == 0 {
		return nil, fmt.Errorf("annotation %s cannot be read", plan.PartsAnnotation)
	}
	return m, nil
}

// pushing gives the image with those of its builds alone that push, and their
// results.
func pushing(img *plan.Image, results []plan.Result) (*plan.Image, []plan.Result) {
	silent := func(b plan.Build) bool { return !b.Pushes() }
	if !slices.ContainsFunc(img.Builds, silent) {
		return img, results
	}
	some := *img
	some.Builds = slices.DeleteFunc(slices.Clone(img.Builds), silent)
	return &some, slices.DeleteFunc(slices.Clone(results), func(r plan.Result) bool {
		return slices.ContainsFunc(img.Builds, func(b plan.Build) bool { return b.ID == r.ID && silent(b) })
	})
}

// several gives the names of the images that the builds made, if these are
// others than the one that the plan knows. Every build must have made them all.
func several(img *plan.Image, results []plan.Result) ([]string, error) {
	if !slices.ContainsFunc(results, func(r plan.Result) bool { return len(r.Parts) > 0 }) {
		return nil, nil
	}
	madeBy := map[string][]string{}
	for i := range results {
		for _, part := range results[i].Images(img) {
			madeBy[part.Name] = append(madeBy[part.Name], results[i].ID)
		}
	}
	names := slices.Sorted(maps.Keys(madeBy))
	for _, name := range names {
		for i := range results {
			if !slices.Contains(madeBy[name], results[i].ID) {
				return nil, failure.WithHint(fmt.Errorf("build %s made no image %s, which build %s made", results[i].ID, name, madeBy[name][0]),
					"the project's own build must leave the same archives for every platform")
			}
		}
	}
	return names, nil
}

// resultsOf gives the results of a part's builds, which are those of the
// project under the part's name.
func resultsOf(part *plan.Image, img *plan.Image, results []plan.Result) []plan.Result {
	out := make([]plan.Result, 0, len(results))
	for _, r := range results {
		for _, made := range r.Images(img) {
			if made.Name == part.Name {
				r.Ref, r.Digest, r.Size, r.MediaType, r.Parts = made.Ref, made.Digest, made.Size, made.MediaType, nil
			}
		}
		r.Verified, r.OSVersion, r.OSFeatures = false, "", nil // the build says it of one image alone
		r.ID = part.Name + r.ID[min(len(img.Name), len(r.ID)):]
		out = append(out, r)
	}
	return out
}

// publishAll publishes each image that the project's own build made, and last,
// once all are there, the project's key tag, which says what they are.
func publishAll(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, names []string, results []plan.Result, o Options) (plan.Published, error) {
	parts := make([]*plan.Image, len(names))
	for i, name := range names {
		var err error
		if parts[i], err = p.Part(img, name); err != nil {
			return plan.Published{}, err
		}
	}
	others, made := []plan.Published{}, imagesOf{}
	for _, part := range parts {
		if part == img {
			made[img.Name] = ""
			continue
		}
		pub, err := publish(ctx, c, p, part, resultsOf(part, img, results), nil, o)
		if err != nil {
			return plan.Published{}, fmt.Errorf("its part %s: %w", part.Name, err)
		}
		others, made[part.Name] = append(others, pub), pub.Digest
	}
	_, own := made[img.Name]
	first := parts[0]
	standIn := func() (plan.Published, error) {
		as := *first
		as.Name, as.Repository, as.Tags, as.KeyTag, as.Index = img.Name, img.Repository, []string{img.KeyTag}, "", true
		return publish(ctx, c, p, &as, resultsOf(first, img, results), made, o)
	}
	var pub plan.Published
	var err error
	switch {
	case own && (img.Index || img.KeyTag == ""):
		pub, err = publish(ctx, c, p, img, resultsOf(img, img, results), made, o)
	case own: // a bare manifest has no annotations to tell of the others
		bare := *img
		bare.KeyTag = ""
		if pub, err = publish(ctx, c, p, &bare, resultsOf(img, img, results), nil, o); err == nil {
			_, err = keep(ctx, img, &pub, o, standIn)
		}
	default:
		pub, err = alone(ctx, img, others[0], o, standIn)
	}
	pub.Parts = others
	return pub, err
}

// alone gives what stands for a project that has no image of its own: its key
// tag, by standIn; first is what is published of the first of its images.
func alone(ctx context.Context, img *plan.Image, first plan.Published, o Options, standIn func() (plan.Published, error)) (plan.Published, error) {
	pub := first
	pub.Name, pub.Repository, pub.Tags, pub.Kept = img.Name, img.Repository, []string{}, nil
	if img.KeyTag == "" {
		return pub, nil
	}
	made, err := keep(ctx, img, &pub, o, standIn)
	if err == nil && made.Digest != "" {
		pub.Digest, pub.Size, pub.MediaType, pub.Children = made.Digest, made.Size, made.MediaType, made.Children
	}
	return pub, err
}

// keep publishes the project's key tag by standIn. As any key tag it never
// fails a publication.
func keep(ctx context.Context, img *plan.Image, pub *plan.Published, o Options, standIn func() (plan.Published, error)) (plan.Published, error) {
	made, err := standIn()
	switch {
	case err == nil:
		pub.Tags = append(pub.Tags, img.KeyTag)
		return made, nil
	case ctx.Err() != nil:
		return plan.Published{}, err
	}
	pub.Kept = append(pub.Kept, plan.KeptTag{Tag: img.KeyTag, Reason: err.Error()})
	o.Warn(fmt.Sprintf("image %s: tag %s was left as it is: %v", img.Name, img.KeyTag, err))
	return plan.Published{}, nil
}

// publishAgain publishes anew what an earlier publication of the project says
// of its images.
func publishAgain(ctx context.Context, c *registry.Client, p *plan.Plan, img *plan.Image, held publication, o Options) (plan.Published, error) {
	made, others := imagesOf{}, []plan.Published{}
	for _, name := range slices.Sorted(maps.Keys(held.images)) {
		if name == img.Name {
			made[name] = ""
			continue
		}
		part, err := p.Part(img, name)
		if err != nil {
			return plan.Published{}, err
		}
		part.Retag = held.images[name]
		pub, err := publish(ctx, c, p, part, nil, nil, o)
		if err != nil {
			return plan.Published{}, fmt.Errorf("its part %s: %w", name, err)
		}
		made[name], others = pub.Digest, append(others, pub)
	}
	held.notes[plan.PartsAnnotation] = made.annotation()
	var pub plan.Published
	var err error
	if _, own := made[img.Name]; own {
		pub, err = finish(ctx, c, p, img, held.made, held.notes, o)
	} else {
		pub, err = alone(ctx, img, others[0], o, func() (plan.Published, error) {
			as := *img
			as.Tags, as.KeyTag = []string{img.KeyTag}, ""
			return finish(ctx, c, p, &as, held.made, held.notes, o)
		})
	}
	pub.Parts = others
	return pub, err
}
