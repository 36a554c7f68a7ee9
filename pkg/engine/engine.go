// Package engine does one build of a plan: it fetches the source, runs the
// scripts around the engine, has the engine build and push the image, and
// checks what came of it against the registry.
package engine

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Job is one build and what it is done with.
type Job struct {
	Plan  *plan.Plan
	Image *plan.Image
	Build *plan.Build
	// Root of the checkout.
	Root string
	// Directory for ID.json and ID.log, and with the indexes/NAME.json of what
	// the image depends on.
	MetadataDir string
	Registry    Registry
	// Where the engine runs; nil: in place, which Kaniko allows only in a
	// container that was made for it.
	Sandbox Sandbox
	// Path of the engine's program; empty: see FindExecutor. A sandbox has its
	// own.
	Executor string
	// Takes every line of scripts and engine as it comes; may be nil.
	Log     io.Writer
	Getenv  func(string) string
	Environ []string
	// Directory of what is kept between builds: $XDG_CACHE_HOME/pipegen.
	CacheDir string
	Now      func() time.Time
	// Whether RUN steps of a platform can be executed here; nil: all can, as on
	// a machine that the platform's runner tags chose.
	Executes func(config.Platform) bool

	// place is what tests put in the stead of this machine.
	place *place
}

// place is where a build without a sandbox runs.
type place struct {
	host host
	dir  string // Kaniko's
}

// Registry is what a build asks of registries; *registry.Client is one.
type Registry interface {
	Head(ctx context.Context, ref string) (registry.Descriptor, error)
	Get(ctx context.Context, ref string) (registry.Descriptor, []byte, error)
	Config(ctx context.Context, repository string, manifest []byte) (registry.Config, error)
	DockerConfig(ctx context.Context, hosts []string) ([]byte, error)
}

// Sandbox runs a command in a root of pipegen's own making, in which the
// engine's program is SandboxDir/executor.
type Sandbox interface {
	// Run waits for the end of c. A command that ends with another code than 0
	// gives an error with a method ExitCode() int; a cancelled one the
	// context's cause.
	Run(ctx context.Context, c Command) error
}

// Command is a program with its arguments. In a sandbox the paths in Argv, Env
// and Dir are those inside.
type Command struct {
	Argv, Env      []string
	Dir            string
	Mounts         []Mount
	Stdout, Stderr io.Writer
}

// Mount makes a directory or a file of this machine visible in a sandbox.
type Mount struct {
	Host, Inside string
	ReadOnly     bool
}

// Engine turns a prepared context into an image in a registry. What engines
// share (source, scripts, log, verification, metadata) is Run's.
type Engine interface {
	// Check refuses, before anything is fetched, what the engine cannot do with
	// a build. Errors wrap failure.ErrInput.
	Check(b *plan.Build) error
	// Lacks gives what the engine cannot do with a Dockerfile.
	Lacks(p *Prepared) []dockerfile.Finding
	// Command gives the program with its arguments and environment.
	Command(p *Prepared) Command
	// Digest gives the digest of what was pushed, once the command ended well.
	Digest(p *Prepared) (string, error)
}

// Prepared is all that an engine needs to know.
type Prepared struct {
	Job      *Job
	Platform config.Platform
	// The Dockerfile; nil when it was not read, for Argv.
	File *dockerfile.File
	// Paths as the engine's program sees them: its own, the context, and the
	// job's directory with the Dockerfile and the Docker configuration.
	Program, Context, Dir string
	// The job's directory as this process sees it.
	HostDir string
	// Registries that the engine reads from and writes to.
	Hosts []string
	// Labels that are known only now.
	Labels map[string]string
}

// engineOf gives the engine that a build names.
func engineOf(b *plan.Build) (Engine, error) {
	if b.Engine == "kaniko" {
		return kaniko{}, nil
	}
	return nil, failure.WithHint(failure.Input("build %s: this version has no engine %q", b.ID, b.Engine), "use engine: kaniko")
}

// Argv gives the engine's command line as Run would use it, as far as it can
// be known without fetching anything. It has no side effects.
func Argv(_ context.Context, j Job) ([]string, error) {
	e, err := engineOf(j.Build)
	if err != nil {
		return nil, err
	}
	if err := e.Check(j.Build); err != nil {
		return nil, err
	}
	p, err := prepare(&j)
	if err != nil {
		return nil, err
	}
	if j.Sandbox == nil && j.Image.Source == nil && j.Root != "" {
		p.Context = filepath.Join(j.Root, filepath.FromSlash(j.Build.Context))
	}
	return e.Command(p).Argv, nil
}

// prepare says where everything will be.
func prepare(j *Job) (*Prepared, error) {
	own := SandboxDir
	if j.Sandbox == nil {
		own = kanikoDir
	}
	p := &Prepared{
		Job: j, Program: filepath.Join(own, "executor"), Dir: filepath.Join(own, "job"), Context: filepath.Join(own, "buildcontext"),
	}
	if j.Sandbox == nil && j.place != nil {
		p.Dir = filepath.Join(j.place.dir, "job")
	}
	if j.Sandbox == nil && j.Image.Source != nil {
		p.Context = filepath.Join(p.Dir, "source", filepath.FromSlash(j.Build.Context))
	}
	var err error
	if p.Platform, err = platformOf(j.Build); err != nil {
		return nil, err
	}
	p.Hosts = hosts(j.Build.Destination, cacheRepo(j))
	return p, nil
}

// hosts gives the registries of references, each once.
func hosts(refs ...string) []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, ref := range refs {
		if h := hostOf(ref); !seen[h] {
			seen[h] = true
			out = append(out, h)
		}
	}
	return out
}
