package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// working holds the flags of the commands that do what a plan says.
type working struct {
	plan, metadata string
	insecure       []string
}

func (w *working) flags(a *app, flags *pflag.FlagSet) {
	flags.StringVar(&w.plan, "plan", orElse(a.getenv("PIPEGEN_PLAN"), "plan.json"), "`FILE` with the plan in JSON; - is stdin")
	w.resultFlags(a, flags)
}

func (w *working) resultFlags(a *app, flags *pflag.FlagSet) {
	flags.StringVar(&w.metadata, "metadata-dir", orElse(a.getenv("PIPEGEN_METADATA_DIR"), defaultMetadata), "`DIR` for the results of builds and publishing")
	flags.StringSliceVar(&w.insecure, "insecure-registry", nil, insecureUsage)
}

const insecureUsage = "`HOST[:PORT]` that may be reached over plain HTTP; loopback always may; repeats"

func orElse(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

// load reads the plan for work on a registry.
func (a *app) load(w working) (*plan.Plan, error) {
	p, err := a.readPlan(w.plan)
	if err != nil {
		return nil, err
	}
	return p, w.ready(p)
}

// ready refuses a plan that was made without a registry, and makes the
// metadata directory.
func (w working) ready(p *plan.Plan) error {
	p.Publish.Insecure = append(p.Publish.Insecure, w.insecure...)
	if p.Registry == "" && (p.Pushes() || len(p.Images) == 0) {
		return failure.WithHint(failure.Input("the plan has no registry"),
			"plan with --registry, $PIPEGEN_REGISTRY, registry in pipegen.yaml, or $ECR_REGISTRY")
	}
	// One that pipegen makes under its own name is kept out of git, where it
	// would make the work tree dirty.
	if w.metadata != defaultMetadata {
		return nil
	}
	switch err := os.Mkdir(defaultMetadata, 0o755); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return fmt.Errorf("making the metadata directory: %w", err)
	}
	return writeFile(filepath.Join(defaultMetadata, ".gitignore"), []byte("*\n"))
}

const defaultMetadata = ".pipegen"

// root is the top of the checkout, or the current directory outside one.
func root(ctx context.Context) (string, *diff.Repo, error) {
	repo, err := diff.Open(ctx, ".")
	if errors.Is(err, diff.ErrNoRepository) {
		dir, err := os.Getwd()
		return dir, nil, err
	}
	if err != nil {
		return "", nil, err
	}
	return repo.Root(), repo, nil
}

func (a *app) buildCommand() *cobra.Command {
	var w working
	var d directory
	var show, container, ifPlanned bool
	cmd := &cobra.Command{
		Use:   "build ID | --context DIR",
		Short: "Do one build of a plan, here",
		Long: `Does one build of a plan where it stands, as every job and runner does: fetches
the source, runs pre_script, the engine and post_script, checks the result
against the registry and writes DIR/builds/ID.json and DIR/builds/ID.log.
Kaniko owns the file system it runs in: outside a container that was made for
it this command refuses, and pipegen run gives it a root of its own.

With --context it builds a directory instead, which needs neither a plan nor git,
pushes nothing and leaves an archive, a root file system or a digest in
--output-dir.`,
		Example: "  pipegen build app@arm64 --plan plan.json --metadata-dir .pipegen\n  pipegen build app@arm64 --print\n" +
			"  pipegen build --context . --outputs docker-tar,rootfs,digest --output-dir release",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(cmd.Flags(), args); err != nil {
				return err
			}
			if d.asked() {
				return a.buildDirectory(cmd.Context(), w, d, cmd.Flags())
			}
			if err := exactArgs(1, "the id of a build, such as app@arm64")(cmd, args); err != nil {
				return err
			}
			p, err := a.readPlan(w.plan)
			if err != nil {
				return err
			}
			img, b, err := find(p, args[0])
			if err != nil && ifPlanned {
				a.note("the plan does not have %s: nothing to build", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			dir, _, err := root(cmd.Context())
			if err != nil {
				return err
			}
			cache, err := a.cacheDir()
			if err != nil {
				return err
			}
			job := engine.Job{
				Plan: p, Image: img, Build: b, Root: dir, MetadataDir: w.metadata, Log: a.stderr,
				Getenv: a.getenv, Environ: os.Environ(), CacheDir: cache, Now: time.Now,
			}
			if show {
				argv, err := engine.Argv(cmd.Context(), job)
				if err != nil {
					return err
				}
				return a.write("-", []byte(quote.Command(argv)+"\n"))
			}
			if err := w.ready(p); err != nil {
				return err
			}
			if container {
				return a.buildInContainer(cmd.Context(), w, p, img, b, dir)
			}
			if err := a.isolateBuild(job); err != nil {
				return err
			}
			client := a.registryClient(p.Publish)
			if err := createRepositories(cmd.Context(), client, p, b); err != nil {
				return err
			}
			job.Registry = client
			if job.Getenv, err = a.withStored(cmd.Context(), p, a.getenv, b); err != nil {
				return err
			}
			result, err := engine.Run(cmd.Context(), job)
			if err != nil {
				return err
			}
			a.built(result)
			return nil
		},
	}
	w.flags(a, cmd.Flags())
	cmd.Flags().BoolVar(&show, "print", false, "print the engine's command line and do nothing")
	cmd.Flags().BoolVar(&ifPlanned, "if-planned", false, "do nothing, and succeed, if the plan does not have this build")
	cmd.Flags().BoolVar(&container, "container", false, "do it in a container of the builder image, by Docker")
	d.flags(cmd.Flags())
	return cmd
}

func find(p *plan.Plan, id string) (*plan.Image, *plan.Build, error) {
	img, b, ok := p.Find(id)
	if ok {
		return img, b, nil
	}
	var ids []string
	for i := range p.Images {
		for j := range p.Images[i].Builds {
			ids = append(ids, p.Images[i].Builds[j].ID)
		}
	}
	err := failure.Input("the plan has no build %q", id)
	if near := config.Nearest(id, ids); near != "" {
		return nil, nil, failure.WithHint(err, "did you mean %q?", near)
	}
	return nil, nil, failure.WithHint(err, "the plan has: %s", orElse(strings.Join(ids[:min(len(ids), 10)], " "), "no builds"))
}

// built says what a build made.
func (a *app) built(r plan.Result) {
	switch {
	case len(r.Parts) > 0:
		for _, part := range r.Parts {
			a.note("built %s: %s", part.Name, strings.TrimPrefix(part.Ref+"@"+part.Digest, "@"))
		}
	case r.Digest != "":
		a.note("built %s: %s", r.ID, strings.TrimPrefix(r.Ref+"@"+r.Digest, "@"))
	}
	for _, o := range r.Outputs {
		a.note("built %s: %s", r.ID, o.Path)
	}
}
