package controller

import (
	"encoding/json"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// publishedBefore gives the images that the request says are published, by
// name.
func publishedBefore(r *api.RunRequest) (map[string]*store.Image, error) {
	done := make(map[string]*store.Image, len(r.Published))
	for i := range r.Published {
		pub := &r.Published[i]
		img, ok := r.Plan.Image(pub.Name)
		switch {
		case !ok:
			return nil, failure.Input("the plan has no image %s, which was published", quote.Text(pub.Name))
		case done[pub.Name] != nil:
			return nil, failure.Input("image %s was published twice", pub.Name)
		case pub.Repository != img.Repository:
			return nil, failure.Input("image %s was published in %s, and the plan says %s", pub.Name, quote.Text(pub.Repository), quote.Text(img.Repository))
		case !contextDigest.MatchString(pub.Digest):
			return nil, failure.Input("image %s: %s is no sha256 digest", pub.Name, quote.Text(pub.Digest))
		}
		text, err := json.Marshal(pub)
		if err != nil {
			return nil, err
		}
		done[pub.Name] = &store.Image{Published: text}
	}
	if len(done) == len(r.Plan.Images) {
		return nil, failure.Input("all images of the plan are published: there is nothing to do")
	}
	return done, nil
}
