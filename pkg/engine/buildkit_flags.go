package engine

import (
	"encoding/csv"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// fields writes pairs of KEY=VALUE as buildctl reads --output, --secret and the
// caches: as one line of CSV (RFC 4180), in which a value may hold anything.
func fields(pairs ...string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(pairs) // to memory
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// imageOnly are options of the exporter that pushes, and of no other.
var imageOnly = []string{"push-by-digest", "registry.insecure", "unpack", "store", "name-canonical", "dangling-name-prefix", "danging-name-empty-only"}

// outputFlags say what buildctl makes: the image in the registry, and a layout
// of the same bytes if outputs are made from it.
func outputFlags(p *Prepared) []string {
	j, b := p.Job, p.Job.Build
	common := map[string]string{"oci-mediatypes": "true"}
	if j.Plan.Publish.MediaType == "docker" && !attests(b) {
		common["oci-mediatypes"] = "false"
	}
	if b.Reproducible {
		common["rewrite-timestamp"] = "true"
	}
	pushed := map[string]string{}
	for k, v := range b.OutputOpts {
		if slices.Contains(imageOnly, k) {
			pushed[k] = v
		} else {
			common[k] = v
		}
	}
	var argv []string
	name := b.Destination
	if pushed["push-by-digest"] == "true" {
		name = j.Image.Repository // a name with a tag is refused then
	}
	if b.Pushes() {
		if _, said := pushed["registry.insecure"]; !said && insecure(hostOf(name), j.Plan.Publish.Insecure) {
			pushed["registry.insecure"] = "true"
		}
		maps.Copy(pushed, common)
		argv = append(argv, "--output", fields(slices.Concat([]string{"type=image", "name=" + name, "push=true"}, list(pushed))...))
	}
	if needsLayout(b) {
		if name != "" { // the statements of attestations hold it
			common["name"] = name
		}
		argv = append(argv, "--output", fields(slices.Concat([]string{"type=oci", "tar=false", "dest=" + filepath.Join(p.Dir, layoutDir)}, list(common))...))
	}
	return argv
}

// attests says whether the image gets attestations, which are OCI's alone.
func attests(b *plan.Build) bool {
	for _, opts := range []map[string]string{b.FrontendOpts, b.Args} {
		for k := range opts {
			if strings.HasPrefix(k, "attest:") || strings.Contains(k, "BUILDKIT_ATTEST_") {
				return true
			}
		}
	}
	return false
}

// maxTag is the length of a tag (OCI distribution specification).
const maxTag = 128

// checkBuildkitCache refuses what BuildKit's caches cannot do.
func checkBuildkitCache(b *plan.Build) error {
	c := b.Cache
	if c == nil || !c.Enable {
		return nil
	}
	switch {
	case c.Type == "inline" && c.Mode == "max":
		return failure.Input("build %s: cache.mode: an inline cache cannot hold the layers of all stages", b.ID)
	case c.Type == "local" && c.Path == "":
		return failure.Input("build %s: a local cache has no path", b.ID)
	case !slices.Contains([]string{"", "registry", "inline", "local"}, c.Type):
		return failure.Input("build %s: there is no cache of type %q", b.ID, c.Type)
	case !slices.Contains([]string{"", "min", "max"}, c.Mode):
		return failure.Input("build %s: there is no cache mode %q", b.ID, c.Mode)
	}
	if ref, err := registry.ParseReference(c.Repo); c.Repo != "" && (err != nil || ref.Tag != "" || ref.Digest != "") {
		return failure.WithHint(failure.Input("build %s: cache.repo is no repository without tag", b.ID), "each image and platform gets a tag of its own there")
	}
	return nil
}

// cacheFlags say where layers are kept. A cache that cannot be written is a
// warning of BuildKit's: the image is there all the same.
func cacheFlags(p *Prepared) []string {
	j, c := p.Job, p.Job.Build.Cache
	if c == nil || !c.Enable {
		return nil
	}
	mode := "mode=" + firstOf(c.Mode, "max")
	switch c.Type {
	case "inline":
		flags := []string{"--export-cache", fields("type=inline")}
		for _, tag := range inlineTags(j.Image) {
			flags = append(flags, "--import-cache", fields(reachable(j, "type=registry", "ref="+j.Image.Repository+":"+tag)...))
		}
		return flags
	case "local":
		dir := c.Path
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(j.Root, filepath.FromSlash(dir))
		}
		// A layout holds the cache of one build.
		dir = filepath.Join(dir, strings.ReplaceAll(j.Build.ID, "@", "-"))
		return []string{
			"--export-cache", fields("type=local", "dest="+dir, mode, "ignore-error=true"),
			"--import-cache", fields("type=local", "src="+dir),
		}
	}
	ref := j.Plan.CacheRepository(j.Build) + ":" + cacheTag(j.Build.ID)
	return []string{
		// As an image manifest, which is all that ECR takes.
		"--export-cache", fields(reachable(j, "type=registry", "ref="+ref, mode, "image-manifest=true", "oci-mediatypes=true", "ignore-error=true")...),
		"--import-cache", fields(reachable(j, "type=registry", "ref="+ref)...),
	}
}

// reachable adds to the options of a cache what lets BuildKit reach the
// registry of its ref=.
func reachable(j *Job, options ...string) []string {
	if insecure(hostOf(strings.TrimPrefix(options[1], "ref=")), j.Plan.Publish.Insecure) {
		options = append(options, "registry.insecure=true")
	}
	return options
}

// inlineTags are the tags under which the last image with its cache is found:
// those that move.
func inlineTags(img *plan.Image) []string {
	if len(img.Aliases) > 0 {
		return img.Aliases
	}
	return img.Tags[min(1, len(img.Tags)):]
}

// cacheTag is the tag of a build's cache.
func cacheTag(id string) string {
	tag := strings.ReplaceAll(id, "@", "-") + "-cache"
	if len(tag) > maxTag {
		sum := registry.Digest([]byte(id))
		tag = fmt.Sprintf("%s-%s-cache", tag[:80], strings.TrimPrefix(sum, "sha256:")[:16])
	}
	return tag
}
