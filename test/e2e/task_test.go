//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/test/toolcache"
)

// task is what Concourse does with a task file, with directories for its inputs
// and outputs.
type task struct {
	Params  map[string]string
	Inputs  []struct{ Name string }
	Outputs []struct{ Name string }
	Run     struct {
		Dir, Path string
		Args      []string
	}

	dir string
	env []string
}

// newTask reads a task file, and makes its directories: inputs with a copy of
// what is in them, outputs empty.
func newTask(t *testing.T, file string, inputs map[string]string) *task {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k := &task{dir: scratch(t)}
	if err := yaml.Unmarshal(text, k); err != nil {
		t.Fatal(err)
	}
	for _, in := range k.Inputs {
		if err := os.CopyFS(filepath.Join(k.dir, in.Name), os.DirFS(inputs[in.Name])); err != nil {
			t.Fatal(err)
		}
	}
	home, bin := filepath.Join(k.dir, "home"), filepath.Join(k.dir, "bin")
	made := []string{home, bin}
	for _, out := range k.Outputs {
		made = append(made, filepath.Join(k.dir, out.Name))
	}
	for _, dir := range made {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What the task's image has in its PATH, and its BASH_ENV.
	for name, path := range map[string]string{
		"pipegen": binary(t), "buildctl": tool(t, toolcache.BuildCtl), "buildkitd": tool(t, toolcache.BuildKitD), "runc": program(t, "runc", "apt-get install runc"),
	} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	k.env = []string{
		"HOME=" + home, "TMPDIR=" + k.dir, "PATH=" + bin + ":" + os.Getenv("PATH"), "BASH_ENV=" + filepath.Join(root, "projects/builder-make/trust.sh"),
	}
	return k
}

// run runs the task's script with these parameters over its own.
func (k *task) run(t *testing.T, params map[string]string) (string, error) {
	t.Helper()
	return k.do(t, params, k.Run.Path, k.Run.Args...)
}

// do runs a program as the task's script is run.
func (k *task) do(t *testing.T, params map[string]string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = filepath.Join(k.dir, k.Run.Dir)
	cmd.Env = slices.Clone(k.env)
	for _, p := range []map[string]string{k.Params, params} {
		for name, value := range p {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (k *task) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// TestConcourseTask runs the task of examples/concourse-task as Concourse would:
// the project's Makefile builds a Dockerfile with RUN, and no Docker daemon is
// there.
func TestConcourseTask(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the engines need root")
	}
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(root, "examples/concourse-task")
	for _, tc := range []struct {
		name string
		ca   bool // whether the registry has a certificate of a private authority
	}{{"plain", false}, {"private authority", true}} {
		t.Run(tc.name, func(t *testing.T) {
			params := map[string]string{}
			var ca *authority
			if tc.ca {
				ca = newAuthority(t)
				params["LOCAL_CA_CERTIFICATE"] = string(ca.pem)
			}
			h := newHub(t, ca)
			k := newTask(t, filepath.Join(example, "builder-task.yml"), map[string]string{"src": example})
			params["BUILD_ARGS"] = "--no-console --build-arg BASE=" + h.host + "/images:busybox --build-arg 'GREETING=hi, \"you\"'"
			log, err := k.run(t, params)
			if err != nil {
				t.Fatalf("the task: %v\n%s", err, log)
			}
			if got := k.read(t, "release/rootfs/usr/local/share/greeting"); got != "hi, \"you\"\n" {
				t.Errorf("the root file system has the greeting %q", got)
			}
			if info, err := os.Stat(filepath.Join(k.dir, "release/rootfs/bin/busybox")); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("the base's file is %v, %v", info, err)
			}
			digest := strings.TrimSpace(k.read(t, "release/digest"))
			if !strings.HasPrefix(digest, "sha256:") || len(digest) != 71 {
				t.Errorf("the digest is %q", digest)
			}
			archive := filepath.Join(k.dir, "release/image.tar")
			skopeo := program(t, "skopeo", "apt-get install skopeo")
			out, err := exec.CommandContext(t.Context(), skopeo, "inspect", "--config", "docker-archive:"+archive).CombinedOutput()
			var config struct {
				Architecture string
				Config       struct{ Cmd []string }
			}
			if err = errors.Join(err, json.Unmarshal(out, &config)); err != nil || !slices.Equal(config.Config.Cmd, []string{"/usr/local/bin/greet"}) {
				t.Errorf("skopeo says of image.tar: %v\n%s", err, out)
			}
			if tc.ca {
				return
			}
			// The same targets on a workstation.
			if log, err := k.do(t, params, "make", "test"); err != nil || !strings.Contains(log, "hi, \"you\"\n") {
				t.Errorf("make test: %v\n%s", err, log)
			}
			if log, err := k.do(t, params, "make", "clean", "docker", "DOCKER="); err != nil {
				t.Errorf("make docker: %v\n%s", err, log)
			} else if k.read(t, "src/release/image.tar") == "" {
				t.Error("make docker left nothing")
			}
			if log, err := k.do(t, params, "make", "-n", "fly-execute"); err != nil || !strings.Contains(log, "fly -t ci execute --privileged -c builder-task.yml -i src=. -o release=release") {
				t.Errorf("make fly-execute: %v\n%s", err, log)
			}
			// What fails fails the task.
			params["BUILD_ARGS"] = "--build-arg BASE=" + h.host + "/images:none"
			if log, err := k.run(t, params); err == nil || !strings.Contains(log, "images:none") {
				t.Errorf("a base that is not there: %v\n%s", err, log)
			}
		})
	}
}
