package engine

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/quote"
)

// maxLine bounds a line of the log, and so the memory that it takes: longer
// ones are cut in pieces.
const maxLine = 64 << 10

// logWriter takes what scripts and engines write and passes it on line by
// line, safe to show: without colours and control characters, secrets
// replaced. It never fails a writer; Close gives the first error of its
// destinations. It is safe for concurrent use.
type logWriter struct {
	mu     sync.Mutex
	outs   []io.Writer
	err    error
	strip  stripper
	redact redactor
	line   []byte
	ready  []byte // lines for outs
	cut    []int  // where lines in ready end that go on with the next
	// Whether the last byte was a carriage return, whose line is written already.
	afterReturn bool
}

func newLogWriter(outs ...io.Writer) *logWriter { return &logWriter{outs: outs} }

// hide makes the log mask values, and their usual encodings, from now on.
// Those of fewer than minSecret bytes are left alone.
func (l *logWriter) hide(values ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range values {
		l.redact.hide(v)
	}
}

// masked gives a text as the log would show it.
func (l *logWriter) masked(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.redact.text(text)
}

// error gives an error whose text is as the log would show it.
func (l *logWriter) error(err error) error {
	if text := l.masked(err.Error()); text != err.Error() {
		return maskedError{text, err}
	}
	return err
}

type maskedError struct {
	text string
	err  error
}

func (e maskedError) Error() string { return e.text }
func (e maskedError) Unwrap() error { return e.err }

// Write takes bytes as they come.
func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.split(l.redact.next(l.strip.next(p), false))
	l.flush()
	return len(p), nil
}

// say writes a line of pipegen's own.
func (l *logWriter) say(line string) {
	_, _ = l.Write([]byte(line + "\n"))
}

// Close writes what is left.
func (l *logWriter) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.split(l.redact.next(nil, true))
	if len(l.line) > 0 {
		l.end()
	}
	l.flush()
	return l.err
}

// split makes lines of p.
func (l *logWriter) split(p []byte) {
	for len(p) > 0 {
		if len(l.ready) >= maxLine {
			l.flush()
		}
		room := maxLine - len(l.line)
		part, ends := p[:min(len(p), room+1)], false
		if i := bytes.IndexByte(part, '\n'); i >= 0 {
			part, ends = part[:i], true
		}
		// A carriage return ends a line too: progress bars write nothing else.
		if i := bytes.IndexByte(part, '\r'); i >= 0 {
			part, ends = part[:i], true
		}
		if len(part) > room {
			l.line = append(l.line, part[:room]...)
			p = p[room:]
			l.end()
			l.cut = append(l.cut, len(l.ready))
			continue
		}
		p = p[len(part):]
		switch {
		case !ends:
			l.line = append(l.line, part...)
			continue
		case len(l.line) == 0 && len(part) > 0 && isPlain(part): // as most are
			l.ready = append(append(l.ready, part...), '\n')
		case len(l.line)+len(part) > 0 || p[0] == '\n' && !l.afterReturn:
			l.line = append(l.line, part...)
			l.end()
		}
		l.afterReturn = p[0] == '\r'
		p = p[1:]
	}
}

// end ends the line. What does not end a UTF-8 sequence stays for the next
// piece.
func (l *logWriter) end() {
	line, rest := l.line, []byte(nil)
	if len(line) >= maxLine {
		if n := incomplete(line); n > 0 {
			line, rest = line[:len(line)-n], slices.Clone(line[len(line)-n:])
		}
	}
	if isPlain(line) {
		l.ready = append(l.ready, line...)
	} else {
		for i, cell := range strings.Split(string(line), "\t") {
			if i > 0 {
				l.ready = append(l.ready, '\t')
			}
			l.ready = append(l.ready, quote.Text(cell)...)
		}
	}
	l.ready = append(l.ready, '\n')
	l.line = append(l.line[:0], rest...)
}

// flush passes lines on.
func (l *logWriter) flush() {
	if len(l.ready) == 0 {
		return
	}
	for _, w := range l.outs {
		var err error
		if lines, ok := w.(LineWriter); ok {
			err = lines.WriteLines(l.ready, l.cut)
		} else {
			_, err = w.Write(l.ready)
		}
		if err != nil && l.err == nil {
			l.err = err
		}
	}
	l.ready, l.cut = l.ready[:0], l.cut[:0]
}

// isPlain says whether a line is of printable ASCII and tabs alone.
func isPlain(line []byte) bool {
	for _, c := range line {
		if (c < ' ' || c > '~') && c != '\t' {
			return false
		}
	}
	return true
}

// incomplete gives the length of a UTF-8 sequence that b cuts short at its end.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// stripper removes escape sequences of terminals (ECMA-48) from a stream.
type stripper struct{ state byte }

const (
	inText byte = iota
	afterEscape
	inControl // CSI: parameters, up to a letter
	inString  // OSC and its like: up to BEL or ST
	inStringEscape
)

func (s *stripper) next(p []byte) []byte {
	if s.state == inText && bytes.IndexByte(p, 0x1b) < 0 {
		return p
	}
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case s.state == inText && c != 0x1b:
			n := bytes.IndexByte(p[i:], 0x1b)
			if n < 0 {
				n = len(p) - i
			}
			out = append(out, p[i:i+n]...)
			i += n - 1
		case c == '\n': // nothing reaches into the next line
			s.state = inText
			out = append(out, c)
		case c == 0x1b && s.state != inString:
			s.state = afterEscape
		case s.state == afterEscape || s.state == inStringEscape:
			s.escape(c)
		case s.state == inControl:
			if c < 0x20 || c > 0x3f {
				s.state = inText
			}
		case c == 0x07:
			s.state = inText
		case c == 0x1b:
			s.state = inStringEscape
		}
	}
	return out
}

// escape takes the byte after ESC.
func (s *stripper) escape(c byte) {
	switch {
	case s.state == inStringEscape && c != '\\':
		s.state = inString
	case c == '[':
		s.state = inControl
	case c == ']' || c == 'P' || c == '^' || c == '_' || c == 'X':
		s.state = inString
	case c >= 0x20 && c <= 0x2f: // an intermediate byte: one more follows
	default:
		s.state = inText
	}
}
