package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// How long the writer goes on asking for a lock of another process, or for a
	// server that is away.
	patience = 30 * time.Second
	// Most calls that share a transaction.
	together = 256
)

// errAgain says that a transaction was undone for no fault of its own, and may
// be made again at once.
var errAgain = fmt.Errorf("%w: others were faster, again and again", ErrUnavailable)

// writer runs the transactions that write, one after the other. What comes
// while one is made durable shares the next one.
type writer struct {
	s      *session
	most   int // calls in a transaction
	queue  chan *call
	closed chan struct{}
	done   chan struct{}
	once   sync.Once
}

type call struct {
	ctx   context.Context
	keys  []Key
	fn    func(*Tx) error
	tx    Tx
	err   error
	ended chan struct{}
}

func newWriter(s *session, most int) *writer {
	w := &writer{s: s, most: most, queue: make(chan *call, together), closed: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// do hands fn to the writer and waits for it.
func (w *writer) do(ctx context.Context, keys []Key, fn func(*Tx) error) error {
	c := &call{ctx: ctx, keys: keys, fn: fn, ended: make(chan struct{})}
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
		for len(calls) < w.most && len(w.queue) > 0 {
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

// commit runs the calls in one transaction, and again if it was undone for no
// fault of theirs, as long as anybody who called waits, but not for ever. Errors
// of single calls stay with them; an error that is returned is everybody's.
func (w *writer) commit(calls []*call) error {
	until := time.Now().Add(patience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		again, err := w.try(calls)
		if errors.Is(err, errApart) {
			for _, c := range calls {
				if err := w.commit([]*call{c}); err != nil {
					c.err = err
				}
			}
			return nil
		}
		waiting := slices.ContainsFunc(calls, func(c *call) bool { return c.ctx.Err() == nil })
		if !again || !waiting || time.Now().After(until) {
			return err
		}
		time.Sleep(wait)
	}
}

// errApart says that calls cannot share a transaction: one of them fails after
// it has written.
var errApart = errors.New("each call needs a transaction of its own")

// try runs the calls in one transaction. again: it was undone, and may do
// better another time.
func (w *writer) try(calls []*call) (again bool, err error) {
	mark, err := w.begin(calls)
	if err != nil {
		return errors.Is(err, ErrUnavailable), w.undo(err)
	}
	alone := len(calls) == 1
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		c.tx = Tx{session: w.s, keys: c.keys}
		w.s.next()
		c.err = cmp.Or(c.fn(&c.tx), w.s.fault)
		switch {
		case c.err == nil:
		case w.s.broken || errors.Is(c.err, errAgain):
			return true, w.undo(c.err)
		case w.s.fault != nil && errors.Is(c.err, ErrUnavailable):
			return !w.s.begun, w.undo(c.err)
		case alone:
			return false, w.undo(c.err)
		case w.s.fault != nil || !w.s.retract():
			return false, w.undo(errApart)
		}
	}
	err = w.s.end("COMMIT")
	switch {
	case err == nil:
		return false, nil
	case !w.s.broken && !alone && !errors.Is(err, ErrUnavailable): // which includes errAgain
		return false, w.undo(errApart)
	case !w.s.broken:
		return errors.Is(err, errAgain) || !w.s.begun && errors.Is(err, ErrUnavailable), w.undo(err)
	}
	// Whether it is durable only the server knows.
	kept, e := w.kept(mark)
	switch {
	case e != nil:
		return false, fmt.Errorf("%w; whether it was done is not known: %w", err, e)
	case kept:
		return false, nil
	}
	return true, err
}

// begin starts a transaction about all that the calls are about.
func (w *writer) begin(calls []*call) (mark int64, err error) {
	// Not the context of one of those who called.
	ctx, cancel := w.s.d.statement()
	defer cancel()
	if err := w.s.connect(ctx); err != nil {
		return 0, err
	}
	var keys []Key
	for _, c := range calls {
		keys = append(keys, c.keys...)
	}
	return w.s.d.begin(w.s, keys)
}

// kept asks whether a transaction is durable, until there is an answer, but not
// for ever.
func (w *writer) kept(mark int64) (kept bool, err error) {
	for until := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := w.s.d.statement()
		err = w.s.connect(ctx)
		cancel()
		if err == nil {
			kept, err = w.s.d.kept(w.s, mark)
		}
		if err == nil || !errors.Is(err, ErrUnavailable) || time.Now().After(until) {
			return kept, err
		}
	}
}

// undo ends a transaction that cannot go on, for err. The database may have
// ended it already.
func (w *writer) undo(err error) error {
	_ = w.s.end("ROLLBACK")
	return err
}
