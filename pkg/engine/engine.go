// Package engine does one build of a plan: it fetches the source, runs the
// scripts around the engine, has the engine build and push the image, and
// checks what came of it against the registry.
package engine

import (
	"context"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
	// Directory for outputs that are files; default: outputs/ID below
	// MetadataDir.
	OutputDir string
	Registry  Registry
	// Where Kaniko runs; nil: in place, which it allows only in a container that
	// was made for it.
	Sandbox Sandbox
	// Whether other builds work in the same checkout at the same time, so that
	// scripts must not write to it.
	Shared bool
	// Whether Root is no checkout but the unpacked context of this one build: its
	// commit cannot be checked, and scripts may write to it.
	Unpacked bool
	// Path of Kaniko's program on this machine; empty: see FindExecutor. Of a
	// sandbox's own, what it understands is remembered by this path.
	Executor string
	// Takes every line of scripts and engine as it comes; may be nil. One that is a
	// LineWriter learns more of them.
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

// LineWriter is a log that is told which lines are pieces of a longer one.
type LineWriter interface {
	// WriteLines takes whole lines. cut holds where those end, as offsets in p
	// behind the line feed, that go on with the next line.
	WriteLines(p []byte, cut []int) error
}

// Registry is what a build asks of registries; *registry.Client is one.
type Registry interface {
	Head(ctx context.Context, ref string) (registry.Descriptor, error)
	Get(ctx context.Context, ref string) (registry.Descriptor, []byte, error)
	Config(ctx context.Context, repository string, manifest []byte) (registry.Config, error)
	DockerConfig(ctx context.Context, hosts []string) ([]byte, error)
	Pull(ctx context.Context, ref string) (v1.Image, v1.ImageIndex, error)
	Push(ctx context.Context, ref string, img v1.Image, idx v1.ImageIndex) (registry.Descriptor, error)
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
	// A variable of Env, as NAME=VALUE, that no other process has; may be empty.
	// What has it belongs to the command.
	mark string
}

// Mount makes a directory or a file of this machine visible in a sandbox.
type Mount struct {
	Host, Inside string
	ReadOnly     bool
}

// engine is what turns a context into images: Kaniko, BuildKit or the project's
// own make. What they share (source, scripts, log, credentials, verification,
// outputs, metadata) is Run's.
type engine interface {
	// check refuses, before anything is made or fetched, what the engine cannot
	// do with a build. Errors wrap failure.ErrInput.
	check(b *plan.Build) error
	// place says where everything will be, and refuses a place that will not do.
	// It has no side effects; dry says that nothing will be run.
	place(p *Prepared, dry bool) error
	// prepare makes what the command needs below the job's directory, once the
	// source is there.
	prepare(ctx context.Context, b *building) error
	// command gives the program with its arguments and environment; of what
	// prepare finds out it needs nothing.
	command(p *Prepared) Command
	// run runs the command to its end.
	run(ctx context.Context, b *building, c Command) error
	// result says what came of it, once the command ended well.
	result(ctx context.Context, b *building) (outcome, error)
}

// starter is an engine that has something to do while the source is fetched.
type starter interface {
	// start does it in the background; stop ends it and waits.
	start(ctx context.Context, b *building) (stop func())
}

// outcome is what an engine made.
type outcome struct {
	// Digest of what the engine pushed to the destination; empty: nothing.
	pushed string
	// Path of an archive or a layout with the image, for outputs that are files;
	// empty if none was asked for.
	image string
	// What a project's own build left, in place of both; nil from other engines.
	released *released
}

// Prepared is all that an engine needs to know.
type Prepared struct {
	Job      *Job
	Platform config.Platform
	// The Dockerfile; nil when it was not read, for Argv, or has none.
	File *dockerfile.File
	// Paths as the engine's program sees them: its own, the context, and the
	// job's directory with the Dockerfile and the Docker configuration.
	Program, Context, Dir string
	// Whether these are paths in a sandbox, where they are mounted. Else they are
	// this machine's; an empty Dir is then a new directory for temporary files.
	Mounted bool
	// The job's directory as this process sees it.
	HostDir string
	// Registries that the engine reads from and writes to.
	Hosts []string
	// Mirrors of docker.io that were found to hold a base.
	Mirrors []string
	// Labels that are known only now.
	Labels map[string]string
}

// layoutDir is where an engine leaves the image as an OCI layout, below the
// job's directory, if outputs are asked for that are made from it.
const layoutDir = "layout"

// engineOf gives the engine that a build names.
func engineOf(b *plan.Build) (engine, error) {
	switch b.Engine {
	case "kaniko":
		return &kaniko{}, nil
	case "buildkit":
		return &buildkit{}, nil
	case "make":
		return &projectMake{}, nil
	}
	return nil, failure.WithHint(failure.Input("build %s: there is no engine %q", b.ID, b.Engine), "engines are kaniko, buildkit and make")
}

// Check refuses what can be known to be wrong with a build by itself: an engine
// or an output that there is not, flags that are pipegen's to set, caches and
// secrets that the engine does not have. Errors wrap failure.ErrInput.
func Check(b *plan.Build) error {
	e, err := engineOf(b)
	if err != nil {
		return err
	}
	if err := checkOutputs(b); err != nil {
		return err
	}
	return e.check(b)
}

// RunsHere says whether a build runs what others wrote beside this process:
// scripts, a project's own make, and the steps of a Dockerfile, unless a BuildKit
// daemon that runs already keeps them in containers of its own.
func RunsHere(j Job) bool {
	if b := j.Build; b.Engine != "buildkit" || b.PreScript != "" || b.PostScript != "" {
		return true
	}
	addresses, err := daemons(&j)
	return err != nil || len(addresses) == 0
}

// Argv gives the engine's command line as Run would use it, as far as it can
// be known without fetching anything. It has no side effects.
func Argv(_ context.Context, j Job) ([]string, error) {
	e, err := engineOf(j.Build)
	if err != nil {
		return nil, err
	}
	p, err := placed(e, &j, true)
	if err != nil {
		return nil, err
	}
	return e.command(p).Argv, nil
}

// placed checks a build and says where everything will be.
func placed(e engine, j *Job, dry bool) (*Prepared, error) {
	if err := checkOutputs(j.Build); err != nil {
		return nil, err
	}
	if err := e.check(j.Build); err != nil {
		return nil, err
	}
	p := &Prepared{Job: j, Hosts: hosts(j.Build.Destination, j.Plan.CacheRepository(j.Build))}
	var err error
	if p.Platform, err = platformOf(j.Build); err != nil {
		return nil, err
	}
	return p, e.place(p, dry)
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
