//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/test/toolcache"
)

// simple is a project with a step and files.
var simple = imageCase{
	name:   "simple",
	config: "reproducible: true\n",
	// What it makes has the times that buildctl is told.
	forMake: "reproducible: true\nenv: {SOURCE_DATE_EPOCH: \"1700000000\"}\n",
	files:   map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nCOPY a.txt /\nRUN cat /a.txt > /b.txt && mkdir /dir && echo c > /dir/c\n", "a.txt": "a\n"},
	want:    all(map[string]string{"b.txt": "a\n", "dir/c": "c\n"}),
}

// TestEnginePushes has each engine push to registries that fail, and build the
// same bytes twice.
func TestEnginePushes(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel() // they wait most of the time
			h := newHub(t, nil)
			s := newSite(t, h)
			d := buildKit(t, []*hub{h}, "")
			s.use(d)
			s.add(t, simple, engine, strings.NewReplacer())
			s.commit(t)
			s.plan(t, "simple-"+engine)
			s.pushes(t, engine, d)
		})
	}
}

// pushes builds what is planned, with an engine, again and again.
func (s *site) pushes(t *testing.T, engine string, d *daemon) {
	build := func(t *testing.T) (digest, output string, code int) {
		t.Helper()
		s.forget(t, d)
		output, code = s.pipegen(t, "run", "--plan", "plan.json")
		r, _ := s.result(t, "simple-"+engine+"@amd64")
		return r.Digest, output, code
	}
	first, _, code := build(t)
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	t.Run("reproducible", func(t *testing.T) {
		time.Sleep(1100 * time.Millisecond) // times have a resolution of a second
		if again, _, _ := build(t); again != first {
			t.Errorf("built again it is %s, and was %s", again, first)
		}
	})
	t.Run("dropped once", func(t *testing.T) {
		drops := s.hub.drop(t, 1)
		again, _, code := build(t)
		if code != 0 || again != first {
			t.Errorf("exit code %d, %s; without the fault it was %s", code, again, first)
		}
		if drops.Load() != 1 {
			t.Errorf("%d connections were dropped, want 1", drops.Load())
		}
	})
	t.Run("dropped always", func(t *testing.T) {
		s.hub.drop(t, 1<<30)
		if digest, _, code := build(t); code != 1 || digest != "" {
			t.Errorf("exit code %d and a result of %q, want 1 and none", code, digest)
		}
	})
	t.Run("refused", func(t *testing.T) {
		s.hub.misbehave(t, func(w http.ResponseWriter, r *http.Request) bool {
			if !uploads(r) {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
			return true
		})
		digest, out, code := build(t)
		if code != 1 || digest != "" {
			t.Errorf("exit code %d and a result of %q, want 1 and none", code, digest)
		}
		if low := strings.ToLower(out); !strings.Contains(low, "unauthorized") && !strings.Contains(low, "401") {
			t.Error("the output does not say that the registry refused")
		}
		if tags := s.tags(t); slices.ContainsFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, "simple") }) {
			t.Errorf("the registry holds %v", tags)
		}
	})
}

// forget makes the site and a BuildKit as if nothing had been built.
func (s *site) forget(t *testing.T, d *daemon) {
	t.Helper()
	s.hub.pause(func() { s.clear(t) })
	d.prune(t)
}

// prune empties the cache of a BuildKit.
func (d *daemon) prune(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, toolcache.BuildCtl), "--addr", d.address, "prune", "--all")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// uploads says whether a request sends a blob.
func uploads(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/uploads") && r.Method != http.MethodGet && r.Method != http.MethodDelete
}

// drop closes the connection of the first uploads, in their midst, until the
// end of the test.
func (h *hub) drop(t *testing.T, times int64) *atomic.Int64 {
	t.Helper()
	var dropped atomic.Int64
	h.misbehave(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !uploads(r) || r.Method == http.MethodPost {
			return false
		}
		if dropped.Add(1) > times {
			dropped.Add(-1)
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 512)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
		return true
	})
	return &dropped
}

// TestEngineCaches builds twice with a cache in the registry; the step tells
// whether it was run again.
func TestEngineCaches(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	d := buildKit(t, []*hub{h}, "")
	s.use(d)
	for _, engine := range engines {
		s.add(t, imageCase{name: "cached", config: "cache: {enable: true}\n", forMake: "command: make release\n", files: map[string]string{
			"Dockerfile": "FROM @REGISTRY@:busybox\nRUN cat /proc/sys/kernel/random/uuid > /random\nCOPY a.txt /\n", "a.txt": "one\n",
		}}, engine, strings.NewReplacer())
	}
	s.commit(t)
	random := func(t *testing.T, engine string) string {
		t.Helper()
		return string(files(t, s.built(t, "cached-"+engine+"@amd64"))["random"])
	}
	s.pipegen(t, "run", "--select", "all")
	first := map[string]string{}
	for _, engine := range engines {
		if first[engine] = random(t, engine); first[engine] == "" {
			t.Fatalf("%s ran no step", engine)
		}
		s.write(t, "projects/cached-"+engine+"/a.txt", "two\n")
	}
	s.commit(t)
	// That of the project's own make is the daemon's, which is then emptied.
	for _, engine := range []string{"kaniko", "make", "buildkit"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "buildkit" {
				d.prune(t)
			}
			s.must(t, "run", "cached-"+engine)
			if again := random(t, engine); again != first[engine] {
				t.Error("the step was run again")
			}
		})
	}
}

// TestEngineTrust builds from and to servers whose certificates an authority
// has signed that LOCAL_CA_CERTIFICATE names.
func TestEngineTrust(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	h := newHub(t, ca)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	upstream, _ := s.upstream(t)
	trusted := imageCase{
		name:   "trusted",
		config: "upstream_repo: @UPSTREAM@\nupstream_ref: v1\ndockerfile_path: docker/Dockerfile\ncontext_path: src\npre_script: git ls-remote @UPSTREAM@\n",
		forMake: "upstream_repo: @UPSTREAM@\nupstream_ref: v1\ncontext_path: src\npre_script: git ls-remote @UPSTREAM@\n" +
			"command: make release DOCKERFILE=../docker/Dockerfile\n",
		want: all(map[string]string{"hello.txt": "of v1\n"}),
	}
	based := imageCase{
		name:  "based",
		files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nRUN echo x > /x\n"},
		want:  all(map[string]string{"x": "x\n"}),
	}
	for _, engine := range engines {
		for _, c := range []imageCase{trusted, based} {
			s.add(t, c, engine, strings.NewReplacer("@UPSTREAM@", upstream))
		}
	}
	s.commit(t)
	if _, code := s.pipegen(t, "run", "--select", "all"); code == 0 {
		t.Fatal("what nobody vouches for is trusted")
	}
	for how, value := range map[string]string{"text": string(ca.pem), "path": ca.file} {
		t.Run(how, func(t *testing.T) {
			s.clear(t)
			cmd := s.command(t, "run", "--select", "all")
			cmd.Env = append(cmd.Env, "LOCAL_CA_CERTIFICATE="+value)
			run(t, cmd)
			for _, engine := range engines {
				for _, c := range []imageCase{trusted, based} {
					t.Run(fmt.Sprintf("%s/%s", engine, c.name), func(t *testing.T) { c.verify(t, s, c.name+"-"+engine) })
				}
			}
		})
	}
}
