package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// TestVerified publishes what its builds have verified: one request a child,
// and the same bytes as when this process reads the configs.
func TestVerified(t *testing.T) {
	const version = "10.0.20348.2322"
	w := newWorld(t, []string{"linux/amd64", "linux/arm/v7"})
	img := registrytest.Image(t, "windows/amd64", nil)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OSVersion = version
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	w.push(t, "windows/amd64", img)
	w.image.Builds[2].ID, w.results[2].ID = "app@windows-amd64", "app@windows-amd64"
	w.image.KeyTag = ""
	first := w.mustPublish(t)
	if index, _ := w.Index(t, "images@"+first.Digest); index.Manifests[2].Platform.OSVersion != version {
		t.Errorf("the index has %+v", index.Manifests[2].Platform)
	}

	for i := range w.results {
		w.results[i].Verified = true
	}
	w.results[2].OSVersion = version
	w.client, w.image.Tags = newClient(), []string{"app-other"}
	w.Requests()
	pub := w.mustPublish(t)
	requests := w.Requests()
	if pub.Digest != first.Digest {
		t.Errorf("read it is %s, and verified %s", first.Digest, pub.Digest)
	}
	if len(requests) != 1+3+3 {
		t.Errorf("%d requests:\n%s", len(requests), strings.Join(requests, "\n"))
	}

	// That a child is there, and what it was, is looked at all the same.
	w.results[1].Size++
	if _, err := w.publish(t); err == nil || !strings.Contains(err.Error(), "was reported with") {
		t.Errorf("got %v", err)
	}
}
