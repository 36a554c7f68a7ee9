package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// maxFile bounds what is read of a file in the metadata directory.
const maxFile = 1 << 20

var digestPattern = lazyregexp.New(`^sha256:[a-f0-9]{64}$`)

// ReadResults reads what the builds of an image left in the metadata
// directory, in the order of the plan; of those that push nothing there is
// nothing to read. A file that is missing or malformed is an error; one of
// another plan (id, head or key) wraps failure.ErrInput.
func ReadResults(dir string, p *plan.Plan, img *plan.Image) ([]plan.Result, error) {
	results := make([]plan.Result, 0, len(img.Builds))
	for i := range img.Builds {
		b := &img.Builds[i]
		if !b.Pushes() {
			continue
		}
		file := plan.ResultFile(dir, b.ID)
		r, err := readResult(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, failure.WithHint(fmt.Errorf("image %s: build %s has left no result in %s", img.Name, b.ID, file),
				"run pipegen build %s with the same plan and --metadata-dir first, or look why it failed", b.ID)
		case err != nil:
			return nil, failure.WithHint(fmt.Errorf("image %s: reading the result of build %s: %s: %w", img.Name, b.ID, file, err),
				"run pipegen build %s again", b.ID)
		}
		for _, c := range []struct{ what, got, want string }{
			{"build", r.ID, b.ID}, {"commit", r.Head, p.Head}, {"content key", r.Key, img.Key},
		} {
			if c.got != c.want {
				return nil, failure.WithHint(failure.Input("image %s: %s is the result of %s %q, but the plan has %q", img.Name, file, c.what, c.got, c.want),
					"the results are of another plan: use the plan that they were built with")
			}
		}
		results = append(results, r)
	}
	return results, nil
}

func readResult(file string) (plan.Result, error) {
	var r plan.Result
	if err := readJSON(file, &r); err != nil {
		return plan.Result{}, err
	}
	return r, checkResult(&r)
}

// checkResult says what of a result cannot be.
func checkResult(r *plan.Result) error {
	ref, err := registry.ParseReference(r.Ref)
	switch {
	case err != nil:
		return fmt.Errorf("ref: %w", plain(err))
	case ref.Tag == "":
		return fmt.Errorf("ref: %q has no tag", r.Ref)
	case !digestPattern.MatchString(r.Digest):
		return fmt.Errorf("digest: %q is none", r.Digest)
	case r.Size <= 0:
		return fmt.Errorf("size: %d", r.Size)
	case !registry.IsImage(r.MediaType) && !registry.IsIndex(r.MediaType):
		return fmt.Errorf("mediaType: %q is neither an image's nor an index's", r.MediaType)
	}
	for i, part := range r.Parts {
		if part.Name == "" || slices.ContainsFunc(r.Parts[:i], func(before plan.Part) bool { return before.Name == part.Name }) {
			return fmt.Errorf("parts: %q is no name of its own", part.Name)
		}
		of := plan.Result{Ref: part.Ref, Digest: part.Digest, Size: part.Size, MediaType: part.MediaType, Platform: r.Platform}
		if err := checkResult(&of); err != nil {
			return fmt.Errorf("part %s: %w", part.Name, err)
		}
	}
	if _, err := config.ParsePlatform(r.Platform); err != nil {
		return fmt.Errorf("platform: %w", err)
	}
	for _, b := range r.Bases {
		if b.Ref == "" {
			return errors.New("bases: a base has no ref")
		}
	}
	return nil
}

// plain takes from an error that it would mean wrong input: a file that a
// build left is not the user's.
func plain(err error) error { return errors.New(err.Error()) }

// readJSON reads a file that holds one JSON value.
func readJSON(file string, v any) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(raw) > maxFile {
		return fmt.Errorf("larger than %d bytes", maxFile)
	}
	return json.Unmarshal(raw, v)
}

// WritePublished leaves what was published in the metadata directory, of each
// of a project's images in a file of its own: whole, or not at all. Of what
// pushes nothing it leaves nothing.
func WritePublished(dir string, pub plan.Published) error {
	for _, part := range pub.Parts {
		if err := WritePublished(dir, part); err != nil {
			return err
		}
	}
	if pub.Digest == "" {
		return nil
	}
	file := plan.PublishedFile(dir, pub.Name)
	raw, err := json.MarshalIndent(pub, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+pub.Name+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(raw, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// ReadPublished gives what WritePublished left of an image. fs.ErrNotExist: there
// is nothing; other files than that are a failure.ErrInput.
func ReadPublished(dir, name string) (plan.Published, error) {
	var pub plan.Published
	file := plan.PublishedFile(dir, name)
	switch err := readJSON(file, &pub); {
	case errors.Is(err, fs.ErrNotExist):
		return pub, err
	case err != nil:
		return pub, failure.Input("reading %s: %w", file, err)
	case pub.Name != name || pub.Digest == "":
		return pub, failure.Input("%s is not what was published of %s", file, name)
	}
	return pub, nil
}
