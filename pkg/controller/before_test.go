package controller

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// What was published before a run is not built, and those who need it get it.
func TestPublishedBefore(t *testing.T) {
	var mu sync.Mutex
	given := map[string][]plan.Published{}
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		mu.Lock()
		given[a.Build] = a.given.Published
		mu.Unlock()
		return a.succeed()
	})
	base := plan.Published{Name: "base", Repository: "registry.test/images", Digest: digestOf("elsewhere"), Tags: []string{"base-1"}}
	whole := planOf("base", "app<base", "other")
	// What is built elsewhere may stand on a context that this run has not got.
	whole.Images[0].Source = nil
	part, needed, err := whole.Only("app")
	if err != nil || !slices.Equal(needed, []string{"base"}) {
		t.Fatalf("needed %v, %v", needed, err)
	}
	run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: part, Published: []plan.Published{base}}, Submitter: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	if run.State != api.Succeeded || len(run.Images) != 2 || len(run.Images[0].Tasks) != 0 || run.Images[0].State != api.Succeeded || run.Images[0].Published.Digest != base.Digest {
		t.Errorf("%+v", run)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(given) != 2 || len(given["app@amd64"]) != 1 || given["app@amd64"][0].Digest != base.Digest {
		t.Errorf("builds were given %v", given)
	}
}

func TestPublishedBeforeRefuses(t *testing.T) {
	w := newWorld(t, builds)
	base := plan.Published{Name: "base", Repository: "registry.test/images", Digest: digestOf("elsewhere")}
	with := func(f func(*plan.Published)) plan.Published {
		p := base
		f(&p)
		return p
	}
	for want, published := range map[string][]plan.Published{
		"the plan has no image other":        {with(func(p *plan.Published) { p.Name = "other" })},
		"image base was published twice":     {base, base},
		"published in elsewhere.test/images": {with(func(p *plan.Published) { p.Repository = "elsewhere.test/images" })},
		"latest is no sha256 digest":         {with(func(p *plan.Published) { p.Digest = "latest" })},
		"there is nothing to do":             {base, with(func(p *plan.Published) { p.Name = "app" })},
	} {
		_, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("base", "app<base"), Published: published}, Submitter: "tester"})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
