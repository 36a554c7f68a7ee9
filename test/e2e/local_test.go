//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/test/monorepo"
)

// TestRunAll builds every project here, as root, and looks into what was
// published.
func TestRunAll(t *testing.T) {
	m := newMonorepo(t)
	pipegen(t, m, "run", "--select", "all")

	shell := index(t, m, dated(t, m, "shell"), "linux/amd64", "linux/arm64")
	for platform, processor := range both {
		machine(t, files(t, shell[platform])["bin/sh"], processor)
	}
	if got := execute(t, files(t, shell["linux/amd64"]), "bin/sh", "-c", "echo it runs"); got != "it runs\n" {
		t.Errorf("the shell says %q", got)
	}

	greeter := index(t, m, dated(t, m, "greeter"), "linux/amd64", "linux/arm64")
	for platform := range both {
		standsOn(t, greeter[platform], shell[platform])
	}

	builder := index(t, m, dated(t, m, "builder"), "linux/amd64", "linux/arm64")
	for platform, processor := range both {
		content := files(t, builder[platform])
		for _, path := range []string{"kaniko/executor", "kaniko/pipegen", "kaniko/bin/busybox", "bin/sh"} {
			machine(t, content[path], processor)
		}
		if !bytes.Contains(content["kaniko/ssl/certs/ca-certificates.crt"], []byte("BEGIN CERTIFICATE")) {
			t.Errorf("the builder for %s has no certificates", platform)
		}
	}

	for image, want := range map[string]struct {
		platforms []string
		path, has string
	}{
		"checks":   {[]string{"linux/amd64"}, "report.txt", "matrix_jobs is 256"},
		"notes":    {[]string{"linux/amd64", "linux/arm64"}, "release-notes.txt", "channel: stable"},
		"upstream": {[]string{"linux/amd64", "linux/arm64"}, "hello.txt", "Hello from upstream."},
	} {
		for platform, child := range index(t, m, dated(t, m, image), want.platforms...) {
			if got := files(t, child)[want.path]; !bytes.Contains(got, []byte(want.has)) {
				t.Errorf("%s for %s: %s holds %q", image, platform, want.path, got)
			}
		}
	}
}

// standsOn fails the test if the layers of image do not begin with those of base.
func standsOn(t *testing.T, image, base v1.Image) {
	t.Helper()
	ours, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) <= len(theirs) {
		t.Fatalf("%d layers cannot stand on %d", len(ours), len(theirs))
	}
	for i := range theirs {
		a, aErr := ours[i].DiffID()
		b, bErr := theirs[i].DiffID()
		if aErr != nil || bErr != nil || a != b {
			t.Errorf("layer %d is %s, that of the base is %s", i, a, b)
		}
	}
}

// TestRunUnprivileged builds as an ordinary user, by means of a user namespace
// and a range of subordinate ids: what is run on a base, and files of other
// owners.
func TestRunUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("making a user needs root")
	}
	program(t, "newuidmap", "apt-get install uidmap")
	m := newMonorepo(t)
	pushBusybox(t, m)
	if err := m.Write("projects/owners/build-config.yaml", "platforms: [linux/amd64]\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Write("projects/owners/Dockerfile", "FROM "+m.Registry+":busybox\nRUN mkdir /data && echo mine > /data/file && chown -R 1000:1000 /data\nUSER 1000\nRUN echo more >> /data/file\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Commit(t.Context(), "Files of another owner"); err != nil {
		t.Fatal(err)
	}
	who := newUser(t)
	home := who.HomeDir
	for _, args := range [][]string{{"rm", "-rf", m.Dir + "/.pipegen"}, {"cp", "-a", m.Dir, home + "/monorepo"}, {"chown", "-R", who.Username, home}} {
		if _, ok := run(t, exec.CommandContext(t.Context(), args[0], args[1:]...)); !ok {
			t.FailNow()
		}
	}
	cmd := exec.CommandContext(t.Context(), m.Pipegen, "run", "shell", "checks", "owners", "notes")
	cmd.Dir = filepath.Join(home, "monorepo")
	cmd.Env = monorepo.Env(os.Environ(), "HOME="+home, "USER="+who.Username, "XDG_CACHE_HOME="+home+"/.cache", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: number(t, who.Uid), Gid: number(t, who.Gid)}}
	if _, ok := run(t, cmd); !ok {
		t.Fatal("pipegen run failed")
	}
	checks := index(t, m, dated(t, m, "checks"), "linux/amd64")["linux/amd64"]
	if got := files(t, checks)["report.txt"]; !bytes.Contains(got, []byte("needs_per_job is 50")) {
		t.Errorf("the report holds %q", got)
	}
	owners := index(t, m, dated(t, m, "owners"), "linux/amd64")["linux/amd64"]
	if got := string(files(t, owners)["data/file"]); got != "mine\nmore\n" {
		t.Errorf("/data/file holds %q", got)
	}
	index(t, m, dated(t, m, "shell"), "linux/amd64", "linux/arm64")
	index(t, m, dated(t, m, "notes"), "linux/amd64", "linux/arm64")
}

// newUser makes a user with a home directory and subordinate ids, until the
// test ends.
func newUser(t *testing.T) *user.User {
	t.Helper()
	name := "pg" + strconv.Itoa(os.Getpid())
	home := filepath.Join(scratch(t), "home")
	useradd := program(t, "useradd", "apt-get install passwd")
	if _, ok := run(t, exec.CommandContext(t.Context(), useradd, "--create-home", "--home-dir", home, "--shell", "/bin/sh", name)); !ok {
		t.Fatal("making a user failed")
	}
	t.Cleanup(func() {
		if out, err := exec.Command("userdel", name).CombinedOutput(); err != nil {
			t.Errorf("removing the user: %v: %s", err, out)
		}
	})
	ranges, err := os.ReadFile("/etc/subuid")
	if err != nil || !bytes.Contains(ranges, []byte(name+":")) {
		if _, ok := run(t, exec.CommandContext(t.Context(), "usermod", "--add-subuids", "700000-765535", "--add-subgids", "700000-765535", name)); !ok {
			t.Fatal("giving the user subordinate ids failed")
		}
	}
	who, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// TestInterrupt stops a run in the middle of a build with Ctrl-C, and finds no
// process, mount or file of it afterwards.
func TestInterrupt(t *testing.T) {
	m := newMonorepo(t)
	pushBusybox(t, m)
	mark := fmt.Sprintf("marker-%d", os.Getpid())
	if err := m.Write("projects/endless/build-config.yaml", "platforms: [linux/amd64]\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Write("projects/endless/Dockerfile", "FROM "+m.Registry+":busybox\nRUN sleep 3600; echo "+mark+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Commit(t.Context(), "A build without end"); err != nil {
		t.Fatal(err)
	}
	place := scratch(t)
	for _, dir := range []string{"tmp", "cache"} {
		if err := os.Mkdir(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), m.Pipegen, "run", "endless")
	cmd.Dir = m.Dir
	cmd.Env = monorepo.Env(os.Environ(), "TMPDIR="+place+"/tmp", "XDG_CACHE_HOME="+place+"/cache")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	for giveUp := time.After(time.Minute); !sleeping(t, mark); {
		select {
		case <-ended:
			t.Fatal("the run ended before the step began")
		case <-giveUp:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Fatal("the step never began")
		case <-time.After(50 * time.Millisecond):
		}
	}
	// As a terminal does: to the whole group.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-ended
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("the exit code is %d, want 130", code)
	}
	if sleeping(t, mark) {
		t.Error("a process of the build still runs")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(place)) {
		t.Errorf("a mount of the build is still there:\n%s", mounts)
	}
	for _, pattern := range []string{"tmp/*", "cache/pipegen/roots/root-*"} {
		left, err := filepath.Glob(filepath.Join(place, pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	}
	if tags, err := m.Tags(); err != nil || slices.ContainsFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, "endless") }) {
		t.Errorf("the registry holds %v (%v)", tags, err)
	}
}

// sleeping says whether the shell of a RUN step whose text holds mark runs.
func sleeping(t *testing.T, mark string) bool {
	t.Helper()
	return len(sleepers(t, mark)) > 0
}

// sleepers gives the shells of RUN steps whose text holds mark.
func sleepers(t *testing.T, mark string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(line, []byte("/bin/sh\x00-c")) || !bytes.Contains(line, []byte(mark)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
