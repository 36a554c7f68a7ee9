package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

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
		if _, done := digests[base.Ref]; done && !base.Final || isContext(b.Job.Build, base.Ref) {
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
			b.markFinal(base.Ref)
		}
	}
	return digests, b.labelBases()
}

// markFinal says that the image stands on a base.
func (b *building) markFinal(ref string) {
	for i := range b.bases {
		base := &b.bases[i]
		if base.Final = base.Ref == ref; !base.Final {
			continue
		}
		// Keys of the OCI image specification's annotations.
		b.label("org.opencontainers.image.base.name", strings.TrimSuffix(ref, "@"+base.Digest))
		b.label("org.opencontainers.image.base.digest", base.Digest)
	}
}

// labelBases keeps with the image what it is built on.
func (b *building) labelBases() error {
	if len(b.bases) == 0 {
		return nil
	}
	known, err := json.Marshal(b.bases)
	if err != nil {
		return err
	}
	b.label(plan.BasesAnnotation, string(known))
	return nil
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
	at, d, err := b.find(ctx, ref)
	if err != nil {
		return "", "", err
	}
	if base.Final && registry.IsImage(d.MediaType) {
		if err := b.samePlatform(ctx, at.Repository(), d.Digest); err != nil {
			return "", "", err
		}
	}
	if ref.Digest != "" {
		return base.Ref, d.Digest, nil
	}
	return base.Ref + "@" + d.Digest, d.Digest, nil
}

// find asks for an image where the engine will look for it: one of docker.io at
// its mirrors, in their order, then there. Only what is found there counts; a
// mirror that cannot be asked is passed over, as the engine does.
func (b *building) find(ctx context.Context, ref registry.Reference) (registry.Reference, registry.Descriptor, error) {
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	if ref.Host == name.DefaultRegistry {
		for _, mirror := range b.Job.Build.RegistryMirrors {
			at, err := atMirror(mirror, ref)
			if err != nil {
				return ref, registry.Descriptor{}, err
			}
			if !slices.Contains(b.Hosts, at.Host) {
				b.Hosts = append(b.Hosts, at.Host)
			}
			d, err := b.askMirror(ctx, at)
			switch {
			case err == nil:
				if !slices.Contains(b.Mirrors, mirror) {
					b.Mirrors = append(b.Mirrors, mirror)
				}
				b.log.say(fmt.Sprintf("%s is at the mirror %s", ref, mirror))
				return at, d, nil
			case ctx.Err() != nil:
				return ref, registry.Descriptor{}, context.Cause(ctx)
			case !errors.Is(err, registry.ErrNotFound):
				b.log.say(fmt.Sprintf("warning: mirror %s: %v", mirror, err))
			}
		}
	}
	d, err := b.Job.Registry.Head(ctx, ref.String())
	return ref, d, err
}

// mirrorTime is how long a mirror may take to answer before the next is asked.
const mirrorTime = 20 * time.Second

func (b *building) askMirror(ctx context.Context, at registry.Reference) (registry.Descriptor, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, mirrorTime, errors.New("it did not answer"))
	defer cancel()
	return b.Job.Registry.Head(ctx, at.String())
}

// atMirror gives the name that an image of docker.io has at a mirror,
// HOST[:PORT][/PATH].
func atMirror(mirror string, ref registry.Reference) (registry.Reference, error) {
	host, prefix, _ := strings.Cut(mirror, "/")
	ref.Host, ref.Path = host, path.Join(prefix, ref.Path)
	read, err := registry.ParseReference(ref.String())
	if err == nil && read != ref {
		err = fmt.Errorf("%s is no registry host: it has neither a dot nor a port", quote.Text(host))
	}
	if err != nil {
		return ref, failure.Input("registry_mirrors: %w", err)
	}
	return ref, nil
}

// mirrorHosts gives the registries that are mirrors of docker.io.
func mirrorHosts(b *plan.Build) []string {
	out := make([]string, len(b.RegistryMirrors))
	for i, m := range b.RegistryMirrors {
		out[i], _, _ = strings.Cut(m, "/")
	}
	return out
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
		file := plan.PublishedFile(b.Job.MetadataDir, name)
		raw, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			b.log.say(fmt.Sprintf("image %s: no %s, so its tags are taken for what they hold now", name, file))
			continue
		}
		if err != nil {
			return nil, err
		}
		var p plan.Published
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, failure.Input("%s: %w", file, err)
		}
		if p.Name != name || !digestPattern.MatchString(p.Digest) || p.Repository == "" {
			return nil, failure.Input("%s: not what was published of %s", file, name)
		}
		add := func(img *plan.Image, p plan.Published) {
			for _, tag := range slices.Concat(img.Tags, img.Aliases, []string{img.KeyTag}) {
				if ref, err := registry.ParseReference(img.Repository + ":" + tag); err == nil {
					out[ref.Repository()+":"+ref.Tag] = p
				}
			}
		}
		for _, part := range p.Parts {
			of, err := b.Job.Plan.Part(img, part.Name)
			if err != nil {
				return nil, err
			}
			add(of, part)
		}
		// A project with several images need not have one of its own.
		if len(p.Parts) == 0 || slices.Contains(p.Tags, img.Tags[0]) {
			add(img, p)
		}
	}
	return out, nil
}
