package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Check is one thing that the local runner wants of this machine.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Needed says that nothing can be built here without it.
	Needed bool `json:"needed"`
	// What was found, or what is missing and what will not work for it.
	Detail string `json:"detail"`
	// What to do; empty when OK.
	Fix string `json:"fix,omitempty"`
}

// wantFree is the disk space below which a warning is due: an unpacked
// toolchain image and its layers take about this much.
const wantFree = 4 << 30

// Preflight tries what this machine can do for builds by a sandbox with these
// options; nothing is left behind. It never fails: what is missing is in the
// checks, and [Unmet] makes an error of them.
func Preflight(ctx context.Context, o SandboxOptions) []Check {
	o, err := o.withDefaults()
	if err != nil {
		return []Check{failed("sandbox", true, err)}
	}
	checks := []Check{checkExecutor(o.Executor)}
	checks = append(checks, checkKinds(ctx, o)...)
	checks = append(checks, checkDisk(o.Dir), checkCerts(o.CACerts))
	for _, p := range []config.Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}} {
		checks = append(checks, checkPlatform(p))
	}
	return checks
}

// Unmet gives nil if builds can run, else an error that wraps
// [failure.ErrInput], with the first fix as its hint.
func Unmet(checks []Check) error {
	for _, c := range checks {
		if c.Needed && !c.OK {
			return failure.WithHint(failure.Input("this machine cannot build: %s: %s", c.Name, c.Detail), "%s", c.Fix)
		}
	}
	return nil
}

func failed(name string, needed bool, err error) Check {
	return Check{Name: name, Needed: needed, Detail: err.Error(), Fix: failure.Hint(err)}
}

func checkExecutor(path string) Check {
	if err := executable(path); err != nil {
		return failed("executor", true, err)
	}
	return Check{Name: "executor", OK: true, Needed: true, Detail: path}
}

// checkKinds tries the kinds that o allows; one must work, and where namespaces
// do the others are of no interest.
func checkKinds(ctx context.Context, o SandboxOptions) []Check {
	var checks []Check
	for _, k := range []Kind{Namespaces, Docker, Podman} {
		if o.Kind != Auto && o.Kind != k {
			continue
		}
		c := Check{Name: string(k), OK: true, Needed: o.Kind == k}
		var err error
		switch {
		case k != Namespaces:
			c.Detail, err = tryContainers(ctx, string(k), o)
		case os.Geteuid() == 0:
			c.Detail, err = "as root, with capabilities reduced", tryNamespaces(ctx, o)
		default:
			c.Detail, err = fmt.Sprintf("user namespaces with %d ids", idCount), tryNamespaces(ctx, o)
		}
		if err != nil {
			c = failed(c.Name, c.Needed, err)
		}
		checks = append(checks, c)
		if c.OK {
			return checks
		}
	}
	if len(checks) == 0 {
		_, err := choose(ctx, o)
		return []Check{failed("sandbox", true, err)}
	}
	checks[0].Needed = true // none works, and namespaces are what to mend first
	return checks
}

func checkDisk(dir string) Check {
	c := Check{Name: "disk", OK: true}
	at := dir
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(at, &fs)
		if errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
			at = filepath.Dir(at)
			continue
		}
		if err != nil {
			return failed(c.Name, false, fmt.Errorf("asking for the space below %s: %w", dir, err))
		}
		free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // never negative; its type differs between systems
		c.Detail = fmt.Sprintf("%.1f GiB free below %s", float64(free)/(1<<30), dir)
		if free < wantFree {
			c.OK, c.Fix = false, "large images will not unpack: free some space, or set XDG_CACHE_HOME to another file system"
			c.Needed = free == 0
		}
		return c
	}
}

func checkCerts(file string) Check {
	if file == "" {
		return Check{
			Name: "certificates", Detail: "none found: registries over HTTPS cannot be reached from builds",
			Fix: "apt-get install ca-certificates",
		}
	}
	return Check{Name: "certificates", OK: true, Detail: file}
}

func checkPlatform(p config.Platform) Check {
	c := Check{Name: p.String()}
	if c.OK, c.Detail = CanExecute(p); !c.OK {
		c.Detail = "not executable here: only Dockerfiles without RUN can be built for it"
		c.Fix = "register qemu with binfmt_misc, flag F (apt-get install qemu-user-static binfmt-support), or build on a native runner"
	} else {
		c.Detail = strings.TrimSpace("executable: " + c.Detail)
	}
	return c
}
