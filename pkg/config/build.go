// Package config reads build-config.yaml, pipegen.yaml and rebuild-weekly.txt,
// checks them, and reports every fault with its position and a hint.
package config

// BuildConfig is what a build-config.yaml says: every key of the file. Zero
// values mean that the key was not written, except where a pointer says so.
type BuildConfig struct {
	// Git URL of the upstream repository whose Dockerfile is built. Without it the context is the project directory.
	UpstreamRepo string `yaml:"upstream_repo,omitempty"`
	// Tag, branch or commit SHA of the upstream repository.
	UpstreamRef string `yaml:"upstream_ref,omitempty"`
	// Where the credential for the upstream repository comes from; default: the CI job's own token, for the CI's own GitLab.
	UpstreamAuth *UpstreamAuth `yaml:"upstream_auth,omitempty"`
	// Says what is the default without upstream_repo: the context is the project directory.
	UseLocalContext *bool `yaml:"use_local_context,omitempty"`
	// Name of the image; default: the directory's name.
	Name string `yaml:"name,omitempty"`
	// Dockerfile, relative to the root of the upstream repository or to the project directory.
	DockerfilePath string `yaml:"dockerfile_path,omitempty"`
	// Build context, relative to the same root.
	ContextPath string `yaml:"context_path,omitempty"`
	// Stage of the Dockerfile to build; empty: the last.
	Target string `yaml:"target,omitempty"`
	// Several images from one Dockerfile, each named PROJECT-NAME.
	Targets []Target `yaml:"targets,omitempty"`
	// Build arguments, a list of K=V or a map.
	BuildArgs Pairs `yaml:"build_args,omitempty"`
	// Platforms to build for; default: linux/amd64 and linux/arm64.
	Platforms []string `yaml:"platforms,omitempty"`
	// Tags beside the one of date and commit.
	AdditionalTags []string `yaml:"additional_tags,omitempty"`
	// What turns the context into an image.
	Engine string `yaml:"engine,omitempty"`
	// Extra flags for the engine, passed as they are.
	EngineArgs []string `yaml:"engine_args,omitempty"`
	// Container image in which CI, Kubernetes and ECS run this build; default: from images in pipegen.yaml.
	BuilderImage string `yaml:"builder_image,omitempty"`
	// BuildKit frontend: dockerfile.v0 or gateway.v0.
	Frontend string `yaml:"frontend,omitempty"`
	// Options of the BuildKit frontend.
	FrontendOpts Pairs `yaml:"frontend_opts,omitempty"`
	// Named build contexts (BuildKit only).
	Contexts Pairs `yaml:"contexts,omitempty"`
	// Command of the make engine; default: make clean release.
	Command string `yaml:"command,omitempty"`
	// Keys that differ per platform. Maps merge, the rest replaces.
	Overrides map[string]Override `yaml:"overrides,omitempty"`
	// Globs outside the directory whose change also rebuilds it.
	Watch []string `yaml:"watch,omitempty"`
	// Images that must be published first, beside those that the Dockerfile names.
	DependsOn []string `yaml:"depends_on,omitempty"`
	// Script (sh -e) before the engine, in the context directory.
	PreScript *string `yaml:"pre_script,omitempty"`
	// Script (sh -e) after success of the engine, in the context directory.
	PostScript *string `yaml:"post_script,omitempty"`
	// Environment of the scripts and of the make engine.
	Env Pairs `yaml:"env,omitempty"`
	// What a build yields: image (push), docker-tar, oci-tar, oci-layout, rootfs, digest.
	Outputs []string `yaml:"outputs,omitempty"`
	// Options of BuildKit's image exporter, such as compression: zstd (BuildKit only).
	OutputOpts Pairs `yaml:"output_opts,omitempty"`
	// Leaves times out of the image, so that the same input gives the same digest.
	Reproducible *bool `yaml:"reproducible,omitempty"`
	// Mirrors of docker.io, HOST[:PORT][/PATH], asked before it in this order.
	RegistryMirrors []string `yaml:"registry_mirrors,omitempty"`
	// Layer cache.
	Cache *Cache `yaml:"cache,omitempty"`
	// What a build may use, in Kubernetes quantities.
	Resources *Resources `yaml:"resources,omitempty"`
	// Whether the tags name an index; false: an image with one platform gets them on its bare manifest.
	Index *bool `yaml:"index,omitempty"`
	// Labels of the image.
	Labels Pairs `yaml:"labels,omitempty"`
	// Annotations of the index.
	Annotations Pairs `yaml:"annotations,omitempty"`
	// Secrets of the build, by reference.
	Secrets []Secret `yaml:"secrets,omitempty"`
	// SSH agents and keys of the build, by reference (BuildKit only).
	SSH []SSH `yaml:"ssh,omitempty"`
	// Where the rendered job builds: ci, kubernetes or ecs.
	Runner string `yaml:"runner,omitempty"`
	// Limit of one build, a duration such as 45m; default: 1h.
	Timeout string `yaml:"timeout,omitempty"`
}

// Override holds the keys that a platform may set for itself.
type Override struct {
	DockerfilePath string     `yaml:"dockerfile_path,omitempty"`
	ContextPath    string     `yaml:"context_path,omitempty"`
	Target         string     `yaml:"target,omitempty"`
	BuildArgs      Pairs      `yaml:"build_args,omitempty"`
	Engine         string     `yaml:"engine,omitempty"`
	EngineArgs     []string   `yaml:"engine_args,omitempty"`
	BuilderImage   string     `yaml:"builder_image,omitempty"`
	Frontend       string     `yaml:"frontend,omitempty"`
	FrontendOpts   Pairs      `yaml:"frontend_opts,omitempty"`
	Contexts       Pairs      `yaml:"contexts,omitempty"`
	Command        string     `yaml:"command,omitempty"`
	PreScript      *string    `yaml:"pre_script,omitempty"`
	PostScript     *string    `yaml:"post_script,omitempty"`
	Env            Pairs      `yaml:"env,omitempty"`
	Outputs        []string   `yaml:"outputs,omitempty"`
	OutputOpts     Pairs      `yaml:"output_opts,omitempty"`
	Cache          *Cache     `yaml:"cache,omitempty"`
	Resources      *Resources `yaml:"resources,omitempty"`
	Labels         Pairs      `yaml:"labels,omitempty"`
	Secrets        []Secret   `yaml:"secrets,omitempty"`
	Runner         string     `yaml:"runner,omitempty"`
	Timeout        string     `yaml:"timeout,omitempty"`
}

// UpstreamAuth names the environment variable that holds a credential for
// the upstream repository; the credential itself is never in a file.
type UpstreamAuth struct {
	// Variable with an access token, sent as the password over HTTPS.
	TokenEnv string `yaml:"token_env,omitempty" json:"token_env,omitempty"`
	// Variable with a private key in PEM, or the path of one.
	SSHKeyEnv string `yaml:"ssh_key_env,omitempty" json:"ssh_key_env,omitempty"`
}

// Target is one of several images made from one Dockerfile.
type Target struct {
	// Suffix of the image's name: PROJECT-NAME.
	Name string `yaml:"name"`
	// Stage of the Dockerfile; default: the same as name.
	Target string `yaml:"target,omitempty"`
	// Tags beside the one of date and commit; default: the project's.
	AdditionalTags []string `yaml:"additional_tags,omitempty"`
}

// Cache is the engine's layer cache.
type Cache struct {
	// Whether layers are cached.
	Enable bool `yaml:"enable,omitempty" json:"enable"`
	// Registry repository of the cache; default: {registry}/cache in layout repository, the registry's own repository else.
	Repo string `yaml:"repo,omitempty" json:"repo,omitempty"`
	// How long a layer stays valid, a duration such as 24h (Kaniko only).
	TTL string `yaml:"ttl,omitempty" json:"ttl,omitempty"`
	// BuildKit: min, the layers of the image alone, or max, those of all stages; default: max, for inline min.
	Mode string `yaml:"mode,omitempty" json:"mode,omitempty"`
	// registry (default), inline (in the image) or local (a directory); the last two are BuildKit's.
	Type string `yaml:"type,omitempty" json:"type,omitempty"`
	// Directory of a local cache; one that is relative is below the root of the checkout.
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
	// Kaniko: whether layers of COPY are cached too; default: false.
	CopyLayers *bool `yaml:"copy_layers,omitempty" json:"copy_layers,omitempty"`
	// Kaniko: whether layers of RUN are cached; default: true.
	RunLayers *bool `yaml:"run_layers,omitempty" json:"run_layers,omitempty"`
	// Kaniko: whether layers are compressed in memory before they are cached; false takes less memory. Default: true.
	Compressed *bool `yaml:"compressed,omitempty" json:"compressed,omitempty"`
}

// SSH is an agent or a key that RUN --mount=type=ssh may use, by reference.
// Without env and file it is the agent of SSH_AUTH_SOCK.
type SSH struct {
	// Name by which the Dockerfile mounts it; default: default.
	ID string `yaml:"id,omitempty" json:"id,omitempty"`
	// Environment variable with a private key in PEM, or the path of one.
	Env string `yaml:"env,omitempty" json:"env,omitempty"`
	// File with a private key in PEM.
	File string `yaml:"file,omitempty" json:"file,omitempty"`
}

// Resources are quantities as in Kubernetes: cpu "500m", memory "2Gi".
type Resources struct {
	// Processors: "2", "0.5" or "500m".
	CPU string `yaml:"cpu,omitempty" json:"cpu,omitempty"`
	// Bytes with a unit: "2Gi" or "512M".
	Memory string `yaml:"memory,omitempty" json:"memory,omitempty"`
	// Disk space of the build, in bytes with a unit: "20Gi".
	EphemeralStorage string `yaml:"ephemeral_storage,omitempty" json:"ephemeral_storage,omitempty"`
}

// Secret is a secret of the build by reference: its value is in an
// environment variable, in a file or kept by AWS, never in the configuration.
type Secret struct {
	// Name by which the Dockerfile mounts it.
	ID string `yaml:"id" json:"id"`
	// Environment variable with the value.
	Env string `yaml:"env,omitempty" json:"env,omitempty"`
	// File with the value.
	File string `yaml:"file,omitempty" json:"file,omitempty"`
	// ARN of a secret of Secrets Manager or of a parameter of SSM with the value; env may name a variable for it.
	ARN string `yaml:"arn,omitempty" json:"arn,omitempty"`
}
