//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/test/monorepo"
)

// serviceToken opens the controller of the pipelines; it is in no log.
const serviceToken = "t0ken-of-the-pipelines"

// TestGitLabService runs a pipeline in which a controller builds some images,
// and jobs others, each on top of what the other made.
func TestGitLabService(t *testing.T) {
	g := newGitLab(t)
	url, data := devServer(t, g.Monorepo)
	platforms := []string{"linux/amd64", "linux/arm64"}
	if err := errors.Join(
		g.Write("projects/shell/build-config.yaml", "additional_tags: [latest]\nrunner: kubernetes\n"),
		g.Write("projects/reader/build-config.yaml", "runner: ecs\nsecrets: [{id: word, env: SECRET_WORD}]\npre_script: test \"$SECRET_WORD\" = friend\n"),
		g.Write("projects/reader/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:greeter-latest\nCOPY note /note\n"),
		g.Write("projects/reader/note", "of the checkout\n"),
		g.Write("projects/reader/README.md", "# reader\n"),
		g.Write("projects/checks/build-config.yaml", "platforms: [linux/amd64]\nrunner: kubernetes\n"),
		g.Write("projects/checks/limits.txt", "needs_per_job=many\n"),
		g.Commit(t.Context(), "Images that a controller builds"),
	); err != nil {
		t.Fatal(err)
	}
	g.prepare(t, "CI_PIPELINE_SOURCE=push", "PIPEGEN_SELECT=shell,greeter,reader,checks")
	child := g.read(t, "child.yml")
	for _, job := range []string{"run shell", "build greeter@amd64", "manifest greeter", "run reader", "run checks"} {
		if !strings.Contains(child, "\n"+job+":\n") {
			t.Errorf("the child has no job %q", job)
		}
	}
	if strings.Contains(child, "build shell@") || strings.Contains(child, "manifest shell") || strings.Contains(child, serviceToken) {
		t.Fatalf("the child is not what it should be:\n%s", child)
	}
	out := g.run(t, []string{"PIPEGEN_SERVER=" + url, "PIPEGEN_TOKEN=" + serviceToken, "SECRET_WORD=friend"}, "--file", "child.yml")
	var failed []string
	for _, match := range failedJob.FindAllStringSubmatch(out, -1) {
		failed = append(failed, match[1])
	}
	// One that fails costs no other its tags, and its job's log says why.
	if !slices.Equal(failed, []string{"run checks"}) || !strings.Contains(out, "'many' is no number") {
		t.Errorf("failed: %v, want run checks alone", failed)
	}
	if strings.Contains(out, serviceToken) || !strings.Contains(out, "[shell@arm64]") {
		t.Errorf("the log shows the token, or none of the builds")
	}

	shell, greeter := index(t, g.Monorepo, dated(t, g.Monorepo, "shell"), platforms...), index(t, g.Monorepo, dated(t, g.Monorepo, "greeter"), platforms...)
	reader := index(t, g.Monorepo, dated(t, g.Monorepo, "reader"), platforms...)
	for platform := range both {
		standsOn(t, greeter[platform], shell[platform])
		standsOn(t, reader[platform], greeter[platform])
		if got := files(t, reader[platform])["note"]; string(got) != "of the checkout\n" {
			t.Errorf("the note for %s is %q", platform, got)
		}
	}
	if tags, err := g.Tags(); err != nil || slices.ContainsFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, "checks-2") && strings.Count(tag, "-") == 2 }) {
		t.Errorf("checks was published: %v, %v", tags, err)
	}
	checkServiceRuns(t, url, g.head(t), map[string]api.State{"shell": api.Succeeded, "reader": api.Succeeded, "checks": api.Failed})
	if text, err := os.ReadFile(filepath.Join(data, "server.log")); err != nil || strings.Contains(string(text), serviceToken) || strings.Contains(string(text), "friend") {
		t.Errorf("the controller's log holds what is secret (%v):\n%s", err, text)
	}
}

// TestGitHubService runs such a workflow.
func TestGitHubService(t *testing.T) {
	g := newGitHub(t)
	url, _ := devServer(t, g.Monorepo)
	const from = "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:"
	if err := errors.Join(
		g.Write("projects/base/build-config.yaml", "runner: kubernetes\n"),
		g.Write("projects/top/build-config.yaml", "runner: ecs\nsecrets: [{id: word, env: SECRET_WORD}]\npre_script: test \"$SECRET_WORD\" = friend\n"),
		g.Write("projects/top/Dockerfile", from+"app-latest\nCOPY Dockerfile /top/\n"),
		g.Write("projects/broken/build-config.yaml", "platforms: [linux/amd64]\nrunner: kubernetes\n"),
	); err != nil {
		t.Fatal(err)
	}
	pipegen(t, g.Monorepo, "render", "github")
	if err := g.Commit(t.Context(), "Images that a controller builds"); err != nil {
		t.Fatal(err)
	}
	run := g.run(t, "push", map[string]any{"before": strings.Repeat("0", 40)},
		"--var", "PIPEGEN_SERVER="+url, "--secret", "PIPEGEN_TOKEN="+serviceToken, "--secret", "SECRET_WORD=friend")
	run.want(t, map[string]bool{
		"plan": true, "base/run": true, "broken/run": false, "top/run": true,
		"notes/build amd64": true, "notes/build arm64": true, "notes/manifest": true,
		"app/build amd64": true, "app/build arm64": true, "app/manifest": true,
		"web/build amd64": true, "web/manifest": true,
		"pipegen": false,
	})
	if strings.Contains(run.log, serviceToken) || !strings.Contains(run.log, "this one fails") {
		t.Error("the log shows the token, or not why broken failed")
	}
	platforms := []string{"linux/amd64", "linux/arm64"}
	base, app, top := index(t, g.Monorepo, "base-latest", platforms...), index(t, g.Monorepo, "app-latest", platforms...), index(t, g.Monorepo, "top-latest", platforms...)
	for platform := range both {
		standsOn(t, app[platform], base[platform])
		standsOn(t, top[platform], app[platform])
	}
	g.none(t, "broken")
	checkServiceRuns(t, url, g.head(t), map[string]api.State{"base": api.Succeeded, "top": api.Succeeded, "broken": api.Failed})
}

// TestConcourseService runs such a pipeline: first with one image that a
// controller builds, then with both, of which one waits for the other.
func TestConcourseService(t *testing.T) {
	c := newConcourse(t)
	url, _ := devServer(t, c.Monorepo)
	render := func(message string, texts map[string]string) {
		t.Helper()
		for name, text := range texts {
			if err := c.Write(name, text); err != nil {
				t.Fatal(err)
			}
		}
		pipegen(t, c.Monorepo, "render", "concourse", "-o", "ci/pipegen.yml")
		if err := c.Commit(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		c.set(t, filepath.Join(c.Dir, "ci", "pipegen.yml"))
		// What a credential manager says.
		for _, job := range c.pipeline.Jobs {
			for _, step := range job.Plan {
				for name, value := range step.Config.Params {
					step.Config.Params[name] = strings.NewReplacer("((pipegen_server))", url, "((pipegen_token))", serviceToken).Replace(value)
				}
			}
		}
	}
	follows := func(greeting string, log ...string) {
		t.Helper()
		if !slices.Equal(c.log, log) {
			t.Fatalf("jobs: %q, want %q", c.log, log)
		}
		c.log = nil
		platforms := []string{"linux/amd64", "linux/arm64"}
		greeter, shell := index(t, c.Monorepo, "greeter-latest", platforms...), index(t, c.Monorepo, "shell-latest", platforms...)
		for platform := range both {
			standsOn(t, greeter[platform], shell[platform])
			if got := files(t, greeter[platform])["srv/greeting.txt"]; string(got) != greeting {
				t.Errorf("the greeting for %s is %q", platform, got)
			}
		}
	}
	render("A shell that a controller builds", map[string]string{
		"projects/shell/build-config.yaml": c.shellConfig("first") + "runner: kubernetes\n", "projects/greeter/greeting.txt": "Hello from a task.\n",
	})
	c.run(t, "shell", "greeter")
	follows("Hello from a task.\n", "shell: passed", "greeter: passed")
	render("Both", map[string]string{
		"projects/shell/build-config.yaml":   c.shellConfig("second") + "runner: kubernetes\n",
		"projects/greeter/build-config.yaml": "depends_on: [shell]\nadditional_tags: [latest]\nrunner: ecs\n", "projects/greeter/greeting.txt": "Hello from a controller.\n",
	})
	c.run(t, "greeter", "shell")
	follows("Hello from a controller.\n", "greeter: waited", "shell: passed", "greeter: passed")
}

// checkServiceRuns checks that the controller had one run for each of these
// images, which ended so, and built in it that image alone.
func checkServiceRuns(t *testing.T, url, head string, want map[string]api.State) {
	t.Helper()
	c, err := api.NewClient(api.ClientOptions{URL: url, Token: serviceToken})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Runs(t.Context(), api.RunQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, brief := range list.Runs {
		run, err := c.Run(t.Context(), brief.ID)
		if err != nil {
			t.Fatal(err)
		}
		var built []string
		for _, img := range run.Images {
			if len(img.Tasks) > 0 {
				built = append(built, img.Name)
			} else if img.Published == nil {
				t.Errorf("run %s knows nothing of %s", run.ID, img.Name)
			}
		}
		if len(built) != 1 || want[built[0]] != run.State || run.Head != head {
			t.Errorf("run %s of %v at %s: %s %s", run.ID, built, run.Head, run.State, run.Reason)
			continue
		}
		delete(want, built[0])
	}
	if len(want) > 0 {
		t.Errorf("there was no run of %v", want)
	}
}

// devServer starts pipegen server --dev, which does builds for any runner here,
// and gives its URL and where its log is. It is gone when the test ends.
func devServer(t *testing.T, m *monorepo.Monorepo) (url, data string) {
	t.Helper()
	data = scratch(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	log, err := os.Create(filepath.Join(data, "server.log"))
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, m.Pipegen, "server", "--dev", "--listen", address, "--data-dir", filepath.Join(data, "data"))
	cmd.Env = append(monorepo.Env(os.Environ()), "BUILD_CONTROLLER_TOKEN="+serviceToken)
	cmd.Dir, cmd.Stdout, cmd.Stderr = data, log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was told to end
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the controller said:\n%s", text)
		}
		_ = log.Close()
	})
	url = "http://" + address
	eventually(t, "the controller is ready", func() bool {
		res, err := http.Get(url + "/health/ready")
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
	return url, data
}
