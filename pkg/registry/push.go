package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	pushing = "pushing"
	// How many blobs of an image are uploaded at once.
	uploads = 4
	// How often one is tried.
	uploadAttempts = 6
)

// Push uploads an image to a tag or a digest: blobs first, manifest last.
// What the registry has already is not sent; an upload that breaks off is
// begun again, for which layers are read again. With idx, which
// holds img and its attestations, all of it is uploaded and ref names the index;
// img may be nil then. It gives the descriptor of what ref names. When the
// tag may not be moved, the error is an *ImmutableError.
func (c *Client) Push(ctx context.Context, ref string, img v1.Image, idx v1.ImageIndex) (Descriptor, error) {
	r, err := parseManifest(ref)
	if err != nil {
		return Descriptor{}, err
	}
	pusher, err := c.pusher()
	if err != nil {
		return Descriptor{}, err
	}
	if err := c.CreateRepository(ctx, r.Repository(), false); err != nil {
		return Descriptor{}, err
	}
	c.WillPush(r.Repository())
	reg, err := c.reach(ctx, r.Host)
	if err != nil {
		return Descriptor{}, c.explain(ctx, pushing, r, err)
	}
	p := &push{Client: c, ref: r, repo: reg.Repo(r.Path), pusher: pusher}
	var top document = img
	if idx != nil {
		top = idx
	}
	d, raw, err := described(top)
	if err != nil {
		return Descriptor{}, p.fail(ctx, err)
	}
	if r.Digest != "" && r.Digest != d.Digest.String() {
		return Descriptor{}, failure.Input("pushing to %s: the digest is %s", ref, d.Digest)
	}
	if idx != nil {
		err = p.index(ctx, idx)
	} else {
		err = p.image(ctx, img)
	}
	if err != nil {
		return Descriptor{}, err
	}
	return c.Put(ctx, ref, string(d.MediaType), raw)
}

// document is an image or an index.
type document interface {
	partial.Describable
	RawManifest() ([]byte, error)
}

func described(m document) (*v1.Descriptor, []byte, error) {
	d, err := partial.Descriptor(m)
	if err != nil {
		return nil, nil, err
	}
	raw, err := m.RawManifest()
	return d, raw, err
}

// push is one call of Push.
type push struct {
	*Client
	ref    Reference
	repo   name.Repository
	pusher *remote.Pusher
}

// fail explains an error that is not explained yet.
func (p *push) fail(ctx context.Context, err error) error { return p.explain(ctx, pushing, p.ref, err) }

// index uploads what is below an index, but not the index.
func (p *push) index(ctx context.Context, idx v1.ImageIndex) error {
	if here, err := p.here(ctx, idx); here || err != nil {
		return err
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return p.fail(ctx, err)
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			child, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return p.fail(ctx, err)
			}
			if err := p.index(ctx, child); err != nil {
				return err
			}
			if err := p.put(ctx, child); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			child, err := idx.Image(d.Digest)
			if err != nil {
				return p.fail(ctx, err)
			}
			if err := p.image(ctx, child); err != nil {
				return err
			}
			if err := p.put(ctx, child); err != nil {
				return err
			}
		default:
			return failure.Input("the index holds a %q, which is no image", quote.Text(string(d.MediaType)))
		}
	}
	return nil
}

// put writes a manifest under its digest.
func (p *push) put(ctx context.Context, m document) error {
	d, raw, err := described(m)
	if err != nil {
		return p.fail(ctx, err)
	}
	_, err = p.Put(ctx, p.ref.Repository()+"@"+d.Digest.String(), string(d.MediaType), raw)
	return err
}

// image uploads the blobs of an image.
func (p *push) image(ctx context.Context, img v1.Image) error {
	if here, err := p.here(ctx, img); here || err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return p.fail(ctx, err)
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return p.fail(ctx, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, l := range append(slices.Clone(layers), config) {
		g.Go(func() error { return p.upload(ctx, l) })
	}
	return g.Wait()
}

// here says whether the repository has a manifest already, and so what is
// below it.
func (p *push) here(ctx context.Context, m document) (bool, error) {
	digest, err := m.Digest()
	if err != nil {
		return false, p.fail(ctx, err)
	}
	_, err = p.Head(ctx, p.ref.Repository()+"@"+digest.String())
	if e, ok := errors.AsType[*Error](err); ok && (e.Status == http.StatusNotFound || e.Status == http.StatusForbidden) {
		return false, nil // 403 instead of 404 is Artifactory's; whether it means it shows soon
	}
	return err == nil, err
}

// upload uploads a blob that the repository does not have. An upload is not
// continued but begun again: what a registry kept of a broken one it alone
// knows.
func (p *push) upload(ctx context.Context, l v1.Layer) error {
	for attempt := 0; ; attempt++ {
		err := p.pusher.Upload(ctx, p.repo, l)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || attempt+1 == uploadAttempts || !brokenOff(err, attempt) {
			return p.fail(ctx, err)
		}
		if err := sleep(ctx, p.transport.pause(attempt, nil)); err != nil {
			return p.fail(ctx, err)
		}
	}
}

// brokenOff says whether an upload failed in a way that another one may not.
func brokenOff(err error, attempt int) bool {
	te, ok := errors.AsType[*transport.Error](err)
	if !ok {
		// A registry that was there a moment ago may be starting anew.
		return broken(err) || attempt > 0 && errors.Is(err, syscall.ECONNREFUSED) ||
			errors.Is(err, context.Canceled) // another push of the same blob ended
	}
	if te.StatusCode >= 500 || te.StatusCode == http.StatusRequestTimeout || te.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return te.StatusCode != http.StatusNotImplemented
	}
	return slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		switch d.Code {
		case transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
			return true
		}
		return false
	})
}
