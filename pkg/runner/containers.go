package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// containers runs commands by the command line of Docker or Podman, in an
// image that holds nothing but places for mounts.
type containers struct {
	cli string
	o   SandboxOptions

	mu    sync.Mutex
	image string // once it is there
}

// keptNames are the capabilities kept, for a command line.
var keptNames = []string{
	"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SETFCAP", "SYS_CHROOT", "AUDIT_WRITE",
}

// tryContainers asks docker or podman for its version, and runs the executor's
// own version command in a container.
func tryContainers(ctx context.Context, cli string, o SandboxOptions) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	path, err := exec.LookPath(cli)
	if err != nil {
		return "", failure.WithHint(failure.Input("%s is not installed", cli), "install Docker or Podman")
	}
	format := "{{.Server.Version}}"
	if cli == string(Podman) {
		format = "{{.Client.Version}}"
	}
	cmd := exec.CommandContext(ctx, path, "version", "--format", format)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	version = quote.Text(strings.TrimSpace(string(out)))
	if err != nil || version == "" {
		return "", failure.WithHint(failure.Input("%s does not answer: %s", cli, firstLine(err)), "start it, and see that `%s version` shows a server", cli)
	}
	if executable(o.Executor) != nil {
		return version, nil // which is a check of its own
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return "", err
	}
	dir, unlock, err := newDir(o.Dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	var said bytes.Buffer
	program := filepath.Join(engine.SandboxDir, "executor")
	err = (&containers{cli: cli, o: o}).run(ctx, dir, engine.Command{Argv: []string{program, "version"}, Stdout: &said, Stderr: &said})
	if rmErr := os.RemoveAll(dir); err == nil {
		err = rmErr
	}
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return "", failure.WithHint(failure.Input("%s runs no container: %w: %s", cli, err, quote.Text(line)), "see that `%s run` works", cli)
	}
	return version, nil
}

func firstLine(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if line, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n"); line != "" {
			return quote.Text(line)
		}
	}
	if err == nil {
		return "no server"
	}
	return err.Error()
}

func (k *containers) run(ctx context.Context, dir string, c engine.Command) error {
	image, err := k.ensureImage(ctx, dir)
	if err != nil {
		return err
	}
	name := "pipegen-" + strings.ToLower(rand.Text()[:12])
	argv, env := runArgs(name, image, k.o.Executor, c)
	return k.wait(ctx, name, argv, env, c.Stdout, c.Stderr)
}

// wait runs a container with these arguments of docker or podman to its end.
func (k *containers) wait(ctx context.Context, name string, argv, env []string, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), k.cli, argv...) // stop ends it
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	ownGroup(cmd)
	done, err := engine.Begin(cmd)
	if err != nil {
		return err
	}
	defer done()
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
		case <-ctx.Done():
			k.stop(name, ended)
			_ = cmd.Process.Kill() // has ended, but for a server that hangs
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-stopped
	if ctx.Err() != nil {
		_ = k.do("rm", "--force", name)
	}
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		return err
	case exit.ExitCode() == 125:
		return fmt.Errorf("%s could not run the build (see its message in the log)", k.cli)
	case exit.ExitCode() == 128+9:
		return &ExitError{Code: -1, Signal: "killed"}
	}
	return &ExitError{Code: exit.ExitCode()}
}

// stop asks a container to end until it has: one that is being made can only be
// stopped once it runs, and giving up its making would leave it behind.
func (k *containers) stop(name string, ended <-chan struct{}) {
	limit := time.After(k.o.grace + 20*time.Second)
	for {
		_ = k.do("stop", "--time", fmt.Sprint(int(k.o.grace.Seconds())), name)
		select {
		case <-ended:
			return
		case <-limit:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// do runs a command that ends a container, whatever has been cancelled.
func (k *containers) do(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), k.o.grace+20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.cli, args...)
	ownGroup(cmd)
	return cmd.Run()
}

// runArgs gives the arguments of docker or podman, and the environment that
// carries the command's own: its values stay out of the argument list, except
// those of names that mean something to docker itself, and none of these is
// secret.
func runArgs(name, image, executor string, c engine.Command) (argv, env []string) {
	argv = []string{
		"run", "--rm", "--name", name, "--pull", "never", "--log-driver", "none", "--network", "host", "--user", "0:0",
		"--security-opt", "no-new-privileges", "--security-opt", "label=disable", "--cap-drop", "ALL",
	}
	for _, name := range keptNames {
		argv = append(argv, "--cap-add", name)
	}
	mounts := append([]engine.Mount{{Host: executor, Inside: filepath.Join(engine.SandboxDir, "executor"), ReadOnly: true}}, c.Mounts...)
	for _, m := range mounts {
		argv = append(argv, "--mount", mountArg(m))
	}
	for _, kv := range withEnvDefaults(c.Env) {
		key, _, _ := strings.Cut(kv, "=")
		if meansMoreToCLI(key) {
			argv = append(argv, "--env", kv)
			continue
		}
		argv = append(argv, "--env", key)
		env = append(env, kv)
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	argv = append(argv, "--workdir", dir, "--entrypoint", c.Argv[0], image)
	return append(argv, c.Argv[1:]...), env
}

func meansMoreToCLI(key string) bool {
	switch key {
	case "PATH", "HOME", "TMPDIR", "USER", "container":
		return true
	}
	for _, prefix := range []string{"DOCKER_", "CONTAINER", "PODMAN_", "XDG_", "LD_", "GO", "SSL_CERT_"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// mountArg gives a value of --mount, which is a line of CSV.
func mountArg(m engine.Mount) string {
	fields := []string{"type=bind", "source=" + m.Host, "target=" + m.Inside}
	if m.ReadOnly {
		fields = append(fields, "readonly")
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(fields) // to memory
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// ensureImage imports the small root as an image, unless the same is there.
func (k *containers) ensureImage(ctx context.Context, dir string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.image != "" {
		return k.image, nil
	}
	tree := filepath.Join(dir, "image")
	if err := makeTree(tree, k.o.CACerts); err != nil {
		return "", fmt.Errorf("making a root: %w", err)
	}
	archive, err := pack(tree)
	if err != nil {
		return "", fmt.Errorf("packing a root: %w", err)
	}
	sum := sha256.Sum256(archive)
	image := "localhost/pipegen-root:" + hex.EncodeToString(sum[:6])
	if exec.CommandContext(ctx, k.cli, "image", "inspect", image).Run() != nil {
		cmd := exec.CommandContext(ctx, k.cli, "import", "-", image)
		cmd.Stdin = bytes.NewReader(archive)
		cmd.WaitDelay = time.Second
		if _, err := cmd.Output(); err != nil {
			return "", fmt.Errorf("%s import: %s", k.cli, firstLine(err))
		}
	}
	k.image = image
	return image, nil
}

// pack gives a tree as a tar archive, the same bytes for the same content.
func pack(tree string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: filepath.ToSlash(name), Typeflag: tar.TypeReg, Mode: int64(fi.Mode().Perm()), Size: fi.Size()}
		if d.IsDir() {
			h.Name, h.Typeflag, h.Size = h.Name+"/", tar.TypeDir, 0
			if fi.Mode()&fs.ModeSticky != 0 {
				h.Mode |= 0o1000
			}
			return w.WriteHeader(h)
		}
		data, err := os.ReadFile(path) //nolint:gosec // written by makeTree
		if err != nil {
			return err
		}
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	return b.Bytes(), errors.Join(err, w.Close())
}
