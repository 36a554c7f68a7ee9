package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/client"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/submission"
)

// access holds the flags by which a command reaches the controller.
type access struct {
	server, tokenFile string
	insecure          bool
	patience          time.Duration
}

func (w *access) flags(flags *pflag.FlagSet) {
	flags.StringVar(&w.server, "server", "", "`URL` of the controller (default: $PIPEGEN_SERVER, else $CONTROLLER_URL)")
	flags.StringVar(&w.tokenFile, "token-file", "", "`FILE` with the token (default: $PIPEGEN_TOKEN, else $BUILD_CONTROLLER_TOKEN; else with $PIPEGEN_TOKEN_AUDIENCE the identity that GitHub Actions gives the job)")
	flags.BoolVar(&w.insecure, "insecure", false, "send the token over plain HTTP, even to another machine")
	flags.DurationVar(&w.patience, "patience", 30*time.Second, "`TIME` for which a controller that cannot be reached is tried again; a run that is followed waits 15m at least")
}

// dotenv is read by all commands that talk to a controller, as Docker Compose
// reads it.
const dotenv = ".env"

// environment gives the variables of the process and of .env under them, and
// takes the format of logs from there if nothing else names one.
func (a *app) environment(cmd *cobra.Command) (map[string]string, error) {
	env, err := submission.Environment(os.Environ(), dotenv)
	if err != nil {
		return nil, err
	}
	format := env["LOG_FORMAT"]
	if format == "" || a.getenv("LOG_FORMAT") != "" || cmd.Flags().Changed("log-format") {
		return env, nil
	}
	if !slices.Contains(logFormats, format) {
		return nil, failure.Input("%s: LOG_FORMAT %q: want simple, plain or json", dotenv, format)
	}
	a.logFormat = format
	return env, nil
}

// speak has a command talk to the controller.
func (a *app) speak(cmd *cobra.Command, w access, do func(ctx context.Context, c *api.Client) error) error {
	env, err := a.environment(cmd)
	if err != nil {
		return err
	}
	c, err := a.connect(w, env)
	if err != nil {
		return err
	}
	return explained(c, do(cmd.Context(), c))
}

// connect makes a client of the controller. What the process's environment says
// comes before all that .env does, which is part of a checkout.
func (a *app) connect(w access, env map[string]string) (*api.Client, error) {
	first := func(names ...string) string {
		for _, lookup := range []func(string) string{a.getenv, func(name string) string { return env[name] }} {
			for _, name := range names {
				if value := lookup(name); value != "" {
					return value
				}
			}
		}
		return ""
	}
	url := orElse(w.server, first("PIPEGEN_SERVER", "CONTROLLER_URL"))
	if url == "" {
		return nil, failure.WithHint(failure.Input("no controller is named"), "use --server, or set PIPEGEN_SERVER; pipegen server --dev starts one here")
	}
	token := first("PIPEGEN_TOKEN", "BUILD_CONTROLLER_TOKEN")
	if w.tokenFile != "" {
		text, err := os.ReadFile(w.tokenFile)
		if err != nil {
			return nil, failure.Input("reading the token: %w", err)
		}
		token = string(text)
	}
	token = strings.TrimSpace(token)
	// Whom a CI system shows its jobs' identity to is not for a checkout to say.
	var tokens api.TokenSource
	if audience := a.getenv("PIPEGEN_TOKEN_AUDIENCE"); token == "" && audience != "" {
		var err error
		if tokens, err = client.GitHubIdentity(client.IdentityOptions{Getenv: a.getenv, Audience: audience}); err != nil {
			return nil, err
		}
	}
	var certificates []byte
	if a.bundle != "" {
		var err error
		if certificates, err = os.ReadFile(a.bundle); err != nil {
			return nil, err
		}
	}
	if w.patience <= 0 {
		w.patience = -1
	}
	c, err := api.NewClient(api.ClientOptions{
		URL: url, Token: token, Tokens: tokens, Insecure: w.insecure, CACerts: certificates, UserAgent: "pipegen/" + version, Patience: w.patience,
		Retrying: func(err error, pause time.Duration) {
			text := fmt.Sprintf("%v; trying again in %s", err, pause.Round(100*time.Millisecond))
			if a.observer == nil {
				a.warn(text)
				return
			}
			a.observer.Observe(runner.Event{Time: time.Now(), Kind: runner.Note, Line: text, Warning: true})
		},
	})
	if err != nil {
		return nil, err
	}
	return c.Traced(a.getenv("TRACEPARENT")), nil
}

// explained gives an error of the controller's with what its reader can do, and
// says whose fault it is: that of whoever named a wrong token or run.
func explained(c *api.Client, err error) error {
	if _, ok := errors.AsType[*api.ConnectionError](err); ok && failure.Hint(err) == "" {
		return failure.WithHint(err, "is there a controller at %s? --server and $PIPEGEN_SERVER name another one", c.URL())
	}
	hint := failure.Hint(err)
	switch {
	case errors.Is(err, api.ErrUnauthorized):
		if !strings.Contains(hint, "CI system") {
			hint = "pipegen server token add makes a token; it belongs in $PIPEGEN_TOKEN, or in the file of --token-file"
		}
	case errors.Is(err, api.ErrNotFound):
		hint = orElse(hint, "pipegen runs lists the runs that there are")
	case !errors.Is(err, api.ErrForbidden):
		return err
	}
	err = failure.Input("%w", err)
	if hint != "" {
		err = failure.WithHint(err, "%s", hint)
	}
	return err
}

// What an interrupt means for a run that is followed.
const (
	askUser = "ask"
	cancels = "cancel"
	detach  = "detach"
)

// interruptible is the flag that says it.
func interruptible(flags *pflag.FlagSet, value *string) {
	flags.StringVar(value, "on-interrupt", "", "`WHAT` Ctrl-C does to the run: ask, cancel or detach (default: ask on a terminal, else cancel)")
}

func (a *app) checkInterrupt(value *string) error {
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	switch *value {
	case "":
		*value = cancels
		if f, ok := a.stderr.(*os.File); ok && terminal && term.IsTerminal(int(f.Fd())) {
			*value = askUser
		}
	case cancels, detach:
	case askUser:
		if !terminal {
			return failure.WithHint(failure.Input("--on-interrupt ask needs a terminal to ask on"), "use cancel or detach")
		}
	default:
		return oneOf("--on-interrupt", *value, []string{askUser, cancels, detach})
	}
	return nil
}

// patience is how long the controller may be away while a run is followed.
const patience = 15 * time.Minute

// watch shows a run until it has ended. An interrupt cancels the run, or
// leaves it alone.
func (a *app) watch(ctx context.Context, w access, c *api.Client, id, onInterrupt string) (api.Run, error) {
	a.observer = a.progress(!a.quiet, func(build string) string { return "pipegen logs " + id + " --build " + build })
	run, err := client.Follow(ctx, c.Patient(max(patience, w.patience)), id, client.FollowOptions{Observer: a.observer})
	a.observer = nil
	if ctx.Err() == nil || run.State.Ended() {
		return run, err
	}
	// What follows an interrupt is itself ended by another one.
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if onInterrupt == askUser {
		onInterrupt = a.ask(ctx)
	}
	if onInterrupt == cancels {
		a.note("cancelling run %s", id)
		cerr := a.cancel(ctx, c, id, "interrupted")
		if cerr == nil {
			return run, err
		}
		a.report(explained(c, cerr))
	}
	a.note("run %s goes on: pipegen logs %s --follow, pipegen cancel %s", id, id, id)
	return run, err
}

// ask asks on the terminal whether to cancel or to detach.
func (a *app) ask(ctx context.Context) string {
	answers := make(chan string, 1)
	go func() { // reading a terminal cannot be cancelled; it ends with the process
		var answer string
		_, _ = fmt.Fscanln(os.Stdin, &answer)
		answers <- answer
	}()
	fmt.Fprint(a.stderr, "Cancel the run, or detach from it and let it go on? [c/D] ")
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
	case answer := <-answers:
		if strings.HasPrefix(strings.ToLower(answer), "c") {
			return cancels
		}
	}
	return detach
}

// grace is how long an answer is awaited after an interrupt.
const grace = 3 * time.Second

// outliving gives a context that ends a while after ctx: for requests that must
// not be left halfway.
func outliving(ctx context.Context) (context.Context, func()) {
	longer, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { end(context.Cause(ctx)) })
	})
	return longer, func() { stop(); end(nil) }
}

// cancel cancels a run and waits until it has ended.
func (a *app) cancel(ctx context.Context, c *api.Client, id, reason string) error {
	asking, stop := outliving(ctx)
	run, err := c.CancelRun(asking, id, reason)
	stop()
	for err == nil && !run.State.Ended() {
		select {
		case <-ctx.Done():
			a.note("run %s is being cancelled", id)
			return nil
		case <-time.After(300 * time.Millisecond):
		}
		run, err = c.Run(ctx, id)
	}
	if err != nil {
		return err
	}
	if run.State == api.Cancelled {
		a.note("run %s is cancelled", id)
	} else {
		a.note("run %s had %s already", id, run.State)
	}
	return nil
}

// lineFormat gives a line of a log as it is shown.
func lineFormat(l api.LogLine) string {
	name := orElse(l.Build, l.Image)
	if name != "" {
		name = "[" + quote.Text(name) + "] "
	}
	return name + quote.Text(strings.ReplaceAll(l.Message, "\t", "    "))
}
