package runner

import (
	"bytes"
	"sync"
)

// maxLine bounds a line of a log and so the memory that it takes: longer ones
// are passed on in pieces.
const maxLine = 64 << 10

// lineWriter passes on what is written to it line by line, without the ends
// of lines. It is safe for concurrent use.
type lineWriter struct {
	emit func(line string)
	mu   sync.Mutex
	rest []byte
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		line, after, ended := bytes.Cut(p, []byte("\n"))
		if room := maxLine - len(w.rest); len(line) > room {
			line, after, ended = p[:room], p[room:], true
		}
		w.rest = append(w.rest, line...)
		if ended {
			w.emitRest()
		}
		p = after
	}
	return n, nil
}

// flush passes on a last line without end.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		w.emitRest()
	}
}

func (w *lineWriter) emitRest() {
	w.emit(string(bytes.TrimSuffix(w.rest, []byte("\r"))))
	w.rest = w.rest[:0]
}
