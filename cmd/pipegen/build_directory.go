package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// directory is a build without a plan: of a directory, which need not be in git,
// and which pushes nothing.
type directory struct {
	context, dockerfile, target, platform, engine, output, name string
	args, labels, secrets, ssh, outputs, mirrors                []string
	cache                                                       string
	params, noConsole                                           bool
	// What is made of the outputs that Concourse's tasks have otherwise.
	task taskOutputs
}

const directoryFlags = "context dockerfile target platform engine output-dir name build-arg label secret outputs registry-mirror params no-console"

func (d *directory) flags(flags *pflag.FlagSet) {
	flags.StringVar(&d.context, "context", "", "build this `DIR` without a plan; it is pushed nowhere")
	flags.StringVar(&d.dockerfile, "dockerfile", "", "with --context: `FILE` to build (default: Dockerfile in it)")
	flags.StringVar(&d.target, "target", "", "with --context: `STAGE` to build")
	flags.StringArrayVar(&d.args, "build-arg", nil, "with --context: build argument `K=V`; K alone takes its value from the environment; repeats")
	flags.StringArrayVar(&d.labels, "label", nil, "with --context: label `K=V` of the image; repeats")
	flags.StringVar(&d.platform, "platform", "", "with --context: `PLATFORM` to build for (default: this machine's)")
	flags.StringVar(&d.engine, "engine", "buildkit", "with --context: `ENGINE`: buildkit, kaniko or make")
	flags.StringArrayVar(&d.secrets, "secret", nil, "with --context: secret `id=ID,env=NAME` or id=ID,file=FILE; repeats")
	flags.StringSliceVar(&d.mirrors, "registry-mirror", nil, "with --context: `HOST` that is asked for images of docker.io first; repeats")
	flags.StringSliceVar(&d.outputs, "outputs", []string{"docker-tar", "digest"}, "with --context: `LIST` of docker-tar, oci-tar, oci-layout, rootfs and digest")
	flags.StringVar(&d.output, "output-dir", "release", "with --context: `DIR` for the outputs")
	flags.StringVar(&d.name, "name", "", "with --context: `NAME` of the image in archives (default: the directory's)")
	flags.BoolVar(&d.params, "params", false, "build what the parameters of Concourse's oci-build task say, in the environment")
	flags.BoolVar(&d.noConsole, "no-console", false, "accepted for what used to be built with img; the log is always plain")
}

// check refuses flags that are for the other of the two kinds of build.
func (d *directory) check(flags *pflag.FlagSet, args []string) error {
	if d.params && flags.Changed("context") {
		return failure.Input("--params takes the directory from the parameter CONTEXT, not from --context")
	}
	if d.asked() {
		for _, name := range []string{"plan", "print", "container", "if-planned"} {
			if flags.Changed(name) {
				return failure.Input("--%s is for a build of a plan, not for one of a directory", name)
			}
		}
		if len(args) > 0 {
			return failure.Input("a build of a directory takes no id of a build, but got %q", args[0])
		}
		return nil
	}
	for name := range strings.FieldsSeq(directoryFlags) {
		if flags.Changed(name) {
			return failure.WithHint(failure.Input("--%s is for a build of a directory", name), "name it with --context DIR")
		}
	}
	return nil
}

func (d *directory) asked() bool { return d.context != "" || d.params }

// buildDirectory makes a plan of one image, and does its build.
func (a *app) buildDirectory(ctx context.Context, w working, d directory, flags *pflag.FlagSet) (err error) {
	environ := os.Environ()
	if d.params {
		if err := d.fromParams(environ, flags); err != nil {
			return err
		}
	}
	p, root, err := d.plan(a.getenv)
	if err != nil {
		return err
	}
	p.Publish.Insecure = w.insecure
	cache, err := a.cacheDir()
	if err != nil {
		return err
	}
	metadata := w.metadata
	if !flags.Changed("metadata-dir") && a.getenv("PIPEGEN_METADATA_DIR") == "" {
		if metadata, err = os.MkdirTemp(a.getenv("TMPDIR"), "pipegen-metadata-"); err != nil {
			return err
		}
		defer func() {
			if e := os.RemoveAll(metadata); err == nil {
				err = e
			}
		}()
	}
	img := &p.Images[0]
	result, err := engine.Run(ctx, engine.Job{
		Plan: p, Image: img, Build: &img.Builds[0], Root: root, MetadataDir: metadata, OutputDir: d.output,
		Registry: a.registryClient(config.Publish{}, w.insecure...), Log: a.stderr, Getenv: a.getenv, Environ: environ, CacheDir: cache, Now: time.Now,
		Executes: func(p config.Platform) bool {
			ok, _ := runner.CanExecute(p)
			return ok
		},
	})
	if err != nil {
		return err
	}
	if err := d.task.finish(ctx, d.output); err != nil {
		return err
	}
	for i := range result.Outputs {
		result.Outputs[i].Path = filepath.Join(d.output, d.task.renamed(result.Outputs[i].Path))
	}
	a.built(result)
	return nil
}

// plan is the plan of the one image, and the root that its paths are below. It
// is of no commit.
func (d *directory) plan(getenv func(string) string) (*plan.Plan, string, error) {
	root, contextPath, dockerfile, err := d.paths()
	if err != nil {
		return nil, "", err
	}
	if d.platform == "" {
		d.platform = "linux/" + runtime.GOARCH
	}
	platform, err := config.ParsePlatform(d.platform)
	if err != nil {
		return nil, "", failure.Input("--platform: %w", err)
	}
	b := plan.Build{
		Platform: platform.String(), Engine: d.engine, Context: contextPath, Dockerfile: dockerfile, Target: d.target,
		Outputs: d.outputs, RegistryMirrors: d.mirrors,
	}
	if slices.Contains(d.outputs, "image") || len(d.outputs) == 0 {
		return nil, "", failure.WithHint(failure.Input("--outputs: a build of a directory pushes no image"), "pushing takes a plan: pipegen run")
	}
	switch d.engine {
	case "buildkit":
		b.Frontend = "dockerfile.v0"
	case "make":
		b.Command = "make clean release"
	}
	if b.Args, err = pairs("--build-arg", d.args, getenv); err != nil {
		return nil, "", err
	}
	if b.Labels, err = pairs("--label", d.labels, nil); err != nil {
		return nil, "", err
	}
	for _, s := range d.secrets {
		secret, err := secretFlag(s)
		if err != nil {
			return nil, "", err
		}
		b.Secrets = append(b.Secrets, secret)
	}
	for _, s := range d.ssh {
		id, file, _ := strings.Cut(s, "=")
		if file != "" {
			if file, err = filepath.Abs(file); err != nil {
				return nil, "", err
			}
		}
		b.SSH = append(b.SSH, config.SSH{ID: id, File: file})
	}
	if d.cache != "" {
		b.Cache = &config.Cache{Enable: true, Type: "local", Path: d.cache, Mode: "max"}
	}
	name := d.name
	if name == "" {
		name = imageName(filepath.Base(filepath.Join(root, contextPath)))
	} else if name != imageName(name) {
		return nil, "", failure.Input("--name %q: an image's name has small letters and digits, with single . _ or - between them", d.name)
	}
	b.ID = name + "@" + platform.Suffix()
	return &plan.Plan{
		Version: plan.Version, Event: "local", Dirty: true, Created: time.Now().UTC(), Layout: "tag",
		Images: []plan.Image{{Name: name, Dir: ".", Index: true, Builds: []plan.Build{b}}},
	}, root, nil
}

// paths gives the directory that holds context and Dockerfile, and both with
// slashes relative to it.
func (d *directory) paths() (root, contextPath, dockerfile string, err error) {
	dir, err := filepath.Abs(d.context)
	if err != nil {
		return "", "", "", err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", "", "", failure.Input("--context: %s is no directory", d.context)
	}
	file := filepath.Join(dir, "Dockerfile")
	if d.dockerfile != "" {
		if file, err = filepath.Abs(d.dockerfile); err != nil {
			return "", "", "", err
		}
	}
	root = dir
	for !strings.HasPrefix(file, strings.TrimSuffix(root, "/")+"/") {
		root = filepath.Dir(root)
	}
	relative := func(path string) string {
		rel, e := filepath.Rel(root, path)
		if err == nil {
			err = e
		}
		return filepath.ToSlash(rel)
	}
	return root, relative(dir), relative(file), err
}

// pairs reads flags of the form K=V. With getenv, K alone takes its value from
// the environment, and is left out if that has none, as docker build does.
func pairs(flag string, list []string, getenv func(string) string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		switch {
		case k == "" || !ok && getenv == nil:
			return nil, failure.Input("%s %q: write K=V", flag, s)
		case !ok:
			if v = getenv(k); v == "" {
				continue
			}
		}
		out[k] = v
	}
	return out, nil
}

// secretFlag reads id=ID,env=NAME or id=ID,file=FILE; src is another word for
// file.
func secretFlag(s string) (config.Secret, error) {
	var out config.Secret
	for field := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(field, "=")
		switch k {
		case "id":
			out.ID = v
		case "env":
			out.Env = v
		case "file", "src":
			file, err := filepath.Abs(v)
			if err != nil {
				return out, err
			}
			out.File = file
		default:
			return out, failure.Input("--secret: %q: write id=ID,env=NAME or id=ID,file=FILE", k)
		}
	}
	if out.ID == "" || (out.Env == "") == (out.File == "") {
		return out, failure.Input("--secret: write id=ID,env=NAME or id=ID,file=FILE")
	}
	return out, nil
}

var (
	validName = lazyregexp.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	notInName = lazyregexp.New(`[^a-z0-9]+`)
)

// imageName gives a directory's name as that of an image, of which archives
// have the tag latest.
func imageName(dir string) string {
	name := strings.ToLower(dir)
	if validName.MatchString(name) {
		return name
	}
	if name = strings.Trim(notInName.ReplaceAllString(name, "-"), "-"); name == "" {
		return "image"
	}
	return name
}

// linesOf reads a file of K=V lines; empty ones are skipped.
func linesOf(param, file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, failure.Input("parameter %s: %w", param, err)
	}
	var out []string
	for line := range strings.SplitSeq(string(data), "\n") {
		if line = strings.TrimSuffix(line, "\r"); line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

func unsupported(param string) error {
	return failure.WithHint(failure.Input("parameter %s has no meaning here", param), "docs/make.md says which parameters have")
}
