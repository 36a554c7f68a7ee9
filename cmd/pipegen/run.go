package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
)

func (a *app) runCommand() *cobra.Command {
	var p planning
	var w working
	var s sending
	var sandbox string
	var parallel int
	var rollback, ifPlanned bool
	cmd := &cobra.Command{
		Use:   "run [NAME...]",
		Short: "Build and publish on this machine, or where a controller does",
		Long: `Makes a plan (or takes the one of --plan), does all its builds on this machine,
those with Kaniko each in a root of its own, and publishes every image whose builds succeeded.
One failed build fails its image alone.

With --server, or another --runner than local, a controller (pipegen server) does
all that: the checkout is packed and sent to it, the run is followed, and what was
published is left in the metadata directory as here. Names then choose images of
the plan of --plan; what these need must have been published.`,
		Example: "  pipegen run --select all\n  pipegen run app --registry 127.0.0.1:5000/images\n  pipegen run --plan plan.json\n" +
			"  pipegen run app --runner kubernetes --server https://pipegen.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.server != "" || s.runner != "" && s.runner != "local" {
				if err := elsewhere(cmd, "sandbox", "parallel", "allow-rollback"); err != nil {
					return err
				}
				return a.runSubmitted(cmd, p, w, s, args, ifPlanned)
			}
			if err := here(cmd); err != nil {
				return err
			}
			ctx := cmd.Context()
			made, err := a.planToRun(cmd, p, w, args)
			if err != nil {
				return err
			}
			if err := w.ready(made); err != nil {
				return err
			}
			dir, _, err := root(ctx)
			if err != nil {
				return err
			}
			client := a.registryClient(made.Publish)
			local, err := a.localRunner(ctx, made, client, w, dir, sandbox)
			if err != nil {
				return err
			}
			publish, err := a.publisher(ctx, client, made, w.metadata, rollback)
			if err != nil {
				return err
			}
			progress := a.progress(a.verbose, func(build string) string { return plan.LogFile(w.metadata, build) })
			summary := runner.Execute(ctx, made, creating{local, client, made}, publish, runner.Options{
				Parallel: parallel, Observer: progress,
			})
			return summary.Err()
		},
	}
	p.flags(cmd.Flags())
	w.resultFlags(a, cmd.Flags())
	cmd.Flags().StringVar(&w.plan, "plan", "", "`FILE` with a plan to run as it is; - is stdin")
	cmd.Flags().StringVar(&s.runner, "runner", "", "`RUNNER` of the builds: local, kubernetes or ecs (default: local, with --server the controller's first)")
	cmd.Flags().StringVar(&sandbox, "sandbox", "auto", "`KIND` of root for a build: auto, namespaces, docker or podman")
	cmd.Flags().IntVar(&parallel, "parallel", 0, "builds at once (default: as many as there are cores)")
	cmd.Flags().BoolVar(&rollback, "allow-rollback", false, "move tags even if they hold a later commit")
	cmd.Flags().BoolVar(&ifPlanned, "if-planned", false, "with --plan and --server or --runner: leave out names that the plan does not have")
	s.flags(cmd.Flags())
	return cmd
}

func (a *app) planToRun(cmd *cobra.Command, p planning, w working, names []string) (*plan.Plan, error) {
	if w.plan == "" {
		p.insecure = w.insecure
		made, _, err := a.makePlan(cmd.Context(), p, names)
		return made, err
	}
	if len(names) > 0 || len(p.selects) > 0 || p.base != "" || p.head != "" || p.date != "" || p.registry != "" {
		return nil, failure.Input("--plan is run as it is: names, --select, --base, --head, --date and --registry belong to planning")
	}
	return a.readPlan(w.plan)
}

func (a *app) localRunner(ctx context.Context, p *plan.Plan, client *registry.Client, w working, dir, sandbox string) (*runner.Local, error) {
	var executor string
	if runner.UsesSandbox(p) {
		var err error
		if executor, err = engine.FindExecutor(a.getenv); err != nil {
			return nil, err
		}
	}
	cache, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	metadata, err := filepath.Abs(w.metadata)
	if err != nil {
		return nil, err
	}
	var builds []*plan.Build
	for i := range p.Images {
		for j := range p.Images[i].Builds {
			builds = append(builds, &p.Images[i].Builds[j])
		}
	}
	getenv, err := a.withStored(ctx, p, a.getenv, builds...)
	if err != nil {
		return nil, err
	}
	return runner.NewLocal(ctx, runner.LocalOptions{
		Plan: p, Root: dir, MetadataDir: metadata, Registry: client, CacheDir: cache, Getenv: getenv, Environ: os.Environ(),
		Sandbox: runner.SandboxOptions{Kind: runner.Kind(sandbox), Executor: executor, CACerts: a.bundle},
	})
}

func (a *app) doctorCommand() *cobra.Command {
	var d doctoring
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what this machine or a cluster can do, and say how to mend what it cannot",
		Long: "Tries what builds on this machine need, on a Kubernetes cluster or on ECS, and shows each\nas pass, warn (some builds will not work) or FAIL (none will) with what to do.\n" +
			"FAIL gives exit code 2.\n\nOn a cluster a pod or task for each architecture tries the image of agents, the\ncontroller and registries; it is removed afterwards.",
		Example: "  pipegen doctor\n  pipegen doctor --runner kubernetes --config server.yaml --registry registry.example.com\n  pipegen doctor --runner ecs --config server.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownRunner(d.runner, "local", "kubernetes", "ecs"); err != nil {
				return err
			}
			var checks []runner.Check
			switch d.runner {
			case "kubernetes", "ecs":
				check := a.checkKubernetes
				if d.runner == "ecs" {
					check = a.checkECS
				}
				var err error
				if checks, err = check(cmd.Context(), d); err != nil {
					return err
				}
			default:
				executor, _ := engine.FindExecutor(a.getenv)
				checks = runner.Preflight(cmd.Context(), runner.SandboxOptions{Executor: executor, CACerts: a.bundle})
			}
			for _, c := range checks {
				state := "pass"
				switch {
				case !c.OK && c.Needed:
					state = "FAIL"
				case !c.OK:
					state = "warn"
				}
				fmt.Fprintf(a.stdout, "%s  %s: %s\n", state, quote.Text(c.Name), quote.Text(c.Detail))
				if !c.OK && c.Fix != "" {
					fmt.Fprintf(a.stdout, "      fix: %s\n", quote.Text(c.Fix))
				}
			}
			if d.runner != "local" {
				return unbuildable(checks)
			}
			return runner.Unmet(checks)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&d.runner, "runner", "local", "`RUNNER` to check: local, kubernetes or ecs")
	flags.StringVar(&d.config, "config", a.getenv("PIPEGEN_SERVER_CONFIG"), "`FILE` of the controller, for kubernetes and ecs")
	flags.StringVar(&d.url, "url", a.getenv("CONTROLLER_URL"), "`URL` by which agents reach the controller (default: $CONTROLLER_URL, else as in the file of --config)")
	flags.StringSliceVar(&d.registries, "registry", nil, "`HOST` of a registry that builds need; repeats (default: that of the agents' image)")
	return cmd
}
