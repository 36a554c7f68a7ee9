package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/archive/content"
)

// Pull gives the image at a tag or digest. If there is an index with one image
// and nothing but attestations beside it, it gives that image and the index,
// else no index. Config and layers are fetched as they are read, as long as ctx
// lasts, and verified; a transfer that breaks off is continued.
func (c *Client) Pull(ctx context.Context, ref string) (v1.Image, v1.ImageIndex, error) {
	const op = "reading"
	r, err := parseManifest(ref)
	if err != nil {
		return nil, nil, err
	}
	top, raw, err := c.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	digest, err := v1.NewHash(top.Digest)
	if err != nil {
		return nil, nil, c.explain(ctx, op, r, err)
	}
	d := v1.Descriptor{MediaType: types.MediaType(top.MediaType), Digest: digest, Size: top.Size}
	open := func(d v1.Descriptor) (io.ReadCloser, error) { return c.openContent(ctx, r, d) }
	if !IsIndex(top.MediaType) {
		img, err := content.ImageOf(open, d, raw)
		if err != nil {
			return nil, nil, c.explain(ctx, op, r, err)
		}
		return img, nil, nil
	}
	idx, err := content.IndexOf(open, d, raw)
	if err != nil {
		return nil, nil, c.explain(ctx, op, r, err)
	}
	parts, err := content.Images(open, idx)
	if err == nil && len(parts) != 1 {
		err = fmt.Errorf("it is an index of %d images: one of them has to be named by its digest", len(parts))
	}
	if err != nil {
		return nil, nil, c.explain(ctx, op, r, err)
	}
	return parts[0].Image, parts[0].Index, nil
}

// openContent opens a manifest or a blob of a repository.
func (c *Client) openContent(ctx context.Context, r Reference, d v1.Descriptor) (io.ReadCloser, error) {
	r.Tag, r.Digest = "", d.Digest.String()
	if d.MediaType.IsIndex() || d.MediaType.IsImage() {
		_, raw, err := c.Get(ctx, r.String())
		return io.NopCloser(bytes.NewReader(raw)), err
	}
	b := &download{c: c, ctx: ctx, ref: r}
	if err := b.open(); err != nil {
		return nil, c.explain(ctx, "reading", r, err)
	}
	return b, nil
}

// downloadAttempts is how often a transfer is continued that brings nothing.
const downloadAttempts = 5

// download is a blob that is being fetched. When its connection breaks, it
// goes on where it stopped.
type download struct {
	c   *Client
	ctx context.Context
	ref Reference

	body   io.ReadCloser
	at     int64
	failed int // since the last byte
}

func (b *download) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		if b.at += int64(n); n > 0 {
			b.failed = 0
		}
		switch {
		case err == nil, err == io.EOF: // the end; a broken transfer has another error
			return n, err
		case b.ctx.Err() != nil || !broken(err) || b.failed+1 >= downloadAttempts:
			return n, b.c.explain(b.ctx, "reading", b.ref, err)
		case n > 0:
			// What came counts; the next call will find the connection broken.
			return n, nil
		}
		if err := b.again(); err != nil {
			return 0, b.c.explain(b.ctx, "reading", b.ref, err)
		}
	}
}

// again opens the blob once more at the byte that comes next.
func (b *download) again() error {
	_ = b.body.Close()
	for {
		if err := sleep(b.ctx, b.c.transport.pause(b.failed, nil)); err != nil {
			return err
		}
		b.failed++
		err := b.open()
		if err == nil || !broken(err) || b.failed >= downloadAttempts {
			return err
		}
	}
}

func (b *download) open() error {
	header := http.Header{"Accept": {"*/*"}}
	if b.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	}
	resp, err := b.c.do(b.ctx, http.MethodGet, b.ref, "blobs/"+b.ref.Digest, header, nil, false)
	if err != nil {
		return err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		_ = resp.Body.Close()
		return err
	}
	b.body = resp.Body
	if b.at == 0 || resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.at)) {
		return nil
	}
	// The registry sends all of it again.
	if _, err = io.CopyN(io.Discard, b.body, b.at); err != nil {
		_ = b.body.Close()
	}
	return err
}

// Close ends the transfer.
func (b *download) Close() error { return b.body.Close() }
