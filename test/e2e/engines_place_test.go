//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/pipegen/pipegen/test/monorepo"
	"github.com/pipegen/pipegen/test/toolcache"
)

// TestEngineInPlace builds with Kaniko in a container that was made for it, by
// the three commands that a CI system runs; steps of the Dockerfile see
// pipegen's process there.
func TestEngineInPlace(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	secret, password := random(), random()
	s.add(t, imageCase{
		name: "app", config: "secrets: [{id: s, env: THE_SECRET}]\npre_script: printf %s \"$THE_SECRET\" | busybox sha256sum > sum\n",
		files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox AS build\nCOPY sum /\nRUN busybox tr '\\0' '\\n' < /proc/1/cmdline > /pid1\n" +
			"RUN cat /proc/[0-9]*/environ > /stolen || true\nFROM @REGISTRY@:busybox\nCOPY --from=build /sum /pid1 /stolen /\n"},
	}, "kaniko", strings.NewReplacer())
	s.write(t, ".gitignore", "/.pipegen/\n/plan.json\n/projects/app-kaniko/sum\n")
	s.commit(t)
	c := &gitlab{}
	c.enter(t, builderImage(t))
	s.plan(t, "app-kaniko")
	cmd := exec.CommandContext(t.Context(), filepath.Join(c.bin, "pipegen"), "build", "app-kaniko@amd64")
	cmd.Dir = s.dir
	cmd.Env = monorepo.Env([]string{"PATH=" + os.Getenv("PATH")}, "THE_SECRET="+secret, `DOCKER_AUTH_CONFIG={"auths":{"`+h.host+`":{"username":"user","password":"`+password+`"}}}`, "CI_JOB_TOKEN="+password)
	out, ok := run(t, cmd)
	if !ok {
		t.Fatal("pipegen build failed")
	}
	s.must(t, "manifest", "--all")
	image := s.image(t, "app-kaniko-latest")
	content := files(t, image)
	if !strings.Contains(string(content["pid1"]), "pipegen") {
		t.Errorf("the step's container runs %q, not pipegen", content["pid1"])
	}
	forbidden := []string{secret, password}
	lacksAll(t, "the output", []byte(out), forbidden)
	lacksAll(t, "the log", []byte(s.log(t, "app-kaniko@amd64")), forbidden)
	lacksAllImage(t, image, forbidden)
	if _, err := os.Stat(tool(t, toolcache.Executor)); err != nil {
		t.Errorf("the tools outside of the container are gone: %v", err)
	}
}

// TestBuilderWithBuildKit builds the project builder-buildkit, on a base that
// holds what BuildKit's own image does, and then builds in it: with a daemon of
// pipegen's own, since there is no other.
func TestBuilderWithBuildKit(t *testing.T) {
	t.Parallel()
	s := newSite(t, newHub(t, nil))
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(filepath.Join(root, "projects", "builder-buildkit", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for tag, image := range map[string]v1.Image{"builder-latest": builderImage(t), "buildkit": buildkitImage(t)} {
		if err := remote.Write(s.ref(t, tag), image, remote.WithTransport(s.hub.transport())); err != nil {
			t.Fatal(err)
		}
	}
	s.project(t, "builder-buildkit", map[string]string{
		"build-config.yaml": "build_args: {BUILDKIT: \"@REGISTRY@:buildkit\"}\nadditional_tags: [latest]\n", "Dockerfile": string(dockerfile),
	})
	s.project(t, "app", map[string]string{
		"build-config.yaml": "engine: buildkit\nadditional_tags: [latest]\nsecrets: [{id: s, env: THE_SECRET}]\n",
		"Dockerfile":        "FROM @REGISTRY@:busybox\nRUN --mount=type=secret,id=s busybox sha256sum < /run/secrets/s > /sum\nRUN cat /proc/[0-9]*/environ > /stolen || true\n",
	})
	s.commit(t)
	s.must(t, "run", "builder-buildkit")
	c := &gitlab{}
	c.enter(t, s.image(t, "builder-buildkit-latest"))
	s.plan(t, "app")
	secret := random()
	cmd := exec.CommandContext(t.Context(), filepath.Join(c.bin, "pipegen"), "build", "app@amd64")
	cmd.Dir = s.dir
	cmd.Env = monorepo.Env([]string{"PATH=" + os.Getenv("PATH")}, "THE_SECRET="+secret)
	out, ok := run(t, cmd)
	if !ok {
		t.Fatal("pipegen build failed")
	}
	s.must(t, "manifest", "--all")
	image := s.image(t, "app-latest")
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(secret))); !strings.HasPrefix(string(files(t, image)["sum"]), want) {
		t.Errorf("the step saw another secret: %q, want %s", files(t, image)["sum"], want)
	}
	lacksAll(t, "the output", []byte(out), []string{secret})
	lacksAllImage(t, image, []string{secret})
}

// builderImage gives what the project builder makes, for this machine.
func builderImage(t *testing.T) v1.Image {
	t.Helper()
	box := program(t, "busybox", "apt-get install busybox-static")
	return imageOf(t, map[string]string{
		"kaniko/pipegen": binary(t), "kaniko/executor": tool(t, toolcache.Executor), "kaniko/bin/busybox": box, "kaniko/bin/sh": box, "bin/sh": box,
	}, []string{"kaniko/home/", "kaniko/tmp/", "kaniko/.docker/", "kaniko/ssl/certs/"},
		"PATH=/kaniko/bin:/kaniko:/bin", "HOME=/kaniko/home", "TMPDIR=/kaniko/tmp", "USER=root",
		"SSL_CERT_DIR=/kaniko/ssl/certs", "DOCKER_CONFIG=/kaniko/.docker", "container=docker")
}

// buildkitImage stands in for BuildKit's own image: its programs, runc with its
// libraries, a shell, and a daemon's address at which nobody answers.
func buildkitImage(t *testing.T) v1.Image {
	t.Helper()
	box, runc := program(t, "busybox", "apt-get install busybox-static"), program(t, "runc", "apt-get install runc")
	content := map[string]string{
		"bin/sh": box, "bin/busybox": box, "usr/bin/buildctl": tool(t, toolcache.BuildCtl), "usr/bin/buildkitd": tool(t, toolcache.BuildKitD), "usr/bin/runc": runc,
	}
	libraries, err := exec.CommandContext(t.Context(), "ldd", runc).Output()
	if err != nil {
		t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(libraries)) {
		if name, absolute := strings.CutPrefix(word, "/"); absolute {
			content[name] = word
		}
	}
	return imageOf(t, content, []string{"root/", "tmp/", "sys/", "run/", "etc/"},
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root", "BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock")
}

// imageOf gives an image with programs, directories and environment, for this
// machine.
func imageOf(t *testing.T, programs map[string]string, dirs []string, env ...string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for name, from := range programs {
		data, err := os.ReadFile(from)
		if err == nil {
			err = errors.Join(out.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}), second(out.Write(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range dirs {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	config := &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Env: env}, History: []v1.History{{CreatedBy: "e2e"}}}
	config.RootFS.Type = "layers"
	if config.RootFS.DiffIDs, err = diffIDs(image); err == nil {
		image, err = mutate.ConfigFile(image, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}
