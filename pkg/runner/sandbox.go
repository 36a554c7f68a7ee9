package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Kind says by what means a sandbox keeps a build apart from this machine.
type Kind string

// The kinds of sandbox.
const (
	// Auto takes namespaces where this machine allows them, else Docker, else Podman.
	Auto       Kind = "auto"
	Namespaces Kind = "namespaces"
	Docker     Kind = "docker"
	Podman     Kind = "podman"
)

// SandboxOptions say how a sandbox is made.
type SandboxOptions struct {
	// Empty: Auto.
	Kind Kind
	// Host path of the program that appears as [engine.SandboxDir]/executor. It must be
	// statically linked.
	Executor string
	// Directory below which roots are made; it needs room for the unpacked
	// images of all builds that run at once. Default: pipegen/roots in the
	// user's cache directory.
	Dir string
	// The pipegen binary, which is run again inside the new namespaces and must
	// call [Main] first. Default: this process's own.
	Self string
	// File with the certificates (PEM) that builds trust. Default: the host's bundle.
	CACerts string

	// How long a cancelled command may take to end after SIGTERM; then it is
	// killed. Tests wait less.
	grace time.Duration
}

// Sandbox runs each command in a root of its own, which is gone afterwards. It
// implements [engine.Sandbox]. Commands may run side by side.
//
// Inside are the executor, certificates, /etc/hosts and /etc/resolv.conf of the
// host, /proc, a small /dev, an empty /tmp and /workspace, and what the command
// mounts; nothing else of the host's files and processes can be reached. The
// network is the host's, abstract unix sockets included.
type Sandbox struct {
	kind Kind
	// Where roots are made.
	dir string
	run func(ctx context.Context, dir string, c engine.Command) error
	// Removes a tree that may hold files of mapped ids.
	remove func(dir string) error
}

// ExitError says that a command ran and did not end well.
type ExitError struct {
	// Code is the exit code; -1 if a signal ended the command.
	Code int
	// Signal that ended the command, for example "killed"; may be empty.
	Signal string
}

// Error says how the command ended.
func (e *ExitError) Error() string {
	switch {
	case e.Signal == "killed":
		return "killed by the system, most likely for want of memory"
	case e.Signal != "":
		return "ended by signal: " + e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// ExitCode gives the code, or -1 if a signal ended the command.
func (e *ExitError) ExitCode() int { return e.Code }

// NewSandbox makes a sandbox of the wanted kind, or of the first kind that
// works on this machine, which is tried for real. Roots that a killed process
// left behind are removed. The error wraps [failure.ErrInput] when this machine
// lacks something, with the fix as its hint.
func NewSandbox(ctx context.Context, o SandboxOptions) (*Sandbox, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := executable(o.Executor); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for roots: %w", err)
	}
	s := &Sandbox{dir: o.Dir, remove: os.RemoveAll}
	if s.kind, err = choose(ctx, o); err != nil {
		return nil, err
	}
	if s.kind == Namespaces {
		ns, err := newNamespaces(o)
		if err != nil {
			return nil, err
		}
		s.run, s.remove = ns.run, ns.remove
	} else {
		s.run = (&containers{cli: string(s.kind), o: o}).run
	}
	sweep(s.dir, s.remove)
	return s, nil
}

// choose gives the first kind that works here, or why the wanted one does not.
func choose(ctx context.Context, o SandboxOptions) (Kind, error) {
	switch o.Kind {
	case Namespaces:
		return Namespaces, tryNamespaces(ctx, o)
	case Docker, Podman:
		_, err := tryContainers(ctx, string(o.Kind), o)
		return o.Kind, err
	case Auto:
		err := tryNamespaces(ctx, o)
		if err == nil {
			return Namespaces, nil
		}
		for _, k := range []Kind{Docker, Podman} {
			if _, cliErr := tryContainers(ctx, string(k), o); cliErr == nil {
				return k, nil
			}
		}
		return "", err
	}
	return "", failure.Input("unknown kind of sandbox %q: want %s, %s, %s or %s", o.Kind, Auto, Namespaces, Docker, Podman)
}

// Kind gives the kind that was chosen; never Auto.
func (s *Sandbox) Kind() Kind { return s.kind }

// Run runs c in a new root and waits for its end. A command that fails gives an
// [*ExitError]; a cancelled one is asked to end (SIGTERM), killed with all it
// started after eight seconds, and gives the context's error.
func (s *Sandbox) Run(ctx context.Context, c engine.Command) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]) {
		return errors.New("running in a sandbox: the program needs an absolute path")
	}
	c, err := withAbsoluteMounts(c)
	if err != nil {
		return err
	}
	dir, unlock, err := newDir(s.dir)
	if err != nil {
		return fmt.Errorf("making a root: %w", err)
	}
	err = s.run(ctx, dir, c)
	if rmErr := s.remove(dir); rmErr != nil && c.Stderr != nil {
		_, _ = fmt.Fprintf(c.Stderr, "warning: removing the root of the build: %v\n", rmErr)
	}
	unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (o SandboxOptions) withDefaults() (SandboxOptions, error) {
	var err error
	if o.Kind == "" {
		o.Kind = Auto
	}
	if o.grace == 0 {
		o.grace = 8 * time.Second
	}
	if o.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		o.Dir = filepath.Join(cache, "pipegen", "roots")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, err
	}
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return o, fmt.Errorf("finding pipegen's own binary: %w", err)
		}
	}
	if o.Executor != "" {
		if o.Executor, err = filepath.Abs(o.Executor); err != nil {
			return o, err
		}
	}
	if o.CACerts == "" {
		o.CACerts = hostCerts()
	}
	return o, nil
}

// hostCerts gives the host's bundle of certificates, where the distributions
// keep it (crypto/x509/root_linux.go), or "".
func hostCerts() string {
	for _, f := range []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem",
	} {
		if fi, err := os.Stat(f); err == nil && fi.Mode().IsRegular() {
			return f
		}
	}
	return ""
}

func executable(path string) error {
	const hint = "install it with `make tools`, or name it in KANIKO_EXECUTOR"
	if path == "" {
		return failure.WithHint(failure.Input("kaniko's executor was not found"), hint)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return failure.WithHint(failure.Input("kaniko's executor: %w", err), hint)
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
		return failure.WithHint(failure.Input("kaniko's executor: %s is no executable file", path), hint)
	}
	return nil
}

func withAbsoluteMounts(c engine.Command) (engine.Command, error) {
	mounts := make([]engine.Mount, len(c.Mounts))
	for i, m := range c.Mounts {
		host, err := filepath.Abs(m.Host)
		if err != nil {
			return c, err
		}
		if !filepath.IsAbs(m.Inside) || filepath.Clean(m.Inside) == "/" {
			return c, fmt.Errorf("mounting %s: %q is no path below the root", m.Host, m.Inside)
		}
		mounts[i] = engine.Mount{Host: host, Inside: filepath.Clean(m.Inside), ReadOnly: m.ReadOnly}
	}
	c.Mounts = mounts
	return c, nil
}

// withEnvDefaults adds what every container of a builder image sets.
func withEnvDefaults(env []string) []string {
	env = slices.Clone(env)
	for _, kv := range []string{"container=pipegen", "SSL_CERT_DIR=" + certsDir} {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			env = append(env, kv)
		}
	}
	return env
}
