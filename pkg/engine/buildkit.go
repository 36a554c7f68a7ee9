package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// buildkit builds with buildctl on a daemon, running already or started for
// the one build. Its flags are those of BuildKit v0.33 (cmd/buildctl).
type buildkit struct {
	// What prepare found out: the frontend of gateway.v0 by digest, and the named
	// contexts by what buildctl takes for them.
	source   string
	contexts []namedContext
	// Address of the daemon; empty as long as none is chosen.
	address string
}

// Files below the job's directory, which is buildctl's working directory.
const (
	metadataFile = "metadata.json"
	dockerDir    = "docker"
)

// gateway is the frontend that is an image, which frontend_opts name.
const gateway = "gateway.v0"

// FindBuildctl gives the path of BuildKit's client: $BUILDCTL, the file
// buildctl in /usr/local/bin, beside the pipegen binary, in PATH, or where make
// tools puts it, $XDG_CACHE_HOME/pipegen/tools. Without one the error wraps
// failure.ErrInput.
func FindBuildctl(getenv func(string) string) (string, error) {
	return findProgram(getenv, "buildctl", "BUILDCTL", "/usr/local/bin")
}

// findProgram looks for a program: named by a variable, in dir, beside this
// one, in PATH, and among pipegen's tools.
func findProgram(getenv func(string) string, name, variable, dir string) (string, error) {
	hint := "install BuildKit, or name the program in " + variable
	if path := getenv(variable); path != "" {
		if strings.ContainsRune(path, '/') {
			if !isProgram(path) {
				return "", failure.WithHint(failure.Input("%s: %s is no executable file", variable, quote.Text(path)), "%s", hint)
			}
			return filepath.Abs(path)
		}
		name = path // as buildctl-daemonless.sh takes it
	}
	dirs := []string{dir}
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.SplitList(getenv("PATH"))...)
	cache := getenv("XDG_CACHE_HOME")
	if home := getenv("HOME"); cache == "" && home != "" {
		cache = filepath.Join(home, ".cache")
	}
	if filepath.IsAbs(cache) {
		dirs = append(dirs, filepath.Join(cache, "pipegen", "tools"))
	}
	for _, d := range dirs {
		if path := filepath.Join(d, name); filepath.IsAbs(d) && isProgram(path) {
			return path, nil
		}
	}
	return "", failure.WithHint(failure.Input("%s was not found", name), "%s", hint)
}

// check refuses what BuildKit cannot do, and what pipegen itself says to it.
func (*buildkit) check(b *plan.Build) error {
	refuse := func(format string, args ...any) error {
		return failure.Input("build %s: %w", b.ID, fmt.Errorf(format, args...))
	}
	switch b.Frontend {
	case "", "dockerfile.v0":
	case gateway:
		if b.FrontendOpts["source"] == "" {
			return failure.WithHint(refuse("frontend %s has no source", gateway), "name its image in frontend_opts: {source: docker/dockerfile:1}")
		}
	default:
		return refuse("there is no frontend %q", b.Frontend)
	}
	for k := range b.FrontendOpts {
		if slices.Contains(reservedOpts, k) {
			return refuse("frontend_opts: %s is pipegen's to set", k)
		}
	}
	for k := range b.OutputOpts {
		switch {
		case slices.Contains(reservedOutputOpts, k):
			return refuse("output_opts: %s is pipegen's to set", k)
		case strings.ToLower(k) != k:
			return refuse("output_opts: buildctl would make small letters of %q", k)
		}
	}
	for _, names := range []map[string]string{b.Args, b.Labels, b.FrontendOpts, b.Contexts, b.OutputOpts} {
		for k := range names {
			if k == "" || strings.ContainsRune(k, '=') {
				return refuse("%q cannot be a name: buildctl ends it at the =", k)
			}
		}
	}
	for _, a := range b.EngineArgs {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		short := strings.HasPrefix(a, "-o") && !strings.HasPrefix(a, "--")
		if strings.HasPrefix(a, "-") && slices.Contains(reservedFlags, name) || short {
			return failure.WithHint(refuse("engine_args: %s is pipegen's to set", a),
				"frontend_opts, contexts, output_opts, secrets, ssh and cache say the same")
		}
	}
	return errors.Join(checkBuildkitSecrets(b), checkBuildkitCache(b))
}

// Options and flags that pipegen sets, or that would make what it checks untrue.
var (
	reservedOpts       = []string{"platform", "target", "filename", "contextkey", "dockerfilekey", "requestid"}
	reservedOutputOpts = []string{"type", "name", "push", "dest", "tar", "output", "rewrite-timestamp", "source-date-epoch"}
	reservedFlags      = []string{
		"frontend", "opt", "local", "oci-layout", "output", "o", "metadata-file", "progress", "secret", "ssh",
		"addr", "tlsservername", "tlscacert", "tlscert", "tlskey", "tlsdir", "timeout", "wait", "log-format", "help", "h", "version", "v", "",
	}
)

// place finds the programs, and refuses daemons that are not to be used. What
// buildctl reads lies in a new directory, also when there is a sandbox: BuildKit
// has containers of its own.
func (k *buildkit) place(p *Prepared, dry bool) error {
	j := p.Job
	program, err := FindBuildctl(j.Getenv)
	switch {
	case err == nil:
		p.Program = program
	case dry:
		p.Program = "buildctl"
	default:
		return err
	}
	if j.Image.Source == nil && j.Root != "" {
		p.Context = filepath.Join(j.Root, filepath.FromSlash(j.Build.Context))
	} else {
		p.Context = filepath.Join("source", filepath.FromSlash(j.Build.Context))
	}
	addresses, err := daemons(j)
	if err != nil || dry || len(addresses) > 0 {
		return err
	}
	_, err = findDaemon(j.Getenv)
	return err
}

func (k *buildkit) prepare(ctx context.Context, b *building) error {
	addresses, err := daemons(b.Job)
	if err != nil {
		return err
	}
	if len(addresses) > 0 {
		b.Job.Executes = nil // it is for the daemon to say
		if len(b.Job.Build.RegistryMirrors) > 0 {
			b.log.say("warning: registry_mirrors has no effect on a daemon that runs already: its buildkitd.toml says which it uses")
		}
	}
	b.Hosts = append(b.Hosts, mirrorHosts(b.Job.Build)...)
	if err := k.prepareDockerfile(ctx, b); err != nil {
		return err
	}
	if err := k.prepareFrontend(ctx, b); err != nil {
		return err
	}
	if err := k.prepareContexts(ctx, b); err != nil {
		return err
	}
	if err := prepareSecrets(b); err != nil {
		return err
	}
	return b.writeDockerConfig(ctx)
}

// prepareDockerfile puts the Dockerfile into the job's directory. One that
// another frontend reads may be anything: if it is no Dockerfile, it is passed
// as it is.
func (k *buildkit) prepareDockerfile(ctx context.Context, b *building) error {
	err := b.prepareDockerfile(ctx, func(*Prepared) []dockerfile.Finding { return nil })
	if _, ok := errors.AsType[*dockerfile.SyntaxError](err); err != nil && !ok {
		return err
	}
	name := b.Job.Build.Dockerfile
	text, rerr := b.dockerfile()
	if rerr != nil {
		return rerr
	}
	syntax, _, _, foreign := parser.DetectSyntax(text)
	if foreign {
		b.Hosts = append(b.Hosts, hosts(syntax)...)
	}
	if err == nil || !foreign && b.Job.Build.Frontend != gateway {
		return err
	}
	b.log.say(fmt.Sprintf("%s is for another frontend to read: what it is built on is not known", quote.Text(name)))
	b.File = nil
	k.everyHost(b)
	if err := os.WriteFile(filepath.Join(b.HostDir, "Dockerfile"), text, 0o600); err != nil {
		return err
	}
	return b.copyIgnore()
}

// arguments are those of the build. BuildKit sets the platforms' itself, and
// knows better what its own is.
func (k *buildkit) arguments(j *Job) map[string]string {
	args := map[string]string{"PIPEGEN_REGISTRY": j.Plan.Registry}
	if j.Build.Reproducible {
		// Times later than this become this one: any other would leave those of
		// files that are older, which differ from one checkout to the next.
		args["SOURCE_DATE_EPOCH"] = "0"
	}
	maps.Copy(args, j.Build.Args)
	return args
}

// command gives buildctl with its flags. Each value is an argument of its own
// after its flag: of one joined by = buildctl would cut the blanks at its end.
func (k *buildkit) command(p *Prepared) Command {
	j, b := p.Job, p.Job.Build
	argv := append([]string{p.Program}, k.connection(j)...)
	argv = append(argv, "build", "--progress", "plain", "--frontend", firstOf(b.Frontend, "dockerfile.v0"),
		"--local", "context="+p.Context, "--local", "dockerfile="+firstOf(p.Dir, "."))
	contexts := k.contexts
	if contexts == nil {
		contexts = plainContexts(b)
	}
	for _, c := range contexts {
		argv = append(argv, c.flags...)
	}
	opt := func(key, value string) { argv = append(argv, "--opt", key+"="+value) }
	for _, key := range slices.Sorted(maps.Keys(b.FrontendOpts)) {
		if key == "source" && b.Frontend == gateway {
			opt(key, firstOf(k.source, b.FrontendOpts[key]))
			continue
		}
		opt(key, b.FrontendOpts[key])
	}
	opt("filename", "Dockerfile")
	opt("platform", p.Platform.String())
	if b.Target != "" {
		opt("target", b.Target)
	}
	args := k.arguments(j)
	for _, key := range slices.Sorted(maps.Keys(args)) {
		opt("build-arg:"+key, args[key])
	}
	labels := labels(p)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		opt("label:"+key, labels[key])
	}
	for _, c := range contexts {
		opt("context:"+c.name, c.value)
	}
	argv = append(argv, secretFlags(p)...)
	argv = append(argv, cacheFlags(p)...)
	argv = append(argv, outputFlags(p)...)
	argv = append(argv, "--metadata-file", filepath.Join(p.Dir, metadataFile))
	return Command{Argv: append(argv, b.EngineArgs...), Env: buildctlEnv(p, k.address), Dir: p.Dir}
}

// result reads the digest that buildctl writes.
func (k *buildkit) result(_ context.Context, b *building) (outcome, error) {
	var made outcome
	if needsLayout(b.Job.Build) {
		made.image = filepath.Join(b.HostDir, layoutDir)
	}
	if !b.Job.Build.Pushes() {
		return made, nil
	}
	text, err := os.ReadFile(filepath.Join(b.HostDir, metadataFile))
	if err != nil {
		return outcome{}, fmt.Errorf("buildctl ended well but left no metadata: %w", pathless(err))
	}
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(text, &metadata); err != nil {
		return outcome{}, fmt.Errorf("reading the metadata that buildctl left: %w", err)
	}
	if !digestPattern.MatchString(metadata.Digest) {
		return outcome{}, errors.New("buildctl ended well, but what it left is no digest")
	}
	made.pushed = metadata.Digest
	return made, nil
}
