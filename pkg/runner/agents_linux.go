package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/engine"
)

// superviseArg is the argument of a pipegen that stands above an agent; the
// agent's directory and arguments follow.
const superviseArg = "__agent"

const (
	// supervised is how long an agent that is told to stop has before it is
	// killed: enough for an engine that has eight seconds itself.
	supervised = 9 * time.Second
	// starting is how long an agent's process may take to say who it is.
	starting = 10 * time.Second
)

// NewAgents prepares agents on this machine. It finds those of earlier
// processes again.
func NewAgents(o AgentsOptions) (*Agents, error) {
	var err error
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("finding pipegen's own binary: %w", err)
		}
	}
	if o.Args == nil {
		o.Args = []string{"agent", "--launch-file"}
	}
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Interval == 0 {
		o.Interval = 250 * time.Millisecond
	}
	if o.grace == 0 {
		o.grace = supervised
	}
	dir, err := filepath.Abs(filepath.Join(o.DataDir, "agents"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for agents: %w", err)
	}
	return &Agents{o: o, dir: dir, wake: make(chan struct{}, 1), busy: map[string]*holding{}}, nil
}

// Start implements [Launcher].
func (a *Agents) Start(ctx context.Context, l Launch) error {
	dir, err := a.dirOf(l.Task)
	if err != nil {
		return err
	}
	defer a.hold(l.Task)()
	if _, err := status(dir, boot()); !errors.Is(err, ErrNoAgent) {
		return err
	}
	if err := a.start(ctx, dir, l); err != nil {
		return fmt.Errorf("starting an agent for %s: %w", l.Task, err)
	}
	return nil
}

func (a *Agents) start(ctx context.Context, dir string, l Launch) error {
	work := filepath.Join(dir, workName)
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	launch := filepath.Join(dir, launchName)
	if err := writeJSON(launch, LaunchFile{Task: l.Task, URL: l.URL, Token: l.Token, Insecure: a.o.Insecure, Work: work}); err != nil {
		return err
	}
	output, err := os.OpenFile(filepath.Join(dir, outputName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(a.o.Self, slices.Concat([]string{superviseArg, dir}, a.o.Args, []string{launch})...) //nolint:noctx // it outlives this process
	cmd.Env, cmd.Dir = forAgents(a.o.Environ), work
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, os.Remove(launch))
	}
	over := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the file says how it was
		close(over)
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}()
	limit := time.After(starting)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, pidName)); err == nil {
			return nil
		}
		select {
		case <-over:
			if _, err := os.Stat(filepath.Join(dir, pidName)); err == nil {
				return nil
			}
			return errors.Join(fmt.Errorf("it ended at once: %s", lastLine(output.Name())), removed(launch))
		case <-limit:
			return errors.Join(errors.New("it does not say who it is"), cmd.Process.Kill(), removed(launch))
		case <-ctx.Done(): // it may come to life all the same, and is found then
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// forAgents are the variables that tell how to find programs, the network and
// whom to trust. No credential is among them but a proxy's.
func forAgents(environ []string) []string {
	names := slices.Concat([]string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "container",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_DIR",
		"LOCAL_CA_CERTIFICATE", "KANIKO_EXECUTOR", "BUILDKIT_HOST", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH",
		"GOPROXY", "GOSUMDB", "GOMODCACHE", "GOCACHE", "GOCOVERDIR", "PIPEGEN_CACHE", "PIPEGEN_REGISTRY_RPS",
	}, engine.CertificateFiles())
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains(names, name) || strings.HasPrefix(name, "LC_") {
			out = append(out, kv)
		}
	}
	return out
}

// Find implements [Launcher].
func (a *Agents) Find(_ context.Context, task string) (AgentStatus, error) {
	dir, err := a.dirOf(task)
	if err != nil {
		return AgentStatus{}, err
	}
	return status(dir, boot())
}

// Watch implements [Launcher].
func (a *Agents) Watch(ctx context.Context, report func(AgentStatus)) error {
	told := map[string]AgentState{}
	tick := time.NewTicker(a.o.Interval)
	defer tick.Stop()
	for {
		entries, err := os.ReadDir(a.dir)
		if err != nil {
			return fmt.Errorf("watching agents: %w", err)
		}
		there := map[string]bool{}
		for _, e := range entries {
			if there[e.Name()] = true; told[e.Name()] == AgentExited {
				continue
			}
			s, err := status(filepath.Join(a.dir, e.Name()), boot())
			if err == nil && s.State != told[s.Task] {
				told[s.Task] = s.State
				report(s)
			}
		}
		for task := range told {
			if !there[task] {
				delete(told, task)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		case <-a.wake:
		}
	}
}

// Stop implements [Launcher]. An agent that does not end within nine seconds is
// killed with its engine.
func (a *Agents) Stop(ctx context.Context, task string) error {
	dir, err := a.dirOf(task)
	if err != nil {
		return err
	}
	defer a.hold(task)()
	var p started
	switch err := readJSON(filepath.Join(dir, pidName), &p); {
	case errors.Is(err, fs.ErrNotExist): // none, or one whose start was cut short
	case err != nil:
		return fmt.Errorf("stopping the agent of %s: %w", task, err)
	case p.Boot == boot():
		if err := a.end(ctx, p.Process, dir); err != nil {
			return fmt.Errorf("stopping the agent of %s: %w", task, err)
		}
	}
	if err := archive.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing what the agent of %s left: %w", task, err)
	}
	return nil
}

// end ends the process above an agent with all that is below it. What the agent
// started has its directory for temporary files in this one, wherever it went.
func (a *Agents) end(ctx context.Context, p engine.Process, dir string) error {
	asked := p.Signal(syscall.SIGTERM) == nil
	for limit := time.Now().Add(a.o.grace + 300*time.Millisecond); asked && p.Runs() && time.Now().Before(limit); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	left := 0
	for range 100 {
		if left = p.Kill(dir); left == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%d processes cannot be killed", left)
}

// boot is the kernel's name for the time since the machine was started.
var boot = sync.OnceValue(func() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
})

// supervise runs an agent in a process of its own: it says who it is in the
// agent's directory, starts the agent, ends what that leaves, and writes down
// how it ended.
func supervise(dir string, args []string) (code int) {
	// The agent is to end with this process; the kernel takes the thread that
	// started it for that.
	runtime.LockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := register(dir); err != nil {
		fmt.Fprintln(os.Stderr, "pipegen: the task has an agent already:", err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-signals
		cancel()
	}()
	var e exited
	self, err := os.Executable()
	if err == nil {
		cmd := exec.Command(self, args...) //nolint:noctx,gosec // ended in order; this program, with what its launcher says
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		err = engine.Supervise(ctx, cmd, supervised)
	}
	exit, ran := errors.AsType[*exec.ExitError](err)
	switch {
	case ran:
		e.Code = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.Signal = ws.Signal().String()
		}
	case err != nil:
		e.Failed = err.Error()
	}
	if err := errors.Join(removed(filepath.Join(dir, launchName)), writeJSON(filepath.Join(dir, exitName), e)); err != nil {
		fmt.Fprintln(os.Stderr, "pipegen: writing down how the agent ended:", err)
		return 1
	}
	return 0
}

// register says that this process is the agent of a directory; only one can be.
func register(dir string) error {
	self, ok := engine.FindProcess(os.Getpid())
	if !ok {
		return errors.New("this process is not in /proc")
	}
	tmp, err := newJSON(filepath.Join(dir, pidName), started{self, boot()})
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	return os.Link(tmp, filepath.Join(dir, pidName))
}
