package engine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
)

// command gives the executor with its flags: each value is an argument of its
// own (the flags that repeat take theirs as they are, commas, quotes and
// newlines included).
func (k *kaniko) command(p *Prepared) Command {
	own, _ := k.dialect.spell(k.flags(p))
	argv := append([]string{p.Program}, own...)
	return Command{Argv: append(argv, p.Job.Build.EngineArgs...), Env: kanikoEnv(p), Dir: "/"}
}

// missing gives the flags that the build needs and the executor does not have.
func (k *kaniko) missing(p *Prepared) []string {
	_, missing := k.dialect.spell(k.flags(p))
	return missing
}

// flags gives pipegen's own flags in the words of chainguard-dev/kaniko v1.25.3
// (its cmd/executor/cmd/root.go).
func (k *kaniko) flags(p *Prepared) []string {
	j, b := p.Job, p.Job.Build
	argv := []string{
		"--context=dir://" + p.Context,
		"--dockerfile=" + filepath.Join(p.Dir, "Dockerfile"),
		"--custom-platform=" + p.Platform.String(),
	}
	if b.Pushes() {
		argv = append(argv, "--destination="+b.Destination)
	} else {
		argv = append(argv, "--no-push")
	}
	if needsLayout(b) {
		argv = append(argv, "--oci-layout-path="+filepath.Join(p.Dir, layoutDir))
	}
	if b.Target != "" {
		argv = append(argv, "--target="+b.Target)
	}
	args := arguments(j)
	if p.File != nil && p.File.Skippable(args, b.Target) {
		argv = append(argv, "--skip-unused-stages")
	}
	argv = append(argv, kanikoCache(j)...)
	if b.Reproducible {
		argv = append(argv, "--reproducible")
	}
	argv = append(argv, "--use-new-run", "--cleanup",
		"--push-retry=3", "--image-download-retry=3", "--image-fs-extract-retry=3")
	for _, k := range slices.Sorted(maps.Keys(args)) {
		argv = append(argv, "--build-arg="+k+"="+args[k])
	}
	labels := labels(p)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		argv = append(argv, "--label="+k+"="+labels[k])
	}
	for i, s := range b.Secrets {
		if k.mounts(p, s) {
			argv = append(argv, "--secret=id="+s.ID+",src="+filepath.Join(p.Dir, secretFile(i)))
		}
	}
	argv = append(argv, "--digest-file="+filepath.Join(p.Dir, "digest"))
	for _, m := range mirrors(p) {
		argv = append(argv, "--registry-mirror="+m)
	}
	for _, h := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(p.Hosts, mirrorHosts(b))))) {
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
	return argv
}

// mirrors gives the mirrors in the order that Kaniko should ask them: first
// those that hold a base, since it tries each several times, with pauses.
func mirrors(p *Prepared) []string {
	out := slices.Clone(p.Mirrors)
	for _, m := range p.Job.Build.RegistryMirrors {
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// kanikoCache are the flags for the layer cache.
func kanikoCache(j *Job) []string {
	c := j.Build.Cache
	if c == nil || !c.Enable {
		return []string{"--cache=false"}
	}
	argv := []string{"--cache=true", "--cache-repo=" + j.Plan.CacheRepository(j.Build)}
	if c.TTL != "" {
		argv = append(argv, "--cache-ttl="+c.TTL)
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"cache-copy-layers", c.CopyLayers}, {"cache-run-layers", c.RunLayers}, {"compressed-caching", c.Compressed}} {
		if f.value != nil {
			argv = append(argv, fmt.Sprintf("--%s=%t", f.name, *f.value))
		}
	}
	return argv
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
