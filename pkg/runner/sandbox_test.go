package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// inside is the statically linked program that the tests run in sandboxes:
// RUNNER_TEST_INSIDE, or built from testdata/inside.
//
// As another user, who needs no Go but a range in /etc/subuid and /etc/subgid:
//
//	go test -c -o DIR/runner.test ./pkg/runner
//	CGO_ENABLED=0 go build -o DIR/inside ./pkg/runner/testdata/inside
//	setpriv --reuid USER --regid GROUP --init-groups env HOME=DIR RUNNER_TEST_INSIDE=DIR/inside DIR/runner.test -test.run Sandbox
var inside string

func TestMain(m *testing.M) {
	if handled, code := Main(os.Args); handled {
		syscall.Exit(code) // at once: os.Exit waits a second for the race detector
	}
	if len(os.Args) > 2 && os.Args[1] == "fake-agent" {
		syscall.Exit(fakeAgent(os.Args[2], os.Args[3]))
	}
	os.Exit(withInside(m))
}

func withInside(m *testing.M) int {
	if inside = os.Getenv("RUNNER_TEST_INSIDE"); inside != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "inside")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	inside = filepath.Join(dir, "inside")
	cmd := exec.Command("go", "build", "-o", inside, "./testdata/inside")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program for sandboxes: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// newTestSandbox gives a sandbox of namespaces and the directory of its roots.
// Where the kernel forbids them it checks that this is said with a fix, and
// gives nil.
func newTestSandbox(t *testing.T) (*Sandbox, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := NewSandbox(t.Context(), SandboxOptions{Kind: Namespaces, Executor: inside, Dir: dir, grace: time.Second})
	if err == nil {
		t.Cleanup(func() { assertNothingLeft(t, dir) })
		return s, dir
	}
	checks := Preflight(t.Context(), SandboxOptions{Kind: Namespaces, Executor: inside, Dir: dir})
	unmet := Unmet(checks)
	if !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" || unmet == nil || failure.Hint(unmet) == "" {
		t.Fatalf("no sandbox here: %v, hint %q; the preflight says %+v", err, failure.Hint(err), checks)
	}
	t.Logf("this machine has no sandbox, and says so: %v (%s)", err, failure.Hint(err))
	return nil, ""
}

func assertNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, rootPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("still mounted (%v):\n%s", err, mounts)
	}
}

// run runs the test program and gives what it writes.
func run(t *testing.T, s *Sandbox, c engine.Command, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c.Argv = append([]string{"/.kaniko/executor"}, args...)
	c.Stdout, c.Stderr = &out, &out
	err := s.Run(t.Context(), c)
	return out.String(), err
}

func mustRun(t *testing.T, s *Sandbox, c engine.Command, args ...string) string {
	t.Helper()
	out, err := run(t, s, c, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func TestSandboxShowsNothingOfTheHost(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	t.Setenv("A_SECRET", "of the caller")
	leak, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()

	got := mustRun(t, s, engine.Command{}, "ls", "/", "/etc", "/.kaniko", "/kaniko", "/tmp", "/workspace", "/dev")
	want := "/.kaniko /dev /etc /kaniko /proc /tmp /workspace /etc/hosts /etc/resolv.conf /.kaniko/.docker /.kaniko/executor /.kaniko/ssl " +
		"/dev/fd /dev/full /dev/null /dev/ptmx /dev/pts /dev/random /dev/shm /dev/stderr /dev/stdin /dev/stdout /dev/tty /dev/urandom /dev/zero"
	if strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("root holds\n%s\nwant\n%s", got, want)
	}
	if got := mustRun(t, s, engine.Command{Env: []string{"X=a b\n\xff"}}, "env"); got != "X=a b\n\xff\ncontainer=pipegen\nSSL_CERT_DIR=/.kaniko/ssl/certs\n" {
		t.Errorf("environment is %q", got)
	}
	got = mustRun(t, s, engine.Command{Dir: "/workspace"}, "ids")
	if !strings.HasPrefix(got, "uid=0 gid=0 pid=") || !strings.HasSuffix(got, " ppid=1 host=pipegen dir=/workspace tty=false\n") {
		t.Errorf("it is %q", got)
	}
	if got := mustRun(t, s, engine.Command{}, "files"); got != "0 /dev/null\n1 pipe\n2 pipe\n" {
		t.Errorf("open files are %q", got)
	}
	// Kaniko keeps out of images what is a mount of its own.
	mounts := mustRun(t, s, engine.Command{}, "cat", "/proc/self/mountinfo")
	for _, m := range []string{"/etc/hosts", "/etc/resolv.conf", "/.kaniko/executor", "/proc", "/dev"} {
		if !strings.Contains(mounts, " "+m+" ") {
			t.Errorf("%s is no mount:\n%s", m, mounts)
		}
	}
	for _, p := range []string{"/proc/2/root/etc/passwd", "/proc/1/root/etc/passwd", "/etc/passwd", "/.old/etc/passwd"} {
		if out, err := run(t, s, engine.Command{}, "cat", p); err == nil {
			t.Errorf("%s can be read: %s", p, out)
		}
	}
}

func TestSandboxRefuses(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	if got := mustRun(t, s, engine.Command{}, "refused"); got != "NoNewPrivs:\t1\n" {
		t.Error(got)
	}
	// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, sys_chroot, audit_write, setfcap
	const want = "00000000a00401fb"
	if got := mustRun(t, s, engine.Command{}, "status", "CapEff", "CapPrm", "CapBnd"); strings.Count(got, want) != 3 {
		t.Errorf("capabilities are\n%swant %s", got, want)
	}
}

func TestSandboxLetsBuildsWork(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	if got := mustRun(t, s, engine.Command{}, "own", "/tmp/file", "1000"); got != "written\n" {
		t.Errorf("a file of user 1000 holds %q", got)
	}
	if got := mustRun(t, s, engine.Command{}, "own", "/tmp/file", "65535"); got != "written\n" {
		t.Errorf("a file of user 65535 holds %q", got)
	}
	if got := mustRun(t, s, engine.Command{}, "devices"); got != "" {
		t.Error(got)
	}
}

func TestSandboxDoesNotDependOnTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	mount := []engine.Mount{{Host: t.TempDir(), Inside: "/mnt/deep"}}
	got := mustRun(t, s, engine.Command{Mounts: mount}, "modes", "/", "/etc", "/etc/hosts", "/tmp", "/mnt", "/dev/null", "/dev/shm", "/dev/pts")
	if want := "755 755 644 1777 755 666 1777 755\n"; got != want {
		t.Errorf("modes are %swant %s", got, want)
	}
}

func TestSandboxMounts(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	host := t.TempDir()
	file := filepath.Join(host, "file")
	if err := os.WriteFile(file, []byte("of the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(host, "link")); err != nil {
		t.Fatal(err)
	}
	mount := func(inside string, readOnly bool) engine.Command {
		return engine.Command{Mounts: []engine.Mount{{Host: host, Inside: inside, ReadOnly: readOnly}, {Host: file, Inside: "/a/b/file", ReadOnly: readOnly}}}
	}
	if got := mustRun(t, s, mount("/workspace", true), "cat", "/workspace/file", "/a/b/file"); got != "of the host\nof the host\n" {
		t.Errorf("mounts hold %q", got)
	}
	for _, p := range []string{"/workspace/new", "/workspace/file", "/a/b/file"} {
		out, err := run(t, s, mount("/workspace", true), "write", p)
		if err == nil || !strings.Contains(out, "read-only file system") {
			t.Errorf("writing %s in a read-only mount: %v, %s", p, err, out)
		}
	}
	mustRun(t, s, mount("/somewhere/new", false), "write", "/somewhere/new/written")
	if got, err := os.ReadFile(filepath.Join(host, "written")); err != nil || string(got) != "written\n" {
		t.Errorf("a writable mount shows %q, %v", got, err)
	}
	// A link in an earlier mount must not lead a later one out of the root.
	c := mount("/workspace", false)
	c.Mounts[1].Inside = "/workspace/link/pipegen-test"
	if out, err := run(t, s, c, "ls", "/"); err == nil {
		t.Errorf("mounted through a link: %s", out)
	}
	for _, bad := range []engine.Mount{{Host: filepath.Join(host, "none"), Inside: "/x"}, {Host: host, Inside: "x"}, {Host: host, Inside: "/"}} {
		if out, err := run(t, s, engine.Command{Mounts: []engine.Mount{bad}}, "ls", "/"); err == nil {
			t.Errorf("%+v was mounted: %s", bad, out)
		}
	}
}

func TestSandboxExit(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"exit", "0"}, 0, ""},
		{[]string{"exit", "1"}, 1, "exit status 1"},
		{[]string{"exit", "77"}, 77, "exit status 77"},
		{[]string{"die"}, -1, "killed by the system, most likely for want of memory"},
		{[]string{"orphan"}, 0, ""}, // ends with its root
	} {
		_, err := run(t, s, engine.Command{}, c.args...)
		if c.text == "" {
			if err != nil {
				t.Errorf("%v: %v", c.args, err)
			}
			continue
		}
		var exit *ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != c.code || err.Error() != c.text {
			t.Errorf("%v: %v, want %s", c.args, err, c.text)
		}
	}
	for _, argv := range [][]string{nil, {"executor"}, {"/.kaniko/none"}, {"/etc/hosts"}} {
		var exit *ExitError
		if err := s.Run(t.Context(), engine.Command{Argv: argv}); err == nil || errors.As(err, &exit) {
			t.Errorf("running %q: %v", argv, err)
		}
	}
}

func TestSandboxCancel(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	for _, c := range []struct{ name, file string }{{"polite", "ended in order"}, {"tree", "ready"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := t.TempDir()
			file := filepath.Join(host, "file")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			argv := []string{"/.kaniko/executor", c.name, "/host/file"}
			if c.name == "tree" {
				argv = []string{"/.kaniko/executor", "tree", "3", "/host/file"}
			}
			var out bytes.Buffer // its pipe stays open as long as any of the processes lives
			go func() {
				for ctx.Err() == nil {
					if b, _ := os.ReadFile(file); string(b) == "ready" {
						cancel()
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
			err := s.Run(ctx, engine.Command{Argv: argv, Stdout: &out, Stderr: &out, Mounts: []engine.Mount{{Host: host, Inside: "/host"}}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled, it gives %v", err)
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != c.file {
				t.Errorf("the file says %q, %v; want %q", b, err, c.file)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx, engine.Command{Argv: []string{"/.kaniko/executor", "stay"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before, it gives %v", err)
	}
}

func TestSandboxesSideBySide(t *testing.T) {
	s, _ := newTestSandbox(t)
	if s == nil {
		return
	}
	outs := make([]string, 20)
	var all sync.WaitGroup
	for i := range outs {
		all.Go(func() {
			name := fmt.Sprintf("/workspace/own-%d", i)
			if _, err := run(t, s, engine.Command{}, "write", name); err != nil {
				t.Error(err)
			}
			outs[i], _ = run(t, s, engine.Command{}, "ls", "/workspace")
		})
	}
	all.Wait()
	if i := slices.IndexFunc(outs, func(s string) bool { return s != "" }); i >= 0 {
		t.Errorf("a new root holds %q of another", outs[i])
	}
}

func TestSandboxSweepsWhatAKilledProcessLeft(t *testing.T) {
	s, dir := newTestSandbox(t)
	if s == nil {
		return
	}
	stale := filepath.Join(dir, rootPrefix+"stale")
	if err := os.MkdirAll(filepath.Join(stale, "root/etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	used, unlock, err := newDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSandbox(t.Context(), SandboxOptions{Kind: Namespaces, Executor: inside, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left behind is still there: %v", err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("what is in use was removed: %v", err)
	}
	unlock()
	if err := os.Remove(used); err != nil {
		t.Fatal(err)
	}
}

func TestSandboxEndsWithItsCaller(t *testing.T) {
	// The caller is this test's own program, killed in the middle of a run.
	if dir := os.Getenv("RUNNER_TEST_CALLER"); dir != "" {
		s, err := NewSandbox(t.Context(), SandboxOptions{Kind: Namespaces, Executor: inside, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Run(t.Context(), engine.Command{
			Argv:   []string{"/.kaniko/executor", "tree", "3", "/tmp/file"},
			Stdout: os.Stdout,
		})
		t.Fatalf("it ended by itself: %v", err)
	}
	s, dir := newTestSandbox(t)
	if s == nil {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "RUNNER_TEST_CALLER="+dir, "RUNNER_TEST_INSIDE="+inside)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the caller says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when the last of the processes inside has.
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(out); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	sweep(dir, s.remove)
}

func TestPreflight(t *testing.T) {
	dir := t.TempDir()
	checks := Preflight(t.Context(), SandboxOptions{Kind: Namespaces, Executor: inside, Dir: dir})
	for _, c := range checks {
		if !c.OK && c.Fix == "" || c.Detail == "" {
			t.Errorf("%+v says too little", c)
		}
	}
	assertNothingLeft(t, dir)
	err := Unmet(Preflight(t.Context(), SandboxOptions{Kind: Namespaces, Executor: filepath.Join(dir, "none"), Dir: dir}))
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(failure.Hint(err), "make tools") {
		t.Errorf("without an executor: %v, hint %q", err, failure.Hint(err))
	}
	for _, c := range []struct {
		checks []Check
		want   string
	}{
		{[]Check{{Name: "a", OK: true, Needed: true}, {Name: "b"}}, ""},
		{[]Check{{Name: "a", Needed: true, Detail: "missing", Fix: "do"}, {Name: "b", Needed: true}}, "this machine cannot build: a: missing"},
	} {
		err := Unmet(c.checks)
		if (err == nil) != (c.want == "") || err != nil && (err.Error() != c.want || failure.Hint(err) != "do") {
			t.Errorf("%+v: %v", c.checks, err)
		}
	}
	if _, err := NewSandbox(t.Context(), SandboxOptions{Kind: "jail", Executor: inside, Dir: dir}); !errors.Is(err, failure.ErrInput) {
		t.Errorf("an unknown kind: %v", err)
	}
}
