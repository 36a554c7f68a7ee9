package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, raw []byte) {
	t.Helper()
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, indented.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(indented.Bytes(), want) {
		t.Errorf("%s differs; run the test with -update if it is meant to be:\n%s", file, indented.Bytes())
	}
}

func TestPublish(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
	w.image.Tags = append(w.image.Tags, "app-v1")
	w.image.Annotations = map[string]string{"org.opencontainers.image.title": "The app", plan.CommitAnnotation: "not the user's"}
	slices.Reverse(w.results) // the order of the plan counts
	pub := w.mustPublish(t)
	if want := []string{fixedTag, keyTag, "app-latest", "app-v1"}; !slices.Equal(pub.Tags, want) || len(pub.Kept) > 0 {
		t.Errorf("tags %v, kept %v", pub.Tags, pub.Kept)
	}
	for _, tag := range pub.Tags {
		if got := w.Digest(t, "images:"+tag); got != pub.Digest {
			t.Errorf("%s holds %s, not %s", tag, got, pub.Digest)
		}
	}
	index, raw := w.Index(t, "images@"+pub.Digest)
	golden(t, "index.json", raw)
	if pub.Size != int64(len(raw)) || pub.MediaType != string(index.MediaType) || len(pub.Children) != 2 || pub.Children[1].Platform != "linux/arm64" {
		t.Errorf("published: %+v", pub)
	}
	if len(w.warnings) > 0 {
		t.Errorf("warnings: %v", w.warnings)
	}
}

func TestDockerList(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64", "linux/arm/v7"})
	w.plan.Publish.MediaType = "docker"
	pub := w.mustPublish(t)
	_, raw := w.Index(t, "images@"+pub.Digest)
	golden(t, "list.json", raw)
}

func TestRepeatWritesNothing(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
	first := w.mustPublish(t)
	w.Requests()
	w.client = newClient()
	again := w.mustPublish(t)
	if again.Digest != first.Digest || !slices.Equal(again.Tags, first.Tags) {
		t.Errorf("first %+v, then %+v", first, again)
	}
	for _, r := range w.Requests() {
		if strings.HasPrefix(r, "PUT ") || strings.HasPrefix(r, "POST ") {
			t.Errorf("wrote again: %s", r)
		}
	}
}

func TestRequests(t *testing.T) {
	for _, tags := range []int{1, 5} {
		w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
		w.image.KeyTag, w.image.Tags = "", []string{fixedTag}
		for i := 1; i < tags; i++ {
			w.image.Tags = append(w.image.Tags, fmt.Sprintf("app-v%d", i))
		}
		w.Requests()
		w.mustPublish(t)
		// One ping, manifest and config of each child, three for each tag.
		if got := w.Requests(); len(got) != 1+2*2+3*tags {
			t.Errorf("%d tags: %d requests:\n%s", tags, len(got), strings.Join(got, "\n"))
		}
		// The same process has verified the platforms: one request a child, and
		// no ping.
		w.image.Tags = []string{"app-again"}
		w.mustPublish(t)
		if got := w.Requests(); len(got) != 2+3 {
			t.Errorf("again: %d requests:\n%s", len(got), strings.Join(got, "\n"))
		}
	}
}

// TestConcurrentPublishers has many publish one moving tag at once: whoever
// looks sees one of their publications whole, and no other state.
func TestConcurrentPublishers(t *testing.T) {
	const publishers = 200
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
	linear := func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
	client := registry.New(registry.Options{Keychain: anonymous{}, RPS: 100_000})
	publish := func(i int) (plan.Published, error) {
		p, img := *w.plan, *w.image
		p.Head, img.KeyTag, img.Tags = commit(i), "", []string{fmt.Sprintf("app-%d", i), "app-latest"}
		results := slices.Clone(w.results)
		for i := range results {
			results[i].Head = p.Head
		}
		return Publish(t.Context(), client, &p, &img, results, Options{Ancestor: linear})
	}
	stop, seen := make(chan struct{}), map[string]bool{}
	var watch, work sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			d, raw, err := client.Get(t.Context(), w.Host+"/images:app-latest")
			switch {
			case errors.Is(err, registry.ErrNotFound):
			case err != nil || registry.Digest(raw) != d.Digest:
				t.Errorf("the tag holds %+v, %v", d, err)
				return
			default:
				seen[d.Digest] = true
			}
		}
	})
	var mu sync.Mutex
	states := map[string]bool{}
	for i := range publishers {
		work.Go(func() {
			pub, err := publish(i)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			states[pub.Digest] = true
			mu.Unlock()
		})
	}
	work.Wait()
	close(stop)
	watch.Wait()
	if now := w.Digest(t, "images:app-latest"); !states[now] || len(states) != publishers {
		t.Errorf("the tag holds %s, which is none of the %d publications", now, len(states))
	}
	for digest := range seen {
		if !states[digest] {
			t.Errorf("meanwhile it held %s, which is no publication", digest)
		}
	}
	// Whoever came last, an older run does not win.
	last, err := publish(publishers - 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish(0); err != nil {
		t.Fatal(err)
	}
	if now := w.Digest(t, "images:app-latest"); now != last.Digest {
		t.Error("an older run took the tag")
	}
}

func TestInterrupted(t *testing.T) {
	// However many requests are let through, running it again completes it.
	for allowed := range 20 {
		var left atomic.Int64
		left.Store(1 << 30)
		ctx, cancel := context.WithCancel(t.Context())
		w := newWorld(t, []string{"linux/amd64", "linux/arm64"}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if left.Add(-1) < 0 {
					cancel()
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(w, r)
			})
		})
		left.Store(int64(allowed))
		_, err := Publish(ctx, w.client, w.plan, w.image, w.results, w.options)
		cancel()
		if allowed < 14 && !errors.Is(err, context.Canceled) {
			t.Errorf("after %d requests: %v", allowed, err)
		}
		left.Store(1 << 30)
		w.client = newClient()
		pub := w.mustPublish(t)
		for _, tag := range []string{fixedTag, keyTag, "app-latest"} {
			if w.Digest(t, "images:"+tag) != pub.Digest {
				t.Errorf("interrupted after %d requests: %s is not right after another run", allowed, tag)
			}
		}
	}
}

func TestBusyRegistry(t *testing.T) {
	var n atomic.Int64
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.UserAgent(), "pipegen") && n.Add(1)%3 == 0 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	if pub := w.mustPublish(t); len(pub.Tags) != 3 {
		t.Errorf("published %+v", pub)
	}
}
