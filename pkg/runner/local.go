package runner

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/plan"
)

// LocalOptions say what builds on this machine work with.
type LocalOptions struct {
	Plan *plan.Plan
	// Root of the checkout.
	Root string
	// Whether Root is the unpacked context of one build; see [engine.Job].
	Unpacked bool
	// Directory for the results of builds.
	MetadataDir string
	Registry    engine.Registry
	// Roots for builds with Kaniko; a plan without any needs none.
	Sandbox SandboxOptions
	// Directory of what is kept between builds; roots are made below it.
	CacheDir string
	Getenv   func(string) string
	Environ  []string
}

// Local builds on this machine, each build with Kaniko in a root of its own.
type Local struct {
	o       LocalOptions
	sandbox *Sandbox // nil if nothing is built in one
}

// NewLocal prepares builds on this machine. If it cannot build, the error wraps
// [failure.ErrInput] and says what to do.
func NewLocal(ctx context.Context, o LocalOptions) (*Local, error) {
	if !UsesSandbox(o.Plan) {
		return &Local{o: o}, nil
	}
	if o.Sandbox.Dir == "" {
		o.Sandbox.Dir = filepath.Join(o.CacheDir, "roots")
	}
	sandbox, err := NewSandbox(ctx, o.Sandbox)
	if err != nil {
		return nil, err
	}
	return &Local{o, sandbox}, nil
}

// UsesSandbox says whether any build of a plan runs in a sandbox.
func UsesSandbox(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Images, func(img plan.Image) bool {
		return slices.ContainsFunc(img.Builds, func(b plan.Build) bool { return b.Engine == "kaniko" })
	})
}

// Executes says whether this machine can execute programs of a platform, as
// [engine.Job] wants to know.
func Executes(p config.Platform) bool {
	ok, _ := CanExecute(p)
	return ok
}

// Build does one build of the plan. It implements [Builder].
func (l *Local) Build(ctx context.Context, img *plan.Image, b *plan.Build, log io.Writer) (plan.Result, error) {
	j := engine.Job{
		Plan: l.o.Plan, Image: img, Build: b, Root: l.o.Root, MetadataDir: l.o.MetadataDir, Registry: l.o.Registry,
		Shared: !l.o.Unpacked, Unpacked: l.o.Unpacked, Log: log, Getenv: l.o.Getenv, Environ: l.o.Environ, CacheDir: l.o.CacheDir, Now: time.Now,
		Executes: Executes,
	}
	if l.sandbox != nil {
		j.Sandbox, j.Executor = l.sandbox, l.o.Sandbox.Executor
	}
	return engine.Run(ctx, j)
}
