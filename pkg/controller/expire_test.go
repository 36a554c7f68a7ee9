package controller

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// Contexts, what is sealed, tokens, logs and runs go when their time is over,
// each no earlier, and nothing that is still used.
func TestExpire(t *testing.T) {
	const day = 24 * time.Hour
	var ahead atomic.Int64
	held := make(chan struct{})
	var blobs *flaky
	w := newWorld(t, func(a *agent) error {
		if a.Labels["image"] == "held" {
			<-held
		}
		return builds(a)
	}, func(o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		o.Limits.KeepContexts, o.Limits.KeepLogs, o.Limits.KeepRuns = 2*day, 4*day, 6*day
		// What expires is seen by the days alone.
		o.Limits.Start, o.Limits.Silence, o.Limits.Total = time.Hour, time.Hour, 100*day
		blobs = &flaky{Store: o.Blobs}
		o.Blobs = blobs
	})
	submit := func(image, context string) api.Run {
		t.Helper()
		p := planOf(image)
		p.Images[0].Source = nil
		run, _, err := w.Submit(t.Context(), Submission{Submitter: "x", IdempotencyKey: image, Request: api.RunRequest{
			Plan: p, Context: context, Credentials: []api.Credential{{Registry: "r", Password: "p"}}, Labels: map[string]string{"a": "b"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	old, used := w.contextOf("old"), w.contextOf("used")
	ended, running := submit("app", old), submit("held", used)
	w.end(ended.ID)
	w.archived(ended.ID)
	var token []byte
	w.launcher.mu.Lock()
	for _, l := range w.launcher.starts {
		if l.Run == ended.ID {
			token = tokenHash(l.Token)
		}
	}
	w.launcher.mu.Unlock()
	there := func(digest string) bool {
		t.Helper()
		_, err := blobs.Stat(t.Context(), contextKey(digest))
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	rows := func() (left []string) {
		t.Helper()
		err := w.o.Store.Read(t.Context(), func(tx *store.Tx) error {
			if _, _, err := tx.Inputs(ended.ID); err == nil {
				left = append(left, "inputs")
			}
			if _, err := tx.TaskOf(token); err == nil {
				left = append(left, "token")
			}
			if _, err := tx.Run(ended.ID); err == nil {
				left = append(left, "run")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if there(old) {
			left = append(left, "context")
		}
		if _, err := w.read(t.Context(), ended.ID, 0, "", false); err == nil {
			left = append(left, "log")
		} else if !errors.Is(err, ErrGone) && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return left
	}
	for _, c := range []struct {
		after time.Duration
		left  string
	}{
		{0, "inputs token run context log"},
		{2 * time.Hour, "inputs run context log"},
		{3 * day, "run log"},
		{5 * day, "run"},
		{7 * day, ""},
	} {
		ahead.Store(int64(c.after))
		if c.after == 3*day { // what cannot be deleted now is deleted later
			blobs.away.Store(true)
			if _, err := w.expireOnce(t.Context()); !errors.Is(err, errAway) {
				t.Errorf("expiring while the blob store is away: %v", err)
			}
			blobs.away.Store(false)
		}
		if _, err := w.expireOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rows(); !slices.Equal(got, strings.Fields(c.left)) {
			t.Errorf("after %s there are %q, want %q", c.after, got, c.left)
		}
		if c.after == 3*day {
			if _, err := w.Retry(t.Context(), ended.ID, "x", "", Grant{}); !errors.Is(err, ErrGone) {
				t.Errorf("trying again what has expired: %v", err)
			}
		}
	}
	if !there(used) {
		t.Error("the context of a run that goes on has expired")
	}
	close(held)
	if run := w.end(running.ID); run.State != api.Succeeded {
		t.Errorf("%s %s", run.State, run.Reason)
	}
	if list, err := w.List(t.Context(), Filter{Labels: map[string]string{"a": "b"}}); err != nil || len(list.Runs) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	// The key of a run that is gone may be used again, and a context brought again.
	if again := submit("app", w.contextOf("old")); again.ID == ended.ID {
		t.Error("a run that expired came back")
	}
}
