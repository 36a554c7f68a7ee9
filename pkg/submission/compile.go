package submission

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// compiler collects what the files ask for.
type compiler struct {
	Options
	root    string // of what is packed; empty: it is not here
	docs    []*config.Document
	global  settings
	globals *origin // of global; nil: there is no config.yaml

	making      []*making
	credentials []api.Credential
	secrets     map[string]string
	insecure    []string
	skipped     []plan.Skipped
}

// finish makes the submission, or says all that is wrong.
func (c *compiler) finish() (*Submission, error) {
	images := c.images()
	var faults config.Faults
	for _, doc := range c.docs {
		faults = append(faults, doc.Faults()...)
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, failure.Input("there is nothing to build")
	}
	p, err := c.plan(images)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(c.credentials, func(a, b api.Credential) int { return strings.Compare(a.Registry, b.Registry) })
	return &Submission{Plan: p, Credentials: c.credentials, Secrets: c.secrets, Runner: runner(images), Warnings: faults}, nil
}

// runner gives the one that all builds name, if they do.
func runner(images []plan.Image) string {
	name := ""
	for _, img := range images {
		for _, b := range img.Builds {
			if b.Runner == "ci" || name != "" && name != b.Runner {
				return ""
			}
			name = b.Runner
		}
	}
	return name
}

// runners are the platforms of the original by the names that pipegen has.
var runners = map[string]string{"": "ci", "ecs": "ecs", "k8s": "kubernetes", "kubernetes": "kubernetes"}

// engines build what is submitted.
var engines = []string{"kaniko", "buildkit"}

// build makes one build of settings, without its id and destination.
func (c *compiler) build(s *settings, at *origin, pl config.Platform, to target, inline string) plan.Build {
	b := plan.Build{
		Platform: pl.String(), Engine: s.Engine, Args: maps.Clone(s.Kaniko.BuildArgs), Env: maps.Clone(s.Env),
		Outputs: []string{"image"}, Runner: runners[s.Platform], DockerfileInline: inline,
	}
	if b.Engine == "" {
		b.Engine = c.Engine
	}
	if !slices.Contains(engines, b.Engine) {
		at.at("engine").err("unknown-value", oneOf(b.Engine, engines), "there is no engine %q", b.Engine)
	}
	if b.Engine == "buildkit" {
		b.Frontend = "dockerfile.v0"
	}
	if b.Runner == "" {
		at.at("platform").err("unknown-value", oneOf(s.Platform, []string{"ecs", "k8s"}), "there is no platform %q", s.Platform)
	}
	if s.Kaniko.NoPush != nil && *s.Kaniko.NoPush {
		b.Outputs = []string{"digest"}
	}
	c.scripts(&b, s, at)
	c.paths(&b, s, at)
	c.resources(&b, s, at)
	c.login(s, at)
	b.Cache = c.cache(s.Kaniko.Cache, at, to)
	c.flags(&b, s, at, to)
	return b
}

// originalContext is where the original unpacked what it was sent.
const originalContext = "/workspace"

var namesOriginal = lazyregexp.New(`/workspace\b`) // originalContext

func (c *compiler) scripts(b *plan.Build, s *settings, at *origin) {
	for _, script := range []struct {
		key  string
		text *string
		to   *string
	}{{"pre-script", s.PreScript, &b.PreScript}, {"post-script", s.PostScript, &b.PostScript}} {
		if script.text == nil {
			continue
		}
		*script.to = *script.text
		if namesOriginal.MatchString(*script.text) {
			at.at(script.key).warn("original-path", "write paths relative to the context, in which scripts start",
				"%s names %s: what is built is unpacked somewhere else", script.key, originalContext)
		}
	}
}

// paths gives context and Dockerfile below the root of what is packed.
func (c *compiler) paths(b *plan.Build, s *settings, at *origin) {
	place := at.at("kaniko", "context-path")
	var problem string
	if b.Context, problem = below(strings.TrimPrefix(s.Kaniko.ContextPath, "dir://"), "."); problem != "" {
		place.err("bad-path", "a path below the packed directory: relative, or below "+originalContext, "the context %q %s", s.Kaniko.ContextPath, problem)
		b.Context = "."
		return
	}
	file := s.Kaniko.Dockerfile
	if file == "" {
		file = "Dockerfile"
	}
	whole := at.at("kaniko", "dockerfile")
	if b.Dockerfile, problem = below(file, b.Context); problem != "" || b.Dockerfile == "." {
		if problem == "" {
			problem = "is a directory"
		}
		whole.err("bad-path", "a path relative to the context, or below "+originalContext, "the Dockerfile %q %s", file, problem)
		return
	}
	// A script may make what is not there yet.
	if c.root != "" && b.PreScript == "" {
		c.look(b, place, whole)
	}
}

// below gives a path that is absolute below the original's directory, or
// relative to a directory of the packed one, relative to the packed one.
func below(p, from string) (string, string) {
	switch {
	case strings.Contains(p, "://"):
		return "", "is no path: what is built is what was packed"
	case strings.ContainsAny(p, "\\\x00"):
		return "", "contains a backslash"
	case path.IsAbs(p):
		p = path.Clean(p)
		if p != originalContext && !strings.HasPrefix(p, originalContext+"/") {
			return "", "is absolute"
		}
		p = "." + strings.TrimPrefix(p, originalContext)
	default:
		p = path.Join(from, p)
	}
	if p = path.Clean(p); p == ".." || strings.HasPrefix(p, "../") {
		return "", "leaves the packed directory"
	}
	return p, ""
}

// look says what is missing in the directory before it is packed and sent.
func (c *compiler) look(b *plan.Build, context, dockerfile place) {
	dir := filepath.Join(c.root, filepath.FromSlash(b.Context))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		context.err("missing-context", "", "there is no directory %s in %s", b.Context, c.shownRoot())
		return
	}
	if b.DockerfileInline != "" {
		return
	}
	file := filepath.Join(c.root, filepath.FromSlash(b.Dockerfile))
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var names []string
		siblings, _ := os.ReadDir(filepath.Dir(file)) // without them there is no hint
		for _, e := range siblings {
			names = append(names, e.Name())
		}
		hint := ""
		if near := config.Nearest(filepath.Base(file), names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		dockerfile.err("missing-dockerfile", hint, "there is no Dockerfile %s in %s", b.Dockerfile, c.shownRoot())
	case err != nil:
		dockerfile.err("missing-dockerfile", "", "the Dockerfile %s: %v", b.Dockerfile, pathless(err))
	case !info.Mode().IsRegular():
		dockerfile.err("missing-dockerfile", "", "the Dockerfile %s is no regular file", b.Dockerfile)
	}
}

func (c *compiler) shownRoot() string {
	if c.Repo == "" {
		return "the working directory"
	}
	return c.Repo
}

func (c *compiler) resources(b *plan.Build, s *settings, at *origin) {
	for _, q := range []struct {
		key, text, other string
		read             func(string) (config.Resources, error)
	}{
		{"cpu", s.CPU, c.CPU, func(v string) (config.Resources, error) { return config.ReadResources(v, "") }},
		{"memory", s.Memory, c.Memory, func(v string) (config.Resources, error) { return config.ReadResources("", v) }},
	} {
		text := q.text
		if text == "" {
			text = q.other
		}
		r, err := q.read(text)
		if err != nil {
			at.at(q.key).err("bad-quantity", failure.Hint(err), "%v", err)
			continue
		}
		if r == (config.Resources{}) {
			continue
		}
		if b.Resources == nil {
			b.Resources = &config.Resources{}
		}
		if r.CPU != "" {
			b.Resources.CPU = r.CPU
		}
		if r.Memory != "" {
			b.Resources.Memory = r.Memory
		}
	}
}

// login collects the credentials of registries: they are the run's, so there
// is one for each.
func (c *compiler) login(s *settings, at *origin) {
	for i, cred := range s.Credentials {
		here := at.at("kaniko-credentials").below(i)
		if cred.Registry == "" || cred.Username == "" || cred.Password == "" {
			here.err("missing-key", "registry, username and password go together", "an entry of kaniko-credentials is not complete")
			continue
		}
		found := api.Credential{Registry: host(cred.Registry), Username: cred.Username, Password: cred.Password}
		if ref, err := parse(found.Registry + "/x"); err != nil || ref.Host != found.Registry {
			here.below("registry").err("bad-registry", "HOST or HOST:PORT", "registry is no name of a registry")
			continue
		}
		j := slices.IndexFunc(c.credentials, func(have api.Credential) bool { return have.Registry == found.Registry })
		switch {
		case j < 0:
			c.credentials = append(c.credentials, found)
		case c.credentials[j] != found:
			here.err("two-credentials", "the credentials of a run hold for all its builds", "there are other credentials for %s already", found.Registry)
		}
	}
}

// cache gives the layer cache in a repository.
func (c *compiler) cache(s *cache, at *origin, to target) *config.Cache {
	if s == nil || s.Enable == nil || !*s.Enable {
		return nil
	}
	out := &config.Cache{Enable: true, Repo: s.Repo, TTL: s.TTL, CopyLayers: s.CopyLayers, RunLayers: s.RunLayers, Compressed: s.Compressed}
	if s.TTL != "" {
		if d, err := time.ParseDuration(s.TTL); err != nil || d <= 0 {
			at.at("kaniko", "cache", "ttl").err("bad-duration", "for example 24h or 336h", "ttl %q is no duration", s.TTL)
		}
	}
	place := at.at("kaniko", "cache", "repo")
	inside := "cache"
	if to.repository != "" {
		inside = to.ref.Path + "/cache"
	}
	switch {
	case s.Repo == "" && to.repository == "":
		at.at("kaniko", "cache").err("missing-key", "cache: {enable: true, repo: HOST/PATH}", "the cache has no repo, and there is no destination beside which it could be")
		return nil
	case s.Repo == "":
		out.Repo = to.repository + "/cache"
	case !strings.Contains(s.Repo, "/") && (strings.ContainsAny(s.Repo, ".:") || s.Repo == "localhost"):
		out.Repo += "/" + inside // a registry alone
	}
	if ref, err := parse(out.Repo); err != nil || ref.Tag != "" || ref.Digest != "" {
		place.err("bad-registry", "HOST/PATH without a tag, or HOST alone", "repo %q is no repository", s.Repo)
		return nil
	}
	return out
}

// platform gives what an entry is built for.
func (c *compiler) platform(s *settings, at *origin) (config.Platform, bool) {
	if s.Arch == "" && s.Kaniko.CustomPlatform == "" {
		at.at("arch").err("missing-key", "arch: amd64 or arm64, here or in global", "there is no arch")
		return config.Platform{}, false
	}
	var pl config.Platform
	if s.Arch != "" {
		var ok bool
		if pl, ok = parsePlatform(s.Arch, at.at("arch")); !ok {
			return pl, false
		}
	}
	if s.Kaniko.CustomPlatform == "" {
		return pl, true
	}
	place := at.at("kaniko", "custom-platform")
	custom, ok := parsePlatform(s.Kaniko.CustomPlatform, place)
	if ok && s.Arch != "" && custom != pl {
		place.warn("custom-platform", "", "the build is for %s, and goes to a machine that runs it: arch %s has no effect", custom, s.Arch)
	}
	return custom, ok
}

// commonPlatforms are for hints.
var commonPlatforms = []string{"amd64", "arm64", "linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/riscv64", "linux/s390x"}

// parsePlatform reads OS/ARCH[/VARIANT], or an architecture of Linux.
func parsePlatform(s string, at place) (config.Platform, bool) {
	whole := s
	if !strings.Contains(s, "/") {
		whole = "linux/" + s
	}
	pl, err := config.ParsePlatform(whole)
	if err != nil {
		hint := "for example amd64 or arm64"
		if near := config.Nearest(s, commonPlatforms); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		at.err("unknown-platform", hint, "%v", err)
	}
	return pl, err == nil
}

// oneOf is a hint for a value that is not in its set.
func oneOf(word string, set []string) string {
	if near := config.Nearest(word, set); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "one of: " + strings.Join(set, ", ")
}
