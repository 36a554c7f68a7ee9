//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/test/toolcache"
)

// daemon is a server with a directory of its own, which runs until the test
// ends.
type daemon struct {
	address string
	place   string
	cmd     *exec.Cmd
	log     output
	done    chan struct{}
}

// buildKit starts BuildKit's daemon with runc: on a socket, or at another
// address with what it needs for that. It may reach the registries of hubs.
func buildKit(t *testing.T, hubs []*hub, address string, args ...string) *daemon {
	t.Helper()
	program(t, "runc", "apt-get install runc")
	place := scratch(t)
	if address == "" {
		address = "unix://" + filepath.Join(place, "socket")
	}
	var config strings.Builder
	for _, h := range hubs {
		if h.tls != nil {
			// Of loopback BuildKit expects plain HTTP.
			fmt.Fprintf(&config, "[registry.%q]\nhttp = false\nca = [%q]\n", h.host, h.tls.file)
			continue
		}
		fmt.Fprintf(&config, "[registry.%q]\nhttp = true\ninsecure = true\n", h.host)
	}
	file := filepath.Join(place, "buildkitd.toml")
	if err := os.WriteFile(file, []byte(config.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, place, address, exec.Command(tool(t, toolcache.BuildKitD), append([]string{
		"--addr", address, "--root", filepath.Join(place, "root"), "--config", file,
		"--otel-socket-path", filepath.Join(place, "otel"), // by default all daemons of a machine want the same
		"--oci-worker=true", "--containerd-worker=false",
	}, args...)...))
	d.ready(t, func() bool { return strings.Contains(d.log.String(), "running server on") })
	return d
}

// docker starts Docker's daemon without any network.
func docker(t *testing.T) *daemon {
	t.Helper()
	path := program(t, "dockerd", "apt-get install docker.io")
	place := scratch(t)
	address := "unix://" + filepath.Join(place, "socket")
	d := startDaemon(t, place, address, exec.Command(path,
		"--host", address, "--data-root", filepath.Join(place, "data"), "--exec-root", filepath.Join(place, "exec"),
		"--pidfile", filepath.Join(place, "pid"), "--iptables=false", "--ip6tables=false", "--bridge=none",
	))
	d.ready(t, func() bool { return strings.Contains(d.log.String(), "API listen on") })
	return d
}

// startDaemon starts a server. What it mounts is seen by it and its children
// alone, and gone with them.
func startDaemon(t *testing.T, place, address string, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{address: address, place: place, cmd: cmd, done: make(chan struct{})}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + place, "TMPDIR=" + place, "XDG_RUNTIME_DIR=" + place}
	cmd.Dir = place
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() { d.stop(t) })
	return d
}

// ready waits until the daemon says that it serves.
func (d *daemon) ready(t *testing.T, serves func() bool) {
	t.Helper()
	for giveUp := time.After(time.Minute); !serves(); {
		select {
		case <-d.done:
			t.Fatalf("%s ended:\n%s", d.cmd.Path, d.log.String())
		case <-giveUp:
			t.Fatalf("%s does not begin to serve:\n%s", d.cmd.Path, d.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the daemon, as one that shuts down.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		t.Errorf("%s did not end:\n%s", d.cmd.Path, d.log.String())
		d.kill()
	}
}

// kill ends the daemon, as one that crashes.
func (d *daemon) kill() {
	_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.done
}

// use has builds of the site go to this daemon.
func (s *site) use(d *daemon) {
	s.daemon = d
	s.env = append(s.env, "BUILDKIT_HOST="+d.address)
}

// relay stands before a daemon's socket and counts who comes.
type relay struct {
	address string
	visits  atomic.Int64
	close   func()
}

// newRelay makes a relay that serves until the test ends.
func newRelay(t *testing.T, d *daemon) *relay {
	t.Helper()
	path := filepath.Join(scratch(t), "socket")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: "unix://" + path, close: func() { _ = listener.Close() }}
	t.Cleanup(r.close)
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			r.visits.Add(1)
			go pass(in, strings.TrimPrefix(d.address, "unix://"))
		}
	}()
	return r
}

// pass connects in with a socket, until one of both closes.
func pass(in net.Conn, socket string) {
	out, err := new(net.Dialer).DialContext(context.Background(), "unix", socket)
	if err != nil {
		_ = in.Close()
		return
	}
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			_ = errors.Join(in.Close(), out.Close())
		}()
	}
}

// mounted gives the mounts of this machine below dir.
func mounted(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// running gives the command lines of processes that name dir, or work in it.
func running(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, proc := range all {
		line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err != nil {
			continue // ended
		}
		cwd, cwdErr := os.Readlink(filepath.Join(proc, "cwd"))
		root, rootErr := os.Readlink(filepath.Join(proc, "root"))
		if errors.Join(cwdErr, rootErr) != nil {
			continue // ended, or of the kernel
		}
		if text := string(line); strings.Contains(text, dir) || strings.HasPrefix(cwd, dir) || strings.HasPrefix(root, dir) {
			found = append(found, strings.ReplaceAll(text, "\x00", " "))
		}
	}
	return found
}
