package manifest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// pruned publishes an image whose builds have their tags, and gives what is
// known of it.
func pruned(t *testing.T, wrappers ...func(http.Handler) http.Handler) (*world, plan.Known) {
	t.Helper()
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"}, wrappers...)
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		w.Push(t, "images:"+fixedTag+"-"+strings.TrimPrefix(p, "linux/"), registrytest.Image(t, p, nil))
	}
	w.mustPublish(t)
	return w, plan.Known{Name: "app", Repository: w.Host + "/images", Layout: "tag", Moving: []string{"app-latest"}, Others: []string{"app-web"}}
}

func (w *world) survey(t *testing.T, k plan.Known) *Inventory {
	t.Helper()
	inv, err := Survey(t.Context(), w.client, k, Scope{Builds: true})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func tagsOf(list []Removal) []string {
	var tags []string
	for _, r := range list {
		tags = append(tags, r.Tag)
	}
	return tags
}

func TestPrunable(t *testing.T) {
	w, k := pruned(t)
	now := w.plan.Created.Add(40 * 24 * time.Hour)
	builds := []string{fixedTag + "-amd64", fixedTag + "-arm64"}
	inv := w.survey(t, k)
	for _, tt := range []struct {
		keep Keep
		want []string
	}{
		{Keep{}, builds},
		{Keep{Newest: 1}, builds},
		{Keep{Younger: 41 * 24 * time.Hour}, builds},
		// The moving tag still names it.
		{Keep{Younger: time.Hour}, builds},
	} {
		got := tagsOf(inv.Prunable(tt.keep, now))
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: got %q, want %q", tt.keep, got, tt.want)
		}
	}
	// Of a publication that nothing else keeps the key tag expires.
	w.client.Untag(t.Context(), w.Host+"/images:app-latest") //nolint:errcheck // the inventory shows it
	inv = w.survey(t, k)
	if got := tagsOf(inv.Prunable(Keep{Younger: time.Hour}, now)); !slices.Contains(got, keyTag) {
		t.Errorf("got %q", got)
	}
	if got := tagsOf(inv.Prunable(Keep{Newest: 1, Younger: time.Hour}, now)); slices.Contains(got, keyTag) {
		t.Errorf("got %q", got)
	}
	// What says nothing of itself, and what its tag does not fit, stays.
	index, _ := w.Index(t, "images:"+fixedTag)
	other := registrytest.Image(t, "linux/amd64", nil)
	w.Push(t, "images:app-key-000000000000", other)
	w.Push(t, "images:app-20260101-abc1234-amd64", other)
	w.Push(t, "images:"+fixedTag+"-arm-v7", registrytest.Image(t, "linux/arm/v7", nil)) // no child of the index
	inv = w.survey(t, k)
	for _, tag := range tagsOf(inv.Prunable(Keep{Younger: time.Hour}, now)) {
		if !slices.Contains(append(builds, keyTag), tag) {
			t.Errorf("%s may go", tag)
		}
	}
	if len(index.Manifests) != 2 {
		t.Fatal("the index is another")
	}
}

func TestRemove(t *testing.T) {
	w, k := pruned(t)
	list := w.survey(t, k).Prunable(Keep{}, time.Now())
	// A tag that another build took meanwhile is that build's.
	moved := fixedTag + "-arm64"
	w.Push(t, "images:"+moved, registrytest.Image(t, "linux/arm64", map[string]string{"another": "one"}))
	told := map[string]error{}
	err := Remove(t.Context(), w.client, list, func(r Removal, err error) { told[r.Tag] = err })
	if err == nil || told[moved] == nil || !strings.Contains(told[moved].Error(), "by now") || told[fixedTag+"-amd64"] != nil {
		t.Errorf("got %v, told %v", err, told)
	}
	if w.Digest(t, "images:"+fixedTag+"-amd64") != "" || w.Digest(t, "images:"+moved) == "" {
		t.Error("the wrong tag went")
	}
	w.whole(t)
	// Again: what is gone is no fault.
	if err := Remove(t.Context(), w.client, list[:1], func(Removal, error) {}); err != nil {
		t.Error(err)
	}
}

// whole says whether the index has all its children.
func (w *world) whole(t *testing.T) {
	t.Helper()
	index, _ := w.Index(t, "images:"+fixedTag)
	for _, d := range index.Manifests {
		if w.Digest(t, "images@"+d.Digest.String()) == "" {
			t.Errorf("child %s is gone", d.Digest)
		}
	}
}

// deleting answers DELETE in the way of another registry.
func deleting(answer func(next http.Handler, w http.ResponseWriter, r *http.Request)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				answer(next, w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// A registry that removes the manifest with its tag must not cost an index a
// child: what went comes back, and nothing more goes.
func TestRemoveTakesManifest(t *testing.T) {
	w, k := pruned(t, deleting(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		held := httptest.NewRecorder()
		next.ServeHTTP(held, httptest.NewRequestWithContext(r.Context(), http.MethodHead, r.URL.Path, nil))
		next.ServeHTTP(w, r)
		repository := r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')+1]
		next.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(r.Context(), http.MethodDelete, repository+held.Header().Get("Docker-Content-Digest"), nil))
	}))
	list := w.survey(t, k).Prunable(Keep{}, time.Now())
	w.Requests()
	err := Remove(t.Context(), w.client, list, func(Removal, error) { t.Error("told of a removal") })
	if !errors.Is(err, errWhole) || !strings.Contains(err.Error(), "was put back") {
		t.Errorf("got %v", err)
	}
	deletes := 0
	for _, r := range w.Requests() {
		if strings.HasPrefix(r, http.MethodDelete) {
			deletes++
		}
	}
	if deletes != 1 {
		t.Errorf("deleted %d times", deletes)
	}
	w.whole(t)
	if w.Digest(t, "images:"+list[0].Tag) == "" {
		t.Error("the tag is gone")
	}
}

func TestRemoveUnsupported(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
	}{
		{"deleting is off", http.StatusMethodNotAllowed, `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`},
		{"distribution 2", http.StatusBadRequest, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}`},
		{"Harbor", http.StatusBadRequest, `{"errors":[{"code":"UNSUPPORTED","message":"unsupported digest"}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, k := pruned(t, deleting(func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { http.Error(w, tt.body, tt.status) }))
			list := w.survey(t, k).Prunable(Keep{}, time.Now())
			err := Remove(t.Context(), w.client, list, func(Removal, error) { t.Error("told of a removal") })
			if !errors.Is(err, registry.ErrUnsupported) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRemoveCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, k := pruned(t, deleting(func(_ http.Handler, _ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	list := w.survey(t, k).Prunable(Keep{}, time.Now())
	if err := Remove(ctx, w.client, list, func(Removal, error) { t.Error("told of a removal") }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestParseKeep(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		rules []string
		want  Keep
		bad   bool
	}{
		{nil, Keep{}, false},
		{[]string{"10", "3"}, Keep{Newest: 10}, false},
		{[]string{"30d", "2w", "5"}, Keep{Newest: 5, Younger: 30 * day}, false},
		{[]string{"36h"}, Keep{Younger: 36 * time.Hour}, false},
		{[]string{"0"}, Keep{}, true}, {[]string{"-1"}, Keep{}, true}, {[]string{"-1d"}, Keep{}, true}, {[]string{"0h"}, Keep{}, true},
		{[]string{"d"}, Keep{}, true}, {[]string{""}, Keep{}, true}, {[]string{"99999999d"}, Keep{}, true}, {[]string{"latest"}, Keep{}, true},
	} {
		got, err := ParseKeep(tt.rules)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: got %+v, %v", tt.rules, got, err)
		}
	}
}

func FuzzParseKeep(f *testing.F) {
	f.Add("30d")
	f.Add("1h")
	f.Add("7")
	f.Fuzz(func(t *testing.T, rule string) {
		k, err := ParseKeep([]string{rule})
		if err == nil && k.Newest <= 0 && k.Younger <= 0 {
			t.Errorf("%q keeps nothing", rule)
		}
	})
}
