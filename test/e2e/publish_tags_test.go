//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/test/monorepo"
)

// TestPublishImmutable publishes to a registry whose tags cannot be moved, with
// the words of several: the same again is done already, another digest is exit
// code 3.
func TestPublishImmutable(t *testing.T) {
	t.Parallel()
	backend := distribution(serveDistribution(t))
	for registry, refuse := range map[string]func(w http.ResponseWriter, tag string){
		"ECR": func(w http.ResponseWriter, tag string) {
			says(w, http.StatusBadRequest, "TAG_INVALID", "The image tag '"+tag+"' already exists in the 'images' repository and cannot be overwritten because the tag is immutable.")
		},
		"Harbor": func(w http.ResponseWriter, tag string) {
			says(w, http.StatusPreconditionFailed, "PRECONDITION", "Failed to process request due to 'images:"+tag+"' configured as immutable.")
		},
	} {
		t.Run(registry, func(t *testing.T) {
			f := newFront(t, nil, backend)
			image := "app-" + strings.ToLower(registry)
			p := newPublisher(t, f.host, image)
			p.write("pipegen.yaml", "registry: "+f.host+"/images\ndefaults: {platforms: [linux/amd64, linux/arm64]}\n")
			p.commit("no moving tags")
			made := p.plan("plan.json")
			p.build(made, "one", f.host)
			f.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !existing(backend, r) {
					return false
				}
				refuse(w, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
				return true
			})
			fixed := made.Images[0].Tags[0]
			p.must("manifest", image)
			first := holds(t, f.host, fixed)
			f.questions()
			p.must("manifest", image)
			for _, q := range f.questions() {
				if q.method != http.MethodGet && q.method != http.MethodHead {
					t.Errorf("the second time: %s %s", q.method, q.path)
				}
			}

			p.build(made, "two", f.host)
			out, code := p.run("manifest", image)
			if code != 3 || !strings.Contains(out, f.host+"/images:"+fixed) || !strings.Contains(out, first) {
				t.Errorf("exit code %d, want 3, with the tag and %s", code, first)
			}
			if now := holds(t, f.host, fixed); now != first {
				t.Errorf("the tag holds %s, and held %s", now, first)
			}
			whole(t, f.host, fixed, 2)
		})
	}
}

// TestPublishOrder has the pipeline of an older commit publish after that of a
// newer one: its own tags are there, and latest stays, with git at hand and
// without; also where the newest only took the oldest content back.
func TestPublishOrder(t *testing.T) {
	t.Parallel()
	host := serveDistribution(t)
	p := newPublisher(t, host, "app")
	p.commitAt("2026-11-01T00:00:00Z")
	one := p.plan("one.json")
	p.build(one, "one", host)
	p.must("manifest", "app", "--plan", "one.json")

	p.write("projects/app/Dockerfile", "FROM scratch\nCOPY Dockerfile /two\n")
	p.commitAt("2026-11-02T00:00:00Z")
	two := p.plan("two.json")
	p.write("projects/app/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	p.commitAt("2026-11-03T00:00:00Z")
	three := p.plan("three.json", "--select", "changed,missing", "--base", "HEAD~1", "--date", "2026-11-21")
	if three.Images[0].Retag == "" || three.Images[0].Key != one.Images[0].Key {
		t.Fatalf("a revert is planned as %+v", three.Images[0])
	}
	p.must("manifest", "app", "--plan", "three.json")
	latest := holds(t, host, "app-latest")
	if latest == holds(t, host, one.Images[0].Tags[0]) {
		t.Error("what was published after the revert is the old publication")
	}

	p.build(two, "two", host)
	outside := scratch(t)
	for _, file := range []string{"one.json", "two.json", "three.json"} {
		if err := os.Link(filepath.Join(p.dir, file), filepath.Join(outside, file)); err != nil {
			t.Fatal(err)
		}
	}
	for name, dir := range map[string]string{"with git": p.dir, "without git": outside} {
		cmd := p.command("manifest", "app", "--plan", "two.json", "--metadata-dir", filepath.Join(p.dir, ".pipegen"))
		cmd.Dir = dir
		out, ok := run(t, cmd)
		if !ok || !strings.Contains(out, "warning: image app: tag app-latest was left as it is: it holds commit "+three.Head[:7]) {
			t.Errorf("%s: success is %v", name, ok)
		}
		if now := holds(t, host, "app-latest"); now != latest {
			t.Errorf("%s: latest went to %s", name, now)
		}
	}
	if holds(t, host, two.Images[0].Tags[0]) == "" {
		t.Error("the older pipeline's own tag is not there")
	}
	p.must("manifest", "app", "--plan", "two.json", "--allow-rollback")
	if now := holds(t, host, "app-latest"); now != holds(t, host, two.Images[0].Tags[0]) {
		t.Errorf("after a rollback latest holds %s", now)
	}
	p.must("manifest", "app", "--plan", "three.json")
	if now := holds(t, host, "app-latest"); now != latest {
		t.Errorf("after the newest again latest holds %s, and held %s", now, latest)
	}
}

// TestPublishThrottled publishes a hundred images side by side to a registry
// that refuses every third request, and looks at when the requests came.
func TestPublishThrottled(t *testing.T) {
	t.Parallel()
	const images, rps, burst = 100, 100, 200
	var names []string
	for i := range images {
		names = append(names, fmt.Sprintf("app%03d", i))
	}
	f := newFront(t, nil, monorepo.NewRegistry())
	p := newPublisher(t, f.host, names...)
	p.write("pipegen.yaml", "registry: "+f.host+"/images\ndefaults: {platforms: [linux/amd64, linux/arm64]}\npublish: {keys: false}\n")
	p.commit("one tag")
	made := p.plan("plan.json")
	p.build(made, "one", f.host)
	f.questions()
	n := 0
	f.misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if n++; n%3 != 0 {
			return false
		}
		// Mostly no pause is asked for, so that nothing but the budget makes it slow.
		w.Header().Set("Retry-After", "0")
		if n%30 == 0 {
			w.Header().Set("Retry-After", "1")
		}
		says(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
		return true
	})
	start := time.Now()
	out := p.must("manifest", "--all", "--registry-rps", fmt.Sprint(rps))
	took := time.Since(start)
	f.misbehave(nil)
	asked := f.questions()
	refused, paused, waits := 0, 0, map[string]time.Time{}
	for i, q := range asked {
		// Whatever held a request up, it was not sent before its turn.
		if soonest := time.Duration(float64(i+1-burst) / rps * float64(time.Second)); q.at.Sub(start) < soonest {
			t.Fatalf("request %d came after %s, and %d a second with bursts of %d allow it after %s", i+1, q.at.Sub(start), rps, burst, soonest)
		}
		what := q.method + " " + q.path
		if at, ok := waits[what]; ok && q.at.Sub(at) < time.Second {
			t.Errorf("%s was sent again after %s", what, q.at.Sub(at))
		}
		delete(waits, what)
		if q.status == http.StatusTooManyRequests {
			refused++
			if q.pause == "1" {
				paused, waits[what] = paused+1, q.at
			}
		}
	}
	t.Logf("%d requests in %s, %d refused, %d of them for a second", len(asked), took.Round(time.Millisecond), refused, paused)
	if want := 1 + images*(2+3); len(asked)-refused != want || refused < want/3 || paused == 0 {
		t.Errorf("%d requests, of which %d refused; %d must be answered", len(asked), refused, want)
	}
	for _, img := range made.Images {
		if !strings.Contains(out, "  tag "+img.Tags[0]+"\n") {
			t.Errorf("the summary lacks %s", img.Tags[0])
		}
		whole(t, f.host, img.Tags[0], 2)
	}
}

// TestPublishKilled kills publishing at twenty moments: what is there then is
// whole, and the same command completes it.
func TestPublishKilled(t *testing.T) {
	t.Parallel()
	const times = 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	undisturbed := []string{"first", "second", "third"}
	names := slices.Clone(undisturbed)
	for i := range times {
		names = append(names, fmt.Sprintf("app%02d", i))
	}
	behind := serveDistribution(t)
	f := newFront(t, nil, distribution(behind))
	p := newPublisher(t, f.host, names...)
	made := p.plan("plan.json")
	p.build(made, "one", behind)
	begun := make(chan struct{}, 1)
	f.misbehave(func(http.ResponseWriter, *http.Request) bool {
		select {
		case begun <- struct{}{}:
		default:
		}
		time.Sleep(10 * time.Millisecond)
		return false
	})
	took := time.Hour // from the first request to the last
	for _, name := range undisturbed {
		f.questions()
		p.must("manifest", name)
		asked := f.questions()
		took = min(took, asked[len(asked)-1].at.Sub(asked[0].at))
	}
	written := map[int]int{}
	for _, img := range made.Images {
		if slices.Contains(undisturbed, img.Name) {
			continue
		}
		select {
		case <-begun:
		default:
		}
		process := watch(t, p.command("manifest", img.Name))
		select {
		case <-begun:
		case <-process.done:
			t.Fatalf("it asked nothing: %s", process.output.String())
		}
		time.Sleep(time.Duration(random.Int64N(int64(took))))
		_ = syscall.Kill(process.cmd.Process.Pid, syscall.SIGKILL)
		<-process.done

		tags := append(slices.Clone(img.Tags), img.KeyTag)
		n := 0
		for _, tag := range tags {
			if holds(t, behind, tag) != "" {
				n++
				whole(t, behind, tag, 2)
			}
		}
		written[n]++
		if latest := holds(t, behind, img.Name+"-latest"); latest != "" && n != len(tags) {
			t.Errorf("%s: latest was moved before the others", img.Name)
		}
		p.must("manifest", img.Name)
		digest := holds(t, behind, tags[0])
		for _, tag := range tags {
			if now := holds(t, behind, tag); now == "" || now != digest {
				t.Errorf("tag %s holds %q, and %s %s", tag, now, tags[0], digest)
			}
			whole(t, behind, tag, 2)
		}
	}
	t.Logf("it takes %s; tags that were there when it was killed: %v", took.Round(time.Millisecond), written)
	if len(written) < 2 {
		t.Error("it was always killed in the same state")
	}
}
