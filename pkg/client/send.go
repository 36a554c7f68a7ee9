package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/plan"
)

// SendOptions say how a context is sent.
type SendOptions struct {
	// What is packed, and by how many cores.
	Pack buildcontext.PackOptions
	// Is told what is done, and how many bytes of how many; may be nil. A total
	// of 0 is not known yet. It may be called concurrently.
	Progress func(doing Step, done, total int64)
}

// Step is a part of sending.
type Step string

// The steps of sending, in order.
const (
	Packing   Step = "packing"   // bytes of files that were read
	Uploading Step = "uploading" // bytes of the archive
	Sent      Step = "sent"      // the archive is there
	Unchanged Step = "unchanged" // the controller had it already
)

// SendContext packs a directory, brings it to the controller unless it is there,
// and gives its digest. Nothing is left behind but what the controller has.
func SendContext(ctx context.Context, c *api.Client, dir string, o SendOptions) (digest string, err error) {
	if o.Progress == nil {
		o.Progress = func(Step, int64, int64) {}
	}
	o.Pack.Progress = func(n int64) { o.Progress(Packing, n, 0) }
	path, packed, err := buildcontext.PackFile(ctx, dir, "", o.Pack)
	if err != nil {
		return "", fmt.Errorf("packing the context: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sent, err := c.UploadContext(ctx, api.ContextRequest{Digest: packed.Digest, Size: packed.Size}, f,
		func(n int64) { o.Progress(Uploading, n, packed.Size) })
	switch {
	case err != nil:
		return "", fmt.Errorf("sending the context: %w", err)
	case sent:
		o.Progress(Sent, packed.Size, packed.Size)
	default:
		o.Progress(Unchanged, packed.Size, packed.Size)
	}
	return packed.Digest, nil
}

// Contexts gives what the builds of a plan take from the directory that the plan
// was made of, but for those of images that are published already. None: every
// build has an upstream.
func Contexts(p *plan.Plan, published ...plan.Published) []buildcontext.Build {
	var builds []buildcontext.Build
	for i := range p.Images {
		img := &p.Images[i]
		if img.Source != nil || slices.ContainsFunc(published, func(pub plan.Published) bool { return pub.Name == img.Name }) {
			continue
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			builds = append(builds, buildcontext.Build{Context: b.Context, Dockerfile: b.Dockerfile})
		}
	}
	return builds
}
