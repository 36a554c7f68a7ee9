package submission

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// target is where an image is pushed.
type target struct {
	// As it is written, without tag; empty: nowhere.
	repository, tag string
	// The same in full.
	ref registry.Reference
}

func parse(s string) (registry.Reference, error) { return registry.ParseReference(s) }

// destination reads the reference of an image; without a tag it is latest. An
// image that is not pushed needs none.
func (c *compiler) destination(s string, push bool, at place) (target, bool) {
	if s == "" {
		if push {
			at.err("missing-key", "HOST/PATH:TAG, or no-push: true", "there is no destination to push to")
		}
		return target{}, !push
	}
	ref, err := parse(s)
	switch {
	case err != nil:
		at.err("bad-reference", failure.Hint(err), "%v", err)
		return target{}, false
	case ref.Digest != "":
		at.err("bad-reference", "name a tag", "%q has a digest, which nothing can be pushed to", s)
		return target{}, false
	case push && ref.Host == name.DefaultRegistry && strings.HasPrefix(ref.Path, "library/") && !strings.Contains(s, "/"):
		at.err("bad-reference", "HOST/PATH:TAG", "%q names no registry: it would be pushed to Docker Hub's own images", s)
		return target{}, false
	}
	to := target{repository: s, tag: ref.Tag, ref: ref}
	if ref.Tag != "" {
		to.repository = strings.TrimSuffix(s, ":"+ref.Tag)
	} else {
		to.tag, to.ref.Tag = "latest", "latest"
	}
	return to, true
}

// host gives the registry that credentials are for, of which Docker Hub has
// many names and others may be written as URLs.
func host(s string) string {
	if _, rest, found := strings.Cut(s, "://"); found {
		s = rest
	}
	s, _, _ = strings.Cut(s, "/")
	if s == "docker.io" || s == "registry-1.docker.io" {
		return name.DefaultRegistry
	}
	return s
}
