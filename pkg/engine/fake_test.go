package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	writer "github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestMain lets the test binary stand in for Kaniko's executor, which would
// delete the file system that it runs in: it pushes an image with the labels
// and the platform it is told, or leaves it as a layout, and its digest.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "executor" {
		if err := fakeExecutor(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(7)
		}
		os.Exit(0)
	}
	if filepath.Base(os.Args[0]) == "buildctl" {
		if err := fakeBuildctl(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if filepath.Base(os.Args[0]) == "process" {
		os.Exit(processMain(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// chainguard is the fork whose flags are those of chainguard-dev/kaniko.
const chainguard = "chainguard-dev-v1.25.3"

// flags gives all values of a flag in an argument vector.
func flags(argv []string, name string) []string {
	var out []string
	for _, a := range argv {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			out = append(out, v)
		}
	}
	return out
}

// fakeExecutor does what the build argument FAKE says.
func fakeExecutor(argv []string) error {
	if slices.Contains(argv, "--help") {
		return fakeHelp()
	}
	platform, err := v1.ParsePlatform(append(flags(argv, "custom-platform"), flags(argv, "customPlatform")...)[0])
	if err != nil {
		return err
	}
	labels := map[string]string{}
	for _, l := range flags(argv, "label") {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	for _, a := range flags(argv, "build-arg") {
		mode, ok := strings.CutPrefix(a, "FAKE=")
		if !ok {
			continue
		}
		switch mode {
		case "fail":
			return errors.New("error building image")
		case "hang": // with a step in a group of its own, as Kaniko has it
			step := exec.Command("sh", "-c", "sleep 1000")
			step.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := step.Start(); err != nil {
				return err
			}
			fmt.Printf("hanging in %d %d\n", os.Getpid(), step.Process.Pid)
			return step.Wait()
		case "killed":
			p, err := os.FindProcess(os.Getpid())
			if err != nil {
				return err
			}
			return errors.Join(p.Kill(), errors.New("survived"))
		case "step killed":
			fmt.Print("error building image: error building stage: failed to execute command: waiting for process to exit: sig")
			time.Sleep(10 * time.Millisecond) // two writes
			fmt.Println("nal: killed")
			return errors.New("exit")
		case "flood":
			line := strings.Repeat("0123456789abcdef", 1<<12) + "\n"
			for range 1 << 10 {
				if _, err := fmt.Print(line); err != nil {
					return err
				}
			}
		case "wrong platform":
			platform.Architecture = "s390x"
		case "no digest":
			return nil
		case "link":
			return os.Symlink("/etc/passwd", flags(argv, "digest-file")[0])
		case "secrets":
			for _, s := range flags(argv, "secret") {
				id, src, _ := strings.Cut(strings.TrimPrefix(s, "id="), ",src=")
				value, err := os.ReadFile(src)
				if err != nil {
					return err
				}
				fmt.Printf("secret %s has %d bytes: %s\n", id, len(value), value)
			}
		case "secret":
			config, err := os.ReadFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"))
			if err != nil {
				return err
			}
			fmt.Printf("the configuration is %s\n", config)
		}
	}
	fmt.Printf("env %q\n", os.Environ())
	context := strings.TrimPrefix(flags(argv, "context")[0], "dir://")
	files, err := os.ReadDir(context)
	if err != nil {
		return err
	}
	for _, f := range files {
		fmt.Printf("context has %s\n", f.Name())
	}
	text, err := os.ReadFile(flags(argv, "dockerfile")[0])
	if err != nil {
		return err
	}
	fmt.Printf("dockerfile %q\n", text)

	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, RootFS: v1.RootFS{Type: "layers"},
		Created: v1.Time{Time: time.Now()}, Config: v1.Config{Labels: labels},
	})
	if err != nil {
		return err
	}
	if dir := flags(argv, "oci-layout-path"); len(dir) > 0 {
		path, err := layout.Write(dir[0], empty.Index)
		if err != nil {
			return err
		}
		if err := path.AppendImage(img); err != nil {
			return err
		}
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := os.WriteFile(flags(argv, "digest-file")[0], []byte(digest.String()), 0o600); err != nil {
		return err
	}
	if slices.Contains(argv, "--no-push") {
		return nil
	}
	return push(img, flags(argv, "destination")[0])
}

// fakeHelp says what the executor of the file help beside it says to --help.
func fakeHelp() error {
	dir := filepath.Dir(os.Args[0])
	asked, err := os.OpenFile(filepath.Join(dir, "asked"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer asked.Close()
	if _, err := asked.WriteString("x"); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "help"))
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
}

func push(img v1.Image, destination string) error {
	ref, err := name.NewTag(destination)
	if err != nil {
		return err
	}
	return writer.Write(ref, img)
}

// fakeSandbox runs the fake executor with the paths inside made those outside,
// and checks what it is sent.
type fakeSandbox struct {
	t        *testing.T
	executor string
	calls    []Command
}

func (s *fakeSandbox) Run(ctx context.Context, c Command) error {
	if slices.Equal(c.Argv, []string{SandboxDir + "/executor", "--help"}) {
		c.Argv, c.Dir = []string{s.executor, "--help"}, ""
		return command(ctx, c)
	}
	s.calls = append(s.calls, c)
	if c.Argv[0] != SandboxDir+"/executor" || !slices.Contains(c.Argv, "--force") || len(flags(c.Argv, "ignore-path")) > 0 {
		s.t.Errorf("a sandbox is sent %q", c.Argv)
	}
	if len(c.Mounts) != 3 || !c.Mounts[0].ReadOnly || c.Mounts[1].ReadOnly || !c.Mounts[2].ReadOnly {
		s.t.Errorf("mounts are %+v", c.Mounts)
	}
	outside := func(list []string) []string {
		out := slices.Clone(list)
		for i := range out {
			for _, m := range c.Mounts {
				out[i] = strings.ReplaceAll(out[i], m.Inside, m.Host)
			}
		}
		return out
	}
	c.Argv, c.Env = outside(c.Argv), outside(c.Env)
	c.Argv[0], c.Dir = s.executor, ""
	return command(ctx, c)
}

// asExecutor gives a path by which the test binary is an executor with the flags
// of a fork.
func asExecutor(t *testing.T, fork string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	help, err := os.ReadFile(filepath.Join("testdata", "help", fork))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"help": string(help)})
	path := filepath.Join(dir, "executor")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// registryHost starts a registry on loopback.
func registryHost(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// pushImage puts an image for a platform into a registry and gives its digest.
func pushImage(t *testing.T, ref, platform string) string {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	if err := push(img, ref); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// gitRun runs git and gives its output.
func gitRun(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// write writes files, by name; those that end in .sh can be run.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
}

// bench is a job in a checkout, a registry and a sandbox of its own.
type bench struct {
	Job
	host    string
	sandbox *fakeSandbox
	out     *strings.Builder
	env     map[string]string
}

// newBench makes a checkout with these files below projects/app.
func newBench(t *testing.T, files map[string]string) *bench {
	t.Helper()
	root := t.TempDir()
	gitRun(t, root, "init", "-q")
	write(t, filepath.Join(root, "projects/app"), files)
	gitRun(t, root, "add", "-A")
	gitRun(t, root, "commit", "-qm", "x", "--allow-empty")
	host := registryHost(t)
	p := &plan.Plan{
		Version: 1, Head: gitRun(t, root, "rev-parse", "HEAD"), Registry: host + "/images", Layout: "tag",
		Images: []plan.Image{{
			Name: "app", Dir: "projects/app", Key: strings.Repeat("k", 64), Repository: host + "/images", Tags: []string{"app-1"},
			Builds: []plan.Build{{
				ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko", Destination: host + "/images:app-1-amd64",
				Context: "projects/app", Dockerfile: "projects/app/Dockerfile", Outputs: []string{"image"}, Timeout: "1m",
				Args: map[string]string{}, Labels: map[string]string{"org.opencontainers.image.revision": "r"},
			}},
		}},
	}
	b := &bench{host: host, sandbox: &fakeSandbox{t: t, executor: asExecutor(t, chainguard)}, out: &strings.Builder{}, env: map[string]string{}}
	temp := t.TempDir()
	b.env["TMPDIR"] = temp
	t.Cleanup(func() {
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	b.Job = Job{
		Plan: p, Image: &p.Images[0], Build: &p.Images[0].Builds[0], Root: root,
		MetadataDir: filepath.Join(t.TempDir(), "metadata"), CacheDir: t.TempDir(),
		Registry: registry.New(registry.Options{}), Sandbox: b.sandbox, Log: b.out,
		Getenv: func(name string) string { return b.env[name] }, Now: time.Now,
	}
	return b
}

func (b *bench) run(t *testing.T) (plan.Result, error) {
	t.Helper()
	b.Environ = []string{"PATH=" + os.Getenv("PATH")}
	for k, v := range b.env {
		b.Environ = append(b.Environ, k+"="+v)
	}
	b.out.Reset()
	return Run(t.Context(), b.Job)
}
