package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// kaniko builds with the executor of chainguard-dev/kaniko v1.25.3, whose
// flags are in its cmd/executor/cmd/root.go.
type kaniko struct{}

// reserved are flags that pipegen sets, or that would make what it checks
// untrue.
var reserved = []string{
	"force", "destination", "d", "digest-file", "no-push", "context", "c", "dockerfile", "f", "kaniko-dir", "custom-platform", "customPlatform", "target",
}

// Check refuses outputs, secrets and flags that Kaniko cannot do.
func (kaniko) Check(b *plan.Build) error {
	for _, o := range b.Outputs {
		if o != "image" && o != "digest" {
			return failure.WithHint(failure.Input("build %s: output %q is not supported by engine kaniko", b.ID, o), "outputs of kaniko are image and digest")
		}
	}
	if len(b.Outputs) > 0 && !slices.Contains(b.Outputs, "image") {
		return failure.Input("build %s: engine kaniko always pushes: outputs must name image", b.ID)
	}
	for _, s := range b.Secrets {
		const hint = "kaniko has no build secrets; scripts see those that name a variable (env)"
		switch {
		case s.Env == "":
			return failure.WithHint(failure.Input("build %s: secret %s: engine kaniko cannot use a file", b.ID, s.ID), hint)
		case b.PreScript == "" && b.PostScript == "":
			return failure.WithHint(failure.Input("build %s: secret %s: nothing can use it", b.ID, s.ID), hint)
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

// Lacks leaves out what is found in stages that are not built.
func (kaniko) Lacks(p *Prepared) []dockerfile.Finding {
	found := p.File.Unsupported()
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
	return slices.DeleteFunc(found, func(f dockerfile.Finding) bool { return !slices.Contains(needed, f.Stage) })
}

// Command gives the executor with its flags: each value is an argument of its
// own (the flags that repeat take theirs as they are, commas, quotes and
// newlines included).
func (kaniko) Command(p *Prepared) Command {
	j, b := p.Job, p.Job.Build
	argv := []string{
		p.Program,
		"--context=dir://" + p.Context,
		"--dockerfile=" + filepath.Join(p.Dir, "Dockerfile"),
		"--destination=" + b.Destination,
		"--custom-platform=" + p.Platform.String(),
	}
	if b.Target != "" {
		argv = append(argv, "--target="+b.Target)
	}
	args := arguments(j)
	if p.File != nil && p.File.Skippable(args, b.Target) {
		argv = append(argv, "--skip-unused-stages")
	}
	if b.Cache != nil && b.Cache.Enable {
		argv = append(argv, "--cache=true", "--cache-repo="+cacheRepo(j))
		if b.Cache.TTL != "" {
			argv = append(argv, "--cache-ttl="+b.Cache.TTL)
		}
	} else {
		argv = append(argv, "--cache=false")
	}
	argv = append(argv, "--use-new-run", "--cleanup",
		"--push-retry=3", "--image-download-retry=3", "--image-fs-extract-retry=3")
	for _, k := range slices.Sorted(maps.Keys(args)) {
		argv = append(argv, "--build-arg="+k+"="+args[k])
	}
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, b.Labels)
	labels[plan.KeyAnnotation], labels[plan.HeadLabel], labels[plan.CreatedAnnotation] = j.Image.Key, j.Plan.Head, planTime(j.Plan)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		argv = append(argv, "--label="+k+"="+labels[k])
	}
	argv = append(argv, "--digest-file="+filepath.Join(p.Dir, "digest"))
	for _, h := range p.Hosts {
		if insecure(h, j.Plan.Publish.Insecure) {
			argv = append(argv, "--insecure-registry="+h)
		}
	}
	if j.Sandbox == nil {
		for _, path := range keep(p) {
			argv = append(argv, "--ignore-path="+path)
		}
	}
	argv = append(argv, "--log-format=color", "--log-timestamp=false", "--verbosity=info")
	if j.Sandbox != nil {
		argv = append(argv, "--force")
	}
	return Command{Argv: append(argv, b.EngineArgs...), Env: kanikoEnv(p), Dir: "/"}
}

// keep gives what must outlive Kaniko's clean-up of the file system that it
// shares with pipegen: what is not below /kaniko.
func keep(p *Prepared) []string {
	paths := []string{"/busybox"} // the shell of Kaniko's own debug images
	for _, dir := range []string{p.Job.Root, p.Job.MetadataDir} {
		if dir == "" {
			continue
		}
		if abs, err := filepath.Abs(dir); err == nil {
			paths = append(paths, abs)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// kanikoEnv is all that the executor sees of the environment. RUN steps do not
// inherit it, but could read it from /proc: the AWS credentials are there only
// when ECR is used, since Kaniko's own credential helper takes them nowhere
// else.
func kanikoEnv(p *Prepared) []string {
	names := slices.Clone(proxies)
	if p.Job.Sandbox == nil {
		names = append(names, certificates...)
		names = append(names, "container")
	}
	if usesECR(p.Hosts) {
		names = append(names, forAWS...)
	}
	env := inherit(p.Job.Environ, names)
	env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + kanikoDir
	env["HOME"] = "/root"
	env["DOCKER_CONFIG"] = filepath.Join(p.Dir, "docker")
	if p.Job.Sandbox != nil {
		env["container"] = "docker"
		env["KANIKO_DIR"] = SandboxDir
	}
	return list(env)
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Digest reads the file that the executor writes. Steps of the Dockerfile can
// write to the same directory: a link out of it is not followed, and no more is
// read or shown than a digest.
func (kaniko) Digest(p *Prepared) (string, error) {
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

// cacheRepo is the repository of the layer cache; empty: none.
func cacheRepo(j *Job) string {
	c := j.Build.Cache
	switch {
	case c == nil || !c.Enable:
		return ""
	case c.Repo != "":
		return c.Repo
	case j.Plan.Layout == "repository":
		return j.Plan.Registry + "/cache"
	}
	return j.Plan.Registry
}

// insecure says whether a registry is reached over plain HTTP.
func insecure(host string, allowed []string) bool {
	name := host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name = host[:i]
	}
	return registry.IsLoopback(host) || slices.Contains(allowed, host) || slices.Contains(allowed, name)
}

// withoutHelpers removes the entries of a Docker configuration that name the
// ECR credential helper: Kaniko has it built in, and would fail for the want
// of a program.
func withoutHelpers(config []byte) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	delete(c, "credHelpers")
	return json.Marshal(c)
}
