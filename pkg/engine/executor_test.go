package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestFindExecutor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"mine.sh": "", "plain": "", "home/.cache/pipegen/tools/executor.sh": "", "cache/pipegen/tools/executor.sh": ""})
	for _, d := range []string{"home/.cache", "cache"} {
		tools := filepath.Join(dir, d, "pipegen/tools")
		if err := os.Rename(filepath.Join(tools, "executor.sh"), filepath.Join(tools, "executor")); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		env  map[string]string
		want string // below dir; "": an error
		msg  string
	}{
		{"variable", map[string]string{"KANIKO_EXECUTOR": filepath.Join(dir, "mine.sh"), "XDG_CACHE_HOME": filepath.Join(dir, "cache")}, "mine.sh", ""},
		{"variable names no program", map[string]string{"KANIKO_EXECUTOR": filepath.Join(dir, "plain")}, "", "no executable file"},
		{"cache", map[string]string{"XDG_CACHE_HOME": filepath.Join(dir, "cache"), "HOME": filepath.Join(dir, "home")}, "cache/pipegen/tools/executor", ""},
		{"home", map[string]string{"HOME": filepath.Join(dir, "home")}, "home/.cache/pipegen/tools/executor", ""},
		{"none", nil, "", "was not found (looked at /kaniko/executor, "},
		{"relative cache", map[string]string{"XDG_CACHE_HOME": "cache"}, "", "was not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := FindExecutor(func(name string) string { return tt.env[name] })
			if tt.want == "" {
				if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.msg) || !strings.Contains(failure.Hint(err), "make tools") {
					t.Errorf("got %q, %v (%s)", got, err, failure.Hint(err))
				}
				return
			}
			if err != nil || got != filepath.Join(dir, tt.want) {
				t.Errorf("got %q, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestContained(t *testing.T) {
	tests := []struct {
		name             string
		env, files, text map[string]string
		want             bool
	}{
		{name: "a machine", text: map[string]string{"/proc/self/cgroup": "0::/user.slice/session-1.scope\n", "/proc/mounts": "/dev/sda1 / ext4 rw 0 0\noverlay /mnt overlay rw 0 0\n"}},
		{name: "a machine with another variable", env: map[string]string{"container": "no"}},
		{name: "docker", files: map[string]string{"/.dockerenv": ""}, want: true},
		{name: "podman", files: map[string]string{"/run/.containerenv": ""}, want: true},
		{name: "kubernetes", env: map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, want: true},
		{name: "service account", files: map[string]string{"/var/run/secrets/kubernetes.io/serviceaccount": ""}, want: true},
		{name: "variable", env: map[string]string{"container": "podman"}, want: true},
		{name: "cgroup", text: map[string]string{"/proc/self/cgroup": "1:name=systemd:/kubepods/x\n"}, want: true},
		{name: "overlay", text: map[string]string{"/proc/mounts": "proc /proc proc rw 0 0\noverlay / overlay rw 0 0\n"}, want: true},
		{name: "systemd", text: map[string]string{"/run/systemd/container": "lxc\n"}, want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := host{
				func(name string) string { return tt.env[name] },
				func(path string) bool { _, ok := tt.files[path]; return ok },
				func(path string) string { return tt.text[path] },
			}
			if got := h.contained(); got != tt.want {
				t.Errorf("got %t", got)
			}
			err := h.mayRunInPlace("/kaniko/executor", "/kaniko")
			if (err == nil) != tt.want {
				t.Errorf("may run in place: %v", err)
			}
			if err := h.mayRunInPlace("/usr/bin/executor", "/kaniko"); !errors.Is(err, failure.ErrInput) {
				t.Errorf("may run with an executor elsewhere: %v", err)
			}
		})
	}
}
