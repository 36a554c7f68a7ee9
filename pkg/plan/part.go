package plan

import (
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// PartsAnnotation says on the index under a project's key tag that its build
// made several images: their names with their digests, as a JSON object. The
// project's own, if it is one of them, is that index itself, and its digest is
// empty.
const PartsAnnotation = "dev.pipegen.parts"

// repositoryPart is what may stand between the slashes of a repository's name
// (OCI distribution specification).
var repositoryPart = lazyregexp.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

// Pushes says whether any build of the plan pushes an image.
func (p *Plan) Pushes() bool {
	return slices.ContainsFunc(p.Images, func(img Image) bool { return img.Pushes() })
}

// Part gives one of several images that the project's own build of img made, as
// an image of the plan: with repository, tags and destinations of its own, and
// everything else of img. name is PROJECT-PART; with the project's own it is
// img itself. A name that cannot be one, and one by which another image of the
// plan or one that it leaves out is known, is a failure.ErrInput.
func (p *Plan) Part(img *Image, name string) (*Image, error) {
	if name == img.Name {
		return img, nil
	}
	rest, ok := strings.CutPrefix(name, img.Name+"-")
	if !ok || !component.MatchString(name) || !component.MatchString(rest) {
		return nil, failure.WithHint(failure.Input("%q cannot be the name of an image of project %s", name, img.Name),
			"name the archive after the part, with letters, digits, _, . and -, not beginning with . or -")
	}
	if p.Layout != "tag" && !repositoryPart.MatchString(name) {
		return nil, failure.WithHint(failure.Input("%q cannot be the name of an image, which in layout %s is part of a repository's name", name, p.Layout),
			"name the archive in small letters and digits, with single . or _ or any number of - between them")
	}
	part := *img
	part.Name = name
	if p.Layout != "tag" {
		part.Repository = strings.TrimSuffix(img.Repository, img.Name) + name
	}
	tag := func(t string) string {
		if t == "" || p.Layout != "tag" {
			return t
		}
		return name + strings.TrimPrefix(t, img.Name)
	}
	part.Tags, part.Aliases, part.KeyTag = renamed(img.Tags, tag), renamed(img.Aliases, tag), tag(img.KeyTag)
	part.Builds = slices.Clone(img.Builds)
	for i := range part.Builds {
		b := &part.Builds[i]
		b.ID = name + strings.TrimPrefix(b.ID, img.Name)
		if at := strings.TrimPrefix(b.Destination, img.Repository+":"); b.Destination != "" {
			b.Destination = part.Repository + ":" + tag(at)
		}
	}
	return &part, p.alone(img, &part)
}

// alone refuses a part that is known by what another image is known by.
func (p *Plan) alone(of, part *Image) error {
	const hint = "rename the archive, or the project"
	if slices.ContainsFunc(p.Skipped, func(s Skipped) bool { return s.Name == part.Name }) {
		return failure.WithHint(failure.Input("a part of project %s would be image %s, which another project yields", of.Name, part.Name), hint)
	}
	taken := map[string]bool{}
	for _, ref := range part.references() {
		if _, tag, _ := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":"); len(tag) > maxTag {
			return failure.Input("tag %s has %d characters, a tag may have %d", tag, len(tag), maxTag)
		}
		taken[ref] = true
	}
	for i := range p.Images {
		other := &p.Images[i]
		if other.Name == part.Name {
			return failure.WithHint(failure.Input("a part of project %s would be image %s, which another project yields", of.Name, part.Name), hint)
		}
		for _, ref := range other.references() {
			if taken[ref] {
				return failure.WithHint(failure.Input("image %s, a part of project %s, and image %s would both be %s", part.Name, of.Name, other.Name, ref), hint)
			}
		}
	}
	return nil
}

// references are all that the image is pushed to and published as.
func (img *Image) references() []string {
	var refs []string
	for _, t := range slices.Concat(img.Tags, img.Aliases, []string{img.KeyTag}) {
		if t != "" {
			refs = append(refs, img.Repository+":"+t)
		}
	}
	for i := range img.Builds {
		refs = append(refs, img.Builds[i].Destination)
	}
	return refs
}

func renamed(list []string, f func(string) string) []string {
	if list == nil {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = f(s)
	}
	return out
}

// Images gives what a build made: its parts, or the one image of img. None if
// it made no image.
func (r *Result) Images(img *Image) []Part {
	switch {
	case len(r.Parts) > 0:
		return r.Parts
	case r.Digest == "":
		return nil
	}
	return []Part{{Name: img.Name, Ref: r.Ref, Digest: r.Digest, Size: r.Size, MediaType: r.MediaType}}
}
