package config

// Pipegen is what pipegen.yaml at the root of the repository says.
type Pipegen struct {
	// Registry, and in layout tag the repository too; default: $ECR_REGISTRY.
	Registry string `yaml:"registry,omitempty"`
	// How names and tags share the registry: tag, repository or git.
	Layout string `yaml:"layout,omitempty"`
	// Globs of project directories; default: every directory with a build-config.yaml.
	Projects []string `yaml:"projects,omitempty"`
	// Globs that never rebuild; default: **/README.md.
	Ignore []string `yaml:"ignore,omitempty"`
	// Globs that rebuild everything.
	RebuildAll []string `yaml:"rebuild_all,omitempty"`
	// Defaults of every project: any key of build-config.yaml.
	Defaults *BuildConfig `yaml:"defaults,omitempty"`
	// Where the jobs of a platform run, by platform (linux/arm64).
	Runners map[string]Runner `yaml:"runners,omitempty"`
	// The container images that jobs run in.
	Images Images `yaml:"images,omitempty"`
	// YAML merged into every rendered job of one kind, by CI system (gitlab, github, concourse) and kind (prepare, build, manifest, gate; for GitHub also workflow).
	Overlays map[string]map[string]Overlay `yaml:"overlays,omitempty"`
	// BuildKit daemons.
	BuildKit BuildKit `yaml:"buildkit,omitempty"`
	// How images are published.
	Publish Publish `yaml:"publish,omitempty"`
	// The controller: its URL for clients, and its own settings.
	Server *Server `yaml:"server,omitempty"`
}

// Runner says where the jobs of one platform run, per CI system.
type Runner struct {
	// Tags of the GitLab runner; default: $CICD_TAG_ARCH, else $CICD_TAG.
	GitLab []string `yaml:"gitlab,omitempty" json:"gitlab,omitempty"`
	// Label of the GitHub runner.
	GitHub string `yaml:"github,omitempty" json:"github,omitempty"`
	// Tags of the Concourse worker.
	Concourse []string `yaml:"concourse,omitempty" json:"concourse,omitempty"`
}

// Images are the container images that jobs run in; each may name a CI
// variable. Default: the CI variable PIPEGEN_IMAGE.
type Images struct {
	// Planning and publishing.
	Pipegen string `yaml:"pipegen,omitempty" json:"pipegen,omitempty"`
	// Builds with Kaniko.
	Kaniko string `yaml:"kaniko,omitempty" json:"kaniko,omitempty"`
	// Builds with BuildKit.
	BuildKit string `yaml:"buildkit,omitempty" json:"buildkit,omitempty"`
	// Builds with the project's own make.
	Make string `yaml:"make,omitempty" json:"make,omitempty"`
}

// Overlay is YAML that is merged into a rendered job: maps by key, the rest
// replaces.
type Overlay map[string]any

// BuildKit names the daemons and the certificates for them.
type BuildKit struct {
	// Addresses of the daemons, such as tcp://buildkit:1234; an image goes to the same one each time.
	Addresses []string `yaml:"addresses,omitempty" json:"addresses,omitempty"`
	// File with the certificate of the authority that signed the daemons' own, relative to the root, or $NAME for a variable that holds its path.
	CACert string `yaml:"ca_cert,omitempty" json:"ca_cert,omitempty"`
	// File with the client's certificate, likewise.
	Cert string `yaml:"cert,omitempty" json:"cert,omitempty"`
	// File with the client's key, likewise.
	Key string `yaml:"key,omitempty" json:"key,omitempty"`
	// Allows plain tcp, over which every RUN step can reach the daemon.
	Insecure bool `yaml:"insecure,omitempty" json:"insecure,omitempty"`
}

// Publish says how images are published.
type Publish struct {
	// Media type of an index: oci (default) or docker.
	MediaType string `yaml:"media_type,omitempty" json:"media_type,omitempty"`
	// Whether content keys are published as tags; default: true.
	Keys *bool `yaml:"keys,omitempty" json:"keys,omitempty"`
	// Registries (host[:port]) that may be reached over plain HTTP; loopback always may.
	Insecure []string `yaml:"insecure,omitempty" json:"insecure,omitempty"`
	// Publishes how each image was made, as a SLSA provenance statement beside it.
	Attest bool `yaml:"attest,omitempty" json:"attest,omitempty"`
	// Signs each image, as cosign does.
	Sign *Sign `yaml:"sign,omitempty" json:"sign,omitempty"`
	// Other registries that images are copied to once they are published.
	Also []Also `yaml:"also,omitempty" json:"also,omitempty"`
	// Creates missing ECR repositories: true, or how they are made.
	CreateRepository *CreateRepository `yaml:"create_repository,omitempty" json:"create_repository,omitempty"`
	// Pull-through caches of ECR that are made if they are missing.
	PullThrough []PullThrough `yaml:"pull_through,omitempty" json:"pull_through,omitempty"`
	// How AWS is signed in to for registries of ECR, by host.
	Registries map[string]RegistryAccess `yaml:"registries,omitempty" json:"registries,omitempty"`
	// Signs in to AWS by the identity that the CI system gives a job, without keys.
	IDToken *IDToken `yaml:"id_token,omitempty" json:"id_token,omitempty"`
}
