package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

// forever is how long what must arrive is sent again, as far as the context
// allows.
const forever = 365 * 24 * time.Hour

// disowns says whether an answer means that the task is somebody else's, or
// over.
func disowns(err error) bool {
	for _, target := range []error{api.ErrUnauthorized, api.ErrForbidden, api.ErrNotFound, api.ErrGone} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// send brings the log to the controller until all of it is there. When the
// controller does not want it, the build is stopped.
func (t *task) send(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.spool.drop)()
	client := t.client.Patient(forever)
	for {
		from, lines, more, err := t.spool.batch(batchBytes, batchTime)
		if err == nil && !more {
			return context.Cause(ctx)
		}
		var ack api.LogAck
		if err == nil {
			ack, err = client.AppendLog(ctx, t.Task, api.TaskLog{From: from, Lines: lines})
		}
		if err == nil {
			err = t.spool.done(ack.Next)
		}
		if err == nil {
			continue
		}
		t.spool.drop()
		if disowns(err) {
			t.stop(errDisowned)
		} else if ctx.Err() == nil {
			t.stop(Fault(err))
		}
		return err
	}
}

// beat says that the agent lives, and stops the build when the controller wants
// that.
func (t *task) beat(ctx context.Context) {
	every := time.Duration(t.HeartbeatSeconds) * time.Second
	if every <= 0 {
		every = 10 * time.Second
	}
	client := t.client.Patient(every)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if wish := t.wish(ctx, client); wish != nil {
			t.stop(wish)
			if errors.Is(wish, errDisowned) {
				return
			}
		}
	}
}

// wish tells the controller that the agent lives, and gives why it wants the
// build stopped; nil: it does not, or does not answer.
func (t *task) wish(ctx context.Context, client *api.Client) error {
	var h api.Heartbeat
	if t.o.Usage != nil {
		u := t.o.Usage()
		h.Usage = &u
	}
	ack, err := client.Heartbeat(ctx, t.Task, h)
	switch {
	case err == nil && ack.Cancel:
		return errCancelled{ack.Reason}
	case disowns(err), errors.Is(err, api.ErrConflict):
		return errDisowned
	}
	return nil
}

// finish reports the result until the controller has it.
func (t *task) finish(ctx context.Context, r api.TaskResult) error {
	client := t.client.Patient(-1)
	unanswered := false // it may have been heard
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := client.Finish(ctx, t.Task, r)
		if err == nil {
			return nil
		}
		if unanswered && (disowns(err) || errors.Is(err, api.ErrConflict)) {
			return nil // the token was good until it was
		}
		_, broken := errors.AsType[*api.ConnectionError](err)
		e, refused := errors.AsType[*api.Error](err)
		if !broken && (!refused || !e.Temporary()) {
			return err
		}
		unanswered = true
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause/2 + rand.N(pause/2)): //nolint:gosec // no secret
		}
	}
}
