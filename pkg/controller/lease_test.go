package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

const shortLease = 300 * time.Millisecond

func (w *world) signs() (all []store.Sign) {
	w.t.Helper()
	if err := w.options.Store.Read(w.t.Context(), func(tx *store.Tx) (err error) { all, err = tx.Signs(); return err }); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// A controller that comes back under its name after longer than a lease is not
// taken for the one that was gone, however many signs of life it has given.
func TestComesBack(t *testing.T) {
	w := newWorld(t, builds, func(o *Options) { o.Limits.Lease = shortLease })
	_, _ = w.second("two")
	for range 2 {
		time.Sleep(shortLease)
		w.stop() // says if it was displaced
		time.Sleep(2 * shortLease)
		w.start()
	}
	run := w.submit("app")
	time.Sleep(2 * shortLease)
	if run = w.end(run.ID); run.State != api.Succeeded {
		t.Errorf("%s %s", run.State, run.Reason)
	}
	if len(w.signs()) != 2 {
		t.Errorf("%+v", w.signs())
	}
}

// A controller that stood still until others took over goes on as if new.
func TestStoodStill(t *testing.T) {
	w := newWorld(t, builds, func(o *Options) { o.Limits.Lease = shortLease })
	for len(w.signs()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := w.options.Store.Write(t.Context(), nil, func(tx *store.Tx) error {
		signs, err := tx.Signs()
		if err != nil {
			return err
		}
		buried, err := tx.Bury(signs[0])
		if !buried {
			t.Error("it is not known")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if run := w.end(w.submit("app").ID); run.State != api.Succeeded {
		t.Errorf("%s %s", run.State, run.Reason)
	}
	time.Sleep(shortLease)
	if !slices.ContainsFunc(w.signs(), func(s store.Sign) bool { return s.Name == "one" && s.Beat > 0 }) {
		t.Errorf("%+v", w.signs())
	}
}
