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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// stamp tells one state of a file from another: the time of its inode's last
// change cannot be set.
type stamp struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
}

// stamps are those of all that is below a directory, by path.
type stamps map[string]stamp

// stampsOf gives the stamps of what is below a directory; none if it is not
// there. What links at its top lead to counts as being there.
func stampsOf(dir string) (stamps, error) {
	all := stamps{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // leads nowhere yet
		}
		err = walkStamps(real, func(rel string, s stamp) bool {
			all[filepath.Join(e.Name(), rel)] = s
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// walkStamps gives the stamp of each file below a path to yield, until that
// gives false.
func walkStamps(root string, yield func(rel string, s stamp) bool) error {
	return filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if !yield(rel, stamp{uint64(st.Dev), st.Ino, st.Size, st.Ctim}) { //nolint:unconvert // int32 on other systems
			return fs.SkipAll
		}
		return nil
	})
}

// new says whether anything at or below an entry is not as it was.
func (s stamps) new(name, real string) (bool, error) {
	found := false
	err := walkStamps(real, func(rel string, now stamp) bool {
		found = s[filepath.Join(name, rel)] != now
		return !found
	})
	return found, err
}

// released is what a project's own build left.
type released struct {
	images []releasedImage
	// Files and directories that are no images: what they are called, and where
	// they are.
	artifacts []releasedFile
}

type releasedFile struct{ name, path string }

// releasedImage is an archive with an image for the build's platform.
type releasedImage struct {
	file string // below releaseDir
	part string // "" is the project's own
	archive.Found
	from *archive.Archive
}

func (r *released) Close() error {
	var errs []error
	for _, img := range r.images {
		errs = append(errs, img.from.Close())
	}
	return errors.Join(errs...)
}

// shownRelease is releaseDir for people.
func (b *building) shownRelease(name string) string {
	return quote.Text(path.Join(b.Job.Build.Context, releaseDir, name))
}

func (m *projectMake) result(ctx context.Context, b *building) (outcome, error) {
	r := &released{}
	err := m.collect(ctx, b, r)
	if err == nil {
		err = b.nameImages(r)
	}
	if err != nil {
		return outcome{}, errors.Join(err, r.Close())
	}
	return outcome{released: r}, nil
}

// collect finds what the command left, and nothing that was there before.
func (m *projectMake) collect(ctx context.Context, b *building, r *released) error {
	dir := filepath.Join(b.contextDir(), releaseDir)
	if _, err := b.inside(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the command left no %s", b.shownRelease(""))
		}
		return fmt.Errorf("%s: %w", b.shownRelease(""), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading %s: %w", b.shownRelease(""), pathless(err))
	}
	var old []string
	for _, e := range entries {
		real, err := b.inside(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("%s: %w", b.shownRelease(e.Name()), err)
		}
		isNew, err := m.before.new(e.Name(), real)
		if err != nil {
			return fmt.Errorf("%s: %w", b.shownRelease(e.Name()), pathless(err))
		}
		if !isNew {
			old = append(old, b.shownRelease(e.Name()))
			continue
		}
		if err := b.take(ctx, r, e.Name(), real); err != nil {
			return err
		}
	}
	switch {
	case len(r.images)+len(r.artifacts) > 0:
		for _, name := range old {
			b.log.say("warning: " + name + " was there before the command and is left out")
		}
		return nil
	case len(old) > 0:
		return failure.WithHint(fmt.Errorf("the command left nothing new: %s was there before it", strings.Join(old, ", ")),
			"let it remove what an earlier run left, as make clean release does")
	}
	if target := b.Job.Build.Target; target != "" {
		return fmt.Errorf("the command left no %s", b.shownRelease(target+".tar"))
	}
	return fmt.Errorf("the command left nothing in %s", b.shownRelease(""))
}

// inside follows links, which may not lead out of the source.
func (b *building) inside(name string) (string, error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", pathless(err)
	}
	root, err := filepath.EvalSymlinks(b.source)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
		return "", errors.New("leads out of the repository")
	}
	return real, nil
}

// take adds an entry of the release directory. A build with a target takes the
// archive of that name and nothing else.
func (b *building) take(ctx context.Context, r *released, name, real string) error {
	info, err := os.Stat(real)
	if err != nil {
		return fmt.Errorf("%s: %w", b.shownRelease(name), pathless(err))
	}
	target := b.Job.Build.Target
	if target != "" && name != target+".tar" && name != target {
		b.log.say(b.shownRelease(name) + " is not of target " + quote.Text(target) + " and is left alone")
		return nil
	}
	isArchive := info.Mode().IsRegular() && strings.HasSuffix(name, ".tar")
	if info.IsDir() {
		_, err := os.Lstat(filepath.Join(real, "oci-layout"))
		isArchive = err == nil
	}
	if isArchive {
		a, err := archive.Open(ctx, real)
		if err == nil {
			img := releasedImage{file: name, from: a}
			r.images = append(r.images, img)
			return b.choose(&r.images[len(r.images)-1])
		}
		if !errors.Is(err, archive.ErrNoImage) {
			return err
		}
	}
	r.artifacts = append(r.artifacts, releasedFile{name, real})
	return nil
}

// choose takes the image of this platform out of an archive.
func (b *building) choose(img *releasedImage) error {
	var fit []archive.Found
	var held []string
	images := img.from.Images()
	for _, f := range images {
		got, err := platformIn(f)
		if err != nil {
			return fmt.Errorf("%s: %w", b.shownRelease(img.file), err)
		}
		held = append(held, got.String())
		if isFor(got, b.Platform) {
			fit = append(fit, f)
		}
	}
	switch len(fit) {
	case 1:
		img.Found = fit[0]
		return nil
	case 0:
		return failure.WithHint(fmt.Errorf("%s: its image is for %s, and the build for %s", b.shownRelease(img.file), strings.Join(held, ", "), b.Platform),
			"the command finds the platform in PLATFORM, and in TARGETOS, TARGETARCH and TARGETVARIANT")
	}
	return failure.WithHint(fmt.Errorf("%s: holds %d images for %s", b.shownRelease(img.file), len(fit), b.Platform), "save each in an archive of its own")
}

// reservedParts would be where outputs and artifacts are.
var reservedParts = []string{artifactsDir, "oci", "rootfs", "digest"}

// nameImages says which image each archive is: a single one the project's own,
// of several that which is called image or as the project, and the others parts.
func (b *building) nameImages(r *released) error {
	j := b.Job
	if len(r.images) == 0 {
		if j.Build.Pushes() || needsImage(j.Build) {
			return failure.WithHint(fmt.Errorf("the command left no image in %s: no archive of docker save, and no OCI layout", b.shownRelease("")),
				"a project without images has outputs: [digest]")
		}
		return nil
	}
	if len(r.images) == 1 {
		return nil
	}
	files := map[string]string{}
	for i := range r.images {
		img := &r.images[i]
		part := strings.TrimSuffix(img.file, ".tar")
		if part == j.Image.Name || part == "image" {
			part = ""
		}
		if first, taken := files[part]; taken {
			return fmt.Errorf("%s and %s would be the same image", b.shownRelease(first), b.shownRelease(img.file))
		}
		files[part], img.part = img.file, part
		if slices.Contains(reservedParts, part) {
			return failure.WithHint(fmt.Errorf("%s: no image can be called %q, which is the name of an output", b.shownRelease(img.file), part), "rename the archive")
		}
		if part == "" {
			continue
		}
		if _, err := j.Plan.Part(j.Image, j.Image.Name+"-"+part); err != nil {
			return fmt.Errorf("%s: %w", b.shownRelease(img.file), err)
		}
	}
	return nil
}

// needsImage says whether outputs are asked for that there are only of images.
func needsImage(b *plan.Build) bool {
	return slices.ContainsFunc(b.Outputs, func(o string) bool { return o != "digest" })
}
