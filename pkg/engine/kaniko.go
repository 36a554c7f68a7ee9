package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// kaniko builds with the executor of one of Kaniko's forks.
type kaniko struct {
	// What the executor understands; nil: it was not asked.
	dialect *dialect
	// Closed when it was asked; the error is why it could not be.
	asked  chan struct{}
	refuse error
}

// reserved are flags that pipegen sets, or that would make what it checks
// untrue.
var reserved = []string{
	"force", "destination", "d", "digest-file", "no-push", "context", "c", "dockerfile", "f", "kaniko-dir", "custom-platform", "customPlatform", "target",
	"oci-layout-path", "help", "h",
}

// check refuses a cache and flags that no executor of Kaniko has. Keys for
// other engines have no effect, as validating and planning warn.
func (*kaniko) check(b *plan.Build) error {
	refuse := func(format string, args ...any) error {
		return failure.Input("build %s: engine kaniko %s", b.ID, fmt.Sprintf(format, args...))
	}
	if c := b.Cache; c != nil && c.Enable && c.Type != "" && c.Type != "registry" {
		return failure.WithHint(refuse("has no cache of type %s", c.Type), "engine: buildkit has it")
	}
	for _, s := range b.Secrets {
		if strings.ContainsAny(s.ID, "/\\") {
			return refuse("takes no secret with a slash in its id: %s", s.ID)
		}
	}
	for _, a := range b.EngineArgs {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		short := strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && a != "-"
		if slices.Contains(reserved, name) && strings.HasPrefix(a, "-") || short && slices.Contains(reserved, a[1:2]) {
			return failure.Input("build %s: engine_args: %s is pipegen's to set", b.ID, a)
		}
	}
	return nil
}

// place keeps Kaniko in a container that was made for it, or in a root that
// pipegen makes.
func (*kaniko) place(p *Prepared, dry bool) error {
	j, own := p.Job, SandboxDir
	if j.Sandbox == nil {
		own = kanikoDir
	}
	p.Program, p.Dir, p.Context = filepath.Join(own, "executor"), filepath.Join(own, "job"), filepath.Join(own, "buildcontext")
	if p.Mounted = j.Sandbox != nil; p.Mounted {
		return nil
	}
	if j.place != nil {
		p.Dir = filepath.Join(j.place.dir, "job")
	}
	if j.Image.Source != nil {
		p.Context = filepath.Join(p.Dir, "source", filepath.FromSlash(j.Build.Context))
	} else if j.Root != "" {
		p.Context = filepath.Join(j.Root, filepath.FromSlash(j.Build.Context))
	}
	if dry {
		return nil
	}
	return p.mayRunInPlace()
}

// mayRunInPlace finds the program, and refuses to run it anywhere but in a
// container that was made for it.
func (p *Prepared) mayRunInPlace() error {
	j := p.Job
	where := j.place
	if where == nil {
		where = &place{thisHost(j.Getenv), kanikoDir}
	}
	if p.Program = j.Executor; p.Program == "" {
		var err error
		// One that is not found is not in Kaniko's directory either.
		if p.Program, err = FindExecutor(j.Getenv); err != nil && j.Getenv("KANIKO_EXECUTOR") != "" {
			return err
		}
	}
	return where.host.mayRunInPlace(p.Program, where.dir)
}

// start asks the executor what it understands, side by side with the rest.
func (k *kaniko) start(ctx context.Context, b *building) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	k.asked = make(chan struct{})
	go func() {
		defer close(k.asked)
		k.dialect, k.refuse = understand(ctx, b.Prepared)
	}()
	return func() {
		cancel()
		<-k.asked
	}
}

func (k *kaniko) prepare(ctx context.Context, b *building) error {
	<-k.asked // it ends when ctx does
	if k.refuse != nil {
		return k.refuse
	}
	if err := errors.Join(k.dialect.refuse(b.Job.Build, k.missing(b.Prepared)), k.secretless(b.Job.Build)); err != nil {
		return err
	}
	if err := b.prepareDockerfile(ctx, k.lacks); err != nil {
		return err
	}
	if err := k.prepareSecrets(b); err != nil {
		return err
	}
	return b.writeDockerConfig(ctx)
}

func (*kaniko) run(ctx context.Context, b *building, c Command) error {
	spent := watchMemory(c.Stdout)
	c.Stdout, c.Stderr = spent, spent
	return spent.explain(b.Job.Build, runKaniko(ctx, b, c))
}

func runKaniko(ctx context.Context, b *building, c Command) error {
	if b.Job.Sandbox == nil {
		return command(ctx, c)
	}
	c.Mounts = []Mount{
		{Host: b.contextDir(), Inside: b.Context, ReadOnly: true},
		{Host: b.HostDir, Inside: b.Dir},
		// Outside of /kaniko Kaniko looks for its configuration here alone.
		{Host: filepath.Join(b.HostDir, "docker"), Inside: filepath.Join(SandboxDir, ".docker"), ReadOnly: true},
	}
	return b.Job.Sandbox.Run(ctx, c)
}

// mounts says whether the executor is given a secret: if it has secrets, and
// the Dockerfile mounts any. As long as neither is known, it is given those that
// no script can use.
func (k *kaniko) mounts(p *Prepared, s config.Secret) bool {
	switch {
	case k.dialect == nil:
		return !forScript(p.Job.Build, s)
	case p.File == nil || !k.dialect.has("secret"):
		return false
	}
	secrets, _ := p.File.Mounts()
	return secrets
}

// forScript says whether a script sees a secret.
func forScript(b *plan.Build, s config.Secret) bool {
	return s.Env != "" && (b.PreScript != "" || b.PostScript != "")
}

// prepareSecrets puts secrets where the executor finds them, or says that it
// cannot use them.
func (k *kaniko) prepareSecrets(b *building) error {
	build := b.Job.Build
	if secrets, _ := b.File.Mounts(); secrets && len(build.Secrets) > 0 {
		return prepareSecrets(b)
	}
	return nil
}

// secretless refuses secrets that nothing can use.
func (k *kaniko) secretless(b *plan.Build) error {
	if k.dialect.has("secret") {
		return nil
	}
	for _, s := range b.Secrets {
		if !forScript(b, s) {
			return failure.WithHint(failure.Input("secret %s: nothing can use it: this executor of kaniko has no build secrets", s.ID),
				"scripts see secrets that name a variable (env), and engine: buildkit mounts all of them")
		}
	}
	return nil
}

// lacks gives what Kaniko cannot do with a Dockerfile, in the stages that are
// built.
func (k *kaniko) lacks(p *Prepared) []dockerfile.Finding {
	found := p.File.Unsupported(k.dialect.abilities())
	if p.Job.Sandbox == nil {
		found = append(found, p.File.Below(kanikoDir)...)
	}
	args, target := arguments(p.Job), p.Job.Build.Target
	if !p.File.Skippable(args, target) {
		return found
	}
	needed, err := p.File.Stages(args, target)
	if err != nil {
		return found
	}
	return slices.DeleteFunc(found, func(f dockerfile.Finding) bool { return f.Stage != "" && !slices.Contains(needed, f.Stage) })
}

// kanikoEnv is all that the executor sees of the environment, none of it a
// credential: RUN steps do not inherit it, but can read it from /proc.
func kanikoEnv(p *Prepared) []string {
	names := slices.Clone(proxies)
	if p.Job.Sandbox == nil {
		names = append(names, certificates...)
		names = append(names, "container")
	}
	env := inherit(p.Job.Environ, names)
	env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + kanikoDir
	env["HOME"] = "/root"
	env["DOCKER_CONFIG"] = filepath.Join(p.Dir, dockerDir)
	if p.Job.Sandbox != nil {
		env["container"] = "docker"
		env["KANIKO_DIR"] = SandboxDir
	}
	if p.File != nil {
		// osscontainertools/kaniko had them before it did them unasked.
		secrets, binds := p.File.Mounts()
		for name, used := range map[string]bool{"FF_KANIKO_RUN_MOUNT_SECRET": secrets, "FF_KANIKO_RUN_MOUNT_BIND": binds} {
			if used {
				env[name] = "true"
			}
		}
	}
	return list(env)
}

var digestPattern = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

func (*kaniko) result(_ context.Context, b *building) (outcome, error) {
	var made outcome
	if b.Job.Build.Pushes() {
		digest, err := kanikoDigest(b.Prepared)
		if err != nil {
			return outcome{}, err
		}
		made.pushed = digest
	}
	if needsLayout(b.Job.Build) {
		made.image = filepath.Join(b.HostDir, layoutDir)
	}
	return made, nil
}

// kanikoDigest reads the file that the executor writes. Steps of the Dockerfile can
// write to the same directory: a link out of it is not followed, and no more is
// read or shown than a digest.
func kanikoDigest(p *Prepared) (string, error) {
	dir, err := os.OpenRoot(p.HostDir)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	f, err := dir.OpenFile("digest", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("kaniko ended well but left no digest: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return "", fmt.Errorf("reading the digest that kaniko left: %w", err)
	}
	digest := strings.TrimSpace(string(b))
	if !digestPattern.MatchString(digest) {
		return "", errors.New("kaniko ended well, but what it left is no digest")
	}
	return digest, nil
}

// insecure says whether a registry is reached over plain HTTP.
func insecure(host string, allowed []string) bool {
	name := host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name = host[:i]
	}
	return registry.IsLoopback(host) || slices.Contains(allowed, host) || slices.Contains(allowed, name)
}
