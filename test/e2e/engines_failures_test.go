//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEngineFailures has builds fail in each phase, and looks at the exit code,
// at what is said, and that nothing passes for a result.
func TestEngineFailures(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	upstream, _ := s.upstream(t)
	good := map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nCOPY a.txt /\n", "a.txt": "a\n"}
	cases := []struct {
		imageCase
		says string
	}{
		{imageCase: imageCase{
			name: "step", files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nRUN echo this went wrong; exit 7\n"},
		}, says: "this went wrong"},
		{imageCase: imageCase{name: "before", config: "pre_script: |\n  echo said before\n  false\n  echo not reached\n", files: good}, says: "said before"},
		{imageCase: imageCase{name: "after", config: "post_script: |\n  echo said after\n  exit 3\n", files: good}, says: "said after"},
		{imageCase: imageCase{
			name: "stage", config: "target: nowhere\nupstream_repo: @UPSTREAM@\nupstream_ref: v1\ncontext_path: src\ndockerfile_path: docker/Dockerfile\n",
			forMake: "command: make release TARGET=nowhere\n", files: good,
		}, says: "nowhere"},
		{imageCase: imageCase{
			name: "copy", files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nCOPY missing.txt /\n"},
		}, says: "missing.txt"},
	}
	for _, c := range cases {
		for _, engine := range engines {
			s.add(t, c.imageCase, engine, strings.NewReplacer("@UPSTREAM@", upstream))
		}
	}
	s.commit(t)
	for _, c := range cases {
		for _, engine := range engines {
			t.Run(c.name+"/"+engine, func(t *testing.T) {
				image := c.name + "-" + engine
				out, code := s.pipegen(t, "run", image)
				if code != 1 {
					t.Errorf("exit code %d, want 1", code)
				}
				if !strings.Contains(out, c.says) || strings.Contains(out, "not reached") {
					t.Errorf("the output does not say %q, or too much", c.says)
				}
				if _, ok := s.result(t, image+"@amd64"); ok {
					t.Error("there is a result")
				}
				if tags := s.tags(t); slices.Contains(tags, image+"-latest") {
					t.Errorf("the registry holds %v", tags)
				}
				s.nothingLeft(t)
			})
		}
	}
}

// TestEngineRefusals plans and builds what is known to be wrong before anything
// is done: exit code 2.
func TestEngineRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, newHub(t, nil))
	for _, engine := range []string{"kaniko", "buildkit"} {
		s.add(t, imageCase{name: "app", files: map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}}, engine, strings.NewReplacer())
	}
	s.commit(t)
	refuses := func(t *testing.T, cmd *exec.Cmd, says string) {
		t.Helper()
		out, _ := run(t, cmd)
		if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(out, says) {
			t.Errorf("exit code %d, want 2 and %q", code, says)
		}
		s.nothingLeft(t)
	}
	s.plan(t)
	t.Run("no executor", func(t *testing.T) {
		cmd := s.command(t, "run", "app-kaniko")
		cmd.Env = append(cmd.Env, "KANIKO_EXECUTOR="+filepath.Join(s.place, "nowhere"))
		refuses(t, cmd, "KANIKO_EXECUTOR")
	})
	t.Run("no buildctl", func(t *testing.T) {
		cmd := s.command(t, "build", "app-buildkit@amd64")
		cmd.Env = append(cmd.Env, "BUILDCTL="+filepath.Join(s.place, "nowhere"))
		refuses(t, cmd, "BUILDCTL")
	})
	t.Run("kaniko outside of a container", func(t *testing.T) {
		refuses(t, s.command(t, "build", "app-kaniko@amd64"), "kaniko deletes the file system it runs in")
	})
	t.Run("missing stage", func(t *testing.T) {
		s.project(t, "app-kaniko", map[string]string{"build-config.yaml": "target: nowhere\n"})
		refuses(t, s.command(t, "plan", "app-kaniko"), "projects/app-kaniko/build-config.yaml:1:9")
	})
	t.Run("more than Kaniko can", func(t *testing.T) {
		s.project(t, "app-kaniko", map[string]string{"build-config.yaml": "{}\n", "Dockerfile": "FROM @REGISTRY@:busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s\n"})
		out, code := s.pipegen(t, "run", "app-kaniko")
		if code == 0 || !strings.Contains(out, "Dockerfile:2") || !strings.Contains(out, "engine: buildkit") {
			t.Errorf("exit code %d, want the line and another engine", code)
		}
	})
}
