package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/agent"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

// agentFlags say which task an agent does, and where.
type agentFlags struct {
	url, task, tokenFile, launchFile string
	sts, interrupted                 string
	dir, sandbox, secrets            string
	insecure, ambient                bool
}

func (a *app) agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Do one task of a controller",
		Long: `Does one task of a controller, which starts it: claims the task, brings the
context, builds, streams the log and reports the result. In a container of the
builder image it builds in place, elsewhere in a root of its own.

It ends with 0 once the controller has the result, also if the build failed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := f.launch()
			if err == nil && l.Token == "" {
				l.Token, err = a.agentToken(cmd.Context(), f, l)
			}
			if err != nil {
				return err
			}
			return a.runAgent(cmd.Context(), f, l)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.url, "url", a.getenv("PIPEGEN_AGENT_URL"), "`URL` of the controller (default: $PIPEGEN_AGENT_URL)")
	flags.StringVar(&f.task, "task", a.getenv("PIPEGEN_AGENT_TASK"), "`ID` of the task (default: $PIPEGEN_AGENT_TASK)")
	flags.StringVar(&f.tokenFile, "token-file", a.getenv("PIPEGEN_AGENT_TOKEN_FILE"), "`FILE` with the task's token, which is removed where that is possible (default: $PIPEGEN_AGENT_TOKEN_FILE)")
	flags.StringVar(&f.sts, "sts", a.getenv("PIPEGEN_AGENT_STS"), "`URL` of AWS's STS, by which the role of this machine shows who the agent is, in the place of a token (default: $PIPEGEN_AGENT_STS)")
	flags.StringVar(&f.interrupted, "interrupted", a.getenv("PIPEGEN_AGENT_INTERRUPTED"), "`REASON` for which this machine tells the agent to stop, for the log (default: $PIPEGEN_AGENT_INTERRUPTED)")
	flags.StringVar(&f.launchFile, "launch-file", "", "`FILE` with all three as JSON, in their place; it is removed")
	flags.StringVar(&f.dir, "work-dir", "", "`DIR` for the context and all else, removed afterwards (default: a new one)")
	flags.StringVar(&f.secrets, "secrets-dir", "", "`DIR` with a file for each secret that a run may do without bringing, named by its variable")
	flags.StringVar(&f.sandbox, "sandbox", "auto", "`KIND` of root for a build: auto, namespaces, docker or podman")
	flags.BoolVar(&f.insecure, "insecure", a.getenv("PIPEGEN_AGENT_INSECURE") == "true", "send the token over plain HTTP, even to another machine (default: $PIPEGEN_AGENT_INSECURE)")
	flags.BoolVar(&f.ambient, "ambient-credentials", a.getenv("PIPEGEN_AGENT_AMBIENT_CREDENTIALS") == "true",
		"where the task has no credentials for a registry, or no value of a secret that AWS keeps, use those of this machine: its Docker configuration, its role in AWS (default: $PIPEGEN_AGENT_AMBIENT_CREDENTIALS)")
	cmd.AddCommand(a.agentCheckCommand())
	return cmd
}

// getenv gives what the secrets' directory has, then what next does.
func (f agentFlags) getenv(next func(string) string) func(string) string {
	if f.secrets == "" {
		return next
	}
	return func(name string) string {
		if value, err := os.ReadFile(filepath.Join(f.secrets, filepath.Base(name))); err == nil {
			return string(value)
		}
		return next(name)
	}
}

// launch gives what the agent is started with.
func (f agentFlags) launch() (runner.LaunchFile, error) {
	if f.launchFile != "" {
		l, err := runner.TakeLaunchFile(f.launchFile)
		if err != nil {
			return l, failure.Input("reading what the agent is started with: %w", err)
		}
		return l, nil
	}
	if f.url != "" && f.task != "" && f.tokenFile == "" && f.sts != "" {
		return runner.LaunchFile{Task: f.task, URL: f.url, Insecure: f.insecure, Work: f.dir}, nil
	}
	if f.url == "" || f.task == "" || f.tokenFile == "" {
		return runner.LaunchFile{}, failure.WithHint(failure.Input("an agent needs --url, --task and --token-file"), "the controller starts agents itself: pipegen submit")
	}
	token, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return runner.LaunchFile{}, failure.Input("reading the task's token: %w", err)
	}
	_ = os.Remove(f.tokenFile) // where a build could read it; a mounted secret stays
	return runner.LaunchFile{Task: f.task, URL: f.url, Token: strings.TrimSpace(string(token)), Insecure: f.insecure, Work: f.dir}, nil
}

// agentClient reaches the controller of an agent.
func (a *app) agentClient(l runner.LaunchFile) (*api.Client, error) {
	var certificates []byte
	if a.bundle != "" {
		var err error
		if certificates, err = os.ReadFile(a.bundle); err != nil {
			return nil, err
		}
	}
	return api.NewClient(api.ClientOptions{
		URL: l.URL, Token: l.Token, Insecure: l.Insecure, CACerts: certificates, UserAgent: "pipegen-agent/" + version,
		Retrying: func(err error, pause time.Duration) {
			a.warn(fmt.Sprintf("%v; trying again in %s", err, pause.Round(100*time.Millisecond)))
		},
	})
}

// agentToken gets the token of an agent that AWS vouches for.
func (a *app) agentToken(ctx context.Context, f agentFlags, l runner.LaunchFile) (string, error) {
	with := l
	with.Token = "any"
	if _, err := a.agentClient(with); err != nil { // an answer with a token is refused where a token is
		return "", err
	}
	client, err := a.agentClient(l)
	if err != nil {
		return "", err
	}
	proof, err := ecs.Prove(ctx, f.sts, orElse(a.getenv("AWS_REGION"), a.getenv("AWS_DEFAULT_REGION")), l.URL, l.Task)
	if err != nil {
		return "", err
	}
	token, err := client.Patient(identifying).TaskToken(ctx, l.Task, api.Identity{Proof: proof})
	if err != nil {
		return "", fmt.Errorf("getting the token of task %s: %w", l.Task, err)
	}
	return token, nil
}

// identifying is how long a controller is waited for that is to say whether it
// knows an agent; signatures are good for 15 minutes.
const identifying = 10 * time.Minute

func (a *app) runAgent(ctx context.Context, f agentFlags, l runner.LaunchFile) (err error) {
	client, err := a.agentClient(l)
	if err != nil {
		return err
	}
	own := engine.OwnDir(a.getenv)
	inPlace := own != "" && f.sandbox == "auto"
	switch {
	case l.Work != "":
	case inPlace: // Kaniko deletes everything else
		l.Work = filepath.Join(own, "agent")
		defer os.RemoveAll(l.Work)
	default:
		if l.Work, err = os.MkdirTemp("", "pipegen-agent-"); err != nil {
			return err
		}
		defer os.RemoveAll(l.Work)
	}
	if l.Work, err = filepath.Abs(l.Work); err != nil {
		return err
	}
	measuring, stop := context.WithCancel(ctx)
	defer stop()
	return agent.Run(ctx, agent.Options{
		Client: client, Task: l.Task, Version: version, Dir: l.Work, Getenv: f.getenv(a.getenv), Note: a.warn, Usage: agent.Measure(measuring, inPlace), Interrupted: f.interrupted,
		Do: func(ctx context.Context, w agent.Work) (plan.Result, error) { return a.doWork(ctx, f, w, inPlace) },
	})
}

// doWork does the build of a task as pipegen build does in a container of the
// builder image, and else as pipegen run.
func (a *app) doWork(ctx context.Context, f agentFlags, w agent.Work, inPlace bool) (plan.Result, error) {
	options := a.registryOptions(w.Plan.Publish)
	options.Warn = func(text string) { _, _ = io.WriteString(w.Log, "warning: "+text+"\n") }
	if f.ambient {
		options.Keychain = registry.Ambient(options.AWS, a.getenv, options.Warn)
	}
	options.Keychain = registry.Logins(w.Logins, options.Keychain)
	client := registry.New(options)
	if err := createRepositories(ctx, client, w.Plan, w.Build); err != nil {
		return plan.Result{}, err
	}
	cache, err := a.cacheDir()
	if err != nil {
		return plan.Result{}, agent.Fault(err)
	}
	getenv := func(name string) string {
		if name == "TMPDIR" {
			return w.TempDir
		}
		return w.Getenv(name)
	}
	if f.ambient || w.ReadStored {
		if getenv, err = a.withStored(ctx, w.Plan, getenv, w.Build); errors.Is(err, failure.ErrInput) {
			return plan.Result{}, err
		} else if err != nil {
			return plan.Result{}, agent.Fault(err)
		}
	}
	if inPlace || w.Build.Engine != "kaniko" {
		j := engine.Job{
			Plan: w.Plan, Image: w.Image, Build: w.Build, Root: w.Root, Unpacked: true, MetadataDir: w.MetadataDir, Registry: client,
			Log: w.Log, Getenv: getenv, Environ: os.Environ(), CacheDir: cache, Now: time.Now,
		}
		if !inPlace {
			j.Executes = runner.Executes
		}
		return engine.Run(ctx, j)
	}
	executor, err := engine.FindExecutor(a.getenv)
	if err != nil {
		return plan.Result{}, agent.Fault(err)
	}
	sandbox := runner.SandboxOptions{Kind: runner.Kind(f.sandbox), Executor: executor, CACerts: a.bundle}
	if os.Geteuid() == 0 {
		// With the rest of the task it is gone even if this process is killed. What
		// is of mapped ids only another sandbox could remove.
		sandbox.Dir = filepath.Join(w.TempDir, "roots")
	}
	local, err := runner.NewLocal(ctx, runner.LocalOptions{
		Plan: w.Plan, Root: w.Root, Unpacked: true, MetadataDir: w.MetadataDir, Registry: client, CacheDir: cache, Getenv: getenv, Environ: os.Environ(),
		Sandbox: sandbox,
	})
	if err != nil {
		return plan.Result{}, agent.Fault(err)
	}
	return local.Build(ctx, w.Image, w.Build, w.Log)
}
