package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// The values that keys take from a set.
var (
	engines    = []string{"kaniko", "buildkit", "make"}
	runners    = []string{"ci", "kubernetes", "ecs"}
	frontends  = []string{"dockerfile.v0", "gateway.v0"}
	outputs    = []string{"image", "docker-tar", "oci-tar", "oci-layout", "rootfs", "digest"}
	layouts    = []string{"tag", "repository", "git"}
	mediaTypes = []string{"oci", "docker"}
	cacheModes = []string{"min", "max"}
	cacheTypes = []string{"registry", "inline", "local"}
	policies   = []string{PolicyAlways, PolicyStale}
	ciSystems  = []string{"gitlab", "github", "concourse"}
	jobKinds   = []string{"prepare", "build", "manifest", "run", "gate", "workflow", "job", "resource", "weekly", "set_pipeline", "pipeline"}
	// commonPlatforms are for hints.
	commonPlatforms = []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x", "windows/amd64"}
)

// checker judges the values of one mapping in a file: each by itself, before
// layers are joined.
type checker struct {
	doc *document
	// prefix is the key path of the mapping.
	prefix []any
}

// fault reports a fault of the value at a key path below the mapping.
func (c checker) fault(rule, hint string, at []any, format string, args ...any) {
	if c.doc.full() {
		return
	}
	n, _ := locate(c.doc.root, append(slices.Clip(c.prefix), at...))
	c.doc.fault(n, rule, hint, format, args...)
}

func at(path ...any) []any { return path }

func (c checker) below(path ...any) checker {
	return checker{c.doc, append(slices.Clip(c.prefix), path...)}
}

// build judges the values of a build configuration.
func (c checker) build(b *BuildConfig) {
	c.upstream(b)
	c.path("dockerfile_path", b.DockerfilePath)
	c.path("context_path", b.ContextPath)
	if b.DockerfilePath != "" && path.Clean(b.DockerfilePath) == "." {
		c.fault("bad-path", "name the file: Dockerfile", at("dockerfile_path"), "dockerfile_path %s is the directory of the context", show(b.DockerfilePath))
	}
	c.targets(b.Targets)
	c.platforms(b.Platforms, at("platforms"))
	c.tags(b.AdditionalTags, at("additional_tags"))
	c.choice(b.Engine, engines, at("engine"))
	for i, arg := range b.EngineArgs {
		if flag, _, _ := strings.Cut(arg, "="); strings.TrimLeft(flag, "-") == "force" && flag != "force" {
			c.fault("forbidden-flag", "pipegen passes it where it is safe", at("engine_args", i), "%s is not accepted from configuration: it lets Kaniko delete the file system it runs in", show(flag))
		}
	}
	c.image(b.BuilderImage, at("builder_image"))
	c.choice(b.Frontend, frontends, at("frontend"))
	c.globs(b.Watch, "watch", true)
	c.distinct(b.DependsOn, "depends_on")
	for i, output := range b.Outputs {
		c.choice(output, outputs, at("outputs", i))
	}
	c.distinct(b.Outputs, "outputs")
	if b.Outputs != nil && len(b.Outputs) == 0 {
		c.fault("empty", "remove the key, or write outputs: [image]", at("outputs"), "outputs is empty: the build would yield nothing")
	}
	c.cache(b.Cache)
	c.resources(b.Resources)
	c.secrets(b.Secrets)
	c.ssh(b.SSH)
	c.mirrors(b.RegistryMirrors)
	c.choice(b.Runner, runners, at("runner"))
	c.duration(b.Timeout, at("timeout"))
	c.overrides(b.Overrides)
}

func (c checker) upstream(b *BuildConfig) {
	if b.UpstreamRepo != "" {
		if problem, hint := badGitURL(b.UpstreamRepo); problem != "" {
			c.fault("bad-git-url", hint, at("upstream_repo"), "upstream_repo %s", problem)
		}
	}
	if b.UpstreamRef != "" {
		if problem := badRef(b.UpstreamRef); problem != "" {
			c.fault("bad-ref", "a branch, a tag or a commit SHA", at("upstream_ref"), "upstream_ref %s %s", show(b.UpstreamRef), problem)
		}
	}
	if auth := b.UpstreamAuth; auth != nil {
		if (auth.TokenEnv == "") == (auth.SSHKeyEnv == "") {
			c.fault("bad-auth", "write token_env: NAME or ssh_key_env: NAME", at("upstream_auth"), "upstream_auth wants exactly one of token_env and ssh_key_env")
		}
		c.envName(auth.TokenEnv, at("upstream_auth", "token_env"))
		c.envName(auth.SSHKeyEnv, at("upstream_auth", "ssh_key_env"))
	}
}

func (c checker) path(key, value string) {
	if problem := badPath(value); problem != "" {
		c.fault("bad-path", "a relative path with slashes, below the root of the context", at(key), "%s %s %s", key, show(value), problem)
	}
}

func (c checker) targets(targets []Target) {
	if targets != nil && len(targets) == 0 {
		c.fault("empty", "remove the key", at("targets"), "targets is empty")
	}
	seen := map[string]bool{}
	for i, t := range targets {
		switch {
		case t.Name == "":
			c.fault("missing-key", "", at("targets", i), "a target has no name")
		case seen[t.Name]:
			c.fault("duplicate-target", "", at("targets", i, "name"), "there are two targets named %s", show(t.Name))
		}
		seen[t.Name] = true
		c.tags(t.AdditionalTags, at("targets", i, "additional_tags"))
	}
}

func (c checker) platforms(platforms []string, where []any) {
	if platforms != nil && len(platforms) == 0 {
		c.fault("empty", "remove the key for linux/amd64 and linux/arm64", where, "platforms is empty")
	}
	seen := map[Platform]string{}
	for i, s := range platforms {
		c.platform(s, append(slices.Clip(where), i), seen)
	}
}

func (c checker) platform(s string, where []any, seen map[Platform]string) {
	if c.doc.full() {
		return
	}
	p, err := ParsePlatform(s)
	if err != nil {
		hint := ""
		if near := Nearest(s, commonPlatforms); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		c.fault("unknown-platform", hint, where, "%s", err)
		return
	}
	if first, twice := seen[p]; twice {
		c.fault("duplicate-platform", "", where, "%s is the same platform as %s, which is named before", show(s), show(first))
		return
	}
	seen[p] = s
}

func (c checker) tags(tags []string, where []any) {
	seen := map[string]bool{}
	for i, tag := range tags {
		here := append(slices.Clip(where), i)
		switch {
		case !isTag(tag):
			c.fault("bad-tag", "letters, digits, _, . and -, not beginning with . or -, at most 128", here, "%s is no valid tag", show(tag))
		case seen[tag]:
			c.fault("duplicate-tag", "", here, "the tag %s is named twice", show(tag))
		}
		seen[tag] = true
	}
}

func (c checker) cache(cache *Cache) {
	if cache == nil {
		return
	}
	c.duration(cache.TTL, at("cache", "ttl"))
	c.choice(cache.Mode, cacheModes, at("cache", "mode"))
	c.choice(cache.Type, cacheTypes, at("cache", "type"))
	switch {
	case cache.Type == "local" && cache.Path == "":
		c.fault("missing-key", "a directory that outlives the build", at("cache"), "a local cache has no path")
	case cache.Type != "local" && cache.Path != "":
		c.fault("bad-cache", "add type: local", at("cache", "path"), "cache.path is the directory of a local cache")
	case cache.Type == "inline" && cache.Mode == "max":
		c.fault("bad-cache", "type: registry can hold them", at("cache", "mode"), "an inline cache cannot hold the layers of all stages")
	}
	c.image(cache.Repo, at("cache", "repo"))
	if strings.Contains(cache.Repo, "://") {
		c.fault("bad-registry", "write registry/repository", at("cache", "repo"), "cache.repo has a scheme")
	}
}

func (c checker) resources(r *Resources) {
	if r == nil {
		return
	}
	for _, q := range []struct {
		key, value string
		judge      func(string) string
		hint       string
	}{
		{"cpu", r.CPU, badCPU, `"2", "0.5" or "500m"`},
		{"memory", r.Memory, badSize, `a number with a unit: "2Gi" or "512M"`},
		{"ephemeral_storage", r.EphemeralStorage, badSize, `a number with a unit: "20Gi"`},
	} {
		if q.value == "" {
			continue
		}
		if problem := q.judge(q.value); problem != "" {
			c.fault("bad-quantity", q.hint, at("resources", q.key), "resources.%s %s %s", q.key, show(q.value), problem)
		}
	}
}

func (c checker) secrets(secrets []Secret) {
	seen := map[string]bool{}
	for i, s := range secrets {
		switch {
		case s.ID == "":
			c.fault("missing-key", "", at("secrets", i), "a secret has no id")
		case strings.ContainsAny(s.ID, ", =\t"):
			c.fault("bad-secret", "", at("secrets", i, "id"), "the id %s contains a blank, a comma or an =", show(s.ID))
		case seen[s.ID]:
			c.fault("duplicate-secret", "", at("secrets", i, "id"), "there are two secrets with the id %s", show(s.ID))
		}
		seen[s.ID] = true
		if !s.Sound() {
			c.fault("bad-secret", "write env: NAME, file: PATH, or arn: ARN (with env if scripts are to see it)", at("secrets", i), "a secret wants exactly one of env, file and arn")
		}
		if s.ARN != "" {
			if _, err := ParseStoredSecret(s.ARN); err != nil {
				c.fault("bad-arn", failure.Hint(err), at("secrets", i, "arn"), "%s", err)
			}
		}
		c.envName(s.Env, at("secrets", i, "env"))
	}
}

func (c checker) ssh(keys []SSH) {
	seen := map[string]bool{}
	for i, s := range keys {
		if s.ID == "" {
			s.ID = "default"
		}
		switch {
		case strings.ContainsAny(s.ID, ", =\t"):
			c.fault("bad-secret", "", at("ssh", i, "id"), "the id %s contains a blank, a comma or an =", show(s.ID))
		case seen[s.ID]:
			c.fault("duplicate-secret", "", at("ssh", i), "there are two ssh entries with the id %s", show(s.ID))
		case s.Env != "" && s.File != "":
			c.fault("bad-secret", "write env: NAME, file: PATH, or neither for the agent of SSH_AUTH_SOCK", at("ssh", i), "an ssh entry wants at most one of env and file")
		}
		seen[s.ID] = true
		c.envName(s.Env, at("ssh", i, "env"))
	}
}

func (c checker) mirrors(mirrors []string) {
	c.distinct(mirrors, "registry_mirrors")
	for i, m := range mirrors {
		if m != "" && (strings.ContainsAny(m, " \t@") || strings.Contains(m, "://")) {
			c.fault("bad-registry", "write HOST[:PORT] or HOST[:PORT]/PATH", at("registry_mirrors", i), "%s is no name of a registry", show(quote.URL(m)))
		}
	}
}

func (c checker) overrides(overrides map[string]Override) {
	if len(overrides) == 0 {
		return
	}
	seen := map[Platform]string{}
	for _, e := range c.entries("overrides") {
		key := e.key.Value
		c.platform(key, at("overrides", key), seen)
		if o, ok := overrides[key]; ok {
			c.below("overrides", key).build(o.config())
		}
	}
}

// config gives an override as a build configuration that says nothing else.
func (o Override) config() *BuildConfig {
	return &BuildConfig{
		DockerfilePath: o.DockerfilePath, ContextPath: o.ContextPath, Target: o.Target, BuildArgs: o.BuildArgs,
		Engine: o.Engine, EngineArgs: o.EngineArgs, BuilderImage: o.BuilderImage,
		Frontend: o.Frontend, FrontendOpts: o.FrontendOpts, Contexts: o.Contexts, Command: o.Command,
		PreScript: o.PreScript, PostScript: o.PostScript, Env: o.Env, Outputs: o.Outputs, OutputOpts: o.OutputOpts,
		Cache: o.Cache, Resources: o.Resources, Labels: o.Labels, Secrets: o.Secrets,
		Runner: o.Runner, Timeout: o.Timeout,
	}
}

// entries gives the entries of a mapping below this one, as they are written.
func (c checker) entries(key string) []entry {
	n := c.doc.tree()
	if n == nil {
		return nil
	}
	for _, step := range append(slices.Clip(c.prefix), key) {
		_, value := child(target(n), step)
		if value == nil {
			return nil
		}
		n = value
	}
	return entries(target(n), &document{})
}

func (c checker) choice(value string, set []string, where []any) {
	if value != "" && !slices.Contains(set, value) {
		c.fault("unknown-value", oneOf(value, set), where, "unknown value %s of %s", show(value), keyIn(where))
	}
}

func (c checker) distinct(values []string, key string) {
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		if value == "" {
			c.fault("empty", "", at(key, i), "an entry of %s is empty", key)
		} else if seen[value] {
			c.fault("duplicate-value", "", at(key, i), "%s is named twice in %s", show(value), key)
		}
		seen[value] = true
	}
}

func (c checker) globs(globs []string, key string, ofFiles bool) {
	for i, glob := range globs {
		if problem, hint := badGlob(glob, ofFiles); problem != "" {
			c.fault("bad-glob", hint, at(key, i), "%s %s", show(glob), problem)
		}
	}
}

func (c checker) image(image string, where []any) {
	switch {
	case isEndOfLife(image):
		c.fault("end-of-life", "use a maintained fork: osscontainertools/kaniko, chainguard-dev/kaniko, or pipegen's own builder image", where, "%s is of an archived project that gets no security fixes", show(quote.URL(image)))
	case strings.ContainsAny(image, " \t"):
		c.fault("bad-image", "", where, "%s is no name of an image", show(image))
	}
}

func (c checker) envName(name string, where []any) {
	if name != "" && !isEnvName(name) {
		// It may be the secret itself, written in the wrong place.
		c.fault("bad-env-name", "write the variable's name, not its value", where, "%s is no name of an environment variable", keyIn(where))
	}
}

func (c checker) duration(value string, where []any) {
	if value == "" {
		return
	}
	if problem := badDuration(value); problem != "" {
		c.fault("bad-duration", "for example 45m or 1h30m", where, "%s %s %s", keyIn(where), show(value), problem)
	}
}

// keyIn gives the last key of a path, without the indexes after it.
func keyIn(path []any) string {
	for _, step := range slices.Backward(path) {
		if key, ok := step.(string); ok {
			return key
		}
	}
	return ""
}
