//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// settle writes the daemons' addresses into pipegen.yaml.
func (s *site) settle(t *testing.T, buildkit string) {
	t.Helper()
	s.write(t, "pipegen.yaml", "registry: "+s.registry+"\nprojects: [projects/*]\ndefaults: {platforms: [linux/amd64], engine: buildkit}\nbuildkit: "+buildkit+"\n")
	s.commit(t)
}

// TestDaemonChoice builds on two daemons: an image goes to the same one each
// time, and when one is stopped, what was on it moves and the rest stays.
func TestDaemonChoice(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	daemons := []*daemon{buildKit(t, []*hub{h}, ""), buildKit(t, []*hub{h}, "")}
	relays := []*relay{newRelay(t, daemons[0]), newRelay(t, daemons[1])}
	for i := range 40 {
		name := fmt.Sprintf("image-%d", i)
		s.project(t, name, map[string]string{"build-config.yaml": "{}\n", "Dockerfile": "FROM @REGISTRY@:busybox\nCOPY a.txt /\n", "a.txt": name})
	}
	s.settle(t, fmt.Sprintf("{addresses: [%q, %q]}", relays[0].address, relays[1].address))
	names := s.someOnEach(t, relays)
	// where builds each image, and says on which daemon.
	where := func() map[string]int {
		t.Helper()
		at := map[string]int{}
		s.clear(t)
		s.plan(t, names...)
		for _, name := range names {
			before := []int64{relays[0].visits.Load(), relays[1].visits.Load()}
			s.must(t, "build", name+"@amd64")
			for i, r := range relays {
				if r.visits.Load() > before[i] {
					if other, ok := at[name]; ok {
						t.Errorf("%s was on the daemons %d and %d", name, other, i)
					}
					at[name] = i
				}
			}
		}
		s.must(t, "manifest", "--all")
		return at
	}
	first := where()
	if again := where(); !maps.Equal(first, again) {
		t.Errorf("images moved though no daemon did: %v, then %v", first, again)
	}
	daemons[0].stop(t)
	relays[0].close()
	for name, at := range where() {
		if at != 1 {
			t.Errorf("%s is on the stopped daemon", name)
		}
		if first[name] == 1 && !strings.Contains(s.log(t, name+"@amd64"), relays[1].address) {
			t.Errorf("the log of %s does not say where it was built:\n%s", name, s.log(t, name+"@amd64"))
		}
	}
}

// someOnEach gives the names of three images for each of the relays, as pipegen
// says without building.
func (s *site) someOnEach(t *testing.T, relays []*relay) (names []string) {
	t.Helper()
	counts := make([]int, len(relays))
	for _, image := range s.plan(t).Images {
		argv := s.must(t, "build", "--print", image.Builds[0].ID)
		at := slices.IndexFunc(relays, func(r *relay) bool { return strings.Contains(argv, "--addr "+r.address+" ") })
		if at < 0 {
			t.Fatalf("%s is on no daemon", image.Name)
		}
		if counts[at]++; counts[at] <= 3 {
			names = append(names, image.Name)
		}
		if !slices.ContainsFunc(counts, func(n int) bool { return n < 3 }) {
			return names
		}
	}
	t.Fatalf("of 40 images the daemons get %v", counts)
	return nil
}

// TestDaemonOverTCP reaches a daemon with certificates, and without any only if
// the configuration allows that.
func TestDaemonOverTCP(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	h := newHub(t, nil)
	s := newSite(t, h)
	s.project(t, "app", map[string]string{"build-config.yaml": "{}\n", "Dockerfile": "FROM @REGISTRY@:busybox\nRUN echo x > /x\n"})
	secured := buildKit(t, []*hub{h}, "tcp://127.0.0.1:"+freePort(t), "--tlscacert", ca.file, "--tlscert", ca.cert, "--tlskey", ca.key)
	s.settle(t, fmt.Sprintf("{addresses: [%q], ca_cert: %s, cert: %s, key: %s}", secured.address, ca.file, ca.cert, ca.key))
	s.must(t, "run", "app")

	stranger := newAuthority(t)
	s.settle(t, fmt.Sprintf("{addresses: [%q], ca_cert: %s, cert: %s, key: %s}", secured.address, ca.file, stranger.cert, stranger.key))
	if _, code := s.pipegen(t, "run", "app"); code == 0 {
		t.Error("a daemon was reached by a stranger")
	}

	open := buildKit(t, []*hub{h}, "tcp://127.0.0.1:"+freePort(t))
	s.settle(t, fmt.Sprintf("{addresses: [%q]}", open.address))
	if out, code := s.pipegen(t, "run", "app"); code != 2 || !strings.Contains(out, "insecure: true") {
		t.Errorf("plain tcp gives exit code %d, want 2 and what to do", code)
	}
	s.settle(t, fmt.Sprintf("{addresses: [%q], insecure: true}", open.address))
	s.must(t, "run", "app")
}

// TestDaemonTroubles builds on daemons that are not there, do not answer, or
// die in the midst of a build.
func TestDaemonTroubles(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	mark := "marker-" + random()
	// Nobody ends the steps of a daemon that dies.
	t.Cleanup(func() {
		for _, pid := range sleepers(t, mark) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	s.project(t, "app", map[string]string{"build-config.yaml": "{}\n", "Dockerfile": "FROM @REGISTRY@:busybox\nRUN sleep 3600; echo " + mark + "\n"})
	fails := func(t *testing.T, says string) {
		t.Helper()
		p := watch(t, s.command(t, "run", "app"))
		end := p.wait(t)
		if end.code != 1 || !strings.Contains(end.output, says) {
			t.Errorf("exit code %d, want 1 and %q", end.code, says)
		}
		s.nothingLeft(t)
	}
	t.Run("refuses", func(t *testing.T) {
		socket := filepath.Join(s.place, "nobody")
		s.settle(t, "{addresses: [\"unix://"+socket+"\"]}")
		fails(t, socket)
	})
	t.Run("hangs", func(t *testing.T) {
		socket := filepath.Join(scratch(t), "silent")
		listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		s.settle(t, "{addresses: [\"unix://"+socket+"\"]}")
		fails(t, socket)
	})
	t.Run("dies", func(t *testing.T) {
		d := buildKit(t, []*hub{h}, "")
		s.settle(t, fmt.Sprintf("{addresses: [%q]}", d.address))
		p := watch(t, s.command(t, "run", "app"))
		p.until(t, "the step began", func() bool { return sleeping(t, mark) })
		d.kill()
		if end := p.wait(t); end.code != 1 {
			t.Errorf("exit code %d, want 1", end.code)
		}
		s.nothingLeft(t)
	})
	// Another daemon takes over what one has lost.
	t.Run("dies and is replaced", func(t *testing.T) {
		s.project(t, "quick", map[string]string{"build-config.yaml": "{}\n", "Dockerfile": "FROM @REGISTRY@:busybox\nRUN sleep 3; echo other-" + mark + " > /done\n"})
		daemons := []*daemon{buildKit(t, []*hub{h}, ""), buildKit(t, []*hub{h}, "")}
		s.settle(t, fmt.Sprintf("{addresses: [%q, %q]}", daemons[0].address, daemons[1].address))
		p := watch(t, s.command(t, "run", "quick"))
		p.until(t, "the step began", func() bool { return sleeping(t, "other-"+mark) })
		first := 0
		if strings.Contains(s.log(t, "quick@amd64"), "building on "+daemons[1].address) {
			first = 1
		}
		daemons[first].kill()
		if end := p.wait(t); end.code != 0 {
			t.Errorf("exit code %d, want 0: the other daemon lives", end.code)
		}
	})
}

// TestAttestations keeps what BuildKit says of how an image was made when its
// builds are joined.
func TestAttestations(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	s.project(t, "app", map[string]string{
		"build-config.yaml": "engine: buildkit\nplatforms: [linux/amd64, linux/arm64]\nadditional_tags: [latest]\nfrontend_opts: {\"attest:provenance\": mode=max}\n",
		"Dockerfile":        "FROM @REGISTRY@:busybox\nCOPY a.txt /\n", "a.txt": "a\n",
	})
	s.commit(t)
	s.must(t, "run", "app")
	index, err := remote.Index(s.ref(t, "app-latest"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	children := map[string]int{}
	for _, m := range manifest.Manifests {
		children[m.Platform.String()]++
		if m.Platform.OS != "unknown" {
			continue
		}
		if about := m.Annotations["vnd.docker.reference.digest"]; !slices.ContainsFunc(manifest.Manifests, func(o v1.Descriptor) bool { return o.Digest.String() == about }) {
			t.Errorf("an attestation is about %s, which is not in the index", about)
		}
	}
	if want := map[string]int{"linux/amd64": 1, "linux/arm64": 1, "unknown/unknown": 2}; !maps.Equal(children, want) {
		t.Errorf("the index holds %v, want %v", children, want)
	}
}
