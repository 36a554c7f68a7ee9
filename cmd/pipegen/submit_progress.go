package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/client"
)

// transfer shows how a context is packed and sent: on a terminal in a line that
// is written over, and else when it is there.
type transfer struct {
	app      *app
	terminal *os.File // nil: none

	mu    sync.Mutex // of all below
	drawn time.Time
	ended bool
	said  string
}

func (a *app) transfer() *transfer {
	t := &transfer{app: a}
	if f, ok := a.terminal(); ok && a.logFormat == "simple" && !a.quiet {
		t.terminal = f
	}
	return t
}

// step shows a step of sending.
func (t *transfer) step(doing client.Step, done, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch doing {
	case client.Sent:
		t.said = fmt.Sprintf("context sent: %s", amount(total))
		return
	case client.Unchanged:
		t.said = fmt.Sprintf("context unchanged, %s: the controller has it", amount(total))
		return
	}
	if t.terminal == nil || t.ended || time.Since(t.drawn) < 100*time.Millisecond {
		return
	}
	t.drawn = time.Now()
	text := "packing the context: " + amount(done)
	if doing == client.Uploading {
		text = fmt.Sprintf("sending the context: %s of %s", amount(done), amount(total))
	}
	fmt.Fprint(t.terminal, "\r\x1b[K"+text)
}

// end removes the line, and says what was done.
func (t *transfer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.terminal != nil && !t.drawn.IsZero() {
		fmt.Fprint(t.terminal, "\r\x1b[K")
	}
	t.ended = true
	if t.said != "" {
		t.app.note("%s", t.said)
	}
}

// amount gives bytes for people.
func amount(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}
