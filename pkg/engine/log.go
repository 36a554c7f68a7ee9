package engine

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// maxLine bounds a line of the log, and so the memory that it takes: longer
	// ones are cut in pieces.
	maxLine = 64 << 10
	// minSecret is the shortest value that is masked: replacing shorter ones
	// would garble the log and tell what they are.
	minSecret = 4
	mask      = "***"
)

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
	// Whether the last byte was a carriage return, whose line is written already.
	afterReturn bool
}

func newLogWriter(outs ...io.Writer) *logWriter { return &logWriter{outs: outs} }

// hide makes the log mask a value, and its usual encodings, from now on. Of a
// value with several lines, long ones are masked by themselves too: the log is
// read line by line.
func (l *logWriter) hide(values ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range values {
		l.redact.add(v)
		if trimmed := strings.TrimSpace(v); trimmed != v {
			l.redact.add(trimmed)
		}
		l.redact.add(base64.StdEncoding.EncodeToString([]byte(v)))
		l.redact.add(url.QueryEscape(v))
		for line := range strings.Lines(v) {
			if line = strings.TrimSpace(line); len(line) >= 16 {
				l.redact.add(line)
			}
		}
	}
}

// Write takes bytes as they come.
func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.split(l.redact.next(l.strip.next(p), false))
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
		l.emit()
	}
	return l.err
}

func (l *logWriter) split(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\n\r")
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := maxLine - len(l.line); len(part) > room {
			l.line = append(l.line, part[:room]...)
			p = p[room:]
			l.emit()
			continue
		}
		l.line = append(l.line, part...)
		if i < 0 {
			return
		}
		// A carriage return ends a line too: progress bars write nothing else.
		if len(l.line) > 0 || p[i] == '\n' && !l.afterReturn {
			l.emit()
		}
		l.afterReturn = p[i] == '\r'
		p = p[i+1:]
	}
}

// emit passes the line on. What does not end a UTF-8 sequence stays for the
// next piece.
func (l *logWriter) emit() {
	line, rest := l.line, []byte(nil)
	if len(line) >= maxLine {
		if n := incomplete(line); n > 0 {
			line, rest = line[:len(line)-n], slices.Clone(line[len(line)-n:])
		}
	}
	var b strings.Builder
	for i, cell := range strings.Split(string(line), "\t") {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(quote.Text(cell))
	}
	b.WriteByte('\n')
	for _, w := range l.outs {
		if _, err := io.WriteString(w, b.String()); err != nil && l.err == nil {
			l.err = err
		}
	}
	l.line = append(l.line[:0], rest...)
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
	for _, c := range p {
		switch {
		case c == '\n': // nothing reaches into the next line
			s.state = inText
			out = append(out, c)
		case c == 0x1b && s.state != inString:
			s.state = afterEscape
		case s.state == inText:
			out = append(out, c)
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

// redactor replaces secrets in a stream, also where writes cut them in two.
// Secrets that overlap are masked as one.
type redactor struct {
	secrets [][]byte
	first   [256]bool
	rest    []byte // may be the start of a secret
	covered int    // how much of rest belongs to a secret already masked
	masking bool   // whether the last byte was masked
}

func (r *redactor) add(secret string) {
	if len(secret) < minSecret || slices.ContainsFunc(r.secrets, func(s []byte) bool { return string(s) == secret }) {
		return
	}
	r.secrets = append(r.secrets, []byte(secret))
	r.first[secret[0]] = true
}

// next gives what can be shown of the stream once p has come; at its end, all.
func (r *redactor) next(p []byte, end bool) []byte {
	if len(r.secrets) == 0 {
		return p
	}
	buf := p
	if len(r.rest) > 0 {
		buf = slices.Concat(r.rest, p)
	}
	out := make([]byte, 0, len(buf))
	i := 0
	for ; i < len(buf); i++ {
		if r.first[buf[i]] {
			n, more := r.match(buf[i:])
			if more && !end {
				break
			}
			r.covered = max(r.covered, n)
		}
		switch {
		case r.covered == 0:
			out = append(out, buf[i])
			r.masking = false
			continue
		case !r.masking:
			out = append(out, mask...)
		}
		r.masking = true
		r.covered--
	}
	r.rest = slices.Clone(buf[i:])
	return out
}

// match gives the length of the longest secret that b starts with, and whether
// b might be the start of a longer one.
func (r *redactor) match(b []byte) (n int, more bool) {
	for _, s := range r.secrets {
		if bytes.HasPrefix(b, s) {
			n = max(n, len(s))
		} else if len(b) < len(s) && bytes.HasPrefix(s, b) {
			more = true
		}
	}
	return n, more
}
