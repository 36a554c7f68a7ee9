package registry

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/failure"
)

// ends are the library's reader and writer, for what takes many requests.
type ends struct {
	puller *remote.Puller
	pusher *remote.Pusher
}

// newEnds puts them on the client's transport. Their own retries are off: the
// transport has them.
func (c *Client) newEnds() (ends, error) {
	options := []remote.Option{
		remote.WithTransport(c.transport),
		remote.WithAuthFromKeychain(c.keychain),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	}
	puller, err := remote.NewPuller(options...)
	if err != nil {
		return ends{}, err
	}
	pusher, err := remote.NewPusher(options...)
	return ends{puller, pusher}, err
}

// Copy copies an image or an index, with everything below it, to another
// repository, and gives its descriptor. Within one registry layers are
// mounted, not sent. from names a digest; to is a repository.
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
	if err := c.CreateRepository(ctx, dst.Repository(), false); err != nil {
		return Descriptor{}, err
	}
	ends, err := c.ends()
	if err != nil {
		return Descriptor{}, err
	}
	srcReg, err := c.reach(ctx, src.Host)
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, src, err)
	}
	dstReg, err := c.reach(ctx, dst.Host)
	if err != nil {
		return Descriptor{}, c.explain(ctx, "copying "+src.Repository()+" to", dst, err)
	}
	desc, err := ends.puller.Get(ctx, digestIn(srcReg, src.Path, src.Digest))
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, src, err)
	}
	if err := ends.pusher.Push(ctx, digestIn(dstReg, dst.Path, src.Digest), desc); err != nil {
		dst.Digest = src.Digest
		return Descriptor{}, c.explain(ctx, "copying "+src.Repository()+" to", dst, err)
	}
	return Descriptor{MediaType: string(desc.MediaType), Digest: src.Digest, Size: desc.Size}, nil
}

func digestIn(reg name.Registry, path, digest string) name.Digest {
	return reg.Repo(path).Digest(digest)
}
