package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// resolveBases finds out what the images that the Dockerfile refers to are
// now, and gives for each reference the one with its digest: what is recorded
// is then what was built on, even if a tag moves meanwhile. Images of this
// plan are those that were just published.
func (b *building) resolveBases(ctx context.Context, file string) (map[string]string, error) {
	bases, err := b.File.Bases(arguments(b.Job), b.Job.Build.Target)
	if err != nil {
		return nil, located(file, err)
	}
	published, err := b.published()
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for _, base := range bases {
		if _, done := digests[base.Ref]; done && !base.Final {
			continue
		}
		at := fmt.Sprintf("%s:%d", quote.Text(file), base.Line)
		ref, err := registry.ParseReference(base.Ref)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if !slices.Contains(b.Hosts, ref.Host) {
			b.Hosts = append(b.Hosts, ref.Host)
		}
		pinned, digest, err := b.resolveBase(ctx, base, ref, published)
		if err != nil {
			if errors.Is(err, registry.ErrNotFound) {
				err = failure.Input("there is no image %s", quote.Text(base.Ref))
			}
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if _, done := digests[base.Ref]; !done {
			b.bases = append(b.bases, plan.Base{Ref: base.Ref, Digest: digest})
			b.log.say(fmt.Sprintf("base %s is %s", base.Ref, digest))
		}
		digests[base.Ref] = pinned
		if base.Final {
			for i := range b.bases {
				b.bases[i].Final = b.bases[i].Ref == base.Ref
			}
			// Keys of the OCI image specification's annotations.
			b.label("org.opencontainers.image.base.name", strings.TrimSuffix(base.Ref, "@"+ref.Digest))
			b.label("org.opencontainers.image.base.digest", digest)
		}
	}
	if len(b.bases) > 0 {
		known, err := json.Marshal(b.bases)
		if err != nil {
			return nil, err
		}
		b.label(plan.BasesAnnotation, string(known))
	}
	return digests, nil
}

func (b *building) label(key, value string) {
	if b.Labels == nil {
		b.Labels = map[string]string{}
	}
	b.Labels[key] = value
}

// resolveBase gives the reference of a base by digest, and the digest.
func (b *building) resolveBase(ctx context.Context, base dockerfile.Base, ref registry.Reference, published map[string]plan.Published) (pinned, digest string, err error) {
	if p, ok := published[ref.Repository()+":"+ref.Tag]; ok && ref.Digest == "" {
		if len(p.Children) > 0 && !slices.ContainsFunc(p.Children, func(c plan.Child) bool { return c.Platform == b.Job.Build.Platform }) {
			return "", "", failure.Input("image %s was not published for %s", p.Name, b.Job.Build.Platform)
		}
		return p.Repository + "@" + p.Digest, p.Digest, nil
	}
	full := ref
	if full.Tag == "" && full.Digest == "" {
		full.Tag = "latest"
	}
	d, err := b.Job.Registry.Head(ctx, full.String())
	if err != nil {
		return "", "", err
	}
	if base.Final && registry.IsImage(d.MediaType) {
		if err := b.samePlatform(ctx, full.Repository(), d.Digest); err != nil {
			return "", "", err
		}
	}
	if ref.Digest != "" {
		return base.Ref, d.Digest, nil
	}
	return base.Ref + "@" + d.Digest, d.Digest, nil
}

// samePlatform refuses a base for another platform: an engine would put its
// files into an image that says it is for this one.
func (b *building) samePlatform(ctx context.Context, repository, digest string) error {
	_, raw, err := b.Job.Registry.Get(ctx, repository+"@"+digest)
	if err != nil {
		return err
	}
	c, err := b.Job.Registry.Config(ctx, repository, raw)
	if err != nil {
		return err
	}
	if c.Platform.OS != b.Platform.OS || c.Platform.Architecture != b.Platform.Arch {
		return failure.Input("image %s is for %s only, and the build for %s", quote.Text(repository), c.Platform, b.Platform)
	}
	return nil
}

// published gives what the publisher left for the images that this one needs,
// by each of their references.
func (b *building) published() (map[string]plan.Published, error) {
	out := map[string]plan.Published{}
	for _, name := range b.Job.Image.Needs {
		img, ok := b.Job.Plan.Image(name)
		if !ok {
			continue
		}
		path := plan.PublishedFile(b.Job.MetadataDir, name)
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			b.log.say(fmt.Sprintf("image %s: no %s, so its tags are taken for what they hold now", name, path))
			continue
		}
		if err != nil {
			return nil, err
		}
		var p plan.Published
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, failure.Input("%s: %w", path, err)
		}
		if p.Name != name || !digestPattern.MatchString(p.Digest) || p.Repository == "" {
			return nil, failure.Input("%s: not what was published of %s", path, name)
		}
		for _, tag := range slices.Concat(img.Tags, img.Aliases, []string{img.KeyTag}) {
			if ref, err := registry.ParseReference(img.Repository + ":" + tag); err == nil {
				out[ref.Repository()+":"+ref.Tag] = p
			}
		}
	}
	return out, nil
}
