//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/pipegen/pipegen/test/monorepo"
)

// github runs workflows of a monorepo with act. Its jobs run on this machine,
// and find a program docker that runs the builder image in a root made of it.
type github struct {
	checkout
	act, actions, bin, image, place string
}

// TestGitHub runs the workflows that pipegen renders.
func TestGitHub(t *testing.T) {
	g := newGitHub(t)
	platforms := []string{"linux/amd64", "linux/arm64"}

	// Five images, two built on another, one failing.
	t.Run("everything", func(t *testing.T) {
		run := g.run(t, "push", map[string]any{"before": strings.Repeat("0", 40)})
		run.want(t, map[string]bool{
			"plan":             true,
			"base/build amd64": true, "base/build arm64": true, "base/manifest": true,
			"notes/build amd64": true, "notes/build arm64": true, "notes/manifest": true,
			"broken/build amd64": false,
			"app/build amd64":    true, "app/build arm64": true, "app/manifest": true,
			"web/build amd64": true, "web/manifest": true,
			"pipegen": false,
		})
		base, app := index(t, g.Monorepo, "base-latest", platforms...), index(t, g.Monorepo, "app-latest", platforms...)
		for platform := range both {
			standsOn(t, app[platform], base[platform])
		}
		standsOn(t, index(t, g.Monorepo, "web-latest", "linux/amd64")["linux/amd64"], base["linux/amd64"])
		index(t, g.Monorepo, "notes-latest", platforms...)
		g.none(t, "broken")
		if !strings.Contains(run.log, "this one fails") {
			t.Error("the log does not say why broken failed")
		}
		if summary := strings.Join(run.summaries, "\n"); !strings.Contains(summary, "| app | amd64 arm64 |") || !strings.Contains(summary, "- notes-latest") || strings.Contains(summary, "- broken") {
			t.Errorf("the summaries lack the plan or the tags:\n%s", summary)
		}
	})

	t.Run("one image", func(t *testing.T) {
		before := g.head(t)
		g.change(t, "projects/notes/notes.txt", "more\n")
		run := g.run(t, "push", map[string]any{"before": before})
		run.want(t, map[string]bool{
			"plan": true, "notes/build amd64": true, "notes/build arm64": true, "notes/manifest": true,
			// What failed before is still missing.
			"broken/build amd64": false, "pipegen": false,
		})
	})

	t.Run("what an image stands on fails", func(t *testing.T) {
		before := g.head(t)
		g.change(t, "projects/broken/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:busybox\n")
		g.change(t, "projects/base/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:busybox\nCOPY nothing /\n")
		run := g.run(t, "push", map[string]any{"before": before})
		run.want(t, map[string]bool{
			"plan": true, "base/build amd64": false, "base/build arm64": false,
			"broken/build amd64": true, "broken/manifest": true,
			"app/build amd64": false, "app/build arm64": false, "web/build amd64": false, "pipegen": false,
		})
		// act sometimes loses the last lines of a process that fails, so any of the three will do.
		if !strings.Contains(run.log, " is built on base, which was to be published first and was not") {
			t.Error("the dependents do not say what they lack")
		}
	})

	t.Run("repaired", func(t *testing.T) {
		before := g.head(t)
		g.change(t, "projects/base/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:busybox\nCOPY Dockerfile /base/two\n")
		run := g.run(t, "push", map[string]any{"before": before})
		run.want(t, map[string]bool{
			"plan": true, "base/build amd64": true, "base/build arm64": true, "base/manifest": true,
			"app/build amd64": true, "app/build arm64": true, "app/manifest": true, "web/build amd64": true, "web/manifest": true,
			"pipegen": true,
		})
		if _, ok := files(t, index(t, g.Monorepo, "app-latest", platforms...)["linux/arm64"])["base/two"]; !ok {
			t.Error("app does not stand on the base that was just published")
		}
	})

	t.Run("nothing", func(t *testing.T) {
		before := g.head(t)
		g.change(t, "projects/notes/README.md", "# Notes\n")
		g.run(t, "push", map[string]any{"before": before}).want(t, map[string]bool{"plan": true, "pipegen": true})
	})

	t.Run("pull request", func(t *testing.T) {
		before, tags := g.head(t), g.tags(t)
		g.change(t, "projects/base/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:busybox\nCOPY Dockerfile /base/three\n")
		run := g.run(t, "pull_request", map[string]any{"pull_request": map[string]any{"base": map[string]any{"sha": before}}})
		run.want(t, map[string]bool{"plan": true, "pipegen": true})
		if summary := strings.Join(run.summaries, "\n"); !strings.Contains(summary, "| base | amd64 arm64 |") || !strings.Contains(summary, "| app | amd64 arm64 |") {
			t.Errorf("no table of the plan:\n%s", summary)
		}
		if now := g.tags(t); !slices.Equal(now, tags) {
			t.Errorf("a pull request published: %v, before %v", now, tags)
		}
	})

	t.Run("by name", func(t *testing.T) {
		run := g.run(t, "workflow_dispatch", map[string]any{"inputs": map[string]any{"names": "notes"}})
		run.want(t, map[string]bool{"plan": true, "notes/build amd64": true, "notes/build arm64": true, "notes/manifest": true, "pipegen": true})
	})

	t.Run("drift", func(t *testing.T) {
		file := ".github/workflows/pipegen.yml"
		g.change(t, file, strings.Replace(g.read(t, file), "fetch-depth: 0", "fetch-depth: 1", 1))
		run := g.run(t, "push", map[string]any{"before": strings.Repeat("0", 40)})
		run.want(t, map[string]bool{"plan": false, "pipegen": false})
		if !strings.Contains(run.log, "+          fetch-depth: 0") {
			t.Error("no difference is shown")
		}
	})
}

// newGitHub publishes a builder image and makes a monorepo that GitHub builds
// with it.
func newGitHub(t *testing.T) *github {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("giving each build a root of its own needs root")
	}
	g := &github{act: os.Getenv("ACT"), actions: os.Getenv("ACT_ACTIONS"), checkout: checkout{newMonorepo(t)}, place: scratch(t)}
	if g.act == "" || g.actions == "" {
		t.Fatal("act or the actions for it are missing: run make e2e, which installs them and names them in ACT and ACT_ACTIONS")
	}
	pushBusybox(t, g.Monorepo)
	config := strings.ReplaceAll(g.Config(""), ":shell-latest", ":busybox")
	if err := errors.Join(g.Write("pipegen.yaml", config), g.Commit(t.Context(), "Busybox in the builder image")); err != nil {
		t.Fatal(err)
	}
	pipegen(t, g.Monorepo, "run", "builder")
	tag := dated(t, g.Monorepo, "builder")
	g.image = g.Registry + ":" + tag
	g.docker(t, index(t, g.Monorepo, tag, "linux/amd64", "linux/arm64")["linux/amd64"])

	if err := os.RemoveAll(g.Dir); err != nil {
		t.Fatal(err)
	}
	const from = "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:"
	for name, text := range map[string]string{
		"pipegen.yaml":                      config + "  additional_tags: [latest]\n",
		"projects/base/build-config.yaml":   "{}\n",
		"projects/base/Dockerfile":          from + "busybox\nCOPY Dockerfile /base/\n",
		"projects/app/build-config.yaml":    "{}\n",
		"projects/app/Dockerfile":           from + "base-latest\nCOPY Dockerfile /app/\n",
		"projects/web/build-config.yaml":    "platforms: [linux/amd64]\n",
		"projects/web/Dockerfile":           from + "base-latest\nRUN echo web > /web\n",
		"projects/notes/build-config.yaml":  "{}\n",
		"projects/notes/Dockerfile":         from + "busybox\nCOPY notes.txt /\n",
		"projects/notes/notes.txt":          "notes\n",
		"projects/broken/build-config.yaml": "platforms: [linux/amd64]\n",
		"projects/broken/Dockerfile":        from + "busybox\nRUN echo this one fails && false\n",
	} {
		if err := g.Write(name, text); err != nil {
			t.Fatal(err)
		}
	}
	g.git(t, "init", "-q", "-b", "main")
	pipegen(t, g.Monorepo, "init", "github")
	if err := g.Commit(t.Context(), "A monorepo on GitHub"); err != nil {
		t.Fatal(err)
	}
	return g
}

// docker makes the program docker that jobs find. It knows one image, and of
// docker run what the workflows and pipegen ask of it.
func (g *github) docker(t *testing.T, builder v1.Image) {
	t.Helper()
	g.bin = filepath.Join(g.place, "bin")
	root, jobs := filepath.Join(g.place, "builder"), filepath.Join(g.place, "jobs")
	for _, dir := range []string{g.bin, root, jobs} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stream := mutate.Extract(builder)
	defer stream.Close()
	unpack(t, stream, root)
	config, err := builder.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	quoted := make([]string, len(config.Config.Env))
	for i, kv := range config.Config.Env {
		quoted[i] = "'" + kv + "'"
	}
	program := fmt.Sprintf(`#!/bin/bash
set -euo pipefail
refuse() { echo "docker: $*" >&2; exit 125; }
[[ $1 == run ]] || refuse "$1 is not known"
shift
mounts=() env=(%[4]s) workdir=/workspace entrypoint=
while [[ $1 == --* ]]; do
	case $1 in
	--rm) shift; continue ;;
	--name) ;;
	--volume) mounts+=("${2%%%%:*}" "${2#*:}") ;;
	--mount)
		[[ $2 =~ ^type=bind,source=([^,]+),target=([^,]+)(,readonly)?$ ]] || refuse "--mount $2"
		mounts+=("${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}") ;;
	--env) if [[ $2 == *=* ]]; then env+=("$2"); elif [[ -v $2 ]]; then env+=("$2=${!2}"); fi ;;
	--workdir) workdir=$2 ;;
	--entrypoint) entrypoint=$2 ;;
	*) refuse "$1 is not known" ;;
	esac
	shift 2
done
[[ $1 == '%[3]s' ]] || refuse "there is no image $1"
shift
root=$(mktemp -d '%[1]s/XXXXXX')
trap 'rm -rf --one-file-system "$root"' EXIT
cp -a --reflink=auto '%[2]s/.' "$root"
mkdir -p "$root"/{proc,dev,etc,tmp}
touch "$root/.dockerenv"
for ((i = 1; i < ${#mounts[@]}; i += 2)); do mkdir -p "$root${mounts[i]}"; done
unshare --mount --pid --fork --kill-child bash -ec '
	root=$1 n=$2; shift 2
	mount --make-rprivate /
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	for ((; n > 0; n -= 2)); do mount --bind "$1" "$root$2"; shift 2; done
	touch "$root/etc/hosts" && mount --bind /etc/hosts "$root/etc/hosts"
	workdir=$1; shift
	exec "$(command -v chroot)" "$root" /kaniko/bin/busybox env -i "$@"
' bash "$root" ${#mounts[@]} "${mounts[@]}" "$workdir" "${env[@]}" /bin/sh -c 'cd "$0" && exec "$@"' "$workdir" "${entrypoint:-/kaniko/pipegen}" "$@"
`, jobs, root, g.image, strings.Join(quoted, " "))
	if err := os.WriteFile(filepath.Join(g.bin, "docker"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(jobs); err != nil || len(left) > 0 {
			t.Errorf("roots of builds are left: %v (%v)", left, err)
		}
	})
}

// workflowRun is what act said of a run.
type workflowRun struct {
	log       string
	succeeded map[string]bool // jobs that ran, by their names
	summaries []string
}

// run runs the workflow for an event on the default branch.
func (g *github) run(t *testing.T, event string, payload map[string]any, args ...string) *workflowRun {
	t.Helper()
	payload["repository"] = map[string]any{"default_branch": "main", "full_name": "acme/images"}
	payload["ref"] = "refs/heads/main"
	data, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	place := scratch(t)
	file := filepath.Join(place, "event.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	all := append([]string{
		"-s", "KILL", "600", g.act, event, "-W", ".github/workflows/pipegen.yml", "-e", file, "--json",
		"-P", "ubuntu-24.04=-self-hosted", "-P", "ubuntu-24.04-arm=-self-hosted", "--action-offline-mode", "--concurrent-jobs", "2",
		"--artifact-server-path", filepath.Join(place, "artifacts"), "--artifact-server-addr", "127.0.0.1", "--artifact-server-port", freePort(t),
		"--cache-server-addr", "127.0.0.1", "--var", "PIPEGEN_IMAGE=" + g.image,
	}, args...)
	for _, match := range usedAction.FindAllStringSubmatch(g.read(t, ".github/workflows/pipegen.yml")+g.read(t, ".github/workflows/pipegen-image.yml"), -1) {
		if at := "actions/" + match[1] + "-artifact@" + match[2] + "=" + filepath.Join(g.actions, match[1]); !slices.Contains(all, at) {
			all = append(all, "--local-repository", at)
		}
	}
	cmd := exec.CommandContext(t.Context(), "timeout", all...)
	cmd.Dir = g.Dir
	cmd.Env = monorepo.Env(os.Environ(), "PATH="+g.bin+":"+os.Getenv("PATH"), "XDG_CACHE_HOME="+filepath.Join(place, "cache"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	ok, r := err == nil, readRun(t, out)
	t.Logf("act %s: %v\n%s", event, err, r.log)
	if failed := slices.Contains(slices.Collect(maps.Values(r.succeeded)), false); ok == failed {
		t.Errorf("act succeeded: %t, jobs: %v", ok, r.succeeded)
	}
	return r
}

// usedAction is an action of which test/e2e/actions has what the workflows use.
var usedAction = regexp.MustCompile(`uses: actions/(upload|download)-artifact@([0-9a-f]{40})`)

// calledJob is the name that act gives a job of a called workflow: with a
// number at the end of what is one of several.
var calledJob = regexp.MustCompile(`^([a-z]+)(?:-\d+)?/pipegen image/([a-z]+(?: [a-z0-9]+?)?)(?:-\d+)?$`)

func readRun(t *testing.T, out []byte) *workflowRun {
	t.Helper()
	r := &workflowRun{succeeded: map[string]bool{}}
	var log strings.Builder
	for line := range bytes.Lines(out) {
		var entry struct {
			Job, Msg, Command, Content string
			JobResult                  string
		}
		if json.Unmarshal(line, &entry) != nil {
			log.Write(line)
			continue
		}
		name := strings.TrimSpace(entry.Job)
		if match := calledJob.FindStringSubmatch(name); match != nil {
			name = match[1] + "/" + match[2]
		}
		name = strings.TrimPrefix(name, "pipegen/")
		log.WriteString(name + ": " + strings.TrimRight(entry.Msg, "\n") + "\n")
		if entry.JobResult != "" {
			r.succeeded[name] = entry.JobResult == "success"
		}
		if entry.Command == "summary" {
			r.summaries = append(r.summaries, entry.Content)
		}
	}
	r.log = log.String()
	return r
}

// want fails the test unless exactly these jobs ran, with these results.
func (r *workflowRun) want(t *testing.T, jobs map[string]bool) {
	t.Helper()
	if !maps.Equal(r.succeeded, jobs) {
		t.Fatalf("jobs and whether they succeeded:\n%v, want\n%v", r.succeeded, jobs)
	}
}

func (g *github) change(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(g.Write(file, text), g.Commit(t.Context(), "Change "+file)); err != nil {
		t.Fatal(err)
	}
}

func (g *github) tags(t *testing.T) []string {
	t.Helper()
	tags, err := g.Tags()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tags)
	return tags
}

// none fails the test if the registry holds a tag of an image.
func (g *github) none(t *testing.T, image string) {
	t.Helper()
	for _, tag := range g.tags(t) {
		if strings.HasPrefix(tag, image+"-") {
			t.Errorf("%s was published as %s", image, tag)
		}
	}
}

// freePort gives a port on loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return port
}
