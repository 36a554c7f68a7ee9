package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/client"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/submission"
)

// sending holds the flags of what submits a run.
type sending struct {
	access
	runner, timeout, onInterrupt string
	priority                     int
	labels, credentials          []string
	own                          bool // sends credentials of this machine
	detach                       bool
}

func (s *sending) flags(flags *pflag.FlagSet) {
	s.access.flags(flags)
	flags.IntVar(&s.priority, "priority", 0, "`N`: higher goes first")
	flags.StringVar(&s.timeout, "timeout", "", "`LIMIT` of the whole run, such as 1h30m (default: the controller's)")
	flags.StringArrayVar(&s.labels, "label", nil, "`NAME=VALUE` that runs are found by; repeats")
	flags.BoolVar(&s.own, "send-credentials", true, "send this machine's credentials for the registries that are written to, for this run alone")
	flags.StringSliceVar(&s.credentials, "credentials-for", nil, "send this machine's credentials for the registry `HOST`, too, such as that of base images; repeats (default: $PIPEGEN_CREDENTIALS_FOR, with commas)")
	flags.BoolVar(&s.detach, "detach", false, "print the run's id and leave")
	interruptible(flags, &s.onInterrupt)
}

// request checks the flags, and begins a request with them.
func (s *sending) request(a *app) (api.RunRequest, error) {
	r := api.RunRequest{Priority: s.priority, Timeout: s.timeout}
	if s.runner == "k8s" {
		s.runner = "kubernetes"
	}
	if s.runner != "" {
		if err := oneOf("--runner", s.runner, []string{"local", "kubernetes", "ecs"}); err != nil {
			return r, err
		}
		r.Runner = s.runner
	}
	if s.timeout != "" {
		if d, err := time.ParseDuration(s.timeout); err != nil || d <= 0 {
			return r, failure.WithHint(failure.Input("--timeout %q is no duration", s.timeout), "write it as 90m or 1h30m")
		}
	}
	var err error
	if r.Labels, err = labelled(s.labels); err != nil {
		return r, err
	}
	return r, a.checkInterrupt(&s.onInterrupt)
}

func (a *app) submitCommand() *cobra.Command {
	var s sending
	var o submission.Options
	var async bool
	cmd := &cobra.Command{
		Use:   "submit",
		Short: "Have a controller build what a config.yaml or a compose file says",
		Long: `Packs a directory, sends it to a controller (pipegen server) unless it has it
already, and has the images built that a config.yaml or a compose file names. It
follows the builds and ends as they do: services of a compose file one after
another, or side by side with --async. With --detach it prints the id of the run
and leaves; pipegen logs ID --follow goes on from the first line.

Variables of the environment and of .env: CONTROLLER_URL, BUILD_CONTROLLER_TOKEN,
LOG_FORMAT, and those that compose files name.`,
		Example: "  pipegen submit --config config.yaml\n  pipegen submit --compose compose.yaml --services app,worker --async\n" +
			"  id=$(pipegen submit --compose compose.yaml --detach)",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := s.request(a)
			if err != nil {
				return err
			}
			env, err := a.environment(cmd)
			if err != nil {
				return err
			}
			sub, err := a.submission(cmd.Context(), o, env)
			if err != nil {
				return err
			}
			c, err := a.connect(s.access, env)
			if err != nil {
				return err
			}
			r.Plan, r.Secrets, r.Credentials, r.Serial = sub.Plan, sub.Secrets, sub.Credentials, !async && len(sub.Plan.Images) > 1
			r.Runner = orElse(r.Runner, sub.Runner)
			parcel := parcel{dir: sub.ContextDir, pack: buildcontext.PackOptions{Builds: client.Contexts(sub.Plan)}, sealed: sub.Identify}
			_, err = a.send(cmd.Context(), s, c, &r, parcel)
			return explained(c, err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Config, "config", "", "`FILE` that says what to build (default: config.yaml, if there is no --compose either)")
	flags.StringVar(&o.Compose, "compose", "", "compose `FILE` whose services to build; with --config its global settings are the base of each")
	flags.StringSliceVar(&o.Services, "services", nil, "`NAMES` of services, separated by commas (default: all that have build)")
	flags.BoolVar(&async, "async", false, "build services side by side")
	flags.StringVar(&o.Repo, "repo", ".", "`DIR` that is packed; contexts are in it")
	flags.StringVar(&s.runner, "runner", "", "`RUNNER` of the builds: local, kubernetes or ecs (default: platform in the files, else the controller's first)")
	s.flags(flags)
	return cmd
}

// submission reads what is to be built.
func (a *app) submission(ctx context.Context, o submission.Options, env map[string]string) (*submission.Submission, error) {
	var services []string
	for _, name := range o.Services {
		if name = strings.TrimSpace(name); name != "" {
			services = append(services, name)
		}
	}
	o.Services, o.Env, o.Now = services, env, time.Now()
	// What it is a checkout of is told where git says so.
	if repo, err := diff.Open(ctx, o.Repo); err == nil {
		defer func() { _ = repo.Close() }()
		if head, err := repo.Head(ctx); err == nil {
			o.Head, o.Committed = head.Hash, head.Committed
		}
	}
	sub, err := submission.Load(ctx, o)
	if err != nil {
		return nil, err
	}
	a.warnings(sub.Warnings)
	return sub, nil
}

// parcel is what goes to the controller beside a request.
type parcel struct {
	// Directory to pack; empty: no build needs one.
	dir  string
	pack buildcontext.PackOptions
	// Is told the digest of the packed directory; may be nil.
	sealed func(digest string) error
}

// send sends the context and the request, and follows the run unless asked to
// detach.
func (a *app) send(ctx context.Context, s sending, c *api.Client, r *api.RunRequest, p parcel) (api.Run, error) {
	if err := a.addCredentials(ctx, s, r); err != nil {
		return api.Run{}, err
	}
	if p.dir != "" {
		shown := a.transfer()
		p.pack.Warn = a.warn
		digest, err := client.SendContext(ctx, c, p.dir, client.SendOptions{Pack: p.pack, Progress: shown.step})
		shown.end()
		if err != nil {
			return api.Run{}, err
		}
		if p.sealed != nil {
			if err := p.sealed(digest); err != nil {
				return api.Run{}, err
			}
		}
		r.Context = digest
	}
	run, err := create(ctx, c, *r)
	if err != nil {
		return run, err
	}
	return a.afterSubmitting(ctx, s.access, c, run, s.detach, s.onInterrupt)
}

// create asks for a run. One that is made while the user interrupts must be
// known, to be cancelled or named.
func create(ctx context.Context, c *api.Client, r api.RunRequest) (api.Run, error) {
	asking, stop := outliving(ctx)
	defer stop()
	return c.CreateRun(asking, r, api.NewKey())
}
