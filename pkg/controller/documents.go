package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	usualPage   = 50
	largestPage = 200
	// largestList is how many images the runs of a page have at most, if it has more than one run.
	largestList = 5000
)

// Get gives a run with its images and tasks; ErrNotFound.
func (c *Controller) Get(ctx context.Context, id string) (api.Run, error) {
	var r store.Run
	var images []store.Image
	var tasks []store.Task
	err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if r, err = tx.Run(id); err != nil {
			return fmt.Errorf("run %s: %w", quote.Text(id), err)
		}
		if images, err = tx.Images(id); err != nil {
			return err
		}
		tasks, err = tx.Tasks(id)
		return err
	})
	if err != nil {
		return api.Run{}, err
	}
	return document(&r, images, tasks)
}

// List gives a page of runs, newest first, without tasks.
func (c *Controller) List(ctx context.Context, f Filter) (api.RunList, error) {
	switch {
	case f.Limit < 0:
		return api.RunList{}, failure.Input("a page has at least one run, not %d", f.Limit)
	case f.Limit == 0:
		f.Limit = usualPage
	}
	f.Limit = min(f.Limit, largestPage)
	known := []api.State{api.Queued, api.Running, api.Succeeded, api.Failed, api.Cancelled}
	for _, s := range f.States {
		if !slices.Contains(known, s) {
			return api.RunList{}, failure.WithHint(failure.Input("runs are never %s", quote.Text(string(s))), "they are one of %v", known)
		}
	}
	page := api.RunList{Runs: []api.Run{}}
	err := c.o.Store.Read(ctx, func(tx *store.Tx) error {
		runs, err := tx.Runs(store.Filter{
			States: f.States, Submitter: f.Submitter, Image: f.Image, Labels: f.Labels, After: f.After, Limit: f.Limit + 1,
		})
		if err != nil {
			return err
		}
		count := 0
		for i := range runs {
			if count += runs[i].Images; i == f.Limit || i > 0 && count > largestList {
				page.Next = runs[i-1].ID
				runs = runs[:i]
				break
			}
		}
		ids := make([]string, len(runs))
		for i := range runs {
			ids[i] = runs[i].ID
		}
		images, err := tx.ImagesOf(ids)
		if err != nil {
			return err
		}
		for i := range runs {
			run, err := document(&runs[i], images[runs[i].ID], nil)
			if err != nil {
				return err
			}
			page.Runs = append(page.Runs, run)
		}
		return nil
	})
	return page, err
}

// document makes what the API says of a run.
func document(r *store.Run, images []store.Image, tasks []store.Task) (api.Run, error) {
	run := api.Run{
		ID: r.ID, State: r.State, Reason: r.Reason, Runner: r.Runner, Submitter: r.Submitter, Priority: r.Priority, Labels: r.Labels,
		Context: r.Context, Head: r.Head, RetryOf: r.RetryOf, Created: r.Created, Started: pointer(r.Started), Finished: pointer(r.Finished),
		Images: make([]api.RunImage, len(images)),
	}
	for i := range images {
		img := &images[i]
		run.Images[i] = api.RunImage{Name: img.Name, State: img.State, Reason: img.Reason}
		if img.Published != nil {
			if err := json.Unmarshal(img.Published, &run.Images[i].Published); err != nil {
				return run, fmt.Errorf("run %s: image %s: %w", r.ID, img.Name, err)
			}
		}
	}
	for i := range tasks {
		t := &tasks[i]
		history, err := t.History()
		if err != nil {
			return run, fmt.Errorf("task %s: its history: %w", t.ID, err)
		}
		if t.Image >= len(images) {
			return run, errors.New("task " + t.ID + " is of no image")
		}
		var failure string
		if t.Build == "" && t.Result != nil {
			if err := json.Unmarshal(t.Result, &failure); err != nil {
				return run, fmt.Errorf("task %s: its failure: %w", t.ID, err)
			}
		}
		img := &run.Images[t.Image]
		img.Tasks = append(img.Tasks, api.Task{
			ID: t.ID, Build: t.Build, Platform: t.Platform, Attempt: t.Attempt, State: t.State, Reason: t.Reason, Failure: failure, Digest: t.Digest,
			Usage: t.Usage, History: history,
		})
	}
	return run, nil
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
