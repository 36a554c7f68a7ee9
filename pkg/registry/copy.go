package registry

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/failure"
)

// newPusher puts the library's writer on the client's transport. Its own
// retries are off: the transport has them.
func (c *Client) newPusher() (*remote.Pusher, error) {
	return remote.NewPusher(
		remote.WithTransport(c.transport),
		remote.WithAuthFromKeychain(c.keychain),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	)
}

// Copy copies an image or an index, with everything below it, to another
// repository, and gives its descriptor. What is there already is neither read
// nor written; within one registry layers are mounted, not sent. from names a
// digest; to is a repository.
func (c *Client) Copy(ctx context.Context, from, to string) (Descriptor, error) {
	const op = "copying"
	src, err := ParseReference(from)
	if err != nil {
		return Descriptor{}, err
	}
	dst, err := ParseReference(to)
	if err != nil {
		return Descriptor{}, err
	}
	if src.Digest == "" || dst.identifier() != "" {
		return Descriptor{}, failure.Input("copying %q to %q: want a digest and a repository", from, to)
	}
	c.WillPush(dst.Repository())
	target := dst.Repository() + "@" + src.Digest
	there, err := c.Head(ctx, target)
	if e, ok := errors.AsType[*Error](err); err == nil || !ok || e.Status != http.StatusNotFound && e.Status != http.StatusForbidden {
		return there, err // 403 instead of 404 is Artifactory's
	}
	top, raw, err := c.Get(ctx, from)
	if err != nil {
		return Descriptor{}, err
	}
	digest, err := v1.NewHash(top.Digest)
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, src, err)
	}
	var origin name.Reference // of layers that can be mounted
	if src.Host == dst.Host {
		reg, err := c.reach(ctx, src.Host)
		if err != nil {
			return Descriptor{}, c.explain(ctx, op, src, err)
		}
		origin = reg.Repo(src.Path).Digest(src.Digest)
	}
	d := v1.Descriptor{MediaType: types.MediaType(top.MediaType), Digest: digest, Size: top.Size}
	open := func(d v1.Descriptor) (io.ReadCloser, error) { return c.openContent(ctx, src, d) }
	if IsIndex(top.MediaType) {
		idx, err := content.IndexOf(open, d, raw)
		if err != nil {
			return Descriptor{}, c.explain(ctx, op, src, err)
		}
		return c.Push(ctx, target, nil, copiedIndex{idx, origin})
	}
	img, err := content.ImageOf(open, d, raw)
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, src, err)
	}
	return c.Push(ctx, target, copiedImage{img, origin}, nil)
}

// copiedIndex is an index whose images' layers may be mounted from origin; nil:
// they may not.
type copiedIndex struct {
	index
	origin name.Reference
}

type index = v1.ImageIndex // which has a method of its own name

func (i copiedIndex) Image(h v1.Hash) (v1.Image, error) {
	img, err := i.index.Image(h)
	return copiedImage{img, i.origin}, err
}

func (i copiedIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	idx, err := i.index.ImageIndex(h)
	return copiedIndex{idx, i.origin}, err
}

// copiedImage is an image likewise.
type copiedImage struct {
	v1.Image
	origin name.Reference
}

func (i copiedImage) Layers() ([]v1.Layer, error) {
	layers, err := i.Image.Layers()
	for n, l := range layers {
		layers[n] = i.mountable(l)
	}
	return layers, err
}

// ConfigLayer is what package partial asks for.
func (i copiedImage) ConfigLayer() (v1.Layer, error) {
	l, err := partial.ConfigLayer(i.Image)
	return i.mountable(l), err
}

func (i copiedImage) mountable(l v1.Layer) v1.Layer {
	if i.origin == nil {
		return l
	}
	return &remote.MountableLayer{Layer: l, Reference: i.origin}
}

// CopyReferrers copies manifests that refer to from (repository@digest), which
// ListReferrers gave, to a repository that holds that digest too, and sees to
// it that they are listed there. What is listed there already is left alone,
// and so is what is gone: a list may be older than what it lists.
func (c *Client) CopyReferrers(ctx context.Context, referrers []v1.Descriptor, from, to string) error {
	if len(referrers) == 0 {
		return nil
	}
	src, err := ParseReference(from)
	if err != nil {
		return err
	}
	target := to + "@" + src.Digest
	held, err := c.ListReferrers(ctx, target)
	if err != nil {
		return err
	}
	for _, d := range referrers {
		if lists(held, d.Digest) {
			continue
		}
		one := src.Repository() + "@" + d.Digest.String()
		if _, err := c.Copy(ctx, one, to); err != nil {
			if _, gone := c.Head(ctx, one); errors.Is(gone, ErrNotFound) {
				continue
			}
			return err
		}
		if err := c.Enlist(ctx, target, d); err != nil {
			return err
		}
	}
	return nil
}
