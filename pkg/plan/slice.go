package plan

import (
	"slices"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Slice gives the plan that one build needs, and no more: its image with that
// build alone, and what its image needs by name, place and tags. A
// project's own make may turn out to make images of other names, so of what else
// the plan has it keeps what these must not be. An id that the plan does not
// have is a failure.ErrInput.
func (p *Plan) Slice(id string) (*Plan, error) {
	img, b, ok := p.Find(id)
	if !ok {
		return nil, failure.Input("the plan has no build %q", id)
	}
	s := *p
	s.CI, s.Images, s.Skipped = CI{}, nil, []Skipped{}
	if b.Engine == "make" {
		s.Skipped = slices.Clone(p.Skipped)
	}
	for i := range p.Images {
		other := &p.Images[i]
		switch {
		case other == img:
			own := *img
			own.Builds = []Build{*b}
			s.Images = append(s.Images, own)
		case slices.Contains(img.Needs, other.Name), b.Engine == "make":
			s.Images = append(s.Images, other.outline())
		}
	}
	return &s, nil
}

// Only gives the part of a plan with the images of these names, and the names of
// the others that they need: of those it keeps by what they are known, since
// somebody else builds them. A name that the plan does not have is a
// failure.ErrInput.
func (p *Plan) Only(names ...string) (part *Plan, needed []string, err error) {
	needs := map[string]bool{}
	for _, name := range names {
		img, ok := p.Image(name)
		if !ok {
			return nil, nil, failure.Input("the plan has no image %q", name)
		}
		for _, need := range img.Needs {
			needs[need] = true
		}
	}
	only := *p
	only.CI, only.Images, only.Skipped = CI{}, nil, slices.Clone(p.Skipped)
	for i := range p.Images {
		switch img := &p.Images[i]; {
		case slices.Contains(names, img.Name):
			only.Images = append(only.Images, *img)
		case needs[img.Name]:
			needed = append(needed, img.Name)
			only.Images = append(only.Images, img.outline())
		default:
			only.Skipped = append(only.Skipped, Skipped{Name: img.Name, Reason: "built elsewhere"})
		}
	}
	return &only, needed, nil
}

// outline is by what an image is known, without how it is built.
func (img *Image) outline() Image {
	o := Image{
		Name: img.Name, Dir: img.Dir, Key: img.Key, Reasons: img.Reasons, Repository: img.Repository, Tags: img.Tags, Aliases: img.Aliases,
		KeyTag: img.KeyTag, Needs: []string{}, Index: img.Index, Retag: img.Retag, Builds: []Build{},
	}
	for i := range img.Builds {
		b := &img.Builds[i]
		o.Builds = append(o.Builds, Build{
			ID: b.ID, Platform: b.Platform, Engine: b.Engine, Destination: b.Destination, Context: ".", Dockerfile: "Dockerfile", Outputs: b.Outputs, Timeout: b.Timeout,
		})
	}
	return o
}
