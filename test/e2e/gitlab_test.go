//go:build e2e

package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
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

// gitlab runs pipelines of a monorepo with gitlab-ci-local. Its jobs find a
// program pipegen that runs the one in the builder image, in a root made of that
// image.
type gitlab struct {
	checkout
	client, bin, image string
}

// TestGitLab runs the pipelines that pipegen renders.
func TestGitLab(t *testing.T) {
	g := newGitLab(t)
	platforms := []string{"linux/amd64", "linux/arm64"}

	t.Run("everything", func(t *testing.T) {
		g.prepare(t, "CI_PIPELINE_SOURCE=push")
		if child := g.read(t, "child.yml"); strings.Count(child, "\nbuild ") != 10 {
			t.Fatalf("the child pipeline does not hold 10 builds:\n%s", child)
		}
		if failed := g.child(t); len(failed) > 0 {
			t.Fatalf("failed: %v", failed)
		}
		shell := index(t, g.Monorepo, dated(t, g.Monorepo, "shell"), platforms...)
		for platform, processor := range both {
			machine(t, files(t, shell[platform])["bin/sh"], processor)
		}
		if got := execute(t, files(t, shell["linux/amd64"]), "bin/sh", "-c", "echo it runs"); got != "it runs\n" {
			t.Errorf("the shell says %q", got)
		}
		greeter := index(t, g.Monorepo, dated(t, g.Monorepo, "greeter"), platforms...)
		for platform := range both {
			standsOn(t, greeter[platform], shell[platform])
		}
		stages := index(t, g.Monorepo, dated(t, g.Monorepo, "stages"), "linux/amd64")["linux/amd64"]
		if got := execute(t, files(t, stages), "bin/busybox", "echo", "busybox runs"); got != "busybox runs\n" {
			t.Errorf("Busybox says %q", got)
		}
		if log := g.read(t, ".pipegen/builds/stages@amd64.log"); !strings.Contains(log, "after the clean-up sha256:") {
			t.Errorf("post_script left no trace:\n%s", log)
		}
	})

	t.Run("nothing", func(t *testing.T) {
		before := g.head(t)
		if err := errors.Join(g.Write("projects/shell/README.md", "# shell\n"), g.Commit(t.Context(), "A shorter README")); err != nil {
			t.Fatal(err)
		}
		g.clean(t)
		out := g.run(t, []string{"CI_COMMIT_BEFORE_SHA=" + before})
		if !strings.Contains(out, "nothing to build") || strings.Contains(out, "FAIL") {
			t.Errorf("want one job that says that there is nothing to build:\n%s", out)
		}
	})

	// A schedule builds what rebuild-weekly.txt lists, though nothing changed.
	t.Run("weekly", func(t *testing.T) {
		g.clean(t)
		g.prepare(t, "CI_PIPELINE_SOURCE=schedule")
		if child := g.read(t, "child.yml"); strings.Count(child, "\nbuild ") != 1 || !strings.Contains(child, "\nbuild checks@amd64:") {
			t.Fatalf("want checks alone:\n%s", child)
		}
		if failed := g.child(t); len(failed) > 0 {
			t.Fatalf("failed: %v", failed)
		}
		tags, err := g.Tags()
		if err != nil {
			t.Fatal(err)
		}
		head := g.head(t)[:7]
		at := slices.IndexFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, "checks-2") && strings.HasSuffix(tag, "-"+head) })
		if at < 0 {
			t.Fatalf("no tag of checks for %s: %v", head, tags)
		}
		index(t, g.Monorepo, tags[at], "linux/amd64")
	})

	// Five images, two of them built on the first: one fails, and costs no other its index.
	t.Run("one fails", func(t *testing.T) {
		before := g.head(t)
		if err := errors.Join(
			g.Write("projects/shell/why.txt", "So that all that is built on it is built.\n"),
			g.Write("projects/checks/limits.txt", "needs_per_job=many\n"),
			g.Write("projects/notes/changes.txt", "another line\n"),
			g.Commit(t.Context(), "Good changes, and a bad one"),
		); err != nil {
			t.Fatal(err)
		}
		g.clean(t)
		g.prepare(t, "CI_COMMIT_BEFORE_SHA="+before, "PIPEGEN_SELECT=changed,upstream")
		failed := g.child(t)
		if len(failed) != 1 || failed[0] != "build checks@amd64" {
			t.Errorf("failed: %v, want the build of checks alone", failed)
		}
		if log := g.read(t, ".pipegen/builds/checks@amd64.log"); !strings.Contains(log, "'many' is no number") {
			t.Errorf("the log does not say why:\n%s", log)
		}
		tags, err := g.Tags()
		if err != nil {
			t.Fatal(err)
		}
		var published []string
		for _, tag := range tags {
			if !strings.HasSuffix(tag, "-"+g.head(t)[:7]) {
				continue // a build's, or of another commit
			}
			index(t, g.Monorepo, tag, platforms...)
			name, _, _ := strings.Cut(tag, "-")
			published = append(published, name)
		}
		slices.Sort(published)
		if want := []string{"greeter", "notes", "shell", "upstream"}; !slices.Equal(published, want) {
			t.Errorf("published %v, want %v: %v", published, want, tags)
		}
	})

	// GitLab's limits are far: a limit of jobs divides the plan all the same.
	t.Run("several pipelines", func(t *testing.T) {
		before := g.head(t)
		if err := errors.Join(
			g.Write("projects/shell/notes.txt", "A file that is not in the image.\n"),
			g.Write("projects/greeter/greeting.txt", "Hello from another pipeline.\n"),
			g.Write("projects/checks/limits.txt", "needs_per_job=many\n"),
			g.Commit(t.Context(), "A base, and what is built on it"),
		); err != nil {
			t.Fatal(err)
		}
		g.clean(t)
		g.prepare(t, "CI_COMMIT_BEFORE_SHA="+before, "PIPEGEN_SELECT=shell,greeter", "PIPEGEN_MAX_JOBS=6")
		first, second := g.read(t, "child-001.yml"), g.read(t, "child-002.yml")
		if !strings.Contains(first, "\nmanifest shell:") || !strings.Contains(second, "\npublished shell:") || !strings.Contains(second, "\nmanifest greeter:") {
			t.Fatalf("want shell, then greeter:\n%s\n%s", first, second)
		}
		// What the first pipeline has not published keeps the second from building on it.
		if failed := g.child(t, "child-002.yml"); len(failed) != 1 || failed[0] != "published shell" {
			t.Errorf("failed: %v, want published shell alone", failed)
		}
		if failed := g.child(t, "child-001.yml"); len(failed) > 0 {
			t.Errorf("failed: %v", failed)
		}
		// Neither does an image keep others from being built that are none of its own.
		if failed := g.child(t, "child-002.yml"); len(failed) != 1 || failed[0] != "build checks@amd64" {
			t.Errorf("failed: %v, want the build of checks alone", failed)
		}
		shell, greeter := index(t, g.Monorepo, "shell-latest", platforms...), index(t, g.Monorepo, "greeter-latest", platforms...)
		for platform := range both {
			standsOn(t, greeter[platform], shell[platform])
			if got := files(t, greeter[platform])["srv/greeting.txt"]; string(got) != "Hello from another pipeline.\n" {
				t.Errorf("the greeting for %s is %q", platform, got)
			}
		}
		// The client starts them in turn, and checks what starts them.
		if err := errors.Join(g.Write("projects/checks/limits.txt", "needs_per_job=50\nmatrix_jobs=256\n"), g.Commit(t.Context(), "A number")); err != nil {
			t.Fatal(err)
		}
		g.clean(t)
		out := g.run(t, []string{"CI_COMMIT_BEFORE_SHA=" + before, "PIPEGEN_SELECT=shell,greeter", "PIPEGEN_MAX_JOBS=6"}, "--no-shell-isolation")
		if strings.Contains(out, "FAIL") || !strings.Contains(out, "chunk 002") || !strings.Contains(out, "manifest greeter") {
			t.Errorf("want both pipelines started:\n%s", out)
		}
	})

	t.Run("parent and child", func(t *testing.T) {
		before := g.head(t)
		if err := errors.Join(
			g.Write("projects/greeter/greeting.txt", "Hello from the child.\n"),
			g.Commit(t.Context(), "Another greeting"),
		); err != nil {
			t.Fatal(err)
		}
		g.clean(t)
		// Without isolation all jobs share a directory, and the child sees the parent's artifacts there.
		out := g.run(t, []string{"CI_COMMIT_BEFORE_SHA=" + before}, "--no-shell-isolation")
		if strings.Contains(out, "FAIL") || !strings.Contains(out, "manifest greeter") || strings.Contains(out, "manifest shell") {
			t.Fatalf("want greeter built, and nothing else:\n%s", out)
		}
		images := index(t, g.Monorepo, "greeter-latest", platforms...)
		for platform := range both {
			if got := files(t, images[platform])["srv/greeting.txt"]; string(got) != "Hello from the child.\n" {
				t.Errorf("the greeting for %s is %q", platform, got)
			}
		}
	})

	t.Run("component", func(t *testing.T) {
		before := g.head(t)
		component, err := os.ReadFile("../../templates/pipegen.yml")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(
			g.Write("templates/pipegen.yml", string(component)),
			g.Write(".gitlab-ci.yml", "include:\n  - component: 127.0.0.1/images/monorepo/pipegen@$CI_COMMIT_SHA\n    inputs: {image: '"+g.image+"', job: images, tags: [any]}\n"),
			g.Write("projects/notes/changes.txt", "by a component\n"),
			g.Commit(t.Context(), "A component"),
		); err != nil {
			t.Fatal(err)
		}
		// The client takes a component from the checkout if that is where it is from.
		g.git(t, "remote", "add", "origin", "ssh://git@127.0.0.1:9/images/monorepo.git")
		g.clean(t)
		out := g.run(t, []string{"CI_COMMIT_BEFORE_SHA=" + before}, "--no-shell-isolation")
		if strings.Contains(out, "FAIL") || !strings.Contains(out, "images-prepare") || !strings.Contains(out, "manifest notes") {
			t.Errorf("want notes built by the component:\n%s", out)
		}
		index(t, g.Monorepo, "notes-latest", platforms...)
	})
}

// newGitLab publishes a builder image and makes the monorepo one that GitLab
// builds in it.
func newGitLab(t *testing.T) *gitlab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("giving each job a root of its own needs root")
	}
	g := &gitlab{client: os.Getenv("GITLAB_CI_LOCAL"), checkout: checkout{newMonorepo(t)}}
	if g.client == "" {
		t.Fatal("gitlab-ci-local is missing: run make e2e, which installs it and names it in GITLAB_CI_LOCAL")
	}
	program(t, "rsync", "apt-get install rsync")
	pushBusybox(t, g.Monorepo)

	config := strings.ReplaceAll(g.Config(""), ":shell-latest", ":busybox")
	if err := errors.Join(g.Write("pipegen.yaml", config), g.Commit(t.Context(), "Busybox in the builder image")); err != nil {
		t.Fatal(err)
	}
	pipegen(t, g.Monorepo, "run", "builder")
	tag := dated(t, g.Monorepo, "builder")
	g.image = g.Registry + ":" + tag
	g.enter(t, index(t, g.Monorepo, tag, "linux/amd64", "linux/arm64")["linux/amd64"])

	// The pipelines need no second builder; its binaries would be copied for every job.
	for _, path := range []string{".git", ".pipegen", "projects/builder", "pipegen.yaml", "rebuild-weekly.txt"} {
		if err := os.RemoveAll(filepath.Join(g.Dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	g.git(t, "init", "-q", "-b", "main")
	pipegen(t, g.Monorepo, "init", "gitlab", "--overwrite")
	if err := errors.Join(
		g.Write("pipegen.yaml", config),
		g.Write("rebuild-weekly.txt", "checks\n"),
		g.Write(".gitignore", "/.pipegen/\n/plan.json\n/child*.yml\n/dirs.txt\n/gl-code-quality-report.json\n/.gitlab-ci-local/\n"),
		g.Write("projects/stages/README.md", "# stages\n"),
		g.Write("projects/stages/build-config.yaml", "platforms: [linux/amd64]\npost_script: |\n  ls /kaniko > /dev/null\n  echo \"after the clean-up $PIPEGEN_DIGEST\"\n"),
		g.Write("projects/stages/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:busybox AS build\nRUN mkdir -p /out/bin && cp /bin/busybox /out/bin/\nFROM ${PIPEGEN_REGISTRY}:busybox\nRUN echo second > /stage\nCOPY --from=build /out/ /\n"),
		g.Commit(t.Context(), "A monorepo on GitLab"),
	); err != nil {
		t.Fatal(err)
	}
	return g
}

// enter unpacks the builder image, and makes the program pipegen that jobs run:
// it enters a copy of that root, with the job's checkout at its path, as
// GitLab's Docker executor does.
func (g *gitlab) enter(t *testing.T, builder v1.Image) {
	t.Helper()
	place := scratch(t)
	g.bin = filepath.Join(place, "bin")
	root, jobs := filepath.Join(place, "builder"), filepath.Join(place, "jobs")
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
	var env strings.Builder
	for _, kv := range config.Config.Env {
		env.WriteString(" '" + kv + "'")
	}
	shim := fmt.Sprintf(`#!/bin/bash
set -euo pipefail
root=$(mktemp -d %[1]s/XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT
cp -a --reflink=auto %[2]s/. "$root"
mkdir -p "$root"/{proc,dev,etc,tmp} "$root$PWD"
unshare --mount --pid --fork --kill-child bash -ec '
	root=$1; shift
	mount --make-rprivate /
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount --bind "$PWD" "$root$PWD"
	touch "$root/etc/hosts" && mount --bind /etc/hosts "$root/etc/hosts"
	if [[ -d $root/sys ]]; then
		# Where containers are made, the root must be one that can be left for another.
		mount --rbind /sys "$root/sys"
		checkout=$PWD && cd "$root" && mkdir .left && pivot_root . .left
		exec /bin/busybox env %[3]s /bin/sh -c "busybox umount -l /.left && cd \"\$0\" && exec pipegen \"\$@\"" "$checkout" "$@"
	fi
	exec env %[3]s "$(command -v chroot)" "$root" /bin/sh -c "cd \"\$0\" && exec pipegen \"\$@\"" "$PWD" "$@"
' bash "$root" "$@"
`, jobs, root, strings.ReplaceAll(env.String(), "'", ""))
	if err := os.WriteFile(filepath.Join(g.bin, "pipegen"), []byte(shim), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(jobs); err != nil || len(left) > 0 {
			t.Errorf("roots of jobs are left: %v (%v)", left, err)
		}
	})
}

// unpack writes a root file system below dir.
func unpack(t *testing.T, stream io.Reader, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for in := tar.NewReader(stream); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(strings.TrimPrefix(header.Name, "/"))
		if err = root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(header.Linkname, name)
		case tar.TypeLink:
			err = root.Link(strings.TrimPrefix(header.Linkname, "/"), name)
		case tar.TypeReg:
			data, e := io.ReadAll(in)
			err = errors.Join(e, root.WriteFile(name, data, header.FileInfo().Mode().Perm()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a pipeline of the monorepo.
func (g *gitlab) run(t *testing.T, variables []string, args ...string) string {
	t.Helper()
	all := []string{"--force-shell-executor", "--shell-isolation", "--no-color", "--variable", "PIPEGEN_IMAGE=" + g.image}
	for _, v := range variables {
		all = append(all, "--variable", v)
	}
	cmd := exec.CommandContext(t.Context(), "timeout", append([]string{"-s", "KILL", "300", g.client}, append(all, args...)...)...)
	cmd.Dir = g.Dir
	cmd.Env = monorepo.Env(os.Environ(), "PATH="+g.bin+":"+os.Getenv("PATH"))
	out, ok := run(t, cmd)
	if !ok && !strings.Contains(out, "FAIL") {
		t.Fatal("gitlab-ci-local failed")
	}
	return out
}

// prepare runs the parent's first job, and has the jobs of the child find the
// plan: gitlab-ci-local copies what git knows to the directory of each job.
func (g *gitlab) prepare(t *testing.T, variables ...string) {
	t.Helper()
	if out := g.run(t, variables, "prepare"); strings.Contains(out, "FAIL") {
		t.Fatal("the job prepare failed")
	}
	g.git(t, "add", "--force", "plan.json")
}

// child runs a child pipeline, child.yml unless another is named, and gives the
// jobs that failed.
func (g *gitlab) child(t *testing.T, file ...string) []string {
	t.Helper()
	out := g.run(t, nil, "--file", append(file, "child.yml")[0])
	if !strings.Contains(out, "PASS") && !strings.Contains(out, "FAIL") {
		t.Fatal("no job of the child pipeline was run")
	}
	var failed []string
	for _, match := range failedJob.FindAllStringSubmatch(out, -1) {
		failed = append(failed, match[1])
	}
	return failed
}

// failedJob is a line of gitlab-ci-local's summary.
var failedJob = regexp.MustCompile(`(?m)^\s*FAIL\s+(\S.*?)\s*$`)

// clean removes what pipelines left in the work tree.
func (g *gitlab) clean(t *testing.T) {
	t.Helper()
	g.git(t, "reset", "-q", "--hard")
	g.git(t, "clean", "-qxfd")
}
