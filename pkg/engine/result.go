package engine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// adopt gives the result of an earlier run of this build, if the destination
// holds it: a retried job in a repository with immutable tags could not push
// again. An image of another plan for the same commit will do as well, unless
// this plan wants a new one whatever the content.
func (b *building) adopt(ctx context.Context) (plan.Result, bool, error) {
	j := b.Job
	if j.Plan.Dirty || j.Image.Key == "" {
		return plan.Result{}, false, nil
	}
	d, raw, err := j.Registry.Get(ctx, j.Build.Destination)
	if errors.Is(err, registry.ErrNotFound) {
		return plan.Result{}, false, nil
	}
	if err != nil {
		return plan.Result{}, false, err
	}
	if !registry.IsImage(d.MediaType) {
		return plan.Result{}, false, nil
	}
	c, err := j.Registry.Config(ctx, j.Image.Repository, raw)
	if err != nil {
		return plan.Result{}, false, err
	}
	if c.Labels[plan.KeyAnnotation] != j.Image.Key || c.Labels[plan.HeadLabel] != j.Plan.Head || !isFor(c.Platform, b.Platform) {
		return plan.Result{}, false, nil
	}
	if c.Labels[plan.CreatedAnnotation] != planTime(j.Plan) && !j.Image.ContentOnly() {
		return plan.Result{}, false, nil
	}
	if err := json.Unmarshal([]byte(firstOf(c.Labels[plan.BasesAnnotation], "[]")), &b.bases); err != nil {
		return plan.Result{}, false, nil //nolint:nilerr // not ours, then
	}
	b.log.say(fmt.Sprintf("%s holds this build already: %s", j.Build.Destination, d.Digest))
	return b.result(d), true, nil
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
	if !registry.IsImage(d.MediaType) {
		return plan.Result{}, fmt.Errorf("verifying what was pushed: %s@%s is no image but %s", j.Image.Repository, digest, d.MediaType)
	}
	c, err := j.Registry.Config(ctx, j.Image.Repository, raw)
	if err != nil {
		return plan.Result{}, fmt.Errorf("verifying what was pushed: %w", err)
	}
	if !isFor(c.Platform, b.Platform) {
		return plan.Result{}, fmt.Errorf("the image that was built is for %s, and the build for %s", c.Platform, b.Platform)
	}
	b.log.say(fmt.Sprintf("pushed %s, %s", j.Build.Destination, digest))
	return b.result(d), nil
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
	if err != nil {
		return err
	}
	path := plan.ResultFile(b.Job.MetadataDir, r.ID)
	f, err := os.CreateTemp(filepath.Dir(path), ".result-")
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing the result: %w", errors.Join(err, os.Remove(f.Name())))
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
