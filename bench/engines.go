package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/test/toolcache"
)

// engineSite is a checkout with one project, and a registry on loopback.
type engineSite struct {
	bench
	dir      string // of the checkout
	registry string // HOST/REPOSITORY
	cache    toolcache.Cache
	images   []name.Tag // what is built
}

// What pipegen build may take more than the bare tool: milliseconds, MB, and
// times as long where everything is cached.
const (
	extraTime   = 60
	extraMemory = 90
	extraCached = 1.2
)

// kanikoOverhead measures pipegen build in a container made for Kaniko against
// the executor in the same container.
func kanikoOverhead(ctx context.Context, b bench) error {
	s, err := newEngineSite(ctx, b, "kaniko")
	if err != nil {
		return err
	}
	executor, err := s.cache.Install(ctx, toolcache.Executor)
	if err != nil {
		return err
	}
	r := &root{engineSite: s, path: filepath.Join(b.work, "root"), executor: executor}
	t := table{title: "A build with Kaniko of two stages and 200 files, in a root of its own", of: "image", sizes: []int{1}}
	bare := func(project int, flags ...string) []string {
		return append([]string{
			"/kaniko/executor", "--context=dir://" + s.dir + "/projects/" + projects[project], "--dockerfile=Dockerfile",
			"--destination=" + s.images[project].String(), "--custom-platform=linux/" + arch(), "--build-arg=BASE=" + s.registry + ":base",
			"--use-new-run", "--cleanup", "--ignore-path=" + s.dir,
		}, flags...)
	}
	all := []*process{
		r.command("executor", bare(0, "--cache=false")...), r.command("pipegen build", "/kaniko/pipegen", "build", projects[0]+"@"+arch()),
		r.command("executor, cached", bare(1, "--cache=true", "--cache-repo="+s.registry)...),
		r.command("pipegen build, cached", "/kaniko/pipegen", "build", projects[1]+"@"+arch()),
	}
	if err := t.measure(ctx, all); err != nil {
		return err
	}
	t.print()
	t.overhead("executor")
	return nil
}

// buildkitOverhead measures pipegen build against buildctl, on a daemon that
// runs.
func buildkitOverhead(ctx context.Context, b bench) error {
	s, err := newEngineSite(ctx, b, "buildkit")
	if err != nil {
		return err
	}
	buildctl, err := s.cache.Install(ctx, toolcache.BuildCtl)
	if err != nil {
		return err
	}
	address, stop, err := s.buildKit(ctx)
	if err != nil {
		return err
	}
	defer stop()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.work, "BUILDKIT_HOST=" + address, "BUILDCTL=" + buildctl, "PIPEGEN_CACHE=off"}
	command := func(name string, before func() error, argv ...string) *process {
		return &process{name: name, dir: s.dir, env: env, argv: argv, before: before, rounds: often, tree: true}
	}
	prune := func() error {
		cmd := exec.CommandContext(ctx, buildctl, "--addr", address, "prune", "--all")
		return errors.Join(s.forget(), cmd.Run())
	}
	bare := []string{
		buildctl, "build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context=projects/plain", "--local=dockerfile=projects/plain",
		"--opt=platform=linux/" + arch(), "--opt=build-arg:BASE=" + s.registry + ":base", "--output=type=image,push=true,name=" + s.images[0].String(),
	}
	own := []string{b.pipegen, "build", "plain@" + arch()}
	t := table{title: "A build with BuildKit of two stages and 200 files, on a daemon that runs", of: "image", sizes: []int{1}}
	if err := t.measure(ctx, []*process{command("buildctl", prune, bare...), command("pipegen build", prune, own...)}); err != nil {
		return err
	}
	if err := t.measure(ctx, []*process{command("buildctl, cached", s.forget, bare...), command("pipegen build, cached", s.forget, own...)}); err != nil {
		return err
	}
	t.print()
	t.overhead("buildctl")
	return nil
}

// overhead prints the goals of pipegen build over a bare tool.
func (t *table) overhead(tool string) {
	t.goal("pipegen build over "+tool, "ms", extraTime, t.difference("pipegen build", tool, func(r result) float64 { return milliseconds(r.wall) }))
	t.goal("pipegen itself, peak memory", "MB", extraMemory, t.each("pipegen build", func(_ int, r result) float64 { return megabytes(r.own) }))
	t.goal("all processes over "+tool+", peak memory", "MB", extraMemory, t.difference("pipegen build", tool, func(r result) float64 { return megabytes(r.memory) }))
	t.goal("pipegen build over "+tool+", cached", "ms", extraTime, t.difference("pipegen build, cached", tool+", cached", func(r result) float64 { return milliseconds(r.wall) }))
	t.goal("pipegen build, cached", "× "+tool, extraCached, t.each("pipegen build, cached", func(i int, r result) float64 {
		return float64(r.wall) / float64(t.results[tool+", cached"][i].wall)
	}))
}

// projects are the same but for the engine's cache.
var projects = []string{"plain", "cached"}

// newEngineSite makes the checkout and its plan.
func newEngineSite(ctx context.Context, b bench, engine string) (*engineSite, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the engines need root")
	}
	top, err := toolcache.Root()
	if err != nil {
		return nil, err
	}
	cache, err := toolcache.Open(top, io.Discard)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.work, engine+"-")
	if err != nil {
		return nil, err
	}
	s := &engineSite{bench: b, dir: dir, cache: cache}
	if err := s.serve(ctx); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("engine: %s\nplatforms: [linux/%s]\nbuild_args: {BASE: %q}\n", engine, arch(), s.registry+":base")
	files := map[string]string{"pipegen.yaml": "registry: " + s.registry + "\n", ".gitignore": "/.pipegen/\n/plan.json\n"}
	for _, project := range projects {
		files["projects/"+project+"/build-config.yaml"] = config
		files["projects/"+project+"/Dockerfile"] = engineDockerfile
		files["projects/"+project+"/a.txt"] = "a\n"
		for i := range contextFiles {
			files[fmt.Sprintf("projects/%s/src/%02d/%03d.txt", project, i/20, i)] = strings.Repeat(fmt.Sprintf("line of file %06d\n", i), 4096/21)
		}
	}
	if engine == "kaniko" {
		files["projects/cached/build-config.yaml"] += "cache: {enable: true}\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return nil, err
		}
	}
	for _, argv := range [][]string{
		{b.git, "init", "-q", "-b", "main"}, {b.git, "add", "-A"}, {b.git, "-c", "user.name=Bench", "-c", "user.email=bench@example.com", "commit", "-q", "-m", "Projects"},
		{b.pipegen, "-q", "plan", "--select", "all", "-f", "json", "-o", "plan.json"},
	} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = dir, environment(os.Getenv("PATH"), "")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
		}
	}
	f, err := os.Open(filepath.Join(dir, "plan.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	made, err := plan.Read(f, "plan.json")
	if err != nil {
		return nil, err
	}
	for _, project := range projects {
		_, build, ok := made.Find(project + "@" + arch())
		if !ok {
			return nil, fmt.Errorf("the plan lacks %s", project)
		}
		tag, err := name.NewTag(build.Destination)
		if err != nil {
			return nil, err
		}
		s.images = append(s.images, tag)
	}
	return s, nil
}

// engineDockerfile has steps as those of a small service, on a context of
// contextFiles files of 4 KB.
const engineDockerfile = `ARG BASE
FROM ${BASE} AS build
COPY src /src
RUN busybox find /src -type f | busybox sort | busybox xargs busybox sha256sum > /sums
RUN mkdir -p /out/bin && busybox gzip -c /sums > /out/sums.gz && cp /bin/busybox /out/bin/service
FROM ${BASE}
RUN busybox adduser -D -H -u 10001 service || echo service:x:10001:10001::/:/bin/sh >> /etc/passwd
RUN mkdir -p /srv/service && echo configuration > /srv/service/config
COPY --from=build /out /srv/service
COPY a.txt /srv/service/
RUN busybox chmod -R go-w /srv/service
LABEL org.opencontainers.image.title=service
ENV SERVICE=service
WORKDIR /srv/service
ENTRYPOINT ["/srv/service/bin/service"]
`

const contextFiles = 200

func arch() string { return runtime.GOARCH }

func megabytes(n int64) float64 { return float64(n) / (1 << 20) }

// serve serves a registry with a base image of Busybox until ctx ends.
func (s *engineSite) serve(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	s.registry = listener.Addr().String() + "/bench"

	program, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w: install busybox-static", err)
	}
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for _, name := range []string{"bin/busybox", "bin/sh", "bin/cat", "bin/cp", "bin/mkdir"} {
		if err := addFile(out, name, program); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return err
	}
	base, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	config, err := base.ConfigFile()
	if err != nil {
		return err
	}
	config.OS, config.Architecture, config.Config.Env = "linux", arch(), []string{"PATH=/bin"}
	if base, err = mutate.ConfigFile(base, config); err != nil {
		return err
	}
	ref, err := name.ParseReference(s.registry + ":base")
	if err != nil {
		return err
	}
	return remote.Write(ref, base)
}

func addFile(out *tar.Writer, name, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err = out.Write(data)
	return err
}

// forget removes what was built: pipegen would build nothing that is there.
func (s *engineSite) forget() error {
	for _, tag := range s.images {
		var answer *transport.Error
		if err := remote.Delete(tag); err != nil && (!errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound) {
			return err
		}
	}
	return nil
}

// buildKit starts a daemon with a directory of its own.
func (s *engineSite) buildKit(ctx context.Context) (address string, stop func(), err error) {
	program, err := s.cache.Install(ctx, toolcache.BuildKitD)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(s.work, "buildkitd-")
	if err != nil {
		return "", nil, err
	}
	host, _, _ := strings.Cut(s.registry, "/")
	config := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[registry.%q]\nhttp = true\ninsecure = true\n", host), 0o644); err != nil {
		return "", nil, err
	}
	socket := filepath.Join(dir, "socket")
	cmd := exec.CommandContext(ctx, program, "--addr", "unix://"+socket, "--root", filepath.Join(dir, "root"), "--config", config, "--otel-socket-path", filepath.Join(dir, "otel"), "--containerd-worker=false")
	// What it mounts is gone with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for range 300 {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", socket); err == nil {
			return "unix://" + socket, stop, conn.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	return "", nil, errors.New("buildkitd does not begin to serve")
}

// root is what the container of a builder image looks like, made anew for each
// build: Kaniko owns and empties it.
type root struct {
	*engineSite
	path, executor string
}

// command measures a program in that root, in namespaces of its own, with the
// checkout at its path: entering it takes pipegen and the bare executor the
// same time.
func (r *root) command(title string, argv ...string) *process {
	const enter = `root=$1 dir=$2; shift 2
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$dir" "$root$dir"
exec chroot "$root" /bin/busybox env -i PATH=/kaniko:/bin HOME=/kaniko TMPDIR=/kaniko DOCKER_CONFIG=/kaniko/.docker container=docker \
	PIPEGEN_CACHE=off /bin/sh -c 'cd "$0" && exec "$@"' "$dir" "$@"`
	return &process{
		name: title, dir: r.dir, env: []string{"PATH=" + os.Getenv("PATH")}, rounds: often, tree: true,
		argv:   append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", enter, "sh", r.path, r.dir}, argv...),
		before: func() error { return errors.Join(r.forget(), r.renew()) },
	}
}

// renew makes the root as it is before a build.
func (r *root) renew() error {
	if err := os.RemoveAll(r.path); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev", "etc", "bin", "kaniko/.docker", r.dir} {
		if err := os.MkdirAll(filepath.Join(r.path, dir), 0o755); err != nil {
			return err
		}
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	for to, from := range map[string]string{"kaniko/pipegen": r.pipegen, "kaniko/executor": r.executor, "bin/busybox": box, "bin/sh": box} {
		if err := copyFile(from, filepath.Join(r.path, to)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
