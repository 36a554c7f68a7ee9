package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// How long SQLite itself waits for a lock of another process.
	busy = 500 * time.Millisecond
	// How long the writer goes on asking for it.
	patience = 30 * time.Second
	// Most calls that share a transaction.
	together = 256
)

// writer runs the transactions that write, one after the other. What comes
// while one is made durable shares the next one.
type writer struct {
	s      *session
	queue  chan *call
	closed chan struct{}
	done   chan struct{}
	once   sync.Once
}

type call struct {
	ctx   context.Context
	fn    func(*Tx) error
	tx    Tx
	err   error
	ended chan struct{}
}

func newWriter(s *session) *writer {
	return &writer{s: s, queue: make(chan *call, together), closed: make(chan struct{}), done: make(chan struct{})}
}

// do hands fn to the writer and waits for it.
func (w *writer) do(ctx context.Context, fn func(*Tx) error) error {
	c := &call{ctx: ctx, fn: fn, ended: make(chan struct{})}
	select {
	case w.queue <- c:
	case <-w.closed:
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.ended:
	case <-w.done:
		select {
		case <-c.ended:
		default: // it came too late to be looked at
			return fmt.Errorf("%w: it was closed", ErrUnavailable)
		}
	}
	return c.err
}

func (w *writer) close() {
	w.once.Do(func() { close(w.closed) })
	<-w.done
}

func (w *writer) run() {
	defer close(w.done)
	for {
		var calls []*call
		select {
		case c := <-w.queue:
			calls = append(calls, c)
		case <-w.closed:
			select {
			case c := <-w.queue: // what was handed over is still done
				calls = append(calls, c)
			default:
				return
			}
		}
		for len(calls) < together && len(w.queue) > 0 {
			calls = append(calls, <-w.queue)
		}
		if err := w.commit(calls); err != nil {
			for _, c := range calls {
				if c.err == nil {
					c.err = err
				}
			}
		}
		for _, c := range calls {
			if c.err == nil {
				for _, fn := range c.tx.after {
					fn()
				}
			}
			close(c.ended)
		}
	}
}

// commit runs the calls in one transaction. Errors of single calls stay with
// them; an error that is returned is everybody's.
func (w *writer) commit(calls []*call) error {
	if err := w.begin(calls); err != nil {
		return err
	}
	alone := len(calls) == 1
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		if !alone {
			if _, err := w.s.exec("SAVEPOINT one"); err != nil {
				return w.undo(err)
			}
		}
		c.tx = Tx{session: w.s}
		c.err = c.fn(&c.tx)
		switch {
		case errors.Is(c.err, ErrUnavailable) || c.err != nil && alone:
			return w.undo(c.err)
		case c.err != nil:
			if _, err := w.s.exec("ROLLBACK TO one"); err != nil {
				return w.undo(err)
			}
		}
		if !alone {
			if _, err := w.s.exec("RELEASE one"); err != nil {
				return w.undo(err)
			}
		}
	}
	if _, err := w.s.exec("COMMIT"); err != nil {
		return w.undo(err)
	}
	return nil
}

// begin takes the database's lock, and waits for it as long as anybody who
// called does, but not for ever.
func (w *writer) begin(calls []*call) error {
	until := time.Now().Add(patience)
	for {
		_, err := w.s.exec("BEGIN IMMEDIATE")
		if err == nil || !errors.Is(err, ErrUnavailable) || time.Now().After(until) {
			return err
		}
		waiting := false
		for _, c := range calls {
			waiting = waiting || c.ctx.Err() == nil
		}
		if !waiting {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// undo ends a transaction that cannot go on, for err. SQLite may have ended it
// already.
func (w *writer) undo(err error) error {
	_, _ = w.s.exec("ROLLBACK")
	return err
}
