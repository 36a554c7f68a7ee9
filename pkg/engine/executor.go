package engine

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// kanikoDir is the directory that Kaniko never deletes.
const kanikoDir = "/kaniko"

// SandboxDir is that directory in a sandbox. It is not /kaniko, so that images
// with files in /kaniko (pipegen's own builder is one) can be built: Kaniko
// leaves its own directory out of what it builds.
const SandboxDir = "/.kaniko"

// machine is the platform that this process runs on. Images of Linux are all
// that Kaniko makes, whatever it was started from.
func machine() string { return "linux/" + runtime.GOARCH }

// FindExecutor gives the path of Kaniko's program: $KANIKO_EXECUTOR,
// /kaniko/executor, the file executor beside the pipegen binary, or the one
// that make tools puts into $XDG_CACHE_HOME/pipegen/tools. Without one the
// error wraps failure.ErrInput.
func FindExecutor(getenv func(string) string) (string, error) {
	const hint = "run make tools, or name the program in KANIKO_EXECUTOR"
	if path := getenv("KANIKO_EXECUTOR"); path != "" {
		if !isProgram(path) {
			return "", failure.WithHint(failure.Input("KANIKO_EXECUTOR: %s is no executable file", path), hint)
		}
		return filepath.Abs(path)
	}
	places := []string{filepath.Join(kanikoDir, "executor")}
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), "executor"))
	}
	cache := getenv("XDG_CACHE_HOME")
	if home := getenv("HOME"); cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	if filepath.IsAbs(cache) {
		places = append(places, filepath.Join(cache, "pipegen", "tools", "executor"))
	}
	for _, path := range places {
		if isProgram(path) {
			return path, nil
		}
	}
	return "", failure.WithHint(failure.Input("kaniko's executor was not found (looked at %s)", strings.Join(places, ", ")), hint)
}

// OwnDir gives the directory that Kaniko leaves alone in a container that was
// made for it; empty: this process is in none, and Kaniko may not run in place.
func OwnDir(getenv func(string) string) string {
	executor, err := FindExecutor(getenv)
	if err != nil || thisHost(getenv).mayRunInPlace(executor, kanikoDir) != nil {
		return ""
	}
	return kanikoDir
}

func isProgram(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

// host is what this machine shows of itself; tests make their own.
type host struct {
	getenv func(string) string
	exists func(path string) bool
	read   func(path string) string
}

func thisHost(getenv func(string) string) host {
	return host{getenv, exists, func(path string) string {
		b, _ := os.ReadFile(path)
		return string(b)
	}}
}

var (
	runtimes      = lazyregexp.New(`docker|rkt|systemd-nspawn|lxc|openvz|kube|garden|podman|gvisor|firejail|wsl|containerd|libpod`)
	rootIsOverlay = lazyregexp.New(`(?m)^[^ ]+ / overlay`)
)

// contained says whether this process runs in a container, by the signs that
// Kaniko looks for (its pkg/util/proc), and Kubernetes' own.
func (h host) contained() bool {
	files := []string{"/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io/serviceaccount"}
	return slices.ContainsFunc(files, h.exists) ||
		h.getenv("KUBERNETES_SERVICE_HOST") != "" ||
		runtimes.MatchString(h.getenv("container")) ||
		runtimes.MatchString(h.read("/proc/self/cgroup")) ||
		runtimes.MatchString(h.read("/run/systemd/container")) ||
		rootIsOverlay.MatchString(h.read("/proc/mounts"))
}

// mayRunInPlace says whether Kaniko may own this file system: only in a
// container, and one that was made for it.
func (h host) mayRunInPlace(executor, dir string) error {
	const hint = "use pipegen run, which gives each build a root of its own, or pipegen's builder image"
	if !h.contained() {
		return failure.WithHint(failure.Input("kaniko deletes the file system it runs in, and this is no container"), hint)
	}
	if executor == "" {
		return failure.WithHint(failure.Input("kaniko deletes the file system it runs in, and this container was not made for it: there is no %s/executor", dir), hint)
	}
	if filepath.Dir(executor) != dir {
		return failure.WithHint(failure.Input("kaniko deletes the file system it runs in, and this container was not made for it: the executor is %s, not in %s", executor, dir), hint)
	}
	return nil
}
