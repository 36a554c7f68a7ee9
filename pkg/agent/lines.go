package agent

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/api"
)

// maxLine bounds the message of a line, in bytes; longer ones go on in the next.
const maxLine = 64 << 10

// logger makes lines of what a build writes, and counts them. It is safe for
// concurrent use, and implements engine.LineWriter.
type logger struct {
	to  *spool
	now func() time.Time

	mu    sync.Mutex
	rest  []byte // of a line that is not at its end
	left  int64  // bytes that may still come
	limit int64
	// What came after that.
	lostLines, lostBytes int64
}

func newLogger(to *spool, limit int64, now func() time.Time) *logger {
	return &logger{to: to, now: now, left: limit, limit: limit}
}

// Write takes bytes as they come. It never fails.
func (l *logger) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		l.line(append(l.rest, p[:i]...), false)
		l.rest, p = l.rest[:0], p[i+1:]
	}
	l.rest = append(l.rest, p...)
	if len(l.rest) > 2*maxLine {
		text := l.rest
		for len(text) > maxLine {
			cut := boundary(text, maxLine)
			l.line(text[:cut], true)
			text = text[cut:]
		}
		l.rest = append(l.rest[:0], text...)
	}
	return n, nil
}

// WriteLines implements engine.LineWriter.
func (l *logger) WriteLines(p []byte, cut []int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := 0; at < len(p); {
		end := at + bytes.IndexByte(p[at:], '\n')
		if end < at {
			end = len(p)
		}
		text := p[at:end]
		at = end + 1
		more := len(cut) > 0 && cut[0] == at
		if more {
			cut = cut[1:]
		}
		l.line(text, more)
	}
	return nil
}

// close writes what is left, and says what was left out.
func (l *logger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.line(l.rest, false)
		l.rest = nil
	}
	if l.lostLines > 0 {
		l.put("warning", fmt.Sprintf("%d lines of the log with %d bytes were left out: it may have %d bytes", l.lostLines, l.lostBytes, l.limit), false)
	}
}

// say writes a line of the agent's own, whatever the limit.
func (l *logger) say(level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for text := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		for text != "" {
			cut := boundary([]byte(text), maxLine)
			l.put(level, text[:cut], cut < len(text))
			text = text[cut:]
		}
	}
}

// line takes one line of the build, in pieces if it is too long; more says that
// the next goes on with it.
func (l *logger) line(text []byte, more bool) {
	level := "info"
	switch {
	case bytes.HasPrefix(text, []byte("warning: ")):
		level = "warning"
	case bytes.HasPrefix(text, []byte("failed: ")):
		level = "error"
	}
	for {
		cut := boundary(text, maxLine)
		piece, rest := text[:cut], text[cut:]
		if l.lostLines > 0 || int64(len(piece)) > l.left {
			l.lose(text)
			return
		}
		l.left -= int64(len(piece))
		l.put(level, string(piece), more || len(rest) > 0)
		if text = rest; len(text) == 0 {
			return
		}
	}
}

// lose counts a line that is left out, and says so once.
func (l *logger) lose(text []byte) {
	if l.lostLines == 0 {
		l.put("warning", fmt.Sprintf("the log has reached its limit of %d bytes: what follows is left out", l.limit), false)
	}
	l.lostLines++
	l.lostBytes += int64(len(text))
}

func (l *logger) put(level, text string, more bool) {
	l.to.add(api.TaskLine{Time: l.now(), Level: level, Message: strings.ToValidUTF8(text, "\uFFFD"), More: more})
}

// boundary gives where to cut a text so that it has at most n bytes, once what
// is no UTF-8 was replaced, and no character is cut in two.
func boundary(text []byte, n int) int {
	if len(text) <= n/3 { // each byte becomes three at most
		return len(text)
	}
	size, at := 0, 0
	for at < len(text) {
		r, width := utf8.DecodeRune(text[at:])
		shown := width
		if r == utf8.RuneError && width == 1 {
			shown = 3
		}
		if size += shown; size > n {
			return max(at, 1)
		}
		at += width
	}
	return at
}
