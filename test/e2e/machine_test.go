//go:build e2e

// Package e2e runs pipegen with real CI clients, real Kaniko, and a registry on
// loopback. make e2e installs what it needs.
package e2e

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/pipegen/pipegen/test/monorepo"
)

// program gives the path of a program that the suite cannot do without.
func program(t *testing.T, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install it with: %s", name, install)
	}
	return path
}

// scratch gives an empty directory that every user may enter, on the disk of
// the temporary directory. It is removed with everything in it.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pipegen-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newMonorepo gives a monorepo with everything it needs, until the test ends.
func newMonorepo(t *testing.T) *monorepo.Monorepo {
	t.Helper()
	m, err := monorepo.New(t.Context(), scratch(t), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checkout is a monorepo with what suites do to its files and commits.
type checkout struct{ *monorepo.Monorepo }

func (c checkout) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (c checkout) head(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(c.git(t, "rev-parse", "HEAD"))
}

func (c checkout) git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = c.Dir, monorepo.Env(os.Environ())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// run runs a command to its end and gives its output and whether it succeeded.
func run(t *testing.T, cmd *exec.Cmd) (output string, ok bool) {
	t.Helper()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	t.Logf("%s %s (%s)\n%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), time.Since(start).Round(time.Millisecond), out)
	return string(out), err == nil
}

// pipegen runs pipegen in the monorepo as on a developer's machine, and ends the
// test if it fails.
func pipegen(t *testing.T, m *monorepo.Monorepo, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.Pipegen, args...)
	cmd.Dir, cmd.Env = m.Dir, monorepo.Env(os.Environ())
	out, ok := run(t, cmd)
	if !ok {
		t.Fatalf("pipegen %s failed", args[0])
	}
	return out
}

// dated gives the one tag of the monorepo's registry that begins with prefix, is
// no moving one, and stands for an index.
func dated(t *testing.T, m *monorepo.Monorepo, image string) string {
	t.Helper()
	tags, err := m.Tags()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, tag := range tags {
		rest, ok := strings.CutPrefix(tag, image+"-2")
		if ok && strings.Count(rest, "-") == 1 {
			found = append(found, tag)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has the dated tags %v, want one; the registry holds %v", image, found, tags)
	}
	return found[0]
}

// index gives the images of an index by platform, and fails the test if they
// are not those wanted.
func index(t *testing.T, m *monorepo.Monorepo, tag string, platforms ...string) map[string]v1.Image {
	t.Helper()
	_, images, err := m.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for platform := range images {
		got = append(got, platform)
	}
	slices.Sort(got)
	slices.Sort(platforms)
	if !slices.Equal(got, platforms) {
		t.Fatalf("%s holds %v, want %v", tag, got, platforms)
	}
	return images
}

// files gives the files of an image's root file system by their path.
func files(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	stream := mutate.Extract(image)
	defer stream.Close()
	for in := tar.NewReader(stream); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if all[strings.TrimPrefix(header.Name, "/")], err = io.ReadAll(in); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// machine fails the test if a program is not for the wanted processor.
func machine(t *testing.T, program []byte, want elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatalf("a file of %d bytes is no program: %v", len(program), err)
	}
	if f.Machine != want {
		t.Errorf("the program is for %s, want %s", f.Machine, want)
	}
}

// both are the platforms of most projects, and the processors of their programs.
var both = map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}

// execute runs a program out of the files of an image and gives what it says.
func execute(t *testing.T, files map[string][]byte, program string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(program))
	if err := os.WriteFile(path, files[program], 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// pushBusybox publishes an index :busybox in the monorepo's repository.
func pushBusybox(t *testing.T, m *monorepo.Monorepo) {
	t.Helper()
	ref, err := m.Tag("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, busybox(t)); err != nil {
		t.Fatal(err)
	}
}

// busybox gives an index: Debian's static Busybox for amd64, and a file that
// cannot run for arm64, where nothing is run.
func busybox(t *testing.T) v1.ImageIndex {
	t.Helper()
	path := program(t, "busybox", "apt-get install busybox-static")
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.NewFile(bytes.NewReader(binary)); err != nil || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Fatalf("%s is not statically linked: install it with: apt-get install busybox-static", path)
	}
	list := mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json")
	for _, arch := range []string{"amd64", "arm64"} {
		layer := new(bytes.Buffer)
		out := tar.NewWriter(layer)
		for _, name := range []string{"bin/busybox", "bin/sh", "bin/cat", "bin/cp", "bin/mkdir", "bin/sleep", "bin/chown"} {
			if err := errors.Join(
				out.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(binary))}),
				second(out.Write(binary)),
			); err != nil {
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
		config := &v1.ConfigFile{
			OS: "linux", Architecture: arch, Config: v1.Config{Env: []string{"PATH=/bin"}}, History: []v1.History{{CreatedBy: "e2e"}},
		}
		config.RootFS.Type = "layers"
		if config.RootFS.DiffIDs, err = diffIDs(image); err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		list = mutate.AppendManifests(list, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return list
}

func second(_ int, err error) error { return err }

func diffIDs(image v1.Image) ([]v1.Hash, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return config.RootFS.DiffIDs, nil
}
