// Package submission makes plans of what the build service is given in place
// of a project: the config.yaml and compose files of the system that it takes
// the place of. Whoever holds the plan and the packed directory needs neither.
package submission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// DefaultConfig is the file that is read when none is named.
const DefaultConfig = "config.yaml"

// Options say what is submitted, and where it comes from.
type Options struct {
	// Paths of a config.yaml and of a compose file; empty: none. If both are,
	// Config is DefaultConfig. With both, the global settings of Config are the
	// base of every service, and its bake list has no effect.
	Config, Compose string
	// Services of the compose file to build; empty: all that have build. Naming
	// one enables its profiles.
	Services []string
	// Directory that is packed, with the contexts in it; empty: the working
	// directory. FromConfig does not look at it.
	Repo string
	// Environment by name, as Environment gives it: for ${NAME} in compose files,
	// arguments and secrets without a value, and COMPOSE_PROFILES.
	Env map[string]string
	// Architecture of services that name no platform; empty: this machine's.
	Arch string
	// kaniko or buildkit, for what names no engine itself; empty: kaniko.
	Engine string
	// CPU and memory of builds that name none, as config.ReadResources takes
	// them; empty: the runner's own default.
	CPU, Memory string
	// Name of the image that a config.yaml makes; empty: the last part of its
	// destination.
	Name string
	// Time of the plan.
	Now time.Time
	// Commit that the directory is a checkout of, and its time; may be empty.
	Head      string
	Committed time.Time
}

// Submission is what one request asks the build service for.
type Submission struct {
	// Its paths are relative to ContextDir, and to the root of the unpacked
	// context where it is built.
	Plan *plan.Plan
	// Of registries, sorted, one for each.
	Credentials []api.Credential
	// Values of the variables that the plan's secrets name.
	Secrets map[string]string
	// Runner that all builds ask for: kubernetes or ecs. Empty if they name none,
	// or different ones: each build has its own then, and one that names none has
	// "ci", which leaves it to the service.
	Runner string
	// What has no effect, and why.
	Warnings config.Faults
	// Directory to pack: absolute, with links resolved. Empty from FromConfig.
	ContextDir string
}

// Load reads the files that o names. What is wrong with them comes back as
// config.Faults, all at once and warnings among them; a file that cannot be
// read and a service that there is not wrap failure.ErrInput.
func Load(ctx context.Context, o Options) (*Submission, error) {
	if o.Config == "" && o.Compose == "" {
		o.Config = DefaultConfig
	}
	if len(o.Services) > 0 && o.Compose == "" {
		return nil, failure.WithHint(failure.Input("services are those of a compose file, and none is named"), "name it: --compose compose.yaml")
	}
	root, err := directory(o.Repo)
	if err != nil {
		return nil, err
	}
	c := newCompiler(o, root)
	if o.Config != "" {
		data, err := read(o.Config)
		if err != nil {
			if o.Config == DefaultConfig && errors.Is(err, fs.ErrNotExist) {
				err = failure.WithHint(err, "name what to build: --config FILE or --compose FILE")
			}
			return nil, err
		}
		c.config(o.Config, data, o.Compose == "")
	}
	if o.Compose != "" {
		if err := c.compose(ctx); err != nil {
			return nil, err
		}
	}
	s, err := c.finish()
	if err != nil {
		return nil, err
	}
	s.ContextDir = root
	return s, nil
}

// FromConfig makes a submission of the text of a config.yaml, whose faults call
// it name: the body of the original's POST /build. Files, services and Repo of o
// have no meaning here. Errors are those of Load.
func FromConfig(data []byte, name string, o Options) (*Submission, error) {
	c := newCompiler(o, "")
	c.config(name, data, true)
	return c.finish()
}

// directory gives the absolute path of a directory, with links resolved.
func directory(dir string) (string, error) {
	if dir == "" {
		dir = "."
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", failure.Input("--repo %s: %w", dir, pathless(err))
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", failure.Input("--repo %s is no directory", dir)
	}
	return real, nil
}

// maxFile bounds what is read of a file, in bytes; what is too large for a
// configuration is then said by who parses it.
const maxFile = 2 << 20

func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, failure.Input("reading %s: %w", file, pathless(err))
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, failure.Input("reading %s: it is no file of at most %d MiB", file, maxFile>>20)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, failure.Input("reading %s: %w", file, pathless(err))
	}
	return data, nil
}

// pathless gives what happened to a path without the path.
func pathless(err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		return at.Err
	}
	return err
}

// plan makes the plan of the images.
func (c *compiler) plan(images []plan.Image) (*plan.Plan, error) {
	p := &plan.Plan{
		Version: plan.Version, Event: "manual", Head: c.Head, Committed: c.Committed.UTC(),
		// What is packed need not be what the commit holds, and is no checkout.
		Dirty:   true,
		Created: c.Now.UTC().Truncate(time.Second), Layout: "repository", Images: images, Skipped: c.skipped,
	}
	p.Publish.Insecure = slices.Compact(slices.Sorted(slices.Values(c.insecure)))
	for _, img := range images {
		if img.Pushes() && p.Registry == "" {
			ref, err := parse(img.Repository)
			if err != nil {
				return nil, err
			}
			p.Registry = ref.Host
		}
	}
	return p, identify(p, "")
}

// Identify puts the digest of the packed context into the content keys of the
// images: what is built from other files has other keys.
func (s *Submission) Identify(context string) error { return identify(s.Plan, context) }

func identify(p *plan.Plan, context string) error {
	for i := range p.Images {
		img := &p.Images[i]
		spec, err := json.Marshal(struct {
			Version, Context string
			Builds           []plan.Build
		}{"submission 1", context, img.Builds})
		if err != nil {
			return fmt.Errorf("content key of image %s: %w", img.Name, err)
		}
		sum := sha256.Sum256(spec)
		img.Key = hex.EncodeToString(sum[:])
	}
	return nil
}

func newCompiler(o Options, root string) *compiler {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if o.Engine == "" {
		o.Engine = "kaniko"
	}
	return &compiler{Options: o, root: root, secrets: map[string]string{}, skipped: []plan.Skipped{}}
}
