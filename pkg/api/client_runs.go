package api

import (
	"context"
	"crypto/rand"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// idempotency is the header by which the same request sent twice is known.
const idempotency = "Idempotency-Key"

// NewKey makes a key for CreateRun and RetryRun.
func NewKey() string { return rand.Text() }

// CreateRun asks for a run. The same key gives the same run again; empty: one
// that is new.
func (c *Client) CreateRun(ctx context.Context, r RunRequest, key string) (Run, error) {
	var run Run
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"runs"}, header: keyed(key), body: r, out: &run})
	return run, err
}

// RetryRun asks for a new run of what an ended one did not publish. Keys are as
// in CreateRun.
func (c *Client) RetryRun(ctx context.Context, id, key string) (Run, error) {
	var run Run
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"runs", id, "retry"}, header: keyed(key), out: &run})
	return run, err
}

func keyed(key string) http.Header {
	if key == "" {
		key = NewKey()
	}
	return http.Header{idempotency: {key}}
}

// CancelRun asks a run to end, and gives how it is now; one that has ended stays
// as it is.
func (c *Client) CancelRun(ctx context.Context, id, reason string) (Run, error) {
	var run Run
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"runs", id, "cancel"}, body: CancelRequest{Reason: reason}, out: &run})
	return run, err
}

// Run gives a run with its tasks.
func (c *Client) Run(ctx context.Context, id string) (Run, error) {
	var run Run
	err := c.call(ctx, request{method: http.MethodGet, path: []string{"runs", id}, out: &run})
	return run, err
}

// RunQuery says which runs are listed; the zero value means all, a page of them.
type RunQuery struct {
	States           []State
	Submitter, Image string
	Labels           map[string]string
	// Runs on a page; 0: the controller's usual.
	Limit int
	// RunList.Next of the page before.
	After string
}

// Runs gives a page of runs, newest first.
func (c *Client) Runs(ctx context.Context, q RunQuery) (RunList, error) {
	v := url.Values{}
	for _, s := range q.States {
		v.Add("state", string(s))
	}
	for name, value := range map[string]string{"submitter": q.Submitter, "image": q.Image, "after": q.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(q.Labels)) {
		v.Add("label", name+"="+q.Labels[name])
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	var list RunList
	err := c.call(ctx, request{method: http.MethodGet, path: []string{"runs"}, query: v, out: &list})
	return list, err
}
