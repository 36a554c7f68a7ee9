package controller

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
)

// In a serial run one image is built after another in the order of the plan,
// whatever becomes of them; a retry keeps to that.
func TestSerial(t *testing.T) {
	var mu sync.Mutex
	busy := map[string]int{} // tasks of images
	var order []string
	fail := true
	enter := func(image string) {
		mu.Lock()
		defer mu.Unlock()
		if len(busy) > 0 && busy[image] == 0 {
			t.Errorf("%s begins beside %v", image, busy)
		}
		busy[image]++
		if len(order) == 0 || order[len(order)-1] != image {
			order = append(order, image)
		}
	}
	leave := func(image string) {
		mu.Lock()
		defer mu.Unlock()
		if busy[image]--; busy[image] == 0 {
			delete(busy, image)
		}
	}
	w := newWorld(t, func(a *agent) error {
		image, _, _ := strings.Cut(a.Build, "@")
		enter(image)
		err := a.claim()
		time.Sleep(5 * time.Millisecond)
		leave(image)
		if err != nil {
			return err
		}
		mu.Lock()
		failing := fail && a.Build == "bad@amd64"
		mu.Unlock()
		if failing {
			return a.fail("exit status 1")
		}
		return a.succeed()
	}, func(o *Options) {
		publish := o.Publish
		o.Publish = func(ctx context.Context, p *plan.Plan, img *plan.Image, results []plan.Result, creds []api.Credential, log func(level, msg string)) (plan.Published, error) {
			enter(img.Name)
			defer leave(img.Name)
			time.Sleep(5 * time.Millisecond)
			return publish(ctx, p, img, results, creds, log)
		}
	})
	p := planOf("bad", "slow", "top<bad", "retag", "last<slow")
	p.Images[3].Builds, p.Images[3].Retag = []plan.Build{}, digestOf("x")
	run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: p, Serial: true}, Submitter: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	mu.Lock()
	if got := strings.Join(order, " "); run.State != api.Failed || got != "bad slow retag last" {
		t.Errorf("%s %s: %s", run.State, run.Reason, got)
	}
	order, fail = nil, false
	mu.Unlock()
	if run, err = w.Retry(t.Context(), run.ID, "tester", "", Grant{}); err != nil {
		t.Fatal(err)
	}
	run = w.end(run.ID)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(order, " "); run.State != api.Succeeded || got != "bad top" {
		t.Errorf("again: %s %s: %s", run.State, run.Reason, got)
	}
}
