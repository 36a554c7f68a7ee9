package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// artifactsDir is where files are kept that are no images, below the output
// directory.
const artifactsDir = "artifacts"

// deliverReleased pushes the images that a project's own build left, makes
// their outputs that are files, and keeps the rest as artifacts.
func (b *building) deliverReleased(ctx context.Context, r *released) (result plan.Result, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	j := b.Job
	result = b.result(registry.Descriptor{})
	parts := make([]plan.Part, 0, len(r.images))
	for _, left := range r.images {
		img, err := b.imageOf(left.part)
		if err != nil {
			return plan.Result{}, err
		}
		found, err := b.labelled(left.Found)
		if err != nil {
			return plan.Result{}, fmt.Errorf("%s: %w", b.shownRelease(left.file), err)
		}
		d, err := b.describe(found)
		if err != nil {
			return plan.Result{}, fmt.Errorf("%s: %w", b.shownRelease(left.file), err)
		}
		part := plan.Part{Name: img.Name}
		if j.Build.Pushes() {
			part.Ref = b.destinationOf(img)
			if d, err = b.push(ctx, img.Repository, part.Ref, &found, d); err != nil {
				return plan.Result{}, fmt.Errorf("pushing %s: %w", b.shownRelease(left.file), err)
			}
		}
		part.Digest, part.Size, part.MediaType = d.Digest, d.Size, d.MediaType
		of := plan.Result{Digest: d.Digest}
		if err := b.writeOutputs(ctx, &of, left.part, found); err != nil {
			return plan.Result{}, err
		}
		result.Outputs = append(result.Outputs, of.Outputs...)
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b plan.Part) int { return cmp.Compare(a.Name, b.Name) })
	if len(parts) > 0 {
		first := parts[0]
		result.Ref, result.Digest, result.Size, result.MediaType = first.Ref, first.Digest, first.Size, first.MediaType
	}
	if len(parts) > 1 {
		result.Parts = parts
	}
	if err := b.keepArtifacts(ctx, r, &result); err != nil {
		return plan.Result{}, err
	}
	return result, nil
}

// imageOf gives the image of the plan that an archive is.
func (b *building) imageOf(part string) (*plan.Image, error) {
	if part == "" {
		return b.Job.Image, nil
	}
	return b.Job.Plan.Part(b.Job.Image, b.Job.Image.Name+"-"+part)
}

// destinationOf is where the image of this build is pushed to.
func (b *building) destinationOf(img *plan.Image) string {
	at := slices.IndexFunc(img.Builds, func(other plan.Build) bool { return other.Platform == b.Job.Build.Platform })
	return img.Builds[at].Destination
}

// labelled gives an image the labels that other engines are told to. One with
// attestations stays as it is: they are of these very bytes.
func (b *building) labelled(f archive.Found) (archive.Found, error) {
	if f.Index != nil {
		return f, nil
	}
	c, err := f.Image.ConfigFile()
	if err != nil {
		return f, err
	}
	config := *c.Config.DeepCopy()
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	maps.Copy(config.Labels, labels(b.Prepared))
	f.Image, err = mutate.Config(f.Image, config)
	return f, err
}

// push pushes an image. Where the registry does not let a tag be moved that an
// earlier attempt at this very build has put there, that one's image is taken.
func (b *building) push(ctx context.Context, repository, ref string, f *archive.Found, d registry.Descriptor) (registry.Descriptor, error) {
	pushed, err := b.Job.Registry.Push(ctx, ref, f.Image, f.Index)
	if _, immutable := errors.AsType[*registry.ImmutableError](err); !immutable {
		if err == nil && pushed.Digest != d.Digest {
			err = fmt.Errorf("the registry holds %s, not %s", pushed.Digest, d.Digest)
		}
		if err == nil {
			b.log.say(fmt.Sprintf("pushed %s, %s", ref, d.Digest))
		}
		return pushed, err
	}
	held, raw, e := b.Job.Registry.Get(ctx, ref)
	if e != nil {
		return held, errors.Join(err, e)
	}
	c, e := b.configIn(ctx, repository, held, raw)
	if e != nil || !b.sameBuild(c) {
		return held, err
	}
	var found archive.Found
	if needsLayout(b.Job.Build) {
		if found.Image, found.Index, e = b.Job.Registry.Pull(ctx, repository+"@"+held.Digest); e != nil {
			return held, e
		}
	}
	*f = found
	b.log.say(fmt.Sprintf("%s cannot be moved and holds this build already: %s", ref, held.Digest))
	return held, nil
}

// keepArtifacts copies what is no image to the output directory, unless that
// is where it is.
func (b *building) keepArtifacts(ctx context.Context, r *released, result *plan.Result) error {
	from, err := filepath.EvalSymlinks(filepath.Join(b.contextDir(), releaseDir))
	if err != nil {
		return err
	}
	to := filepath.Join(b.Job.OutputDir, artifactsDir)
	at := artifactsDir
	if real, err := filepath.EvalSymlinks(b.Job.OutputDir); err == nil && real == from {
		to, at = "", ""
	}
	for _, a := range r.artifacts {
		err := linksInside(a.path, a.name == "rootfs")
		if err == nil && to != "" {
			err = copyArtifact(ctx, a.path, to, a.name)
		}
		if err != nil {
			return fmt.Errorf("keeping %s: %w", b.shownRelease(a.name), err)
		}
		result.Outputs = append(result.Outputs, plan.Output{Kind: "artifact", Path: path.Join(at, a.name)})
		b.log.say(fmt.Sprintf("artifact %s is %s", b.shownRelease(a.name), filepath.Join(b.Job.OutputDir, at, a.name)))
	}
	return nil
}

// linksInside refuses links that lead out of a directory. In a root file system
// those that are absolute begin at its root.
func linksInside(root string, filesystem bool) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		if filesystem && filepath.IsAbs(target) {
			return nil
		}
		to := filepath.Join(filepath.Dir(rel), target)
		if filepath.IsAbs(target) || to == ".." || strings.HasPrefix(to, "../") {
			return fmt.Errorf("link %q leads out of it, to %q", rel, target)
		}
		return nil
	})
}

func copyArtifact(ctx context.Context, from, dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, name)
	switch {
	case info.IsDir():
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return copyTree(ctx, from, to)
	case info.Mode().IsRegular():
		return copyFile(from, to, info)
	}
	return fmt.Errorf("it is neither a file nor a directory (%s)", info.Mode().Type())
}
