package manifest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

func TestSurvey(t *testing.T) {
	w, k := pruned(t)
	w.Push(t, "images:app-web-latest", registrytest.Image(t, "linux/amd64", nil))
	w.Put(t, "images:app-chart", "application/vnd.oci.image.manifest.v1+json",
		[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	w.Requests()
	inv, err := Survey(t.Context(), w.client, k, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, tag := range inv.Tags {
		got = append(got, fmt.Sprintf("%s %s %s %s %q", tag.Name, tag.Kind, tag.Created.Format(time.DateTime), tag.Platforms, tag.Problem))
	}
	want := []string{
		fixedTag + ` fixed 2026-11-21 02:02:03 [linux/amd64 linux/arm64] ""`,
		`app-latest moving 2026-11-21 02:02:03 [linux/amd64 linux/arm64] ""`,
		keyTag + ` key 2026-11-21 02:02:03 [linux/amd64 linux/arm64] ""`,
		`app-chart moving 0001-01-01 00:00:00 [] "it is no image: the config's media type is \"application/vnd.cncf.helm.config.v1+json\""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if inv.Tags[0].Commit != w.plan.Head || inv.Tags[0].Key != w.image.Key || inv.Left != 2 {
		t.Errorf("got %+v, %d left", inv.Tags[0], inv.Left)
	}
	// The list, the fixed tag, the three others, and what only the chart's holds.
	if requests := w.Requests(); len(requests) != 6 {
		t.Errorf("%d requests:\n%s", len(requests), strings.Join(requests, "\n"))
	}
}

// Many tags: one request each, and with Newest no more than are shown.
func TestSurveyMany(t *testing.T) {
	const many = 300
	w := newWorld(t, []string{"linux/amd64"})
	pub := w.mustPublish(t)
	_, raw := w.Index(t, "images:"+fixedTag)
	for i := range many {
		w.Put(t, fmt.Sprintf("images:app-2025%04d-%07x", i, i), pub.MediaType, []byte(strings.Replace(string(raw), commit(10), commit(i), 1)))
		w.Put(t, fmt.Sprintf("images:app-key-%012x", i), pub.MediaType, raw)
	}
	k := plan.Known{Name: "app", Repository: w.Host + "/images", Layout: "tag"}
	c := registry.New(registry.Options{Keychain: anonymous{}, RPS: 1e6})
	w.Requests()
	inv, err := Survey(t.Context(), c, k, Scope{})
	if err != nil || len(inv.Tags) != 2*many+3 {
		t.Fatalf("%d tags, %v", len(inv.Tags), err)
	}
	if n := len(w.Requests()); n > 2*many+3+5 {
		t.Errorf("%d requests", n)
	}
	inv, err = Survey(t.Context(), c, k, Scope{Newest: 3})
	if err != nil || !slices.ContainsFunc(inv.Tags, func(t Tag) bool { return t.Name == fixedTag }) || len(inv.Tags) != 5 {
		t.Fatalf("%+v, %v", inv.Tags, err)
	}
	if n := len(w.Requests()); n > 8 {
		t.Errorf("%d requests for the newest three", n)
	}
}

func TestSurveyCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := newWorld(t, []string{"linux/amd64"}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/"+fixedTag) {
				cancel()
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(rw, r)
		})
	})
	w.mustPublish(t)
	if _, err := Survey(ctx, w.client, plan.Known{Name: "app", Repository: w.Host + "/images", Layout: "tag"}, Scope{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What a part of a project's own build published is not the project's.
func TestSurveyPart(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	pub := w.mustPublish(t)
	_, raw := w.Index(t, "images:"+fixedTag)
	w.Put(t, "images:app-part-latest", pub.MediaType, []byte(strings.ReplaceAll(string(raw), `"org.opencontainers.image.title":"app"`, `"org.opencontainers.image.title":"app-part"`)))
	inv, err := Survey(t.Context(), w.client, plan.Known{Name: "app", Repository: w.Host + "/images", Layout: "tag"}, Scope{})
	if err != nil || slices.ContainsFunc(inv.Tags, func(t Tag) bool { return t.Name == "app-part-latest" }) {
		t.Errorf("got %+v, %v", inv.Tags, err)
	}
}

// The index is there, and no tag of it, when it is attended to; an error ends
// the publication.
func TestAttend(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64"})
	refused := errors.New("no key")
	w.options.Attend = func(_ context.Context, img *plan.Image, subject registry.Descriptor, bases []plan.Base) error {
		if w.Digest(t, "images@"+subject.Digest) != subject.Digest || len(bases) != 1 || bases[0].Ref != "alpine:3" || img.Name != "app" {
			t.Errorf("attending to %+v of %s, built on %+v", subject, img.Name, bases)
		}
		for _, tag := range []string{fixedTag, keyTag, "app-latest"} {
			if w.Digest(t, "images:"+tag) != "" {
				t.Errorf("tag %s is there before", tag)
			}
		}
		return refused
	}
	if pub, err := w.publish(t); !errors.Is(err, refused) || len(pub.Tags) != 0 || w.Digest(t, "images:"+fixedTag) != "" {
		t.Errorf("got %+v, %v", pub, err)
	}
}
