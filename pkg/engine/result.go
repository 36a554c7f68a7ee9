package engine

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// adopt gives the result of an earlier run of this build, if the destination
// holds it: a retried job in a repository with immutable tags could not push
// again. An image of another plan for the same commit will do as well, unless
// this plan wants a new one whatever the content. What a project's own build
// makes beside an image is not in a registry, so that always runs.
func (b *building) adopt(ctx context.Context) (plan.Result, bool, error) {
	j := b.Job
	if j.Plan.Dirty || j.Image.Key == "" || !j.Build.Pushes() || j.Build.Engine == "make" {
		return plan.Result{}, false, nil
	}
	d, raw, err := j.Registry.Get(ctx, j.Build.Destination)
	if errors.Is(err, registry.ErrNotFound) {
		return plan.Result{}, false, nil
	}
	if err != nil {
		return plan.Result{}, false, err
	}
	c, err := b.configOf(ctx, d, raw)
	if errors.Is(err, errNoImage) {
		return plan.Result{}, false, nil
	}
	if err != nil {
		return plan.Result{}, false, err
	}
	if !b.sameBuild(c) {
		return plan.Result{}, false, nil
	}
	if err := json.Unmarshal([]byte(firstOf(c.Labels[plan.BasesAnnotation], "[]")), &b.bases); err != nil {
		return plan.Result{}, false, nil //nolint:nilerr // not ours, then
	}
	b.log.say(fmt.Sprintf("%s holds this build already: %s", j.Build.Destination, d.Digest))
	return b.verified(d, c.Platform), true, nil
}

// sameBuild says whether an image is what this build makes.
func (b *building) sameBuild(c registry.Config) bool {
	j := b.Job
	switch {
	case j.Plan.Dirty || j.Image.Key == "":
		return false
	case c.Labels[plan.KeyAnnotation] != j.Image.Key || c.Labels[plan.HeadLabel] != j.Plan.Head || !isFor(c.Platform, b.Platform):
		return false
	}
	return c.Labels[plan.CreatedAnnotation] == planTime(j.Plan) || j.Image.ContentOnly()
}

// planTime is the plan's time as labels have it.
func planTime(p *plan.Plan) string { return p.Created.UTC().Format(time.RFC3339) }

// verify asks the registry for what the engine says it pushed.
func (b *building) verify(ctx context.Context, digest string) (plan.Result, error) {
	j := b.Job
	d, raw, err := j.Registry.Get(ctx, j.Image.Repository+"@"+digest)
	if err != nil {
		return plan.Result{}, fmt.Errorf("verifying what was pushed: %w", err)
	}
	c, err := b.configOf(ctx, d, raw)
	if err != nil {
		return plan.Result{}, fmt.Errorf("verifying what was pushed: %w", err)
	}
	if !isFor(c.Platform, b.Platform) {
		return plan.Result{}, fmt.Errorf("the image that was built is for %s, and the build for %s", c.Platform, b.Platform)
	}
	b.log.say(fmt.Sprintf("pushed %s, %s", j.Build.Destination, digest))
	return b.verified(d, c.Platform), nil
}

// verified is the result of a build whose image is known to be for its platform.
func (b *building) verified(d registry.Descriptor, of registry.Platform) plan.Result {
	r := b.result(d)
	r.Verified, r.OSVersion, r.OSFeatures = true, of.OSVersion, of.OSFeatures
	return r
}

// errNoImage says that a manifest is neither an image nor an index of one image
// and its attestations.
var errNoImage = errors.New("it is no image for one platform")

// configOf gives the configuration of an image, also of one that an index joins
// with its attestations, as BuildKit makes it.
func (b *building) configOf(ctx context.Context, d registry.Descriptor, raw []byte) (registry.Config, error) {
	return b.configIn(ctx, b.Job.Image.Repository, d, raw)
}

// configIn is configOf for an image in any repository.
func (b *building) configIn(ctx context.Context, repository string, d registry.Descriptor, raw []byte) (registry.Config, error) {
	if registry.IsIndex(d.MediaType) {
		child, err := onlyImage(raw)
		if err != nil {
			return registry.Config{}, err
		}
		if d, raw, err = b.Job.Registry.Get(ctx, repository+"@"+child); err != nil {
			return registry.Config{}, err
		}
	}
	if !registry.IsImage(d.MediaType) {
		return registry.Config{}, errNoImage
	}
	return b.Job.Registry.Config(ctx, repository, raw)
}

// onlyImage gives the digest of the one image in an index, beside which there
// may be attestations.
func onlyImage(raw []byte) (string, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return "", err
	}
	var digest string
	for _, m := range index.Manifests {
		if content.IsAttestation(m) {
			continue
		}
		if digest != "" {
			return "", errNoImage
		}
		digest = m.Digest.String()
	}
	if digest == "" {
		return "", errNoImage
	}
	return digest, nil
}

// isFor compares platforms. Kaniko writes no variant into a config, so only
// one that is there must be the right one.
func isFor(got registry.Platform, want config.Platform) bool {
	return got.OS == want.OS && got.Architecture == want.Arch && (got.Unspecific || got.Variant == want.Variant)
}

func (b *building) result(d registry.Descriptor) plan.Result {
	j := b.Job
	bases := b.bases
	if bases == nil {
		bases = []plan.Base{}
	}
	return plan.Result{
		ID: j.Build.ID, Ref: j.Build.Destination, Digest: d.Digest, Size: d.Size, MediaType: d.MediaType,
		Platform: b.Platform.String(), Bases: bases, Key: j.Image.Key, Head: j.Plan.Head,
	}
}

func (b *building) writeResult(r plan.Result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = writeAtomically(plan.ResultFile(b.Job.MetadataDir, r.ID), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// writeAtomically writes a file that everybody may read.
func writeAtomically(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".result-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// configSecrets gives the secrets of a Docker configuration.
func configSecrets(raw []byte) []string {
	var c struct {
		Auths map[string]struct{ Auth, Password, IdentityToken, RegistryToken string }
	}
	if json.Unmarshal(raw, &c) != nil {
		return nil
	}
	var out []string
	for _, a := range c.Auths {
		out = append(out, a.Auth, a.Password, a.IdentityToken, a.RegistryToken)
		if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			_, p, _ := strings.Cut(string(b), ":")
			out = append(out, p)
		}
	}
	return out
}
