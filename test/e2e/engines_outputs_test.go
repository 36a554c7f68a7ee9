//go:build e2e

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestEngineOutputs has each engine make every output, and other tools read
// them.
func TestEngineOutputs(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	const dockerfile = "FROM @REGISTRY@:busybox\nRUN mkdir /gone /opaque && echo x > /gone/x && echo x > /opaque/x && echo one > /kept\n" +
		"RUN busybox rm -r /gone /opaque && mkdir /opaque && echo y > /opaque/y && busybox ln -s /kept /absolute\n" +
		"RUN busybox chown 1000:1000 /kept && busybox ln /kept /hard && busybox chmod 4755 /bin/cp && busybox ln -s ../../../../../../etc /escape\n"
	for _, engine := range engines {
		for name, outputs := range map[string]string{
			"every": "[image, docker-tar, oci-tar, oci-layout, rootfs, digest]", "local": "[docker-tar, digest]",
		} {
			s.add(t, imageCase{
				name: name, config: "outputs: " + outputs + "\n", files: map[string]string{"Dockerfile": dockerfile},
			}, engine, strings.NewReplacer())
		}
	}
	s.commit(t)
	s.pipegen(t, "run", "--select", "all")
	d := docker(t)
	for _, engine := range engines {
		t.Run("every/"+engine, func(t *testing.T) { s.everyOutput(t, "every-"+engine, d) })
		t.Run("local/"+engine, func(t *testing.T) { s.localOutputs(t, "local-"+engine) })
	}
}

// everyOutput reads the outputs of an image that was pushed too.
func (s *site) everyOutput(t *testing.T, image string, d *daemon) {
	id := image + "@amd64"
	pushed := s.built(t, id)
	digest, err := pushed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.output(id, "digest")); err != nil || string(got) != digest.String()+"\n" {
		t.Errorf("the digest is %q (%v), and what was pushed is %s", got, err, digest)
	}
	tar, ociTar, oci := s.output(id, "image.tar"), s.output(id, "oci.tar"), s.output(id, "oci")
	skopeo := program(t, "skopeo", "apt-get install skopeo")
	for _, ref := range []string{"docker-archive:" + tar, "oci-archive:" + ociTar, "oci:" + oci} {
		if out, ok := run(t, exec.CommandContext(t.Context(), skopeo, "inspect", ref)); !ok || strings.HasPrefix(ref, "oci") && !strings.Contains(out, digest.String()) {
			t.Errorf("skopeo does not accept %s as %s", ref, digest)
		}
	}
	path, err := layout.FromPath(oci)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("the layout: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != digest {
		t.Errorf("the layout holds %+v (%v), want %s alone", manifest, err, digest)
	}
	saved, err := tarball.ImageFromPath(tar, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(saved); err != nil {
		t.Errorf("the archive: %v", err)
	}
	s.loads(t, d, tar, pushed)
	s.rootfs(t, s.output(id, "rootfs"))
}

// loads has Docker load an archive and run it.
func (s *site) loads(t *testing.T, d *daemon, archive string, want v1.Image) {
	t.Helper()
	client := program(t, "docker", "apt-get install docker.io")
	docker := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), client, append([]string{"--host", d.address}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+d.place)
		out, ok := run(t, cmd)
		if !ok {
			t.Fatalf("docker %s failed", args[0])
		}
		return strings.TrimSpace(out)
	}
	loaded := docker("load", "--quiet", "--input", archive)
	name := strings.TrimPrefix(loaded, "Loaded image: ")
	if name == loaded {
		t.Fatalf("docker load gives the image no name: %s", loaded)
	}
	config, err := want.ConfigName()
	if got := docker("image", "inspect", "--format", "{{.Id}}", name); err != nil || got != config.String() {
		t.Errorf("Docker has the image %s, and what was pushed is %s (%v)", got, config, err)
	}
	if got := docker("run", "--rm", "--network=none", name, "/bin/cat", "/kept", "/opaque/y"); got != "one\ny" {
		t.Errorf("what runs in Docker says %q", got)
	}
}

// rootfs looks at the files of an unpacked image.
func (s *site) rootfs(t *testing.T, dir string) {
	t.Helper()
	for path, want := range map[string]string{"kept": "one\n", "hard": "one\n", "opaque/y": "y\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != want {
			t.Errorf("rootfs: %s holds %q (%v), want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"gone", "opaque/x"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("rootfs: %s should not be there (%v)", path, err)
		}
	}
	for path, want := range map[string]string{"absolute": "/kept", "escape": "../../../../../../etc"} {
		if got, err := os.Readlink(filepath.Join(dir, path)); err != nil || got != want {
			t.Errorf("rootfs: %s leads to %q (%v), want %q", path, got, err, want)
		}
	}
	kept, keptErr := os.Stat(filepath.Join(dir, "kept"))
	hard, hardErr := os.Stat(filepath.Join(dir, "hard"))
	cp, cpErr := os.Stat(filepath.Join(dir, "bin/cp"))
	if err := errors.Join(keptErr, hardErr, cpErr); err != nil {
		t.Fatal(err)
	}
	if owner, ok := kept.Sys().(*syscall.Stat_t); !ok || owner.Uid != 1000 || owner.Gid != 1000 {
		t.Errorf("rootfs: /kept belongs to %+v", kept.Sys())
	}
	if !os.SameFile(kept, hard) {
		t.Error("rootfs: /hard is a file of its own")
	}
	if cp.Mode().Perm() != 0o755 || cp.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("rootfs: /bin/cp has the mode %s", cp.Mode())
	}
	var whiteouts []string
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".wh.") {
			whiteouts = append(whiteouts, path)
		}
		return err
	}); err != nil || len(whiteouts) > 0 {
		t.Errorf("rootfs: whiteouts are left: %v (%v)", whiteouts, err)
	}
}

// localOutputs reads the outputs of an image that was not to be pushed.
func (s *site) localOutputs(t *testing.T, image string) {
	id := image + "@amd64"
	r, ok := s.result(t, id)
	if !ok {
		t.Fatalf("was not built:\n%s", s.log(t, id))
	}
	if r.Ref != "" {
		t.Errorf("the result says that it is at %s", r.Ref)
	}
	saved, err := tarball.ImageFromPath(s.output(id, "image.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(files(t, saved)["opaque/y"]); got != "y\n" {
		t.Errorf("/opaque/y holds %q", got)
	}
	if got, err := os.ReadFile(s.output(id, "digest")); err != nil || string(got) != r.Digest+"\n" {
		t.Errorf("the digest is %q (%v), and the result's %s", got, err, r.Digest)
	}
	if tags := s.tags(t); slices.ContainsFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, image) }) {
		t.Errorf("the registry holds %v", tags)
	}
	for _, output := range []string{"oci", "oci.tar", "rootfs"} {
		if _, err := os.Lstat(s.output(id, output)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("there is an output %s that nobody asked for (%v)", output, err)
		}
	}
}
