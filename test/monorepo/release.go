package monorepo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pipegen/pipegen/test/toolcache"
)

// Release puts the release binaries of pipegen's own projects below
// projects/NAME/release, for each of archs: a shell, pipegen of this checkout
// and Kaniko's executor, cross-compiled, and Mozilla's root certificates.
func Release(ctx context.Context, root, projects string, archs []string, cache toolcache.Cache) error {
	for _, arch := range archs {
		shell, err := cache.Build(ctx, toolcache.Shell, arch)
		if err != nil {
			return err
		}
		executor, err := cache.Build(ctx, toolcache.Executor, arch)
		if err != nil {
			return err
		}
		dir := filepath.Join("release", "linux-"+arch)
		pipegen := filepath.Join(projects, "builder", dir, "pipegen")
		if err := errors.Join(
			place(shell, filepath.Join(projects, "shell", dir, "sh")),
			place(executor, filepath.Join(projects, "builder", dir, "executor")),
			buildPipegen(ctx, root, arch, pipegen, cache.Log),
		); err != nil {
			return err
		}
		if err := errors.Join(
			place(pipegen, filepath.Join(projects, "server", dir, "pipegen")),
			place(pipegen, filepath.Join(projects, "client", dir, "pipegen")),
		); err != nil {
			return err
		}
	}
	authorities := filepath.Join("release", "ssl", "ca-certificates.crt")
	if err := certificates(ctx, cache, filepath.Join(projects, "builder", authorities)); err != nil {
		return err
	}
	list := filepath.Join(projects, "builder", "applets.txt")
	return errors.Join(
		place(filepath.Join(projects, "builder", authorities), filepath.Join(projects, "server", authorities)),
		place(filepath.Join(projects, "builder", authorities), filepath.Join(projects, "client", authorities)),
		applets(list, filepath.Join(projects, "builder", "release", "applets")),
		applets(list, filepath.Join(projects, "client", "release", "applets")),
	)
}

func buildPipegen(ctx context.Context, root, arch, path string, log io.Writer) error {
	start := time.Now()
	version, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		version = []byte("unknown")
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", // as make build does
		"-ldflags=-s -w -X main.version="+strings.TrimSpace(string(version)), "-o", path, "./cmd/pipegen")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building pipegen for linux/%s: %w\n%s", arch, err, out)
	}
	_, err = fmt.Fprintf(log, "pipegen for linux/%s: built in %s\n", arch, time.Since(start).Round(time.Second/10))
	return err
}

func certificates(ctx context.Context, cache toolcache.Cache, path string) error {
	tool, err := cache.Install(ctx, toolcache.CACerts)
	if err != nil {
		return err
	}
	pem, err := exec.CommandContext(ctx, tool).Output()
	if err != nil {
		return fmt.Errorf("writing root certificates: %w", err)
	}
	return write(path, pem, 0o644)
}

// applets makes dir anew, with a link to busybox for each line of list.
func applets(list, dir string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if err := os.Symlink("busybox", filepath.Join(dir, lines.Text())); err != nil {
			return err
		}
	}
	return lines.Err()
}

// place links or copies a program to path, replacing what is there.
func place(program, path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if os.Link(program, path) == nil {
		return nil
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return write(path, data, 0o755)
}

func write(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
