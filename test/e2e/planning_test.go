//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/pipegen/pipegen/test/monorepo"
)

// planned is a repository of its own, published to a registry as it is deployed.
type planned struct {
	*testing.T
	dir, registry, pipegen string
}

// newPlanned makes an empty repository whose registry is Docker's Distribution.
func newPlanned(t *testing.T) *planned {
	t.Helper()
	p := &planned{T: t, dir: filepath.Join(scratch(t), "repo"), registry: serveDistribution(t), pipegen: newMonorepo(t).Pipegen}
	p.write("pipegen.yaml", "registry: "+p.registry+"/images\ndefaults: {platforms: [linux/amd64], additional_tags: [latest]}\n")
	p.git("init", "-q", "-b", "main")
	return p
}

// serveDistribution starts the registry of Debian's package docker-registry on
// loopback, until the test ends.
func serveDistribution(t *testing.T) string {
	t.Helper()
	program := program(t, "docker-registry", "apt-get install docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := scratch(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, secret: e2e}\n", dir+"/data", address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			_ = response.Body.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry does not answer: %v", err)
		}
	}
}

func (p *planned) write(file, text string) {
	p.Helper()
	path := filepath.Join(p.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
}

func (p *planned) git(args ...string) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), "git", args...)
	cmd.Dir, cmd.Env = p.dir, monorepo.Env(os.Environ())
	if _, ok := run(p.T, cmd); !ok {
		p.FailNow()
	}
}

// commit commits everything.
func (p *planned) commit(message string) {
	p.Helper()
	p.git("add", "-A")
	p.git("commit", "-q", "--allow-empty", "-m", message)
}

// move puts a new image under a tag of the registry.
func (p *planned) move(path string) {
	p.Helper()
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	text := []byte(time.Now().String())
	if err := errors.Join(out.WriteHeader(&tar.Header{Name: "base.txt", Mode: 0o644, Size: int64(len(text))}), second(out.Write(text)), out.Close()); err != nil {
		p.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		p.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		p.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		p.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		p.Fatal(err)
	}
	ref, err := name.ParseReference(p.registry+"/"+path, name.Insecure)
	if err != nil {
		p.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		p.Fatal(err)
	}
}

// do runs pipegen and gives its output and exit code.
func (p *planned) do(args ...string) (string, int) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), p.pipegen, args...)
	cmd.Dir, cmd.Env = p.dir, monorepo.Env(os.Environ())
	out, _ := run(p.T, cmd)
	return out, cmd.ProcessState.ExitCode()
}

// selects fails the test if a selection names other images.
func (p *planned) selects(want string, args ...string) {
	p.Helper()
	out, code := p.do(append([]string{"plan", "-q"}, args...)...)
	if code != 0 {
		p.Fatalf("pipegen plan exits with %d", code)
	}
	var got []string
	inTable := false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 && len(got) > 0:
			inTable = false
		case len(fields) > 0 && fields[0] == "IMAGE":
			inTable = true
		case inTable && len(fields) > 0:
			got = append(got, fields[0])
		}
	}
	if strings.Join(got, " ") != want {
		p.Errorf("pipegen plan %s selects %q, want %q", strings.Join(args, " "), strings.Join(got, " "), want)
	}
}

// TestStale moves one of three bases: what was built on it is selected, with what
// stands on that, and nothing else.
func TestStale(t *testing.T) {
	p := newPlanned(t)
	for _, base := range []string{"one", "two", "three"} {
		p.move("upstream/" + base + ":1")
	}
	from := "FROM " + p.registry + "/upstream/"
	p.write("a/build-config.yaml", "{}\n")
	p.write("a/Dockerfile", from+"one:1\nCOPY . /\n")
	p.write("b/build-config.yaml", "{}\n")
	p.write("b/Dockerfile", from+"two:1 AS files\n"+from+"three:1\nCOPY --from=files /base.txt /two.txt\n")
	p.write("c/build-config.yaml", "{}\n")
	p.write("c/Dockerfile", from+"three:1\nCOPY . /\n")
	p.write("d/build-config.yaml", "{}\n")
	p.write("d/Dockerfile", "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:b-latest\nCOPY . /\n")
	p.write("rebuild-weekly.txt", "a stale\nb stale\nc\n")
	p.commit("first")
	if _, code := p.do("run", "--select", "all"); code != 0 {
		t.Fatal("building failed")
	}
	p.selects("", "--select", "stale")
	p.move("upstream/two:1")
	p.selects("b d", "--select", "stale")
	p.selects("b c d", "--select", "weekly")
	if out, code := p.do("explain", "d", "--select", "stale"); code != 0 || !strings.Contains(out, "b (d/Dockerfile:2), which is stale: ") {
		t.Errorf("explain exits with %d", code)
	}
	if _, code := p.do("run", "--select", "stale", "--date", "2026-11-30"); code != 0 {
		t.Fatal("rebuilding failed")
	}
	p.selects("", "--select", "stale")
}

// TestMissing lets a build fail: it is selected again after an unrelated commit,
// and what is published already only gets tags.
func TestMissing(t *testing.T) {
	p := newPlanned(t)
	for _, project := range []string{"a", "b", "c"} {
		p.write(project+"/build-config.yaml", "{}\n")
		p.write(project+"/Dockerfile", "FROM scratch\nCOPY file /\n")
		p.write(project+"/file", project)
	}
	if err := os.Remove(filepath.Join(p.dir, "b/file")); err != nil {
		t.Fatal(err)
	}
	p.commit("b cannot be built")
	if _, code := p.do("run", "--select", "missing"); code != 1 {
		t.Fatalf("run exits with %d, want 1", code)
	}
	p.commit("unrelated")
	p.selects("", "--select", "changed")
	p.selects("b", "--select", "missing")
	p.write("b/file", "b")
	p.commit("mended")
	if _, code := p.do("run", "--select", "missing"); code != 0 {
		t.Fatal("building what was mended failed")
	}
	p.selects("", "--select", "missing")

	p.write("a/file", "other")
	p.commit("changed")
	if _, code := p.do("run", "--select", "changed,missing"); code != 0 {
		t.Fatal("building what changed failed")
	}
	p.git("revert", "--no-edit", "HEAD")
	p.selects("", "--select", "missing")
	out, code := p.do("run", "--select", "changed,missing")
	if code != 0 {
		t.Fatal("publishing again failed")
	}
	if strings.Contains(out, "a@amd64") {
		t.Error("what was published already was built again")
	}
	p.twoContents()
}

// twoContents looks at the three publications of a: the first and the last are
// indexes over one image.
func (p *planned) twoContents() {
	p.Helper()
	repo, err := name.NewRepository(p.registry+"/images", name.Insecure)
	if err != nil {
		p.Fatal(err)
	}
	tags, err := remote.List(repo)
	if err != nil {
		p.Fatal(err)
	}
	children := map[string][]string{}
	for _, t := range tags {
		if !strings.HasPrefix(t, "a-") || strings.HasSuffix(t, "-amd64") {
			continue
		}
		index, err := remote.Index(repo.Tag(t))
		if err != nil {
			p.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			p.Fatal(err)
		}
		child := manifest.Manifests[0].Digest.String()
		children[child] = append(children[child], t)
	}
	if len(children) != 2 {
		p.Errorf("three publications of two contents have %d children: %v", len(children), children)
	}
	for _, under := range children {
		if slices.Contains(under, "a-latest") && len(under) != 4 {
			p.Errorf("a-latest stands beside %v, want the tags of two commits and of the content", under)
		}
	}
}
