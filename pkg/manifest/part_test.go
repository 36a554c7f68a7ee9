package manifest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// newParts is a world whose builds each made these images.
func newParts(t *testing.T, layout string, names []string, wrappers ...func(http.Handler) http.Handler) *world {
	t.Helper()
	w := newWorld(t, nil, wrappers...)
	if layout != "tag" {
		w.plan.Layout = layout
		w.image.Repository += "/app"
		w.image.Tags, w.image.KeyTag = []string{"1-abc1234", "latest"}, "key-0123456789ab"
	}
	for _, arch := range []string{"amd64", "arm64"} {
		destination := w.image.Repository + ":" + w.image.Tags[0] + "-" + arch
		w.image.Builds = append(w.image.Builds, plan.Build{ID: "app@" + arch, Platform: "linux/" + arch, Destination: destination})
	}
	for i := range w.image.Builds {
		b := &w.image.Builds[i]
		r := plan.Result{ID: b.ID, Platform: b.Platform, Bases: []plan.Base{}, Key: w.image.Key, Head: w.plan.Head}
		for _, name := range names {
			part, err := w.plan.Part(w.image, name)
			if err != nil {
				t.Fatal(err)
			}
			img := registrytest.Image(t, b.Platform, map[string]string{"name": name})
			digest := w.Push(t, strings.TrimPrefix(part.Repository, w.Host+"/"), img)
			size, err := img.Size()
			if err != nil {
				t.Fatal(err)
			}
			mediaType, err := img.MediaType()
			if err != nil {
				t.Fatal(err)
			}
			r.Parts = append(r.Parts, plan.Part{Name: name, Ref: part.Builds[i].Destination, Digest: digest, Size: size, MediaType: string(mediaType)})
		}
		r.Ref, r.Digest, r.Size, r.MediaType = r.Parts[0].Ref, r.Parts[0].Digest, r.Parts[0].Size, r.Parts[0].MediaType
		w.results = append(w.results, r)
	}
	return w
}

// all gives what is published of a project: NAME TAGS… a line, the project first.
func all(pub plan.Published) string {
	var b strings.Builder
	for _, p := range append([]plan.Published{pub}, pub.Parts...) {
		fmt.Fprintln(&b, p.Name, p.Repository[strings.IndexByte(p.Repository, '/'):], strings.Join(p.Tags, " "), len(p.Children))
	}
	return b.String()
}

func TestParts(t *testing.T) {
	tests := []struct {
		name, layout string
		images       []string
		change       func(*world)
		want         string
	}{
		{"with the project's own", "tag", []string{"app", "app-worker"}, nil,
			"app /images " + fixedTag + " " + keyTag + " app-latest 2\n" +
				"app-worker /images app-worker-20261121-abc1234 app-worker-key-0123456789ab app-worker-latest 2\n"},
		{"without", "tag", []string{"app-api", "app-worker"}, nil,
			"app /images " + keyTag + " 2\n" +
				"app-api /images app-api-20261121-abc1234 app-api-key-0123456789ab app-api-latest 2\n" +
				"app-worker /images app-worker-20261121-abc1234 app-worker-key-0123456789ab app-worker-latest 2\n"},
		{"without, in repositories", "repository", []string{"app-api", "app-worker"}, nil,
			"app /images/app key-0123456789ab 2\n" +
				"app-api /images/app-api 1-abc1234 key-0123456789ab latest 2\n" +
				"app-worker /images/app-worker 1-abc1234 key-0123456789ab latest 2\n"},
		{"without keys", "tag", []string{"app-api", "app-worker"}, func(w *world) { w.image.KeyTag = "" },
			"app /images  2\napp-api /images app-api-20261121-abc1234 app-api-latest 2\napp-worker /images app-worker-20261121-abc1234 app-worker-latest 2\n"},
		{"without an index", "tag", []string{"app", "app-worker"}, func(w *world) {
			w.image.Index, w.image.Builds, w.results = false, w.image.Builds[:1], w.results[:1]
		}, "app /images " + fixedTag + " app-latest " + keyTag + " 1\napp-worker /images app-worker-20261121-abc1234 app-worker-key-0123456789ab app-worker-latest 1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newParts(t, tt.layout, tt.images)
			if tt.change != nil {
				tt.change(w)
			}
			pub := w.mustPublish(t)
			if got := all(pub); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
			for _, p := range append([]plan.Published{pub}, pub.Parts...) {
				for _, tag := range p.Tags {
					d, err := w.client.Head(t.Context(), p.Repository+":"+tag)
					if err != nil || tag != w.image.KeyTag && d.Digest != p.Digest {
						t.Errorf("%s:%s is %s, %v, want %s", p.Repository, tag, d.Digest, err, p.Digest)
					}
				}
			}
			if w.image.KeyTag != "" {
				said, err := plan.ReadPublication(t.Context(), w.client, w.image.Repository+":"+w.image.KeyTag)
				if err != nil || said.Key != w.image.Key {
					t.Errorf("the key tag says %+v, %v", said, err)
				}
			}
			if again := w.mustPublish(t); all(again) != tt.want || again.Digest != pub.Digest {
				t.Errorf("again: %s", all(again))
			}
		})
	}
}

// TestPartsAgain publishes what an earlier plan published, under this one's
// tags.
func TestPartsAgain(t *testing.T) {
	for _, images := range [][]string{{"app", "app-worker"}, {"app-api", "app-worker"}} {
		for _, layout := range []string{"tag", "repository"} {
			t.Run(layout+" "+images[0], func(t *testing.T) {
				w := newParts(t, layout, images)
				first := w.mustPublish(t)
				p := *w.plan
				p.Head, p.Images = commit(11), []plan.Image{*w.image}
				img := &p.Images[0]
				held, err := w.client.Head(t.Context(), img.Repository+":"+img.KeyTag)
				if err != nil {
					t.Fatal(err)
				}
				img.Retag, img.Builds = held.Digest, nil
				img.Tags = slices.Clone(img.Tags)
				img.Tags[0] = strings.Replace(img.Tags[0], "abc1234", "def5678", 1)
				second, err := Publish(t.Context(), w.client, &p, img, nil, w.options)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := all(second), strings.ReplaceAll(all(first), "abc1234", "def5678"); got != want {
					t.Errorf("got\n%swant\n%s", got, want)
				}
				// What the key tag says now serves a third time.
				if held, err = w.client.Head(t.Context(), img.Repository+":"+img.KeyTag); err != nil || held.Digest != second.Digest {
					t.Fatalf("the key tag is %s, %v, want %s", held.Digest, err, second.Digest)
				}
				img.Retag = held.Digest
				if third, err := Publish(t.Context(), w.client, &p, img, nil, w.options); err != nil || all(third) != all(second) || third.Digest != second.Digest {
					t.Errorf("a third time: %s, %v", all(third), err)
				}
			})
		}
	}
}

func TestPartsAreLookedUp(t *testing.T) {
	for _, images := range [][]string{{"app", "app-worker"}, {"app-api", "app-worker"}} {
		w := newParts(t, "tag", images)
		if _, err := Lookup(t.Context(), w.client, w.plan, w.image); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("before: %v", err)
		}
		pub := w.mustPublish(t)
		got, err := Lookup(t.Context(), w.client, w.plan, w.image)
		if err != nil || got.Digest != pub.Digest || len(got.Parts) != len(pub.Parts) || got.Parts[0].Digest != pub.Parts[0].Digest {
			t.Errorf("got %+v, %v", got, err)
		}
		other := *w.plan
		other.Head = commit(12)
		if _, err := Lookup(t.Context(), w.client, &other, w.image); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("another plan's: %v", err)
		}
	}
}

func TestPartIsMissing(t *testing.T) {
	w := newParts(t, "tag", []string{"app", "app-worker"})
	w.results[1].Parts = w.results[1].Parts[:1]
	_, err := w.publish(t)
	if err == nil || !strings.Contains(err.Error(), "build app@arm64 made no image app-worker, which build app@amd64 made") {
		t.Errorf("got %v", err)
	}
	if held, err := w.client.Head(t.Context(), w.image.Repository+":"+keyTag); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("something is published: %v, %v", held, err)
	}
	w.results[1].Parts = nil // one archive, which is the project's own
	if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), "app@arm64 made no image app-worker") {
		t.Errorf("got %v", err)
	}
}

// TestPartFails publishes no key tag when a part could not be published.
func TestPartFails(t *testing.T) {
	w := newParts(t, "tag", []string{"app", "app-worker"})
	w.results[0].Parts[1].Digest = registry.Digest([]byte("none"))
	if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), "its part app-worker: build app-worker@amd64") {
		t.Errorf("got %v", err)
	}
	if held, err := w.client.Head(t.Context(), w.image.Repository+":"+keyTag); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the key tag is there: %v, %v", held, err)
	}
}

func TestPartOfAnotherProject(t *testing.T) {
	w := newParts(t, "tag", []string{"app", "app-worker"})
	w.plan.Skipped = []plan.Skipped{{Name: "app-worker"}}
	if _, err := w.publish(t); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "another project yields") {
		t.Errorf("got %v", err)
	}
}

func TestNothingToPublish(t *testing.T) {
	w := newWorld(t, []string{"linux/amd64", "linux/arm64"})
	for i := range w.image.Builds {
		w.image.Builds[i].Outputs = []string{"digest"}
	}
	results, err := ReadResults(t.TempDir(), w.plan, w.image)
	if err != nil || len(results) > 0 {
		t.Fatalf("%v, %v", results, err)
	}
	pub, err := Publish(t.Context(), w.client, w.plan, w.image, w.results, w.options)
	if err != nil || pub.Digest != "" || len(pub.Tags) > 0 {
		t.Errorf("got %+v, %v", pub, err)
	}
	// One platform that pushes makes an index of one.
	w.image.Builds[0].Outputs = nil
	if pub, err = w.publish(t); err != nil || len(pub.Children) != 1 || pub.Children[0].Platform != "linux/amd64" {
		t.Errorf("got %+v, %v", pub, err)
	}
}
