package manifest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		name      string
		platforms []string
		publish   func(*world)
		change    func(*world) // after publishing
		found     bool
	}{
		{name: "index", platforms: []string{"linux/amd64", "linux/arm64"}, found: true},
		{name: "bare manifest", platforms: []string{"linux/amd64"}, publish: func(w *world) { w.image.Index = false }, found: true},
		{name: "Docker list", platforms: []string{"linux/amd64", "linux/arm64"}, publish: func(w *world) { w.plan.Publish.MediaType = "docker" }, found: true},
		{name: "other time", platforms: []string{"linux/amd64"}, change: func(w *world) { w.plan.Created = w.plan.Created.Add(time.Minute) }},
		{name: "other commit", platforms: []string{"linux/amd64"}, change: func(w *world) { w.plan.Head = commit(11) }},
		{name: "other content", platforms: []string{"linux/amd64"}, change: func(w *world) { w.image.Key = commit(1) + "012345678901234567890123" }},
		{name: "not there", platforms: []string{"linux/amd64"}, change: func(w *world) { w.image.Tags = []string{"app-20261122-abc1234"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.platforms)
			if c.publish != nil {
				c.publish(w)
			}
			want := w.mustPublish(t)
			if c.change != nil {
				c.change(w)
			}
			got, err := Lookup(t.Context(), newClient(), w.plan, w.image)
			if !c.found {
				if !errors.Is(err, registry.ErrNotFound) || failure.Hint(err) == "" || got.Digest != "" {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want.Tags, want.Kept = []string{fixedTag}, nil
			if !w.image.Index {
				want.Children = nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			dir := t.TempDir()
			if err := WritePublished(dir, got); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorld(t, []string{"linux/amd64"})
	w.image.Tags = nil
	if _, err := Lookup(t.Context(), w.client, w.plan, w.image); !errors.Is(err, failure.ErrInput) {
		t.Errorf("an image without tags: got %v", err)
	}
}
