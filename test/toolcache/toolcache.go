// Package toolcache builds the programs of the modules below test/tools and
// keeps them outside the checkout, keyed by the hash of what they are built
// from.
package toolcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Tool is a program that a module below test/tools can build.
type Tool struct {
	Name string
	// Directory of the module, below test/tools.
	Module string
	// Import path of the main package.
	Package string
}

// The tools.
var (
	// Executor is Kaniko.
	Executor = Tool{"executor", ".", "github.com/chainguard-dev/kaniko/cmd/executor"}
	// Shell is a POSIX shell in one static binary.
	Shell = Tool{"gosh", ".", "mvdan.cc/sh/v3/cmd/gosh"}
	// CACerts prints Mozilla's root certificates.
	CACerts = Tool{"cacerts", ".", "./cacerts"}
	// BuildCtl is BuildKit's client.
	BuildCtl = Tool{"buildctl", "buildkit", "github.com/moby/buildkit/cmd/buildctl"}
	// BuildKitD is BuildKit's daemon.
	BuildKitD = Tool{"buildkitd", "buildkit", "github.com/moby/buildkit/cmd/buildkitd"}
	// VersityGW is a server of S3 over a directory.
	VersityGW = Tool{"versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"}
	// Crane, RegCtl and ManifestTool are clients of registries.
	Crane        = Tool{"crane", "clients", "github.com/google/go-containerregistry/cmd/crane"}
	RegCtl       = Tool{"regctl", "clients", "github.com/regclient/regclient/cmd/regctl"}
	ManifestTool = Tool{"manifest-tool", "clients", "github.com/estesp/manifest-tool/v2/cmd/manifest-tool"}
	// Resolve pulls images as containerd does.
	Resolve = Tool{"resolve", "clients", "./resolve"}
	// Kubernetes is the programs of a cluster in one.
	Kubernetes = Tool{"k8stools", "kubernetes", "./"}
	// Helm renders and installs charts.
	Helm = Tool{"helm", "helm", "helm.sh/helm/v3/cmd/helm"}
)

// kubernetesVersion is what its programs believe to be.
const kubernetesVersion = "v1.34.4"

// flags are those of its build. Kubernetes' packages share the build cache with
// those of pipegen's tests: compiling them twice takes long.
func (t Tool) flags() []string {
	const version, charts = "k8s.io/component-base/version", "helm.sh/helm/v3/pkg/chartutil"
	major, rest, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	switch t {
	case Kubernetes:
	case Helm:
		return []string{fmt.Sprintf("-ldflags=-s -w -X %[1]s.k8sVersionMajor=%[2]s -X %[1]s.k8sVersionMinor=%[3]s", charts, major, minor)}
	default:
		return []string{"-trimpath", "-ldflags=-s -w"}
	}
	return []string{fmt.Sprintf("-ldflags=-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean -X %[1]s.gitCommit=local -X %[1]s.buildDate=1970-01-01T00:00:00Z", version, kubernetesVersion, major, minor)}
}

// Named gives the tool of this name.
func Named(name string) (Tool, bool) {
	for _, t := range []Tool{Executor, Shell, CACerts, BuildCtl, BuildKitD, VersityGW, Crane, RegCtl, ManifestTool, Resolve, Kubernetes, Helm} {
		if t.Name == name {
			return t, true
		}
	}
	return Tool{}, false
}

// Cache is where built tools are kept.
type Cache struct {
	// Directory of the tools.
	Dir string
	// Directory with the modules that build them: test/tools.
	Modules string
	// Gets a line about each tool: how long its build took, or that it was there.
	Log io.Writer
}

// Open gives the cache below the user's cache directory, for the checkout at
// root: pipegen/tools, where pipegen itself looks for the engines' programs.
func Open(root string, log io.Writer) (Cache, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return Cache{}, fmt.Errorf("finding the cache directory: %w", err)
	}
	return Cache{Dir: filepath.Join(user, "pipegen", "tools"), Modules: filepath.Join(root, "test", "tools"), Log: log}, nil
}

// Root gives the root of pipegen's own checkout: the nearest directory above
// the working directory that holds pipegen's go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/pipegen/pipegen\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not in a checkout of pipegen: no go.mod of it above the working directory")
		}
		dir = up
	}
}

// Build gives the path of t, built for linux/arch, statically linked.
func (c Cache) Build(ctx context.Context, t Tool, arch string) (string, error) {
	key, err := c.key(t, arch)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, t.Name+"-linux-"+arch+"-"+key)
	if _, err := os.Stat(path); err == nil {
		c.logf("%s for linux/%s: built before (%s)", t.Name, arch, path)
		return path, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return "", err
	}
	start := time.Now()
	part := filepath.Join(c.Dir, fmt.Sprintf(".%s-%s-%d", t.Name, arch, os.Getpid()))
	defer os.Remove(part)
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, t.flags()...), "-o", part, t.Package)...)
	cmd.Dir = filepath.Join(c.Modules, t.Module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s for linux/%s: %w\n%s", t.Name, arch, err, out)
	}
	if err := os.Rename(part, path); err != nil {
		return "", err
	}
	c.logf("%s for linux/%s: built in %s", t.Name, arch, time.Since(start).Round(time.Second/10))
	return path, nil
}

// Install builds t for this machine and links it under its bare name, where
// pipegen finds it.
func (c Cache) Install(ctx context.Context, t Tool) (string, error) {
	built, err := c.Build(ctx, t, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.Dir, t.Name)
	part := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Link(built, part); err != nil {
		return "", err
	}
	if err := os.Rename(part, path); err != nil {
		return "", errors.Join(err, os.Remove(part))
	}
	// Renaming onto another link of the same file leaves both (rename(2)).
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return path, nil
}

// key is a hash over what decides the bytes of a tool.
func (c Cache) key(t Tool, arch string) (string, error) {
	h := sha256.New()
	module := filepath.Join(c.Modules, t.Module)
	files := []string{"go.mod", "go.sum"}
	if dir, ok := strings.CutPrefix(t.Package, "./"); ok {
		own, err := filepath.Glob(filepath.Join(module, dir, "*.go"))
		if err != nil {
			return "", err
		}
		for _, f := range own {
			files = append(files, filepath.Join(dir, filepath.Base(f)))
		}
	}
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	fmt.Fprintf(h, "%s %s %s", runtime.Version(), t.Package, arch)
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func (c Cache) logf(format string, args ...any) {
	if c.Log != nil {
		fmt.Fprintf(c.Log, format+"\n", args...)
	}
}
