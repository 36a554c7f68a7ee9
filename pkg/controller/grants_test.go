package controller

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// What tokens are good for is kept as long as they are, and what submitters
// may have as long as there are runs of theirs.
func TestGrants(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		return a.succeed()
	})
	submit := func(submitter string, g Grant) (api.Run, error) {
		run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("app")}, Submitter: submitter, Grant: g})
		return run, err
	}
	look := func() (quota int, spent []string) {
		t.Helper()
		if err := w.options.Store.Read(t.Context(), func(tx *store.Tx) (err error) {
			if quota, err = tx.Quota("one"); err == nil {
				spent, err = tx.Spent("token")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return quota, spent
	}
	g := Grant{Tasks: 3, Token: "token", Runs: 2, Until: time.Now().Add(time.Hour)}
	first, err := submit("one", g)
	if err != nil {
		t.Fatal(err)
	}
	g.Tasks = 5
	second, err := submit("one", g)
	if err != nil {
		t.Fatal(err)
	}
	if quota, spent := look(); quota != 5 || len(spent) != 2 || spent[0] != first.ID || spent[1] != second.ID {
		t.Errorf("%d %v", quota, spent)
	}
	// What is refused leaves nothing behind.
	g.Tasks = 7
	if _, err := submit("one", g); !errors.Is(err, ErrSpent) {
		t.Error(err)
	}
	if quota, _ := look(); quota != 5 {
		t.Errorf("a run that was refused made the quota %d", quota)
	}
	w.end(first.ID)
	w.end(second.ID)
	third, err := submit("one", Grant{})
	if err != nil {
		t.Fatal(err)
	}
	if quota, _ := look(); quota != 0 {
		t.Errorf("a token without quota leaves %d", quota)
	}
	w.end(third.ID)
	if _, err := submit("two", Grant{Tasks: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.options.Store.Write(t.Context(), nil, func(tx *store.Tx) error {
		return errors.Join(tx.SetQuota("nobody", 4), tx.SetQuota("two", 9), tx.DropGrants(time.Now().Add(2*time.Hour)))
	}); err != nil {
		t.Fatal(err)
	}
	if _, spent := look(); len(spent) != 0 {
		t.Errorf("a token that ended is remembered: %v", spent)
	}
	if err := w.options.Store.Read(t.Context(), func(tx *store.Tx) error {
		nobody, err := tx.Quota("nobody")
		two, err2 := tx.Quota("two")
		if nobody != 0 || two != 9 {
			t.Errorf("nobody has %d, two has %d", nobody, two)
		}
		return errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
}

// A token starts one run, whichever controllers it is sent to at once.
func TestTokenAtSeveralControllers(t *testing.T) {
	do := func(a *agent) error { return a.claim() }
	one := newWorld(t, do)
	two := newWorldOn(t, one.where, do, func(o *Options) { o.Instance, o.Keys = "two", one.options.Keys })
	for round := range 5 {
		g := Grant{Tasks: round + 1, Token: "token-" + strconv.Itoa(round), Runs: 1, Until: time.Now().Add(time.Hour)}
		var wg sync.WaitGroup
		var made, refused atomic.Int64
		for i := range 10 {
			at := []*world{one, two}[i%2]
			wg.Go(func() {
				_, _, err := at.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: planOf("app")}, Submitter: "one", Grant: g})
				switch {
				case err == nil:
					made.Add(1)
				case errors.Is(err, ErrSpent):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 || refused.Load() != 9 {
			t.Errorf("%d runs, %d refused", made.Load(), refused.Load())
		}
	}
}
