package api

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Parse reads a TaskLog as encoding/json writes it, several times as fast as
// that reads it. False: it is written in another way, or wrong, and l is as it was.
func (l *TaskLog) Parse(data []byte) bool {
	// Once for all strings, which are parts of it.
	rest, ok := strings.CutPrefix(string(data), `{"from":`)
	if !ok {
		return false
	}
	digits, rest, ok := strings.Cut(rest, `,"lines":[`)
	if !ok || len(digits) > 1 && digits[0] == '0' || strings.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) {
		return false
	}
	from, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return false
	}
	lines := make([]TaskLine, 0, strings.Count(rest, `{"ts":"`))
	for len(lines) == 0 || rest[0] == ',' {
		if len(lines) > 0 {
			rest = rest[1:]
		}
		var line TaskLine
		if rest, ok = line.parse(rest); !ok || len(rest) == 0 {
			return false
		}
		lines = append(lines, line)
	}
	if strings.TrimRight(rest, "\n") != "]}" {
		return false
	}
	*l = TaskLog{From: from, Lines: lines}
	return true
}

// parse reads a line at the beginning of text and gives what follows it.
func (l *TaskLine) parse(text string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(text, `{"ts":`)
	if !ok {
		return "", false
	}
	at, rest, ok := parseString(rest)
	if !ok || l.Time.UnmarshalText([]byte(at)) != nil {
		return "", false
	}
	if after, has := strings.CutPrefix(rest, `,"level":`); has {
		if l.Level, rest, ok = parseString(after); !ok {
			return "", false
		}
	}
	if rest, ok = strings.CutPrefix(rest, `,"message":`); !ok {
		return "", false
	}
	if l.Message, rest, ok = parseString(rest); !ok {
		return "", false
	}
	if after, has := strings.CutPrefix(rest, `,"more":true`); has {
		l.More, rest = true, after
	}
	return strings.CutPrefix(rest, "}")
}

// parseString reads a JSON string at the beginning of text.
func parseString(text string) (s, rest string, ok bool) {
	if text == "" || text[0] != '"' {
		return "", "", false
	}
	plain := true
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' && plain:
			return text[1:i], text[i+1:], utf8.ValidString(text[1:i])
		case c == '"':
			err := json.Unmarshal([]byte(text[:i+1]), &s)
			return s, text[i+1:], err == nil
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			return "", "", false
		}
	}
	return "", "", false
}
