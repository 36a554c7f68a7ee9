package engine

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func logged(secrets []string, writes ...string) string {
	var out strings.Builder
	l := newLogWriter(&out)
	l.hide(secrets...)
	for _, w := range writes {
		_, _ = io.WriteString(l, w)
	}
	_ = l.Close()
	return out.String()
}

func TestLog(t *testing.T) {
	long := strings.Repeat("é", maxLine/2) // fills a line to the byte
	tests := []struct {
		name    string
		secrets []string
		writes  []string
		want    string
	}{
		{"lines", nil, []string{"a\nb", "c\n", "d"}, "a\nbc\nd\n"},
		{"empty lines", nil, []string{"\n\na\n"}, "\n\na\n"},
		{"carriage returns", nil, []string{"10%\r20%\r", "\ndone\r\n\r\n"}, "10%\n20%\ndone\n"},
		{"colours", nil, []string{"\x1b[31mre\x1b", "[0", "md\x1b[0m\x1b]0;title\x07!\x1b]8;;u\x1b\\?\x1b(B.\n"}, "red!?.\n"},
		{"unfinished escape", nil, []string{"a\x1b]0;title\nb\n"}, "a\nb\n"},
		{"control characters", nil, []string{"a\x00\x07\xff\u202eb\tc\n"}, "a\\x00\\a\\xff\\u202eb\tc\n"},
		{"secret", []string{"hunter2"}, []string{"x hunter2 y\n"}, "x *** y\n"},
		{"secret in pieces", []string{"hunter2"}, []string{"x hu", "nt", "er2 y\n"}, "x *** y\n"},
		{"secret with colours", []string{"hunter2"}, []string{"hun\x1b[1mter2\n"}, "***\n"},
		{"not the secret", []string{"hunter2"}, []string{"hunt", "er3 hunter\n"}, "hunter3 hunter\n"},
		{"start of a secret at the end", []string{"hunter2"}, []string{"hunt"}, "hunt\n"},
		{"overlap", []string{"abcd", "cdef"}, []string{"xabc", "defy\n"}, "x***y\n"},
		{"one in another", []string{"abcd", "abcdefgh"}, []string{"abcdefg abcdefgh\n"}, "***efg ***\n"},
		{"base64", []string{"hunter2"}, []string{base64.StdEncoding.EncodeToString([]byte("hunter2")) + "\n"}, "***\n"},
		{"in a URL", []string{"p@ss/word"}, []string{"https://u:p%40ss%2Fword@x\n"}, "https://u:***@x\n"},
		{"several lines", []string{"-----BEGIN KEY-----\nabcdefghijklmnopqrst\n-----END KEY-----\n"}, []string{"abcdefghijklmnopqrst\n"}, "***\n"},
		{"too short", []string{"abc", ""}, []string{"abc\n"}, "abc\n"},
		{"long line", nil, []string{long + "x\n"}, long + "\nx\n"},
		{"long line cuts no character", nil, []string{"x" + long + "\n"}, "x" + long[:len(long)-2] + "\né\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := logged(tt.secrets, tt.writes...); got != tt.want {
				t.Errorf("got %.200q, want %.200q", got, tt.want)
			}
		})
	}
}

// A writer that takes the longest piece it was given.
type longest int

func (l *longest) Write(p []byte) (int, error) {
	*l = max(*l, longest(len(p)))
	return len(p), nil
}

func TestLogIsBounded(t *testing.T) {
	var most longest
	l := newLogWriter(&most)
	l.hide("a secret")
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	for range 10 << 20 / len(chunk) {
		if _, err := l.Write(chunk); err != nil {
			t.Fatal(err)
		}
		if cap(l.line) > 2*maxLine || len(l.redact.rest) > 100 {
			t.Fatalf("holds %d bytes of a line, %d of a secret", cap(l.line), len(l.redact.rest))
		}
	}
	if most == 0 || most > maxLine+1 {
		t.Errorf("the longest piece has %d bytes", most)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestLogKeepsTheFirstError(t *testing.T) {
	var out strings.Builder
	l := newLogWriter(full{}, &out)
	if _, err := io.WriteString(l, "a\nb\n"); err != nil {
		t.Errorf("the engine is told: %v", err)
	}
	if err := l.Close(); err == nil || out.String() != "a\nb\n" {
		t.Errorf("got %v and %q", err, out.String())
	}
}

func FuzzLog(f *testing.F) {
	f.Add("x hunter2 y\nhunt\x1b[1mer2", "hunter2", "ter2", uint64(1))
	f.Add("abcdef", "abcd", "cdef", uint64(2))
	f.Add("\x1b]0;secret\x07secret\r\n", "secret", "", uint64(3))
	f.Add("aaaaaaaaa", "aaaa", "aaaab", uint64(4))
	f.Fuzz(func(t *testing.T, text, one, two string, seed uint64) {
		whole := logged([]string{one, two}, text)
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces []string
		for rest := text; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 9))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		if got := logged([]string{one, two}, pieces...); got != whole {
			t.Fatalf("%q gives %q, in pieces %q", text, whole, got)
		}
		if !utf8.ValidString(whole) {
			t.Errorf("%q gives invalid UTF-8: %q", text, whole)
		}
		for _, secret := range []string{one, two} {
			// What is escaped, cut or replaced may show such a text by chance.
			if len(secret) >= minSecret && !strings.ContainsAny(secret, "*\\") && strings.Contains(whole, secret) && strings.IndexFunc(secret, func(r rune) bool { return r < ' ' }) < 0 &&
				!strings.Contains(whole, "\\") && len(text) < maxLine {
				t.Errorf("%q gives %q, which shows %q", text, whole, secret)
			}
		}
		for line := range strings.Lines(whole) {
			if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\r\x00\n") {
				t.Errorf("%q gives the line %q", text, line)
			}
		}
	})
}

// One write of 10 MB without an end of line, with secrets where it is cut.
func TestLogCutsNoSecret(t *testing.T) {
	const secret = "correct horse battery staple"
	text := []byte(strings.Repeat("x", 10<<20))
	for i := maxLine - len(secret)/2; i+len(secret) < len(text); i += maxLine - 7 {
		copy(text[i:], secret)
	}
	var most longest
	var out strings.Builder
	l := newLogWriter(&most, &out)
	l.hide(secret)
	if _, err := l.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(out.String(), "\n", "")
	if n := strings.Count(got, mask); n != 160 || strings.Trim(got, "x*") != "" {
		t.Errorf("%d masks, and %.100q", n, strings.Trim(got, "x*"))
	}
	if most > 2*maxLine+1 {
		t.Errorf("the longest write has %d bytes", most)
	}
}
