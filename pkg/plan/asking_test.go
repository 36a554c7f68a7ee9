package plan

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// asks makes an input whose registry is this server.
func asks(in Input, s *registrytest.Server) Input {
	in.Registry = s.Host + "/images"
	in.Client = registry.New(registry.Options{Keychain: anonymous{}, Patience: time.Second})
	return in
}

// refuse answers requests for paths that contain part.
func refuse(part string, status int) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, part) {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestMissingAssumesNothing(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			in := asks(input(t, tree{"app": "{}", "base": "{}"}), registrytest.New(t, refuse("app-key", status)))
			in.Selection = Selection{Missing: true}
			p, _, err := Compute(t.Context(), in)
			undecided, ok := errors.AsType[*UndecidedError](err)
			if !ok || p != nil {
				t.Fatalf("got plan %v, error %v", p, err)
			}
			if len(undecided.Images) != 1 || undecided.Images["app"] == nil || errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
				t.Errorf("got %v, hint %q", err, failure.Hint(err))
			}
		})
	}
}

func TestMissingIsOneRequestAnImage(t *testing.T) {
	s := registrytest.New(t)
	in := asks(input(t, tree{"app": "{}", "base": "{}", "files": "outputs: [docker-tar]"}), s)
	in.Selection = Selection{Missing: true}
	p := compute(t, in)
	if len(p.Images) != 2 || len(p.Skipped) != 1 || p.Skipped[0].Reason != "pushes no image" {
		t.Errorf("images %s, left out %v", kinds(p), p.Skipped)
	}
	heads := 0
	for _, r := range s.Requests() {
		if strings.HasPrefix(r, http.MethodHead) {
			heads++
		}
	}
	if heads != 2 {
		t.Errorf("%d HEAD requests for two images", heads)
	}
}

func TestAskingCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	hang := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "key") {
				asked.Add(1)
				cancel()
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	in := asks(input(t, tree{"app": "{}"}), registrytest.New(t, hang))
	in.Selection = Selection{Missing: true}
	if _, _, err := Compute(ctx, in); !errors.Is(err, context.Canceled) || asked.Load() == 0 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}

func TestDefaultSelection(t *testing.T) {
	main := diff.CI{System: "gitlab", Event: diff.EventPush, OnDefaultBranch: true}
	for name, tc := range map[string]struct {
		sel     Selection
		ci      diff.CI
		askable bool
		want    Selection
	}{
		"default branch":                     {ci: main, askable: true, want: Selection{Changed: true, Missing: true}},
		"default branch, nothing to ask":     {ci: main, want: Selection{Changed: true}},
		"another branch":                     {ci: diff.CI{System: "github", Event: diff.EventPush}, askable: true, want: Selection{Changed: true}},
		"local":                              {ci: diff.CI{Event: diff.EventLocal, OnDefaultBranch: true}, askable: true, want: Selection{Changed: true}},
		"schedule":                           {ci: diff.CI{System: "gitlab", Event: diff.EventSchedule, OnDefaultBranch: true}, askable: true, want: Selection{Weekly: true}},
		"asked for, on the default branch":   {sel: Selection{Stale: true}, ci: main, askable: true, want: Selection{Stale: true}},
		"a name, on the default branch":      {sel: Selection{Names: []string{"x"}}, ci: main, askable: true, want: Selection{Names: []string{"x"}}},
		"words":                              {sel: ParseSelection([]string{"missing,stale", "weekly"}, []string{"x"}), want: Selection{Missing: true, Stale: true, Weekly: true, Names: []string{"x"}}},
		"missing alone, on another schedule": {sel: ParseSelection([]string{"missing"}, nil), ci: diff.CI{Event: diff.EventSchedule}, want: Selection{Missing: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.sel.Or(tc.ci, tc.askable)
			if got.Changed != tc.want.Changed || got.All != tc.want.All || got.Weekly != tc.want.Weekly || got.Missing != tc.want.Missing ||
				got.Stale != tc.want.Stale || strings.Join(got.Names, " ") != strings.Join(tc.want.Names, " ") {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// The key tag has 48 bits of the key; what it holds has to say the rest.
func TestRetagNeedsTheWholeKey(t *testing.T) {
	for name, same := range map[string]bool{"same key": true, "same first digits": false} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t)
			in := asks(input(t, tree{"app": "index: false\nplatforms: [linux/amd64]"}, "app/x"), s)
			in.Selection = Selection{Changed: true}
			key := compute(t, in).Images[0].Key
			label := key
			if !same {
				label = key[:12] + strings.Repeat("0", len(key)-12)
			}
			img := registrytest.Image(t, "linux/amd64", map[string]string{KeyAnnotation: label, HeadLabel: headSHA})
			digest := s.Push(t, "images:app-key-"+key[:12], img)
			in.Selection.Missing = true
			got := compute(t, in).Images[0]
			if same && (got.Retag != digest || len(got.Builds) != 0) || !same && (got.Retag != "" || len(got.Builds) != 1) {
				t.Errorf("retag %q with %d builds; the tag holds %s", got.Retag, len(got.Builds), digest)
			}
		})
	}
}

// What cannot say anew of which commit it is, is built.
func TestRetagNeedsAPlaceForTheCommit(t *testing.T) {
	s := registrytest.New(t)
	in := asks(input(t, tree{"app": "index: false\nplatforms: [linux/amd64]"}, "app/x"), s)
	in.Selection = Selection{Changed: true}
	key := compute(t, in).Images[0].Key
	img := mutate.MediaType(registrytest.Image(t, "linux/amd64", map[string]string{KeyAnnotation: key, HeadLabel: headSHA}), types.DockerManifestSchema2)
	s.Push(t, "images:app-key-"+key[:12], mutate.ConfigMediaType(img, types.DockerConfigJSON))
	in.Selection.Missing = true
	if got := compute(t, in).Images[0]; got.Retag != "" || len(got.Builds) != 1 {
		t.Errorf("retag %q with %d builds", got.Retag, len(got.Builds))
	}
	for mediaType, docker := range map[types.MediaType]bool{types.OCIImageIndex: true, types.DockerManifestList: false} {
		if (asking{docker: docker}).records(string(mediaType)) {
			t.Errorf("%s, Docker lists %v", mediaType, docker)
		}
	}
	if !(asking{}).records(string(types.OCIImageIndex)) || !(asking{docker: true}).records(string(types.OCIManifestSchema1)) {
		t.Error("OCI's have a place")
	}
}

// Builder images of pipegen.yaml bring the engine, so a new one is new content.
func TestBuilderImageIsInTheKey(t *testing.T) {
	key := func(files tree) string { return compute(t, input(t, files, "app/x")).Images[0].Key }
	old := key(tree{"app": "{}", "pipegen.yaml": "images: {kaniko: 'r.example.com/builder:1'}"})
	if old == key(tree{"app": "{}", "pipegen.yaml": "images: {kaniko: 'r.example.com/builder:2'}"}) {
		t.Error("another builder image gives the same key")
	}
	if old == key(tree{"app": "{}"}) {
		t.Error("no builder image gives the same key")
	}
}

// A dirty tree's images get one tag, by which no Dockerfile means them.
func TestDependentsInADirtyTree(t *testing.T) {
	for layout, from := range map[string]string{"tag": "${PIPEGEN_REGISTRY}:base-latest", "repository": "${PIPEGEN_REGISTRY}/base:latest", "git": "${PIPEGEN_REGISTRY}/base:main"} {
		t.Run(layout, func(t *testing.T) {
			in := input(t, tree{
				"pipegen.yaml": "layout: " + layout, "base": "additional_tags: [latest]",
				"app": "{}", "app/Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM " + from + "\n",
			}, "base/x")
			in.Dirty, in.CI = true, diff.CI{Event: diff.EventLocal}
			p := compute(t, in)
			if got := kinds(p); got != "base(changed=base/x) app(dependency=base)" {
				t.Fatalf("got %s", got)
			}
			_, tag, _ := strings.Cut(from, ":")
			if base := p.Images[0]; len(base.Tags) != 1 || !slices.Contains(base.Aliases, tag) {
				t.Errorf("tags %v, aliases %v, want %s among these", base.Tags, base.Aliases, tag)
			}
		})
	}
}

func FuzzBases(f *testing.F) {
	f.Add(`["alpine:3@sha256:12"]`)
	f.Add(`{"linux/amd64":["a@b"],"linux/arm64":["a@c","@","x"]}`)
	f.Fuzz(func(t *testing.T, s string) {
		seen := map[Base]bool{}
		for _, b := range parseBases(s) {
			if b.Ref == "" || seen[b] || !strings.Contains(s, b.Digest) && b.Digest != "" && !strings.Contains(s, `\`) {
				t.Errorf("%q gives %+v", s, b)
			}
			seen[b] = true
		}
	})
}
