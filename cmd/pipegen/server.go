package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	keys "github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/controller/web"
	"github.com/pipegen/pipegen/pkg/failure"
)

// serving holds the flags of pipegen server.
type serving struct {
	listen, dataDir, database, url, config string
	tlsCert, tlsKey                        string
	runners, insecure                      []string
	dev, behindProxy                       bool
	sharing
	databaseShown string // without a password
}

func (s *serving) flags(a *app, flags *pflag.FlagSet) {
	flags.StringVar(&s.listen, "listen", a.getenv("PIPEGEN_LISTEN"), "`ADDRESS` to answer at (default: all addresses at $PORT, else 127.0.0.1:3000)")
	flags.StringVar(&s.database, "database", "", "`DATABASE`: a file of SQLite, or the URL of a PostgreSQL, which several controllers may share (default: $PIPEGEN_DATABASE, else pipegen.db in the data directory)")
	flags.StringVar(&s.url, "url", a.getenv("CONTROLLER_URL"), "`URL` by which this controller is reached (default: $CONTROLLER_URL, else url in the file of --config, else a name of the certificate, else where it listens)")
	flags.StringVar(&s.config, "config", a.getenv("PIPEGEN_SERVER_CONFIG"), "`FILE` with limits, retention, tokens, kubernetes and ecs: a pipegen.yaml with server, or a file of its own")
	flags.StringVar(&s.tlsCert, "tls-cert", a.getenv("PIPEGEN_TLS_CERT"), "`FILE` with the certificate and those that signed it (PEM)")
	flags.StringVar(&s.tlsKey, "tls-key", a.getenv("PIPEGEN_TLS_KEY"), "`FILE` with the certificate's key (PEM)")
	flags.StringSliceVar(&s.runners, "runner", list(orElse(a.getenv("PIPEGEN_RUNNER"), "local")), "`RUNNER` of builds, the first for runs that name none; repeats: local, kubernetes, ecs")
	flags.StringSliceVar(&s.insecure, "insecure-registry", list(a.getenv("PIPEGEN_INSECURE_REGISTRY")), insecureUsage)
	s.sharing.flags(a, flags)
	flags.BoolVar(&s.dev, "dev", false, "answer anybody without a token, on a loopback address alone")
	flags.BoolVar(&s.behindProxy, "behind-proxy", a.getenv("PIPEGEN_BEHIND_PROXY") == "true", "a proxy stands before that speaks TLS and sets X-Forwarded-For")
}

// list splits a list with commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func dataDirFlag(a *app, flags *pflag.FlagSet, dir *string) {
	flags.StringVar(dir, "data-dir", a.getenv("PIPEGEN_DATA_DIR"), "`DIR` for all that is kept (default: $PIPEGEN_DATA_DIR, else $XDG_STATE_HOME/pipegen, else ~/.local/state/pipegen)")
}

func (a *app) serverCommand() *cobra.Command {
	var s serving
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Keep a queue of builds and start an agent for each",
		Long: `Takes runs over HTTP, starts an agent for each build on a runner, keeps their
logs, publishes the images and forgets all that in time. Everything is kept in
the data directory (and contexts and logs in S3, if $S3_BUCKET is set): a
controller that is killed goes on where it was, and agents go on meanwhile.

It answers nobody without a token: pipegen server token add, tokens in the file
of --config, or $BUILD_CONTROLLER_TOKEN. --dev needs none, on loopback alone.`,
		Example: "  pipegen server --dev\n  pipegen server token add ci --role submit --registry registry.example.com/team\n" +
			"  pipegen server --listen :8443 --tls-cert tls.crt --tls-key tls.key --url https://pipegen.example.com:8443\n" +
			"  pipegen server --runner ecs --config server.yaml --listen :3000 --behind-proxy --url https://pipegen.example.com",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.server(cmd.Context(), s) },
	}
	s.flags(a, cmd.Flags())
	dataDirFlag(a, cmd.Flags(), &s.dataDir)
	cmd.AddCommand(a.serverTokenCommand(), a.initBucketCommand())
	return cmd
}

// server runs a controller until ctx ends.
func (a *app) server(ctx context.Context, s serving) (err error) {
	settings, err := a.settings(&s)
	if err != nil {
		return err
	}
	log := a.serverLog()
	var certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if s.tlsCert != "" {
		if certificate, err = web.Certificate(s.tlsCert, s.tlsKey, log); err != nil {
			return err
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return failure.WithHint(failure.Input("--listen: %w", err), "another port, such as --listen 127.0.0.1:3001")
	}
	defer func() { _ = listener.Close() }() // who serves has closed it
	nearURL, err := a.nearURL(&s, listener.Addr(), certificate)
	if err != nil {
		return err
	}

	tracing, err := a.tracing(ctx, log)
	if err != nil {
		return err
	}
	defer tracing.close(ctx)
	db, err := store.Open(ctx, s.database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	blobs, inS3, err := a.blobs(ctx, s, log)
	if err != nil {
		return err
	}
	keyring, err := a.keyring(&s)
	if err != nil {
		return err
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx)) // agents are stopped until the end
	defer unwatch()
	launchers, err := a.launchers(watching, s, settings, certificate != nil, log)
	if err != nil {
		return err
	}
	audit, err := web.NewAudit(s.dataDir)
	if err != nil {
		return err
	}
	metrics := web.NewMetrics()
	core, err := controller.New(controller.Options{
		Store: db, Blobs: blobs, Launchers: launchers, Default: s.runners[0], Local: []string{"local"}, Publish: a.publishRun(s.insecure), URL: nearURL,
		MayName: namable(settings.secrets), Stored: a.controllerReads(settings.secrets), AgentsRead: agentsRead(settings.secrets),
		Instance: s.instance, Limits: settings.core, Keys: keyring, Logger: log,
		Observe: func(e controller.Event) { metrics.Observe(e); tracing.observe(e) },
	})
	if err != nil {
		return err
	}
	metrics.Watch(core.Queue)
	options := web.Options{
		Core: core, Access: settings.access, Anonymous: s.dev, BehindProxy: s.behindProxy, DefaultRunner: s.runners[0], Resources: settings.resources,
		Check: acceptable, Compile: settings.compile, TempDir: s.tempDir(), Limits: settings.web, Metrics: metrics, Audit: audit, Tracer: tracing.provider, Logger: log,
		Linger: s.drain,
	}
	if inS3 {
		options.Blobs = blobs
	}
	if s.dev {
		options.Instead = map[string]string{"kubernetes": "local", "ecs": "local"}
	}
	front, err := web.New(options)
	if err != nil {
		return err
	}
	if settings.identities != nil {
		// An issuer that cannot be reached is told of before the first token comes.
		go func() { _ = settings.identities.Warm(ctx) }()
	}
	log.Info("listening", "address", listener.Addr().String(), "url", s.url, "data", s.dataDir, "database", s.databaseShown, "runners", strings.Join(s.runners, ","), "tls", certificate != nil, "dev", s.dev)
	if s.dev {
		log.Warn("--dev: whoever can reach this address may run programs as this user; builds for other runners happen here")
	}
	run, err := a.copyingLogs(ctx, settings.logCopy, core, db, log)
	if err != nil {
		return err
	}
	return serveBoth(ctx, run, func(ctx context.Context) error { return front.Serve(ctx, listener, certificate) })
}

// serveBoth runs both parts until one fails or ctx ends; either has its end
// known to the other. Requests end before the core does.
func serveBoth(ctx context.Context, core, front func(context.Context) error) error {
	coreCtx, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	frontCtx, stopFront := context.WithCancel(ctx)
	defer stopFront()
	var coreErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		coreErr = core(coreCtx)
		stopFront()
	})
	frontErr := front(frontCtx)
	stopCore()
	wg.Wait()
	return errors.Join(coreErr, frontErr)
}

// blobs opens the store of contexts and logs, and says whether it is in S3. A
// bucket that cannot be reached for now is waited for by those who need it.
func (a *app) blobs(ctx context.Context, s serving, log *slog.Logger) (blob.Store, bool, error) {
	if a.getenv("S3_BUCKET") == "" {
		if a.getenv("S3_ENDPOINT") != "" {
			a.warn("S3_ENDPOINT is set and S3_BUCKET is not: contexts and logs are kept in the data directory")
		}
		blobs := blob.Dir(s.blobs)
		return blobs, false, blobs.Check(ctx)
	}
	o, err := blob.S3OptionsFromEnv(a.getenv)
	if err != nil {
		return nil, true, err
	}
	blobs, err := blob.S3(ctx, o)
	if err != nil {
		return nil, true, err
	}
	if err := blobs.Check(ctx); errors.Is(err, failure.ErrInput) || ctx.Err() != nil {
		return nil, true, err
	} else if err != nil {
		log.Warn("contexts and logs cannot be kept for now", "error", err)
	}
	return blobs, true, nil
}

// checkRunners refuses runners that there are none of; --dev has one in the
// place of all.
func (s *serving) checkRunners(a *app) error {
	if len(s.runners) == 0 {
		return failure.Input("--runner: a controller needs one")
	}
	for i, name := range s.runners {
		switch {
		case name == "local", (name == "kubernetes" || name == "ecs") && !s.dev:
		case s.dev && (name == "kubernetes" || name == "ecs"):
			a.warn("--dev: builds for " + name + " happen on this machine")
			s.runners[i] = "local"
		default:
			return knownRunner(name, "local", "kubernetes", "ecs")
		}
	}
	s.runners = slices.Compact(s.runners)
	return nil
}

// check fills in defaults and refuses what is not safe.
func (s *serving) check(a *app) error {
	if err := s.checkRunners(a); err != nil {
		return err
	}
	if s.listen == "" {
		s.listen = "127.0.0.1:3000"
		if port := a.getenv("PORT"); port != "" {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return failure.Input("PORT=%q is no port", port)
			}
			s.listen = ":" + port
			if s.dev {
				s.listen = "127.0.0.1:" + port
			}
		}
	}
	host, _, err := net.SplitHostPort(s.listen)
	if err != nil {
		return failure.WithHint(failure.Input("--listen %q is no address", s.listen), "write HOST:PORT, or :PORT for all addresses")
	}
	onLoopback := isLoopback(host)
	switch {
	case (s.tlsCert == "") != (s.tlsKey == ""):
		return failure.Input("--tls-cert and --tls-key belong together")
	case s.dev && !onLoopback:
		return failure.WithHint(failure.Input("--dev answers anybody, and %s is no loopback address", s.listen), "listen on 127.0.0.1, or use tokens: pipegen server token add")
	case s.dev && s.behindProxy:
		return failure.Input("--dev answers anybody: it is not for use behind a proxy")
	case !onLoopback && s.tlsCert == "" && !s.behindProxy:
		a.warn("tokens and builds travel over plain HTTP to " + s.listen + "; use --tls-cert and --tls-key, or --behind-proxy if a proxy speaks TLS")
	}
	if s.dataDir == "" {
		if s.dataDir, err = a.stateDir(); err != nil {
			return err
		}
	}
	if s.dataDir, err = filepath.Abs(s.dataDir); err != nil {
		return err
	}
	return s.checkSharing(a)
}

// tempDir is where files live no longer than a request.
func (s *serving) tempDir() string { return filepath.Join(s.dataDir, "tmp") }

// prepare makes the data directory, which is the user's alone.
func (s *serving) prepare() error {
	for _, dir := range []string{s.dataDir, s.tempDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return failure.WithHint(failure.Input("--data-dir: %w", err), "name a directory that this user may write to")
		}
	}
	return nil
}

// stateDir is where a controller keeps what it must not lose.
func (a *app) stateDir() (string, error) {
	if dir := a.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pipegen"), nil
	}
	home := a.getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", failure.WithHint(failure.Input("there is no place for the controller's data: HOME is not set"), "name one with --data-dir")
	}
	return filepath.Join(home, ".local", "state", "pipegen"), nil
}

// tokenSources are the tokens that are valid: those of the data directory, of
// the file of --config, of the environment, and of CI systems.
func (a *app) tokenSources(s serving, file *config.Server, identities *keys.OIDC) (keys.Any, error) {
	var fixed []keys.Token
	for _, t := range file.Tokens {
		token, err := fileToken(t)
		if err != nil {
			return nil, err
		}
		fixed = append(fixed, token)
	}
	if secret := a.getenv("BUILD_CONTROLLER_TOKEN"); secret != "" {
		token, err := keys.Given("BUILD_CONTROLLER_TOKEN", secret, keys.Submit)
		if err != nil {
			return nil, err
		}
		fixed = append(fixed, token)
	}
	stored := keys.OpenFile(s.dataDir)
	tokens, err := stored.Tokens()
	if err != nil {
		return nil, err
	}
	all := keys.Any{keys.Static{Source: keys.Fixed(fixed...)}, keys.Static{Source: stored.Tokens}}
	switch {
	case identities != nil:
		return append(all, identities), nil
	case len(fixed)+len(tokens) == 0 && !s.dev:
		return nil, failure.WithHint(failure.Input("there are no tokens: the controller would answer nobody"), "pipegen server token add NAME --role submit, server.oidc for CI systems, or --dev on loopback")
	}
	return all, nil
}

// serverLog is what the controller says of its work, without secrets.
func (a *app) serverLog() *slog.Logger {
	level := slog.LevelInfo
	switch {
	case a.verbose:
		level = slog.LevelDebug
	case a.quiet:
		level = slog.LevelWarn
	}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: redacted}
	if a.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, o))
	}
	return slog.New(slog.NewTextHandler(a.stderr, o))
}
