//go:build e2e

package e2e

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestEngineStops ends builds in each phase by SIGTERM, and finds nothing left
// of them.
func TestEngineStops(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	mark := "marker-" + random()

	// An upstream repository that answers nobody.
	var fetching atomic.Bool
	silent := serve(t, nil, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fetching.Store(true)
		<-r.Context().Done()
	}))
	upstream := "upstream_repo: http://" + silent + "/hello.git\nupstream_ref: " + strings.Repeat("a", 40) + "\n"
	for _, engine := range engines {
		s.add(t, imageCase{name: "fetch", config: upstream}, engine, strings.NewReplacer())
		s.add(t, imageCase{name: "step", files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nRUN sleep 3600; echo " + mark + "-" + engine + "\n"}}, engine, strings.NewReplacer())
		s.add(t, imageCase{name: "push", files: map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /\n", "a.txt": engine}}, engine, strings.NewReplacer())
	}
	s.commit(t)
	for _, engine := range engines {
		t.Run("fetch/"+engine, func(t *testing.T) {
			fetching.Store(false)
			s.stop(t, "fetch-"+engine, fetching.Load)
		})
		t.Run("step/"+engine, func(t *testing.T) {
			begun := func() bool { return sleeping(t, mark+"-"+engine) }
			s.stop(t, "step-"+engine, begun)
			eventually(t, "the step has ended", func() bool { return !begun() })
		})
		t.Run("push/"+engine, func(t *testing.T) {
			var pushing atomic.Bool
			h.misbehave(t, func(_ http.ResponseWriter, r *http.Request) bool {
				if !uploads(r) {
					return false
				}
				pushing.Store(true)
				<-r.Context().Done()
				return true
			})
			s.stop(t, "push-"+engine, pushing.Load)
		})
	}
}

// stop begins the build of an image, ends it once it has got so far, and looks
// for what is left of it.
func (s *site) stop(t *testing.T, image string, begun func() bool) {
	t.Helper()
	p := watch(t, s.command(t, "run", image))
	p.until(t, "the build got so far", begun)
	start := time.Now()
	if err := syscall.Kill(p.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	end := p.wait(t)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if end.code != 130 {
		t.Errorf("the exit code is %d, want 130", end.code)
	}
	s.nothingLeft(t)
	if _, ok := s.result(t, image+"@amd64"); ok {
		t.Error("there is a result")
	}
}

// nothingLeft fails the test if there are processes, mounts or temporary files
// of pipegen's.
func (s *site) nothingLeft(t *testing.T) {
	t.Helper()
	if left := running(t, s.place); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	if left := mounted(t, s.place); len(left) > 0 {
		t.Errorf("still mounted: %q", left)
	}
	for _, pattern := range []string{"tmp/*", "cache/pipegen/roots/root-*"} {
		left, err := filepath.Glob(filepath.Join(s.place, pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	}
}

// eventually waits, for 10 seconds at most, until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for giveUp := time.After(10 * time.Second); !holds(); {
		select {
		case <-giveUp:
			t.Fatalf("not within 10 s: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
