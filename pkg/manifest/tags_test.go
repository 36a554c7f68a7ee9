package manifest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

func TestImmutableTags(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"}, registrytest.Immutable(400,
		`{"errors":[{"code":"TAG_INVALID","message":"The image tag 'x' already exists in the 'images' repository and cannot be overwritten because the repository is immutable."}]}`))
	first := w.mustPublish(t)
	if again := w.mustPublish(t); again.Digest != first.Digest || len(w.warnings) > 0 {
		t.Errorf("the same again: %+v, %v", again, w.warnings)
	}
	refused := func(p *plan.Plan, results []plan.Result, tag string, holds string) plan.Published {
		t.Helper()
		pub, err := Publish(t.Context(), w.client, p, &p.Images[0], results, w.options)
		var immutable *registry.ImmutableError
		if !errors.As(err, &immutable) || immutable.Tag != w.Host+"/images:"+tag || immutable.Holds != holds || !strings.Contains(err.Error(), "image app") {
			t.Errorf("got %v", err)
		}
		return pub
	}
	p, results := w.other(t, func(p *plan.Plan) { p.Pipeline = "101" })
	refused(p, results, fixedTag, first.Digest)

	// The key tag alone holds something else: no failure.
	p.Images[0].Tags = []string{"app-20261122-def5678"}
	pub, err := Publish(t.Context(), w.client, p, &p.Images[0], results, w.options)
	if err != nil || !slices.Equal(pub.Tags, p.Images[0].Tags) || len(pub.Kept) != 1 || pub.Kept[0].Tag != keyTag || len(w.warnings) != 1 {
		t.Errorf("got %+v, %v; warnings %v", pub, err, w.warnings)
	}

	// A moving tag cannot be moved; the ones after it are published still.
	p.Images[0].KeyTag, p.Images[0].Tags = "", []string{"app-20261122-def5678", "app-latest", "app-new"}
	pub = refused(p, results, "app-latest", first.Digest)
	if !slices.Equal(pub.Tags, []string{"app-20261122-def5678", "app-new"}) {
		t.Errorf("tags %v", pub.Tags)
	}
}

func TestMovingTags(t *testing.T) {
	day := 24 * time.Hour
	linear := func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
	fails := func(context.Context, string, string) (bool, error) { return false, errors.New("shallow clone") }
	apart := func(context.Context, string, string) (bool, error) { return false, nil }
	tests := map[string]struct {
		// What is different about the publication that comes second.
		second   func(p *plan.Plan)
		ancestor func(ctx context.Context, old, new string) (bool, error)
		rollback bool
		moves    bool
		reason   string
	}{
		"descendant":                   {func(p *plan.Plan) { p.Head = commit(11) }, linear, false, true, ""},
		"ancestor":                     {func(p *plan.Plan) { p.Head = commit(9) }, linear, false, false, "descendant"},
		"ancestor with a later clock":  {func(p *plan.Plan) { p.Head = commit(9); p.Committed = p.Committed.Add(day); p.Pipeline = "101" }, linear, false, false, "descendant"},
		"ancestor, told to":            {func(p *plan.Plan) { p.Head = commit(9) }, linear, true, true, ""},
		"no git, later commit":         {func(p *plan.Plan) { p.Head = commit(1); p.Committed = p.Committed.Add(day) }, nil, false, true, ""},
		"no git, earlier commit":       {func(p *plan.Plan) { p.Head = commit(1); p.Committed = p.Committed.Add(-day); p.Pipeline = "101" }, nil, false, false, "2026-11-21T01:02:03Z"},
		"shallow, earlier commit":      {func(p *plan.Plan) { p.Head = commit(1); p.Committed = p.Committed.Add(-day) }, fails, false, false, "2026-11-21"},
		"apart, earlier commit":        {func(p *plan.Plan) { p.Head = commit(1); p.Committed = p.Committed.Add(-day) }, apart, false, false, "2026-11-21"},
		"apart, later commit":          {func(p *plan.Plan) { p.Head = commit(1); p.Committed = p.Committed.Add(day) }, apart, false, true, ""},
		"same time, earlier pipeline":  {func(p *plan.Plan) { p.Head = commit(1); p.Pipeline = "99" }, nil, false, false, "pipeline 100"},
		"same time, later pipeline":    {func(p *plan.Plan) { p.Head = commit(1); p.Pipeline = "1000" }, nil, false, true, ""},
		"same commit, earlier run":     {func(p *plan.Plan) { p.Pipeline = "99"; p.Created = p.Created.Add(day) }, linear, false, false, "pipeline 100"},
		"same commit, later run":       {func(p *plan.Plan) { p.Pipeline = "101" }, linear, false, true, ""},
		"same commit, earlier plan":    {func(p *plan.Plan) { p.Pipeline = ""; p.Created = p.Created.Add(-day) }, linear, false, false, "planned at"},
		"same commit, later plan":      {func(p *plan.Plan) { p.Pipeline = ""; p.Created = p.Created.Add(day) }, linear, false, true, ""},
		"the same plan, other content": {func(*plan.Plan) {}, linear, false, true, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, []string{"linux/amd64"})
			first := w.mustPublish(t)
			p, results := w.other(t, tt.second)
			o := w.options
			o.Ancestor, o.AllowRollback = tt.ancestor, tt.rollback
			pub, err := Publish(t.Context(), w.client, p, &p.Images[0], results, o)
			if err != nil {
				t.Fatal(err)
			}
			now := w.Digest(t, "images:app-latest")
			if tt.moves && (now != pub.Digest || len(pub.Kept) > 0 || !slices.Contains(pub.Tags, "app-latest")) {
				t.Errorf("the tag did not move: %+v", pub)
			}
			if !tt.moves && (now != first.Digest || len(pub.Kept) != 1 || !strings.Contains(pub.Kept[0].Reason, tt.reason) || slices.Contains(pub.Tags, "app-latest") || len(w.warnings) != 1) {
				t.Errorf("the tag holds %s: %+v; warnings %v", now, pub, w.warnings)
			}
			if w.Digest(t, "images:"+fixedTag) != pub.Digest {
				t.Error("the fixed tag was not written")
			}
		})
	}
}

func TestMovingTagsByLabels(t *testing.T) {
	linear := func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
	for name, tt := range map[string]struct {
		labels map[string]string
		moves  bool
	}{
		"later revision":   {map[string]string{ociRevision: commit(11)}, false},
		"earlier revision": {map[string]string{ociRevision: commit(9)}, true},
		"later time":       {map[string]string{ociCreated: "2026-11-22T00:00:00Z"}, false},
		"earlier time":     {map[string]string{ociCreated: "2026-11-20T00:00:00Z"}, true},
		"pipegen's own":    {map[string]string{plan.CommitAnnotation: commit(11), ociRevision: commit(1)}, false},
		"nothing":          {nil, true},
		"nonsense":         {map[string]string{ociCreated: "yesterday", plan.CommittedAnnotation: "\x1b"}, true},
	} {
		for _, form := range []string{"bare", "docker"} {
			t.Run(name+" "+form, func(t *testing.T) {
				w := newWorld(t, nil)
				w.push(t, "linux/amd64", registrytest.Image(t, "linux/amd64", tt.labels))
				w.image.Index = form != "bare"
				w.plan.Publish.MediaType = form
				w.options.Ancestor = linear
				before := w.mustPublish(t)
				p, results := w.other(t, func(p *plan.Plan) { p.Pipeline = "1" })
				pub, err := Publish(t.Context(), w.client, p, &p.Images[0], results, w.options)
				if err != nil {
					t.Fatal(err)
				}
				if now := w.Digest(t, "images:app-latest"); (now == pub.Digest) != tt.moves || (now == before.Digest) == tt.moves {
					t.Errorf("moved: %v; %+v", now == pub.Digest, pub)
				}
			})
		}
	}
}

func TestForeignTags(t *testing.T) {
	for _, held := range []string{`{}`, `[`, `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":3,"digest":"` + registry.Digest(nil) + `"}]}`} {
		w := newWorld(t, []string{"linux/amd64"})
		mediaType := string(types.OCIManifestSchema1)
		if strings.Contains(held, "manifests") {
			mediaType = string(types.OCIImageIndex)
			w.Put(t, "images@"+registry.Digest(nil), string(types.OCIManifestSchema1), nil)
		}
		w.Put(t, "images:app-latest", mediaType, []byte(held))
		if pub, err := w.publish(t); err != nil || w.Digest(t, "images:app-latest") != pub.Digest {
			t.Errorf("over %s: %+v, %v", held, pub, err)
		}
	}
}

// atTag calls f for requests for the manifest of a tag, which it may answer.
func atTag(tag string, f func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/manifests/"+tag) {
				f(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestReadBack(t *testing.T) {
	t.Run("late", func(t *testing.T) {
		var written atomic.Bool
		var stale atomic.Int64
		w := newWorld(t, []string{"linux/amd64"}, atTag(fixedTag, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead && written.Load() && stale.Add(1) <= 2 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, r)
			if r.Method == http.MethodPut {
				written.Store(true)
			}
		}))
		w.mustPublish(t)
	})
	t.Run("lost", func(t *testing.T) {
		w := newWorld(t, []string{"linux/amd64"}, atTag("app-latest", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusCreated)
				return
			}
			next.ServeHTTP(w, r)
		}))
		pub, err := w.publish(t)
		if err == nil || !strings.Contains(err.Error(), "not there after it was written") {
			t.Errorf("got %v", err)
		}
		if !slices.Equal(pub.Tags, []string{fixedTag, keyTag}) {
			t.Errorf("tags %v", pub.Tags)
		}
	})
	t.Run("another digest", func(t *testing.T) {
		for _, tag := range []string{fixedTag, "app-latest"} {
			var written atomic.Bool
			w := newWorld(t, []string{"linux/amd64"}, atTag(tag, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method != http.MethodPut && written.Load() {
					w.Header().Set("Docker-Content-Digest", registry.Digest([]byte("{}")))
					w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
					w.Header().Set("Content-Length", "2")
					if r.Method == http.MethodGet {
						_, _ = w.Write([]byte("{}"))
					}
					return
				}
				next.ServeHTTP(w, r)
				written.Store(written.Load() || r.Method == http.MethodPut)
			}))
			if pub, err := w.publish(t); err == nil {
				t.Errorf("%s: published %+v", tag, pub)
			}
		}
	})
}

func TestOvertaken(t *testing.T) {
	// Right after this publication writes the moving tag, an earlier one
	// overwrites it once: it is written again. A later one is left.
	for _, head := range []int{9, 11} {
		var overtake func()
		var done atomic.Bool
		w := newWorld(t, []string{"linux/amd64"}, atTag("app-latest", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(w, r)
			if r.Method == http.MethodPut && done.CompareAndSwap(false, true) {
				overtake()
			}
		}))
		w.options.Ancestor = func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
		p, results := w.other(t, func(p *plan.Plan) { p.Head = commit(head) })
		p.Images[0].Tags, p.Images[0].KeyTag = []string{"app-other"}, ""
		other, err := Publish(t.Context(), w.client, p, &p.Images[0], results, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, raw := w.Index(t, "images:app-other")
		overtake = func() { w.Put(t, "images:app-latest", other.MediaType, raw) }
		pub := w.mustPublish(t)
		want := pub.Digest
		if head > 10 {
			want = other.Digest
		}
		if now := w.Digest(t, "images:app-latest"); now != want || (len(pub.Kept) > 0) != (head > 10) {
			t.Errorf("head %d: the tag holds %s: %+v", head, now, pub)
		}
	}
}

// TestPutBack has an earlier publication, which an even earlier one had
// overwritten, put itself back right after this one wrote the tag: what the tag
// then holds is what it held before, and yet no old view of it.
func TestPutBack(t *testing.T) {
	for name, times := range map[string]int{"once": 1, "always": 1000} {
		t.Run(name, func(t *testing.T) {
			var putBack func()
			left := atomic.Int64{}
			w := newWorld(t, []string{"linux/amd64"}, atTag("app-latest", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(w, r)
				if r.Method == http.MethodPut && left.Add(-1) >= 0 {
					putBack()
				}
			}))
			w.options.Ancestor = func(_ context.Context, old, new string) (bool, error) { return old <= new, nil }
			p, results := w.other(t, func(p *plan.Plan) { p.Head = commit(9) })
			p.Images[0].Tags, p.Images[0].KeyTag = []string{"app-other", "app-latest"}, ""
			other, err := Publish(t.Context(), w.client, p, &p.Images[0], results, Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, raw := w.Index(t, "images:app-other")
			putBack = func() {
				before := left.Swap(0)
				w.Put(t, "images:app-latest", other.MediaType, raw)
				left.Store(before)
			}
			left.Store(int64(times))
			pub, err := w.publish(t)
			switch now := w.Digest(t, "images:app-latest"); {
			case times == 1 && (err != nil || now != pub.Digest || !slices.Contains(pub.Tags, "app-latest")):
				t.Errorf("the tag holds %s: %+v, %v", now, pub, err)
			case times > 1 && (err == nil || !strings.Contains(err.Error(), "tag app-latest: the registry still holds "+other.Digest)):
				t.Errorf("got %v", err)
			}
		})
	}
}
