package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
)

// ownDaemon is a buildkitd that lives as long as one build.
type ownDaemon struct {
	address string
	said    *tail
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it has ended
	dir     string        // for its sockets and its configuration
	lock    *os.File      // of its root directory
}

// How long a daemon may take to be ready, and to end: all of a cancelled build
// must be over within ten seconds.
const (
	startPatience = time.Minute
	stopPatience  = 10 * time.Second
	haste         = time.Second
)

// findDaemon gives what starts a daemon: buildkitd, by rootlesskit unless this
// is root.
func findDaemon(getenv func(string) string) ([]string, error) {
	const hint = "name a running daemon in BUILDKIT_HOST or buildkit.addresses, or install buildkitd and runc"
	if runtime.GOOS != "linux" {
		return nil, failure.WithHint(failure.Input("no BuildKit daemon is named, and one can be started on Linux alone"), hint)
	}
	buildctl, err := FindBuildctl(getenv)
	if err != nil {
		return nil, err
	}
	beside := filepath.Dir(buildctl)
	daemon, err := findProgram(getenv, "buildkitd", "BUILDKITD", beside)
	if err != nil {
		return nil, failure.WithHint(fmt.Errorf("no BuildKit daemon is named, and none can be started: %w", err), hint)
	}
	runc := slices.ContainsFunc([]string{"buildkit-runc", "runc", "crun"}, func(name string) bool {
		_, err := findProgram(getenv, name, "", filepath.Dir(daemon))
		return err == nil
	})
	if !runc {
		return nil, failure.WithHint(failure.Input("no BuildKit daemon is named, and none can be started: buildkitd needs runc, which was not found"), hint)
	}
	if os.Geteuid() == 0 {
		return []string{daemon}, nil
	}
	rootlesskit, err := findProgram(getenv, "rootlesskit", "ROOTLESSKIT", beside)
	if err != nil {
		return nil, failure.WithHint(fmt.Errorf("no BuildKit daemon is named, and none can be started by an ordinary user: %w", err), hint)
	}
	return []string{rootlesskit, daemon}, nil
}

// startDaemon starts a daemon and waits until it answers. What it has built
// stays below the cache directory for the next.
func startDaemon(ctx context.Context, b *building) (_ *ownDaemon, err error) {
	argv, err := findDaemon(b.Job.Getenv)
	if err != nil {
		return nil, err
	}
	d := &ownDaemon{said: &tail{}, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop(ctx))
		}
	}()
	root, err := d.takeRoot(filepath.Join(b.Job.CacheDir, "buildkit"))
	if err != nil {
		return nil, fmt.Errorf("making a directory for buildkitd: %w", err)
	}
	if d.dir, err = socketDir(b.work); err != nil {
		return nil, fmt.Errorf("making a directory for buildkitd: %w", err)
	}
	config := filepath.Join(d.dir, "buildkitd.toml")
	if err := os.WriteFile(config, []byte(daemonConfig(b.Prepared, d.dir)), 0o600); err != nil {
		return nil, err
	}
	d.address = "unix://" + filepath.Join(d.dir, "s")
	argv = append(argv, "--addr="+d.address, "--root="+root, "--config="+config, "--oci-worker=true", "--containerd-worker=false")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if len(argv) > 0 && hidesProc(string(mounts)) && inUserNamespace() {
		argv = append(argv, "--oci-worker-no-process-sandbox")
	}
	argv = append(argv, strings.Fields(b.Job.Getenv("BUILDKITD_FLAGS"))...)
	d.cmd = exec.Command(argv[0], argv[1:]...) //nolint:noctx // ended in order by stop
	d.cmd.Env, d.cmd.Dir = daemonEnv(b.Job, d.dir, filepath.Dir(argv[0])), d.dir
	d.cmd.Stdout, d.cmd.Stderr = d.said, d.said
	d.cmd.WaitDelay = haste
	d.cmd.SysProcAttr = isolated()
	if err := d.cmd.Start(); err != nil {
		d.cmd = nil
		return nil, fmt.Errorf("starting buildkitd: %w", err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.wait(ctx); err != nil {
		if ctx.Err() == nil {
			b.log.say("buildkitd said last:\n" + d.said.String())
		}
		return nil, err
	}
	return d, nil
}

// takeRoot gives the first directory below dir that no other daemon uses: one
// at a time can have it.
func (d *ownDaemon) takeRoot(dir string) (string, error) {
	for i := 0; ; i++ {
		root := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(root, 0o700); err != nil {
			return "", err
		}
		f, err := os.OpenFile(root+".lock", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return "", err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			d.lock = f
			return root, nil
		}
		if cerr := f.Close(); cerr != nil {
			return "", cerr
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return "", err
		}
	}
}

// socketDir makes a directory whose path is short enough for that of a socket
// in it (unix(7)).
func socketDir(work string) (string, error) {
	dir := filepath.Join(work, "daemon")
	if len(dir) > 80 {
		return os.MkdirTemp("/tmp", "pipegen-daemon-")
	}
	return dir, os.Mkdir(dir, 0o700)
}

// daemonConfig is the buildkitd.toml of a daemon: the registries of this build
// that are reached over plain HTTP, and the mirrors. A text in JSON is one in
// TOML.
func daemonConfig(p *Prepared, dir string) string {
	text := func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	}
	j := p.Job
	var b strings.Builder
	fmt.Fprintf(&b, "[otel]\n  socketPath = %s\n", text(filepath.Join(dir, "otel")))
	sections := map[string]string{}
	for _, host := range slices.Concat(p.Hosts, j.Plan.Publish.Insecure) {
		if insecure(host, j.Plan.Publish.Insecure) {
			sections[host] = "  http = true\n  insecure = true\n"
		}
	}
	var mirrors []string
	for _, m := range j.Build.RegistryMirrors {
		mirrors = append(mirrors, text(m))
		if host, _, _ := strings.Cut(m, "/"); insecure(host, j.Plan.Publish.Insecure) {
			sections[host] = "  http = true\n  insecure = true\n"
		}
	}
	if len(mirrors) > 0 {
		sections["docker.io"] += "  mirrors = [" + strings.Join(mirrors, ", ") + "]\n"
	}
	for _, host := range slices.Sorted(maps.Keys(sections)) {
		fmt.Fprintf(&b, "[registry.%s]\n%s", text(host), sections[host])
	}
	return b.String()
}

// daemonEnv is all that a daemon sees of the environment: it gets credentials
// from buildctl when it asks.
func daemonEnv(j *Job, dir, beside string) []string {
	env := inherit(j.Environ, slices.Concat([]string{"PATH", "XDG_RUNTIME_DIR"}, proxies, certificates, stepLimits))
	maps.Copy(env, tracing(j.Environ))
	env["PATH"] = strings.Join(slices.Compact([]string{beside, firstOf(env["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")}), ":")
	env["HOME"], env["TMPDIR"] = dir, dir
	return list(env)
}

// hidesProc says whether parts of /proc are hidden below mounts: the kernel
// then lets no user namespace mount another /proc, which each step would get.
func hidesProc(mountinfo string) bool {
	for line := range strings.Lines(mountinfo) {
		// proc(5): id parent device root where options …
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
	}
	return false
}

// inUserNamespace says whether the daemon will run in a user namespace: by
// rootlesskit, or in one that is there.
func inUserNamespace() bool {
	if os.Geteuid() != 0 {
		return true
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
}

// wait returns once the daemon answers.
func (d *ownDaemon) wait(ctx context.Context) error {
	until := time.NewTimer(startPatience)
	defer until.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if exists(strings.TrimPrefix(d.address, "unix://")) {
			asked, cancel := context.WithTimeout(ctx, patience)
			_, err := listWorkers(asked, d.address, nil)
			cancel()
			if err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.ended:
			return fmt.Errorf("buildkitd did not start: %s", firstOf(d.said.last(), d.cmd.ProcessState.String()))
		case <-until.C:
			return fmt.Errorf("buildkitd is not ready after %s", startPatience)
		case <-again.C:
		}
	}
}

// killed says whether the daemon was ended by SIGKILL.
func (d *ownDaemon) killed() bool {
	select {
	case <-d.ended:
	case <-time.After(haste):
		return false
	}
	status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// stop ends the daemon with all that it started, and removes its directory. Its
// mounts end with it: they are in a namespace of its own.
func (d *ownDaemon) stop(ctx context.Context) error {
	if d.cmd != nil {
		patience := stopPatience
		if ctx.Err() != nil {
			patience = haste
		}
		f := family{head: d.cmd.Process.Pid}
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(patience):
			f.remember(syscall.SIGKILL) // steps run in groups of their own
			<-d.ended
		}
		f.end()
	}
	var err error
	if d.dir != "" {
		if err = archive.RemoveAll(d.dir); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}
