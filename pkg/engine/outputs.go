package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// fileOutputs are the outputs that are files below the output directory, and
// their names there.
var fileOutputs = map[string]string{
	"docker-tar": "image.tar", "oci-tar": "oci.tar", "oci-layout": "oci", "rootfs": "rootfs", "digest": "digest",
}

// checkOutputs refuses outputs that there are not.
func checkOutputs(b *plan.Build) error {
	for _, o := range b.Outputs {
		if _, ok := fileOutputs[o]; !ok && o != "image" {
			return failure.WithHint(failure.Input("build %s: there is no output %q", b.ID, o), "outputs are image, docker-tar, oci-tar, oci-layout, rootfs and digest")
		}
	}
	return nil
}

// needsLayout says whether the engine must leave the image as a layout: for
// outputs that are made from it, and where else nothing would be left of it.
func needsLayout(b *plan.Build) bool {
	return !b.Pushes() || slices.ContainsFunc(b.Outputs, func(o string) bool { return o != "image" && o != "digest" })
}

// deliver verifies what the engine pushed, and makes the outputs that are
// files.
func (b *building) deliver(ctx context.Context, made outcome) (result plan.Result, err error) {
	if made.released != nil {
		return b.deliverReleased(ctx, made.released)
	}
	if made.pushed != "" {
		if result, err = b.verify(ctx, made.pushed); err != nil {
			return plan.Result{}, err
		}
	}
	if made.image == "" {
		return result, b.writeOutputs(ctx, &result, "", archive.Found{})
	}
	a, err := archive.Open(ctx, made.image)
	if err != nil {
		return plan.Result{}, fmt.Errorf("reading the image that was built: %w", err)
	}
	defer func() { _ = a.Close() }()
	images := a.Images()
	if len(images) != 1 {
		return plan.Result{}, fmt.Errorf("the build left %d images in place of one", len(images))
	}
	d, err := b.describe(images[0])
	if err != nil {
		return plan.Result{}, err
	}
	switch {
	case made.pushed == "":
		result = b.result(d)
		result.Ref = ""
	case d.Digest != made.pushed:
		return plan.Result{}, fmt.Errorf("the image that was pushed is %s, and the one for other outputs %s", made.pushed, d.Digest)
	}
	return result, b.writeOutputs(ctx, &result, "", images[0])
}

// describe gives the descriptor of an image of this platform, or of the index
// that joins it with attestations.
func (b *building) describe(img archive.Found) (registry.Descriptor, error) {
	got, err := platformIn(img)
	if err != nil {
		return registry.Descriptor{}, fmt.Errorf("reading the image that was built: %w", err)
	}
	if !isFor(got, b.Platform) {
		return registry.Descriptor{}, fmt.Errorf("the image that was built is for %s, and the build for %s", got, b.Platform)
	}
	var raw interface {
		RawManifest() ([]byte, error)
	} = img.Image
	mediaType, err := img.Image.MediaType()
	if img.Index != nil {
		raw = img.Index
		mediaType, err = img.Index.MediaType()
	}
	if err != nil {
		return registry.Descriptor{}, err
	}
	m, err := raw.RawManifest()
	if err != nil {
		return registry.Descriptor{}, fmt.Errorf("reading the image that was built: %w", err)
	}
	return registry.Descriptor{MediaType: string(mediaType), Digest: registry.Digest(m), Size: int64(len(m))}, nil
}

// platformIn gives the platform of an image.
func platformIn(img archive.Found) (registry.Platform, error) {
	c, err := img.Image.ConfigFile()
	if err != nil {
		return registry.Platform{}, err
	}
	return registry.NormalPlatform(c.OS, c.Architecture, c.Variant, c.OSVersion), nil
}

// writeOutputs makes the outputs of an image that are files, below the output
// directory, or for one of several images in a directory of its own there.
func (b *building) writeOutputs(ctx context.Context, r *plan.Result, part string, img archive.Found) error {
	dir := filepath.Join(b.Job.OutputDir, part)
	for _, kind := range b.Job.Build.Outputs {
		name, ok := fileOutputs[kind]
		if !ok {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the output directory: %w", err)
		}
		if err := b.writeOutput(ctx, kind, filepath.Join(dir, name), r, img); err != nil {
			return fmt.Errorf("output %s: %w", kind, err)
		}
		b.log.say(fmt.Sprintf("output %s is %s", kind, filepath.Join(dir, name)))
		r.Outputs = append(r.Outputs, plan.Output{Kind: kind, Path: path.Join(part, name), Part: part})
	}
	return nil
}

func (b *building) writeOutput(ctx context.Context, kind, file string, r *plan.Result, img archive.Found) error {
	switch kind {
	case "docker-tar":
		return archive.WriteDockerTar(ctx, file, img.Image, b.localName())
	case "oci-tar":
		return archive.WriteOCITar(ctx, file, img.Image, img.Index, b.localName())
	case "oci-layout":
		return archive.WriteLayout(ctx, file, img.Image, img.Index, b.localName())
	case "rootfs":
		return archive.Unpack(ctx, file, img.Image, b.log.say)
	}
	return writeAtomically(file, []byte(r.Digest+"\n"))
}

// localName is what an image is called in an archive.
func (b *building) localName() string {
	if b.Job.Build.Destination != "" {
		return b.Job.Build.Destination
	}
	return b.Job.Image.Name + ":latest"
}

// again makes the outputs of an image that an earlier run pushed.
func (b *building) again(ctx context.Context, r *plan.Result) error {
	if !slices.ContainsFunc(b.Job.Build.Outputs, func(o string) bool { return o != "image" }) {
		return nil
	}
	var found archive.Found
	if needsLayout(b.Job.Build) {
		var err error
		if found.Image, found.Index, err = b.Job.Registry.Pull(ctx, b.Job.Image.Repository+"@"+r.Digest); err != nil {
			return fmt.Errorf("reading what was pushed: %w", err)
		}
	}
	return b.writeOutputs(ctx, r, "", found)
}

// clearOutputs removes what an earlier attempt left: it must not pass for this
// one's.
func (b *building) clearOutputs() error {
	for _, name := range fileOutputs {
		if err := archive.RemoveAll(filepath.Join(b.Job.OutputDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the outputs of an earlier build: %w", err)
		}
	}
	return nil
}
