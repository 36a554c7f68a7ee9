//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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

// builderImage gives what the project builder makes, for this machine.
func builderImage(t *testing.T) v1.Image {
	t.Helper()
	box := program(t, "busybox", "apt-get install busybox-static")
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for name, from := range map[string]string{
		"kaniko/pipegen": binary(t), "kaniko/executor": tool(t, toolcache.Executor), "kaniko/bin/busybox": box, "kaniko/bin/sh": box, "bin/sh": box,
	} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = errors.Join(out.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}), second(out.Write(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"kaniko/home/", "kaniko/tmp/", "kaniko/.docker/", "kaniko/ssl/certs/"} {
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
	if err == nil {
		image, err = mutate.Config(image, v1.Config{Env: []string{
			"PATH=/kaniko/bin:/kaniko:/bin", "HOME=/kaniko/home", "TMPDIR=/kaniko/tmp", "USER=root",
			"SSL_CERT_DIR=/kaniko/ssl/certs", "DOCKER_CONFIG=/kaniko/.docker", "container=docker",
		}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}
