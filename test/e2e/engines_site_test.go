//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/test/monorepo"
	"github.com/pipegen/pipegen/test/toolcache"
)

// site is a checkout of projects, with a registry and directories of its own
// for all that pipegen writes.
type site struct {
	// Directory of everything, and the checkout in it.
	place, dir string
	hub        *hub
	// The repository that is published to: its index :busybox is a base.
	registry string
	// What pipegen sees of the environment.
	env []string
	// Where projects build with BuildKit.
	daemon *daemon
}

// newSite makes a site that is served by h.
func newSite(t *testing.T, h *hub) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the engines need root")
	}
	place := scratch(t)
	s := &site{place: place, dir: filepath.Join(place, "checkout"), hub: h, registry: h.host + "/images"}
	s.env = []string{
		"HOME=" + filepath.Join(place, "home"), "TMPDIR=" + filepath.Join(place, "tmp"), "XDG_CACHE_HOME=" + filepath.Join(place, "cache"),
		"KANIKO_EXECUTOR=" + tool(t, toolcache.Executor), "BUILDCTL=" + tool(t, toolcache.BuildCtl),
	}
	for _, dir := range []string{"checkout", "home", "tmp", "cache"} {
		if err := os.Mkdir(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.git(t, "init", "-q", "-b", "main")
	s.write(t, "pipegen.yaml", "registry: "+s.registry+"\nprojects: [projects/*]\ndefaults: {platforms: [linux/amd64]}\n")
	s.write(t, ".gitignore", "/.pipegen/\n/plan.json\nrelease/\n")
	return s
}

// tool gives the path of a test tool, built for this machine.
func tool(t *testing.T, which toolcache.Tool) string {
	t.Helper()
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := toolcache.Open(root, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	path, err := cache.Install(t.Context(), which)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// binary gives the path of the pipegen that make build has made.
func binary(t *testing.T) string {
	t.Helper()
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "bin", "pipegen")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make build", err)
	}
	return path
}

func (s *site) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// project writes the files of a project, build-config.yaml among them.
func (s *site) project(t *testing.T, name string, files map[string]string) {
	t.Helper()
	for file, text := range files {
		s.write(t, "projects/"+name+"/"+file, strings.ReplaceAll(text, "@REGISTRY@", s.registry))
	}
}

func (s *site) git(t *testing.T, args ...string) string { t.Helper(); return gitIn(t, s.dir, args...) }

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, monorepo.Env(os.Environ())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (s *site) commit(t *testing.T) {
	t.Helper()
	s.git(t, "add", "-A")
	s.git(t, "commit", "-q", "--allow-empty", "-m", "Projects")
}

// command gives a pipegen of this site that has not begun.
func (s *site) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Dir, cmd.Env = s.dir, monorepo.Env(os.Environ(), s.env...)
	return cmd
}

// pipegen runs pipegen and gives what it printed and its exit code.
func (s *site) pipegen(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	cmd := s.command(t, args...)
	output, _ = run(t, cmd)
	return output, cmd.ProcessState.ExitCode()
}

// must runs pipegen, and ends the test unless it succeeds.
func (s *site) must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := s.pipegen(t, args...)
	if code != 0 {
		t.Fatalf("pipegen %s: exit code %d", strings.Join(args, " "), code)
	}
	return out
}

// plan plans these images, and keeps the plan as plan.json.
func (s *site) plan(t *testing.T, names ...string) *plan.Plan {
	t.Helper()
	args := append([]string{"plan", "-f", "json", "-o", "plan.json"}, names...)
	if len(names) == 0 {
		args = append(args, "--select", "all")
	}
	s.must(t, args...)
	f, err := os.Open(filepath.Join(s.dir, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := plan.Read(f, "plan.json")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// result reads what a build left; false: nothing.
func (s *site) result(t *testing.T, id string) (r plan.Result, ok bool) {
	t.Helper()
	text, err := os.ReadFile(plan.ResultFile(filepath.Join(s.dir, ".pipegen"), id))
	if errors.Is(err, os.ErrNotExist) {
		return r, false
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r, true
}

// log reads the log of a build.
func (s *site) log(t *testing.T, id string) string {
	t.Helper()
	text, err := os.ReadFile(plan.LogFile(filepath.Join(s.dir, ".pipegen"), id))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// output is the path of an output of a build.
func (s *site) output(id, name string) string {
	return filepath.Join(plan.OutputDir(filepath.Join(s.dir, ".pipegen"), id), name)
}

// image pulls what is in the site's repository under a tag or a digest, for a
// platform if it is an index.
func (s *site) image(t *testing.T, tag string, options ...remote.Option) v1.Image {
	t.Helper()
	image, err := remote.Image(s.ref(t, tag), append(options, remote.WithTransport(s.hub.transport()))...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// built pulls what a build pushed.
func (s *site) built(t *testing.T, id string) v1.Image {
	t.Helper()
	r, ok := s.result(t, id)
	if !ok {
		t.Fatalf("%s left no result:\n%s", id, s.log(t, id))
	}
	return s.image(t, r.Digest)
}

// ref is a tag or a digest in the site's repository.
func (s *site) ref(t *testing.T, tag string) name.Reference {
	t.Helper()
	separator := ":"
	if strings.HasPrefix(tag, "sha256:") {
		separator = "@"
	}
	ref, err := name.ParseReference(s.registry+separator+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// tags lists the tags of the site's repository.
func (s *site) tags(t *testing.T) []string {
	t.Helper()
	repo, err := name.NewRepository(s.registry, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(repo, remote.WithTransport(s.hub.transport()))
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

// clear removes the results of builds and everything that was pushed, as if
// nothing had been built.
func (s *site) clear(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, ".pipegen")); err != nil {
		t.Fatal(err)
	}
	s.hub.empty(t)
}

// ended says how a process ended that was watched.
type ended struct {
	output string
	code   int
	// The most memory that the process itself took, in bytes.
	memory int64
}

// process is a command that runs.
type process struct {
	cmd    *exec.Cmd
	start  time.Time
	output output
	// Closed when it has ended and memory is known.
	done   chan struct{}
	memory int64
}

// output keeps what is written to it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// watch starts a command in a group of its own, as a terminal does.
func watch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, start: time.Now(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	go func() {
		defer close(p.done)
		for {
			if n := highWater(cmd.Process.Pid); n > 0 {
				p.memory = n
			}
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	})
	return p
}

// highWater is the most memory that a process has taken, in bytes; 0: it has
// ended.
func highWater(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), "\nVmHWM:")
	var kB int64
	_, _ = fmt.Sscanf(line, "%d kB", &kB)
	return kB << 10
}

// wait waits for the end.
func (p *process) wait(t *testing.T) ended {
	t.Helper()
	<-p.done
	out := p.output.String()
	shown := out
	if len(shown) > 1<<14 {
		shown = shown[:1<<13] + "\n…\n" + shown[len(shown)-1<<13:]
	}
	t.Logf("%s %s (%s, %d MB)\n%s", filepath.Base(p.cmd.Path), strings.Join(p.cmd.Args[1:], " "),
		time.Since(p.start).Round(time.Millisecond), p.memory>>20, shown)
	return ended{out, p.cmd.ProcessState.ExitCode(), p.memory}
}

// until waits until a condition holds, and ends the test if that takes more
// than a minute or the process ends before.
func (p *process) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for giveUp := time.After(time.Minute); !holds(); {
		select {
		case <-p.done:
			t.Fatalf("the process ended before %s:\n%s", what, p.output.String())
		case <-giveUp:
			t.Fatalf("never: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// hub is a registry on loopback that can be told to misbehave.
type hub struct {
	host string
	tls  *authority // nil: plain HTTP

	mu      sync.Mutex
	content http.Handler
	// Answers a request in the registry's stead, or says false.
	fault func(http.ResponseWriter, *http.Request) bool
	base  func() // puts the base images back
}

// newHub serves a registry with the base images until the test ends; with an
// authority over TLS.
func newHub(t *testing.T, ca *authority) *hub {
	t.Helper()
	h := &hub{tls: ca, content: monorepo.NewRegistry()}
	h.host = serve(t, ca, h)
	ref, err := name.ParseReference(h.host+"/images:busybox", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	base := busybox(t)
	h.base = func() {
		if err := remote.WriteIndex(ref, base, remote.WithTransport(h.transport())); err != nil {
			t.Fatal(err)
		}
	}
	h.base()
	return h
}

// ServeHTTP implements http.Handler.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	content, fault := h.content, h.fault
	h.mu.Unlock()
	if fault == nil || !fault(w, r) {
		content.ServeHTTP(w, r)
	}
}

// misbehave has requests answered by fault, if it says true, until the end of
// the test.
func (h *hub) misbehave(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool) {
	t.Helper()
	set := func(f func(http.ResponseWriter, *http.Request) bool) {
		h.mu.Lock()
		h.fault = f
		h.mu.Unlock()
	}
	set(fault)
	t.Cleanup(func() { set(nil) })
}

// pause does something while the registry behaves.
func (h *hub) pause(do func()) {
	h.mu.Lock()
	fault := h.fault
	h.fault = nil
	h.mu.Unlock()
	do()
	h.mu.Lock()
	h.fault = fault
	h.mu.Unlock()
}

// empty forgets everything but the base images.
func (h *hub) empty(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	h.content = monorepo.NewRegistry()
	h.mu.Unlock()
	h.base()
}

func (h *hub) transport() http.RoundTripper {
	if h.tls == nil {
		return http.DefaultTransport
	}
	return h.tls.transport()
}

// serveGit serves the bare repositories below dir until the test ends, and
// gives the URL of dir.
func serveGit(t *testing.T, ca *authority, dir string) string {
	t.Helper()
	libexec := gitIn(t, dir, "--exec-path")
	host := serve(t, ca, &cgi.Handler{
		Path: filepath.Join(libexec, "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		},
	})
	if ca != nil {
		return "https://" + host
	}
	return "http://" + host
}

// serve serves on a free port of loopback until the test ends, with an
// authority over TLS, and gives HOST:PORT.
func serve(t *testing.T, ca *authority, handler http.Handler) string {
	t.Helper()
	if ca != nil {
		return ca.serve(t, handler)
	}
	// Cleanups run before the test's context ends.
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	url, err := monorepo.Serve(ctx, handler)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(url, "http://")
}
