package manifest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

func newClient() *registry.Client { return registry.New(registry.Options{Keychain: anonymous{}}) }

// world is a registry, and a plan with one image whose builds have been
// pushed to it.
type world struct {
	*registrytest.Server
	client   *registry.Client
	plan     *plan.Plan
	image    *plan.Image
	results  []plan.Result
	warnings []string
	options  Options
}

const (
	fixedTag = "app-20261121-abc1234"
	keyTag   = "app-key-0123456789ab"
)

func commit(n int) string { return fmt.Sprintf("%040x", n) }

// newWorld serves a registry behind wrappers, for an image of these
// platforms.
func newWorld(t testing.TB, platforms []string, wrappers ...func(http.Handler) http.Handler) *world {
	t.Helper()
	w := &world{Server: registrytest.New(t, wrappers...), client: newClient()}
	w.options.firstLook = time.Millisecond
	w.options.Warn = func(s string) { w.warnings = append(w.warnings, s) }
	committed := time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	w.plan = &plan.Plan{
		Version: plan.Version, Head: commit(10), Committed: committed, Created: committed.Add(time.Hour), Pipeline: "100",
		Registry: w.Host + "/images", Layout: "tag",
		Images: []plan.Image{{
			Name: "app", Key: strings.Repeat("0123456789abcdef", 4), Repository: w.Host + "/images",
			Tags: []string{fixedTag, "app-latest"}, KeyTag: keyTag, Index: true,
		}},
	}
	w.image = &w.plan.Images[0]
	for _, p := range platforms {
		w.push(t, p, registrytest.Image(t, p, nil))
	}
	return w
}

// push adds a build for the platform, which pushed this image.
func (w *world) push(t testing.TB, platform string, img v1.Image) {
	t.Helper()
	digest := w.Push(t, "images", img)
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	w.add(platform, digest, size, string(mediaType))
}

// add adds a build for the platform, and its result.
func (w *world) add(platform, digest string, size int64, mediaType string) {
	suffix := strings.ReplaceAll(strings.TrimPrefix(platform, "linux/"), "/", "-")
	b := plan.Build{
		ID: "app@" + suffix, Platform: platform, Destination: w.Host + "/images:" + fixedTag + "-" + suffix,
		Labels: map[string]string{ociRevision: w.plan.Head, ociSource: "https://example.org/monorepo", ociVersion: "20261121-abc1234"},
	}
	w.image.Builds = append(w.image.Builds, b)
	w.results = append(w.results, plan.Result{
		ID: b.ID, Ref: b.Destination, Digest: digest, Size: size, MediaType: mediaType, Platform: platform,
		Bases: []plan.Base{{Ref: "alpine:3", Digest: registry.Digest([]byte("alpine")), Final: true}},
		Key:   w.image.Key, Head: w.plan.Head,
	})
}

// other makes another publication of the same image: other content of the
// builds, and another plan.
func (w *world) other(t testing.TB, change func(p *plan.Plan)) (*plan.Plan, []plan.Result) {
	t.Helper()
	p := *w.plan
	p.Images = slices.Clone(w.plan.Images)
	change(&p)
	img := registrytest.Image(t, "linux/amd64", map[string]string{"of": p.Head + p.Pipeline})
	digest := w.Push(t, "images", img)
	size, err := img.Size()
	if err != nil {
		t.Fatal(err)
	}
	r := w.results[0]
	r.Digest, r.Size, r.Head = digest, size, p.Head
	return &p, []plan.Result{r}
}

func (w *world) publish(t testing.TB) (plan.Published, error) {
	t.Helper()
	return Publish(t.Context(), w.client, w.plan, w.image, w.results, w.options)
}

func (w *world) mustPublish(t testing.TB) plan.Published {
	t.Helper()
	pub, err := w.publish(t)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}
