// Package plan works out what is to be built for one commit, and why: the
// images, their builds, tags and order, as one document that everything
// after planning works from.
package plan

import (
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
)

// Version is the version of the plan document that this package reads and
// writes.
const Version = 1

// Plan is all that is to be done for one commit. Its JSON form is the one
// thing that passes between planning and everything after it; whoever holds
// it and the checkout needs nothing else. The same input gives the same bytes.
type Plan struct {
	Version int `json:"version"`
	// What led to this plan: push, tag, merge_request, merge_group, schedule, manual, or local.
	Event string `json:"event"`
	// Commit that the head was compared with; empty if none could be used.
	Base string `json:"base"`
	// Commit that is built.
	Head string `json:"head"`
	// Whether the work tree differed from the head; such a plan carries one tag an image.
	Dirty bool `json:"dirty,omitempty"`
	// Committer time of the head.
	Committed time.Time `json:"committed"`
	// The plan's time: the one time that everything made from the plan uses.
	Created time.Time `json:"created"`
	// Number of the CI pipeline; empty outside CI.
	Pipeline string `json:"pipeline"`
	// Registry, and in layout tag the repository; may be empty, then nothing can be built from the plan.
	Registry string `json:"registry"`
	// How names and tags share the registry: tag, repository or git.
	Layout string `json:"layout"`
	// What rendered jobs need beside the builds.
	CI CI `json:"ci"`
	// How images are published.
	Publish config.Publish `json:"publish"`
	// Daemons for the builds with BuildKit.
	BuildKit config.BuildKit `json:"buildkit,omitzero"`
	// In dependency order, names sorted within a level.
	Images []Image `json:"images"`
	// Images that are left out, and why.
	Skipped []Skipped `json:"skipped"`
}

// CI holds what rendered jobs need beside the builds.
type CI struct {
	// Container image of jobs that plan and publish; empty: the CI variable PIPEGEN_IMAGE.
	Image string `json:"image,omitempty"`
	// Runner of those jobs.
	Runner config.Runner `json:"runner"`
	// YAML merged into rendered jobs, by CI system and kind of job.
	Overlays map[string]map[string]config.Overlay `json:"overlays,omitempty"`
	// Whom jobs show the identity to that the CI system gives them when the controller builds; empty: they have a token of it.
	Audience string `json:"audience,omitempty"`
}

// Image is what a project yields: the builds of one name, joined under tags.
type Image struct {
	Name string `json:"name"`
	// Directory of the project, relative to the root of the repository, with slashes.
	Dir string `json:"dir"`
	// Content key: SHA-256 in hex over everything that decides the image's bytes.
	Key string `json:"key"`
	// What went into the key: the name of each input and the first 12 hex digits
	// of the SHA-256 of its value.
	Inputs map[string]string `json:"inputs,omitempty"`
	// Why it is built; never empty.
	Reasons []Reason `json:"reasons"`
	// Where its files come from; nil: this repository at the plan's head.
	Source *Source `json:"source,omitempty"`
	// Repository without tag.
	Repository string `json:"repository"`
	// Tags without repository: first the one of date and commit, then the moving ones.
	Tags []string `json:"tags"`
	// Tags that an image of a dirty tree does not get, but by which Dockerfiles
	// in this plan mean it.
	Aliases []string `json:"aliases,omitempty"`
	// Tag that carries the content key; empty when keys are not published.
	KeyTag string `json:"key_tag,omitempty"`
	// Names of images in this plan that must be published first.
	Needs []string `json:"needs"`
	// Whether the tags name an index; false: the bare manifest of the only build.
	Index bool `json:"index"`
	// Annotations of the index, beside pipegen's own.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Digest in Repository of an earlier publication with this very content. It
	// gets this plan's tags, and Builds is empty.
	Retag  string  `json:"retag,omitempty"`
	Builds []Build `json:"builds"`
}

// Source is an upstream repository at one commit.
type Source struct {
	Repo string `json:"repo"`
	// What the configuration asked for: tag, branch or commit.
	Ref string `json:"ref"`
	// What that was when the plan was made; 40 hex digits.
	Commit string `json:"commit"`
	// Where the credential comes from; nil: the CI job's token, for the CI's own GitLab alone.
	Auth *config.UpstreamAuth `json:"auth,omitempty"`
}

// OwnGitLab are the variables by which the job of a GitLab opens its repositories,
// for a source without a credential of its own.
var OwnGitLab = []string{"CI_JOB_TOKEN", "CI_SERVER_HOST", "CI_SERVER_PORT"}

// Build is one image for one platform, with its whole specification resolved.
type Build struct {
	// IMAGE@ARCH[-VARIANT], with the OS before ARCH for other systems than Linux.
	ID       string `json:"id"`
	Platform string `json:"platform"`
	// kaniko, buildkit or make.
	Engine string `json:"engine"`
	// Reference that the build is pushed to.
	Destination string `json:"destination"`
	// Directory, relative to the root of the checkout or of the upstream repository.
	Context string `json:"context"`
	// File, relative to the same root.
	Dockerfile string `json:"dockerfile"`
	// Text that is built in place of the file; Dockerfile is then no more than its name.
	DockerfileInline string `json:"dockerfile_inline,omitempty"`
	// Stage; empty: the last.
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	EngineArgs []string          `json:"engine_args,omitempty"`
	// Frontend, FrontendOpts and Contexts are BuildKit's.
	Frontend     string            `json:"frontend,omitempty"`
	FrontendOpts map[string]string `json:"frontend_opts,omitempty"`
	Contexts     map[string]string `json:"contexts,omitempty"`
	// Command of the make engine.
	Command string `json:"command,omitempty"`
	// PreScript and PostScript run with sh -e in the context directory.
	PreScript  string            `json:"pre_script,omitempty"`
	PostScript string            `json:"post_script,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	// image, docker-tar, oci-tar, oci-layout, rootfs, digest.
	Outputs []string `json:"outputs"`
	// Options of BuildKit's exporter of the image.
	OutputOpts map[string]string `json:"output_opts,omitempty"`
	// Whether times are left out of the image, so that the same input gives the same digest.
	Reproducible bool `json:"reproducible,omitempty"`
	// Mirrors of docker.io, asked before it in this order.
	RegistryMirrors []string `json:"registry_mirrors,omitempty"`
	// Labels of the image, OCI's own included.
	Labels    map[string]string `json:"labels,omitempty"`
	Cache     *config.Cache     `json:"cache,omitempty"`
	Resources *config.Resources `json:"resources,omitempty"`
	// Secrets by reference.
	Secrets []config.Secret `json:"secrets,omitempty"`
	// SSH agents and keys by reference, for BuildKit.
	SSH []config.SSH `json:"ssh,omitempty"`
	// Container image in which CI, Kubernetes and ECS run this build; empty: the CI variable PIPEGEN_IMAGE.
	BuilderImage string `json:"builder_image,omitempty"`
	// Where the rendered job builds: ci, kubernetes or ecs.
	Runner string `json:"runner"`
	// Which runner of the CI system takes the job.
	RunsOn config.Runner `json:"runs_on"`
	// Limit of the build, as Go writes a duration.
	Timeout string `json:"timeout"`
}

// Reason is one ground for building an image.
type Reason struct {
	Kind ReasonKind `json:"kind"`
	// Evidence: a path, a line of the weekly list, the name of a dependency.
	Detail string `json:"detail"`
}

// ReasonKind says of what kind a reason is.
type ReasonKind string

// The kinds of reason.
const (
	Changed     ReasonKind = "changed"
	Watched     ReasonKind = "watched"
	RemovedBase ReasonKind = "removed-base" // the base cannot be used: everything is selected
	RebuildAll  ReasonKind = "rebuild-all"
	Weekly      ReasonKind = "weekly"
	Named       ReasonKind = "named"
	All         ReasonKind = "all"
	Missing     ReasonKind = "missing"
	Stale       ReasonKind = "stale"
	Dependency  ReasonKind = "dependency"
)

// forces says whether the reason asks for a new image even if there is one with
// the same content.
func (r Reason) forces() bool {
	return slices.Contains([]ReasonKind{RebuildAll, Weekly, Named, All, Stale}, r.Kind)
}

// ContentOnly says whether any image with this content will do: nothing asks
// for a new one, and nothing that it is built on is built anew.
func (img *Image) ContentOnly() bool {
	return !slices.ContainsFunc(img.Reasons, func(r Reason) bool { return r.forces() || r.Kind == Dependency })
}

// Skipped is an image that is left out of a plan.
type Skipped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Find gives the build with this id and its image.
func (p *Plan) Find(id string) (*Image, *Build, bool) {
	for i := range p.Images {
		for j := range p.Images[i].Builds {
			if p.Images[i].Builds[j].ID == id {
				return &p.Images[i], &p.Images[i].Builds[j], true
			}
		}
	}
	return nil, nil, false
}

// CacheRepository gives the repository that keeps the build's layers; empty if
// none does.
func (p *Plan) CacheRepository(b *Build) string {
	c := b.Cache
	switch {
	case c == nil || !c.Enable || c.Type != "" && c.Type != "registry":
		return ""
	case c.Repo != "":
		return c.Repo
	case p.Layout == "repository":
		return p.Registry + "/cache"
	}
	return p.Registry
}

// Pushes says whether the build pushes an image to its destination.
func (b *Build) Pushes() bool { return len(b.Outputs) == 0 || slices.Contains(b.Outputs, "image") }

// Files says whether the build leaves outputs that are files: what was asked
// for, or what a project's own make may leave.
func (b *Build) Files() bool {
	return b.Engine == "make" || slices.ContainsFunc(b.Outputs, func(o string) bool { return o != "image" })
}

// Credentials gives the names of environment variables that the build takes
// secrets from, those for its source left out.
func (b *Build) Credentials() []string {
	var names []string
	for _, s := range b.Secrets {
		if s.ARN == "" {
			names = append(names, s.Env)
		}
	}
	for _, s := range b.SSH {
		names = append(names, s.Env)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// Stored gives the ARNs of the secrets of the build that AWS keeps.
func (b *Build) Stored() []string {
	var arns []string
	for _, s := range b.Secrets {
		if s.ARN != "" {
			arns = append(arns, s.ARN)
		}
	}
	slices.Sort(arns)
	return slices.Compact(arns)
}

// Pushes says whether any build of the image is pushed, so that there is
// something to publish.
func (img *Image) Pushes() bool {
	return len(img.Builds) == 0 || slices.ContainsFunc(img.Builds, func(b Build) bool { return b.Pushes() })
}

// Image gives the image of this name.
func (p *Plan) Image(name string) (*Image, bool) {
	for i := range p.Images {
		if p.Images[i].Name == name {
			return &p.Images[i], true
		}
	}
	return nil, false
}
