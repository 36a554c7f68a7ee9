package runner

import (
	"strconv"
	"strings"
	"testing"
)

// screen is a terminal that knows the sequences that live lines use, and fails
// the test at any other, and where a line that is redrawn had wrapped or left
// the window.
type screen struct {
	t             *testing.T
	columns, rows int
	lines         [][]rune // with what has scrolled out
	row, column   int      // of the cursor, in lines
	frames        []string
}

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	for text != "" {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, nil)
		}
		if after, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexAny(after, "ABCDHJKhlm")
			s.control(after[:end], after[end])
			text = after[end+1:]
			continue
		}
		end := strings.IndexAny(text, "\x1b\n\r")
		switch {
		case end == 0 && text[0] == '\n':
			s.row, s.column, end = s.row+1, 0, 1
		case end == 0:
			s.column, end = 0, 1
		case end < 0:
			end = len(text)
			fallthrough
		default:
			s.put([]rune(text[:end]))
		}
		text = text[end:]
	}
	return len(p), nil
}

func (s *screen) control(args string, final byte) {
	switch {
	case final == 'A':
		n, err := strconv.Atoi(args)
		if err != nil || n >= s.rows || n > s.row {
			s.t.Fatalf("the cursor goes %q up from line %d in a window of %d", args, s.row, s.rows)
		}
		s.row -= n
		for _, l := range s.lines[s.row:] {
			if columns(string(l)) >= s.columns {
				s.t.Errorf("a line of %d columns is redrawn: %s", columns(string(l)), string(l))
			}
		}
	case final == 'J' && args == "":
		s.lines = s.lines[:s.row+1]
		s.lines[s.row] = s.lines[s.row][:s.column]
	case final == 'K' && args == "":
		s.lines[s.row] = s.lines[s.row][:s.column]
	case final == 'm':
	case args == "?2026" && final == 'h':
	case args == "?2026" && final == 'l':
		s.frames = append(s.frames, s.String())
	default:
		s.t.Fatalf("unknown control sequence %q", args+string(final))
	}
}

func (s *screen) put(text []rune) {
	line := s.lines[s.row]
	end := s.column + len(text)
	s.lines[s.row] = append(line[:s.column:s.column], text...)
	if end < len(line) {
		s.lines[s.row] = append(s.lines[s.row], line[end:]...)
	}
	s.column = end
}

// String gives what can be seen, and all above it.
func (s *screen) String() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(string(l) + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}
