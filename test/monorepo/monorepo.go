// Package monorepo makes the scratch monorepo that the demo and the end-to-end
// suites work on: pipegen's own projects in a git repository of their own, with
// their release binaries, an upstream repository and a registry on loopback.
package monorepo

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/pipegen/pipegen/test/toolcache"
)

// Monorepo is a scratch monorepo with all it needs.
type Monorepo struct {
	// Root of the repository.
	Dir string
	// Registry and repository that its images are published to, on loopback.
	Registry string
	// The pipegen binary for this machine, in a directory that also holds Kaniko's executor.
	Pipegen string
	// Where upstream's bare repository is served.
	Upstream string
}

// elsewhere are projects that are left out: their bases are on the internet
// alone, or they are more of the same.
var elsewhere = []string{"builder-buildkit", "builder-make", "kaniko", "server", "client"}

// New makes a monorepo below dir, an empty directory, and serves its registry
// and its upstream repository until ctx ends. What takes long is said on log.
func New(ctx context.Context, dir string, log io.Writer) (*Monorepo, error) {
	root, err := toolcache.Root()
	if err != nil {
		return nil, err
	}
	cache, err := toolcache.Open(root, log)
	if err != nil {
		return nil, err
	}
	address, err := Serve(ctx, NewRegistry())
	if err != nil {
		return nil, fmt.Errorf("starting a registry: %w", err)
	}
	git, err := serveGit(ctx, filepath.Join(dir, "git"))
	if err != nil {
		return nil, fmt.Errorf("serving git: %w", err)
	}
	m := &Monorepo{
		Dir:      filepath.Join(dir, "monorepo"),
		Registry: strings.TrimPrefix(address, "http://") + "/demo",
		Upstream: git + "/hello.git",
	}
	if err := makeUpstream(ctx, filepath.Join(dir, "git", "hello.git")); err != nil {
		return nil, err
	}
	if err := m.fill(ctx, root, cache); err != nil {
		return nil, err
	}
	return m, m.Commit(ctx, "Images of the demo")
}

// NewRegistry gives an empty registry that keeps everything in memory and logs nothing.
func NewRegistry() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)))
}

func (m *Monorepo) fill(ctx context.Context, root string, cache toolcache.Cache) error {
	projects := filepath.Join(m.Dir, "projects")
	if err := copyTree(filepath.Join(root, "projects"), projects); err != nil {
		return fmt.Errorf("copying the projects: %w", err)
	}
	if err := Release(ctx, root, projects, []string{"amd64", "arm64"}, cache); err != nil {
		return err
	}
	for _, name := range elsewhere {
		if err := os.RemoveAll(filepath.Join(projects, name)); err != nil {
			return err
		}
	}
	m.Pipegen = filepath.Join(filepath.Dir(m.Dir), "bin", "pipegen")
	if err := place(filepath.Join(projects, "builder", "release", "linux-"+runtime.GOARCH, "pipegen"), m.Pipegen); err != nil {
		return err
	}
	if err := place(filepath.Join(projects, "builder", "release", "linux-"+runtime.GOARCH, "executor"), filepath.Join(filepath.Dir(m.Pipegen), "executor")); err != nil {
		return err
	}
	files := map[string]string{
		"pipegen.yaml":                        m.Config(""),
		"rebuild-weekly.txt":                  "# A name, directory or glob a line.\nupstream\nprojects/checks\n",
		"projects/upstream/build-config.yaml": fmt.Sprintf("upstream_repo: %s\nupstream_ref: %s\nadditional_tags: [latest]\n", m.Upstream, UpstreamTag),
	}
	for name, text := range files {
		if err := m.Write(name, text); err != nil {
			return err
		}
	}
	// Binaries do not compress well enough to wait for.
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"config", "core.compression", "0"}} {
		if err := git(ctx, m.Dir, args...); err != nil {
			return err
		}
	}
	return nil
}

// Config gives the monorepo's pipegen.yaml. With an image, all jobs run in it.
func (m *Monorepo) Config(image string) string {
	config := fmt.Sprintf(`registry: %s
projects: [projects/*]
defaults:
  build_args:
    # Stands in for Busybox, which is not to be had here.
    BUSYBOX: %[1]s:shell-latest
`, m.Registry)
	if image != "" {
		config += fmt.Sprintf("images:\n  pipegen: %s\n  kaniko: %[1]s\n", image)
	}
	return config
}

// Write writes a file of the monorepo.
func (m *Monorepo) Write(name, text string) error {
	return write(filepath.Join(m.Dir, filepath.FromSlash(name)), []byte(text), 0o644)
}

// Commit commits everything.
func (m *Monorepo) Commit(ctx context.Context, message string) error {
	if err := git(ctx, m.Dir, "add", "-A"); err != nil {
		return err
	}
	return git(ctx, m.Dir, "commit", "-q", "-m", message)
}

func git(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = Env(os.Environ())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// copyTree copies the files of a tree, but no release binaries.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "release" {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return write(filepath.Join(to, rel), data, 0o644)
	})
}
