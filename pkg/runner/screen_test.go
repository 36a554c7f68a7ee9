package runner

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// screen is a terminal that knows the sequences that live lines use, and fails
// the test at any other. What scrolls out of its rows can no longer be changed.
type screen struct {
	t             *testing.T
	columns, rows int
	lines         []string // with what has scrolled out
	row           int      // of the cursor, in lines
	frames        []string
}

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := strings.IndexAny(text[2:], "ABCDHJKhlm") + 2
			s.control(text[2:end], text[end])
			text = text[end+1:]
		case text[0] == '\n':
			s.row++
			s.line(s.row)
			text = text[1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			end := strings.IndexAny(text, "\x1b\n\r")
			if end < 0 {
				end = len(text)
			}
			s.put(text[:end])
			text = text[end:]
		}
	}
	return len(p), nil
}

// control does a control sequence. Text always starts at the first column, so
// that the cursor's column needs no account.
func (s *screen) control(args string, final byte) {
	switch {
	case final == 'A':
		n, err := strconv.Atoi(args)
		if err != nil || s.row-n < len(s.lines)-s.rows {
			s.t.Errorf("the cursor goes %q up from line %d of %d and leaves the window", args, s.row, len(s.lines))
			return
		}
		s.row -= n
		for i := s.row; i < len(s.lines); i++ {
			s.lines[i] = "\x00" + s.lines[i] // to be replaced
		}
	case final == 'J' && args == "":
		s.lines = s.lines[:s.row+1]
		s.lines[s.row] = ""
	case final == 'K' && args == "":
	case final == 'm':
		s.line(s.row)
	case args == "?2026" && final == 'h':
	case args == "?2026" && final == 'l':
		s.frames = append(s.frames, s.String())
	default:
		s.t.Errorf("unknown control sequence %q", args+string(final))
	}
}

func (s *screen) line(i int) {
	for len(s.lines) <= i {
		s.lines = append(s.lines, "")
	}
}

func (s *screen) put(text string) {
	s.line(s.row)
	s.lines[s.row] = strings.TrimPrefix(replaced(s.lines[s.row]), "\x00") + text
	if n := columns(s.lines[s.row]); n >= s.columns && s.row >= len(s.lines)-s.rows && !strings.Contains(s.lines[s.row], "(wraps)") {
		s.lines[s.row] += fmt.Sprintf(" (%d columns)", n)
	}
}

// replaced empties a line that a new frame writes over.
func replaced(line string) string {
	if strings.HasPrefix(line, "\x00") {
		return ""
	}
	return line
}

// String gives what can be seen, and all above it.
func (s *screen) String() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(strings.TrimPrefix(l, "\x00") + "\n")
	}
	return b.String()
}
