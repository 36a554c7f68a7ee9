package monorepo

import (
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Tag gives a reference in the repository that the monorepo publishes to.
func (m *Monorepo) Tag(tag string) (name.Reference, error) {
	return name.ParseReference(m.Registry+":"+tag, name.Insecure)
}

// Tags lists the tags of that repository.
func (m *Monorepo) Tags() ([]string, error) {
	repo, err := name.NewRepository(m.Registry, name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.List(repo)
}

// Index reads the index under a tag from the registry: its digest, and its
// images by platform, each checked to be for the platform that it stands for.
func (m *Monorepo) Index(tag string) (v1.Hash, map[string]v1.Image, error) {
	fail := func(err error) (v1.Hash, map[string]v1.Image, error) {
		return v1.Hash{}, nil, fmt.Errorf("reading the index %s: %w", tag, err)
	}
	ref, err := m.Tag(tag)
	if err != nil {
		return fail(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		return fail(err)
	}
	digest, err := index.Digest()
	if err != nil {
		return fail(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fail(err)
	}
	images := map[string]v1.Image{}
	for _, child := range manifest.Manifests {
		image, err := index.Image(child.Digest)
		if err != nil {
			return fail(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			return fail(err)
		}
		platform := child.Platform.String()
		if got := config.Platform().String(); got != platform {
			return fail(fmt.Errorf("%s is said to be for %s and is for %s", child.Digest, platform, got))
		}
		images[platform] = image
	}
	return digest, images, nil
}
