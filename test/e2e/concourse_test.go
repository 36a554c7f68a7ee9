//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/test/monorepo"
)

// The parts of a Concourse pipeline that pipegen writes; its unit tests decode
// the whole of it.
type (
	ccPipeline struct {
		Resources []ccResource `yaml:"resources"`
		Jobs      []ccJob      `yaml:"jobs"`
	}
	ccResource struct {
		Name   string `yaml:"name"`
		Type   string `yaml:"type"`
		Source struct {
			Paths       []string `yaml:"paths"`
			IgnorePaths []string `yaml:"ignore_paths"`
		} `yaml:"source"`
	}
	ccJob struct {
		Name string   `yaml:"name"`
		Plan []ccStep `yaml:"plan"`
	}
	ccStep struct {
		Get         string   `yaml:"get"`
		Resource    string   `yaml:"resource"`
		Passed      []string `yaml:"passed"`
		Trigger     bool     `yaml:"trigger"`
		Task        string   `yaml:"task"`
		Tags        []string `yaml:"tags"`
		SetPipeline string   `yaml:"set_pipeline"`
		File        string   `yaml:"file"`
		InParallel  []ccStep `yaml:"in_parallel"`
		Config      struct {
			ImageResource struct {
				Source struct {
					Repository string `yaml:"repository"`
					Tag        string `yaml:"tag"`
				} `yaml:"source"`
			} `yaml:"image_resource"`
			Inputs  []ccArtifact      `yaml:"inputs"`
			Outputs []ccArtifact      `yaml:"outputs"`
			Params  map[string]string `yaml:"params"`
			Run     struct {
				Path string   `yaml:"path"`
				Args []string `yaml:"args"`
				Dir  string   `yaml:"dir"`
				User string   `yaml:"user"`
			} `yaml:"run"`
		} `yaml:"config"`
	}
	ccArtifact struct {
		Name string `yaml:"name"`
	}
)

func (s *ccStep) resource() string {
	if s.Resource != "" {
		return s.Resource
	}
	return s.Get
}

// concourse does with a pipeline what Concourse does: it looks for versions of
// its resources, starts jobs that have new ones, and runs their tasks, each in
// a container of the builder image, where inputs and outputs are mounts.
type concourse struct {
	*monorepo.Monorepo
	root  string // of the builder image
	env   []string
	place string
	enter string // script that starts a task in a root

	pipeline ccPipeline
	weekly   string                         // latest version of the time resource
	passed   map[string][]map[string]string // job → inputs of its builds that passed
	ran      map[string]map[string]string   // job → inputs of its last build
	log      []string                       // jobs as they ran, with what became of them
}

// TestConcourse runs the pipeline that pipegen renders.
func TestConcourse(t *testing.T) {
	c := newConcourse(t)
	platforms := []string{"linux/amd64", "linux/arm64"}
	follows := func(wantLog ...string) {
		t.Helper()
		if !slices.Equal(c.log, wantLog) {
			t.Fatalf("jobs: %q, want %q", c.log, wantLog)
		}
		c.log = nil
		greeter, shell := index(t, c.Monorepo, "greeter-latest", platforms...), index(t, c.Monorepo, "shell-latest", platforms...)
		digest, _, err := c.Index("shell-latest")
		if err != nil {
			t.Fatal(err)
		}
		for platform, processor := range both {
			machine(t, files(t, shell[platform])["bin/sh"], processor)
			standsOn(t, greeter[platform], shell[platform])
			config, err := greeter[platform].ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if base := config.Config.Labels["org.opencontainers.image.base.digest"]; base != digest.String() {
				t.Errorf("greeter for %s is built on %s, and shell-latest is %s", platform, base, digest)
			}
		}
	}
	commit := func(message string, texts map[string]string) {
		t.Helper()
		for name, text := range texts {
			if err := c.Write(name, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Commit(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}

	// Everything, bases first.
	c.run(t, "set-pipeline", "shell", "greeter")
	follows("set-pipeline: passed", "shell: passed", "greeter: passed")
	shell := index(t, c.Monorepo, "shell-latest", platforms...)
	if got := execute(t, files(t, shell["linux/amd64"]), "bin/sh", "-c", "echo it runs"); got != "it runs\n" {
		t.Errorf("the shell says %q", got)
	}
	// Nothing new, nothing to do.
	c.run(t, "set-pipeline", "shell", "greeter")
	follows()
	// A file that is ignored.
	commit("Words", map[string]string{"projects/shell/README.md": "# shell\n"})
	c.run(t, "set-pipeline", "shell", "greeter")
	follows()
	// One of them.
	commit("A greeting", map[string]string{"projects/greeter/greeting.txt": "Hello from Concourse.\n"})
	c.run(t, "set-pipeline", "shell", "greeter")
	follows("greeter: passed")
	for platform := range both {
		if got := files(t, index(t, c.Monorepo, "greeter-latest", platforms...)[platform])["srv/greeting.txt"]; string(got) != "Hello from Concourse.\n" {
			t.Errorf("the greeting for %s is %q", platform, got)
		}
	}
	// What another one is built on: the latter follows, though nothing of it is new.
	commit("A shell", map[string]string{"projects/shell/build-config.yaml": c.shellConfig("second")})
	c.run(t, "set-pipeline", "shell", "greeter")
	follows("shell: passed", "greeter: passed")
	// Both, and Concourse starts the dependent first: it waits.
	commit("Both", map[string]string{"projects/shell/build-config.yaml": c.shellConfig("third"), "projects/greeter/greeting.txt": "Hello again.\n"})
	c.run(t, "greeter", "set-pipeline", "shell")
	follows("greeter: waited", "shell: passed", "greeter: passed")
	// Time passes.
	c.weekly = "monday"
	c.run(t, "greeter", "set-pipeline", "shell")
	follows("shell: passed", "greeter: passed")
	// A build that fails publishes nothing, and what is built on it is left alone.
	before, _, err := c.Index("shell-latest")
	if err != nil {
		t.Fatal(err)
	}
	commit("A mistake", map[string]string{"projects/shell/Dockerfile": "FROM scratch\nCOPY not-there /\n"})
	c.run(t, "set-pipeline", "shell", "greeter")
	follows("shell: failed")
	if after, _, err := c.Index("shell-latest"); err != nil || after != before {
		t.Errorf("shell-latest moved from %s to %s (%v)", before, after, err)
	}
}

// newConcourse publishes a builder image, and keeps of the monorepo what the
// pipeline is about.
func newConcourse(t *testing.T) *concourse {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("giving each task a root of its own needs root")
	}
	c := &concourse{
		Monorepo: newMonorepo(t), place: scratch(t), weekly: "when the pipeline was set",
		passed: map[string][]map[string]string{}, ran: map[string]map[string]string{},
	}
	pushBusybox(t, c.Monorepo)
	config := strings.ReplaceAll(c.Config(""), ":shell-latest", ":busybox")
	if err := errors.Join(c.Write("pipegen.yaml", config), c.Commit(t.Context(), "Busybox in the builder image")); err != nil {
		t.Fatal(err)
	}
	pipegen(t, c.Monorepo, "run", "builder")
	tag := dated(t, c.Monorepo, "builder")
	c.unpackBuilder(t, index(t, c.Monorepo, tag, "linux/amd64", "linux/arm64")["linux/amd64"])
	for _, path := range []string{".git", ".pipegen", "projects/builder", "projects/checks", "projects/notes", "projects/upstream"} {
		if err := os.RemoveAll(filepath.Join(c.Dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	c.git(t, c.Dir, "init", "-q", "-b", "main")
	if err := errors.Join(
		c.Write("pipegen.yaml", strings.ReplaceAll(c.Config(c.Registry+":"+tag), ":shell-latest", ":busybox")),
		c.Write("rebuild-weekly.txt", "shell\n"), c.Write(".gitignore", "/.pipegen/\n"),
		c.Write("projects/shell/build-config.yaml", c.shellConfig("first")),
	); err != nil {
		t.Fatal(err)
	}
	pipegen(t, c.Monorepo, "render", "concourse", "-o", "ci/pipegen.yml")
	if err := c.Commit(t.Context(), "A monorepo on Concourse"); err != nil {
		t.Fatal(err)
	}
	pipegen(t, c.Monorepo, "render", "concourse", "--check")
	c.set(t, filepath.Join(c.Dir, "ci", "pipegen.yml"))
	if len(c.pipeline.Jobs) != 3 || len(c.pipeline.Resources) != 4 {
		t.Fatalf("a pipeline with other jobs or resources: %+v", c.pipeline)
	}
	return c
}

func (c *concourse) shellConfig(label string) string {
	return "additional_tags: [latest]\nlabels: {edition: " + label + "}\n"
}

// enterRoot takes a root, the mounts in it as pairs, --, and in what directory
// there to run what.
const enterRoot = `set -euo pipefail
root=$1; shift
mount --make-rprivate /
mkdir -p "$root"/{proc,dev,etc,tmp}
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
touch "$root/etc/hosts" && mount --bind /etc/hosts "$root/etc/hosts"
while [[ $1 != -- ]]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2; done; shift
dir=$1; shift
exec "$(command -v chroot)" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$dir" "$@"
`

func (c *concourse) unpackBuilder(t *testing.T, builder v1.Image) {
	t.Helper()
	c.root, c.enter = filepath.Join(c.place, "builder"), filepath.Join(c.place, "enter")
	if err := errors.Join(os.Mkdir(c.root, 0o755), os.WriteFile(c.enter, []byte(enterRoot), 0o600)); err != nil {
		t.Fatal(err)
	}
	stream := mutate.Extract(builder)
	defer stream.Close()
	unpack(t, stream, c.root)
	config, err := builder.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.env = config.Config.Env
}

// set reads the pipeline.
func (c *concourse) set(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.pipeline = ccPipeline{}
	if err := yaml.Unmarshal(data, &c.pipeline); err != nil {
		t.Fatal(err)
	}
}

// version gives the latest version of a resource, as its check does.
func (c *concourse) version(t *testing.T, name string) string {
	t.Helper()
	for _, r := range c.pipeline.Resources {
		if r.Name != name {
			continue
		}
		if r.Type == "time" {
			return c.weekly
		}
		specs := slices.Clone(r.Source.Paths)
		for _, ignored := range r.Source.IgnorePaths {
			specs = append(specs, ":!"+ignored)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", `set -f; eval "git rev-list -1 --first-parent HEAD -- $1"`, "bash", strings.Join(specs, " "))
		cmd.Dir = c.Dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	t.Fatalf("there is no resource %s", name)
	return ""
}

// run starts jobs that have new versions, in this order, until none has.
func (c *concourse) run(t *testing.T, order ...string) {
	t.Helper()
	for rounds := 0; ; rounds++ {
		if rounds > 10 {
			t.Fatalf("jobs start each other for ever: %q", c.log)
		}
		idle := true
		for _, name := range order {
			i := slices.IndexFunc(c.pipeline.Jobs, func(j ccJob) bool { return j.Name == name })
			if i < 0 {
				t.Fatalf("there is no job %s", name)
			}
			j := c.pipeline.Jobs[i]
			inputs, ok := c.inputs(t, &j)
			if !ok || !c.triggers(&j, inputs) {
				continue
			}
			idle = false
			c.ran[name] = inputs
			outcome := c.build(t, &j, inputs)
			c.log = append(c.log, name+": "+outcome)
			if outcome != "failed" {
				c.passed[name] = append(c.passed[name], inputs)
			}
		}
		if idle {
			return
		}
	}
}

func gets(steps []ccStep) []ccStep {
	var all []ccStep
	for _, s := range steps {
		if s.Get != "" {
			all = append(all, s)
		}
		all = append(all, gets(s.InParallel)...)
	}
	return all
}

// inputs chooses the versions of a job's inputs: the latest of all, or of those
// that passed the jobs they have to. One build of each of these jobs has to have
// had all of the versions that passed it.
func (c *concourse) inputs(t *testing.T, j *ccJob) (map[string]string, bool) {
	t.Helper()
	inputs := map[string]string{}
	through := map[string]map[string]string{}
	for _, get := range gets(j.Plan) {
		r := get.resource()
		if get.Passed == nil {
			inputs[r] = c.version(t, r)
		}
		for _, job := range get.Passed {
			builds := c.passed[job]
			if len(builds) == 0 {
				return nil, false
			}
			through[job] = builds[len(builds)-1]
			if version, ok := inputs[r]; ok && version != through[job][r] {
				return nil, false
			}
			inputs[r] = through[job][r]
		}
	}
	return inputs, !slices.Contains(slices.Collect(maps.Values(inputs)), "")
}

func (c *concourse) triggers(j *ccJob, inputs map[string]string) bool {
	for _, get := range gets(j.Plan) {
		if r := get.resource(); get.Trigger && (c.ran[j.Name] == nil || c.ran[j.Name][r] != inputs[r]) {
			return true
		}
	}
	return false
}

// build runs the steps of a job.
func (c *concourse) build(t *testing.T, j *ccJob, inputs map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp(c.place, "build-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	waited := false
	var do func(steps []ccStep) bool
	do = func(steps []ccStep) bool {
		ok := true
		for _, s := range steps {
			switch {
			case s.InParallel != nil: // one failure stops no other
				for _, one := range s.InParallel {
					ok = do([]ccStep{one}) && ok
				}
			case s.Get != "":
				artifact := filepath.Join(dir, s.Get)
				if version := inputs[s.resource()]; s.resource() == "weekly" {
					err = os.Mkdir(artifact, 0o755)
				} else {
					c.git(t, c.place, "clone", "-q", "--single-branch", "--branch", "main", "file://"+c.Dir, artifact)
					c.git(t, artifact, "checkout", "-q", version)
				}
				if err != nil {
					t.Fatal(err)
				}
			case s.Task != "":
				out, passed := c.task(t, dir, &s)
				ok = passed
				waited = waited || strings.Contains(out, "waits for")
			case s.SetPipeline == "self":
				c.set(t, filepath.Join(dir, filepath.FromSlash(s.File)))
			default:
				t.Fatalf("job %s has an unknown step %+v", j.Name, s)
			}
			if !ok {
				return false
			}
		}
		return true
	}
	switch {
	case !do(j.Plan):
		return "failed"
	case waited:
		return "waited"
	}
	return "passed"
}

// task runs a task in a copy of the builder's root. Each input, copied as it
// was, and each output is a mount of its own, as in Concourse.
func (c *concourse) task(t *testing.T, artifacts string, s *ccStep) (output string, ok bool) {
	t.Helper()
	config := &s.Config
	if from := config.ImageResource.Source; from.Repository != c.Registry || !strings.HasPrefix(from.Tag, "builder-2") {
		t.Fatalf("task %s wants the image %+v", s.Task, from)
	}
	place, err := os.MkdirTemp(c.place, "task-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(place)
	const work = "/tmp/build/0123abcd"
	root, mounts := filepath.Join(place, "root"), map[string]string{}
	copyAll := func(from, to string) {
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
			t.Fatalf("copying: %v\n%s", err, out)
		}
	}
	copyAll(c.root, root)
	for _, in := range config.Inputs {
		if _, err := os.Stat(filepath.Join(artifacts, in.Name)); err != nil {
			t.Fatalf("task %s: no step before has made its input %s", s.Task, in.Name)
		}
		copyAll(filepath.Join(artifacts, in.Name), filepath.Join(place, in.Name))
		mounts[in.Name] = filepath.Join(place, in.Name)
	}
	for _, out := range config.Outputs {
		mounts[out.Name] = filepath.Join(artifacts, out.Name)
		if err := os.Mkdir(mounts[out.Name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "bash", c.enter, root}
	for _, name := range slices.Sorted(maps.Keys(mounts)) {
		args = append(args, mounts[name], work+"/"+name)
	}
	args = append(args, "--", work+"/"+config.Run.Dir, config.Run.Path)
	cmd := exec.CommandContext(t.Context(), "unshare", append(args, config.Run.Args...)...)
	// The container's environment is that of its image and of the task.
	cmd.Env = slices.Clone(c.env)
	for _, name := range slices.Sorted(maps.Keys(config.Params)) {
		cmd.Env = append(cmd.Env, name+"="+config.Params[name])
	}
	for i, kv := range cmd.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			cmd.Env[i] = fmt.Sprintf("PATH=%s:/usr/local/sbin:/usr/sbin:/sbin", path) // for the script before it enters
		}
	}
	return run(t, cmd)
}

func (c *concourse) git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, monorepo.Env(os.Environ())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
