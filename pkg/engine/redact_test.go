package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/quote"
)

func TestRedact(t *testing.T) {
	const token = "s3cr3t-T0ken/with+signs"
	odd := "p@ss 'w\"ör$d\\x&<é>!"
	key := "-----BEGIN KEY-----\nabcdefghijklmnopqrst\nuvwxyz0123456789+/==\n-----END KEY-----\n"
	std, web := base64.StdEncoding, base64.URLEncoding
	quoted := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Trim(string(b), `"`)
	}
	wrapped := func(s string) string {
		var out []string
		for line := range lines(std.EncodeToString([]byte(s)), 76) {
			out = append(out, line)
		}
		return strings.Join(out, "\n")
	}
	long := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz\\\"$", 40)
	tests := []struct{ name, secret, text, want string }{
		{"as it is", token, "a " + token + " b", "a *** b"},
		{"blanks around it", " \t" + token + "\r\n", "a " + token + " b", "a *** b"},
		{"base64", token, std.EncodeToString([]byte(token)), "***"},
		{"base64 with a newline", token, std.EncodeToString([]byte(token + "\n")), "***K"},
		{"base64 without padding", token + "?", base64.RawStdEncoding.EncodeToString([]byte(token + "?")), "***"},
		{"base64 for URLs", "~~~???>>>~~~", web.EncodeToString([]byte("~~~???>>>~~~")), "***"},
		{"base64 in a header, 0", token, std.EncodeToString([]byte("us:" + token)), "dXM6***"},
		{"base64 in a header, 1", token, std.EncodeToString([]byte("user1:" + token + "!?")), "dXNlcjE6***hPw=="},
		{"base64 in a header, 2", token, std.EncodeToString([]byte("use:" + token)), "dXNlOn***"},
		{"base64 in a longer text", token, std.EncodeToString([]byte("user:" + token + " and more")), "dXNlcjp***yBhbmQgbW9yZQ=="},
		{"base64 in lines", long, wrapped(long), "***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***\n***"},
		{"in a query", odd, "?q=" + url.QueryEscape(odd) + "&r=1", "?q=***&r=1"},
		{"in a path", odd, "/x/" + url.PathEscape(odd) + "/y", "/x/***/y"},
		{"small escapes", odd, "?q=" + lowerHex(url.QueryEscape(odd)), "?q=***"},
		{"blanks as %20", odd, strings.ReplaceAll(url.QueryEscape(odd), "+", "%20"), "***"},
		{"in JSON", odd, `{"k":"` + quoted(odd) + `"}`, `{"k":"***"}`},
		{"in JSON in ASCII", odd, `{"k":"p@ss 'w\"\u00f6r$d\\x&<\u00e9>!"}`, `{"k":"***"}`},
		{"as Go quotes", odd, strconv.Quote(odd), `"***"`},
		{"a message of pipegen's", "a\x00b\x01c\u202edef", quote.Text("a\x00b\x01c\u202edef"), "***"},
		{"in single quotes", odd, quote.Shell(odd), "'***'"},
		{"as dash quotes", odd, `'p@ss '"'"'w"ör$d\x&<é>!'`, "'***'"},
		{"as bash quotes", key, `$'-----BEGIN KEY-----\nabcdefghijklmnopqrst\nuvwxyz0123456789+/==\n-----END KEY-----\n'`, `$'***\n'`},
		{"as words", odd, `p@ss\ \'w\"ör\$d\\x\&\<é\>\!`, "***"},
		{"lines", key, key, "***\n***\n***\n***\n"},
		{"lines of another system", key, strings.ReplaceAll(key, "\n", "\r\n"), "***\n***\n***\n***\n"},
		{"indented lines", key, "  " + strings.ReplaceAll(key, "\n", "\n  "), "  ***\n  ***\n  ***\n  ***\n  "},
		{"one of its lines", key, "x uvwxyz0123456789+/== y", "x *** y"},
		{"lines in base64", key, std.EncodeToString([]byte(key)), "***o="},
		{"lines in JSON", key, quoted(key), `***\n`},
		{"short lines", "ab\ncd\nef\ngh", "x ab\ncd\nef\ngh y", "x *** y"},
		{"a short last line", "abcdefghijkl\nmn", "abcdefghijkl\nmn abcdefghijkl", "*** ***"},
		{"longer than a piece", long, "x " + long + " y", "x *** y"},
		{"longer than a piece, in JSON", long, quoted(long), "***"},
		{"too short", "abc", "abc YWJj", "abc YWJj"},
		{"blanks alone", "        ", "a         b", "a         b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := logged([]string{tt.secret}, tt.text+"\n"); got != tt.want+"\n" {
				t.Errorf("%q gives %q, want %q", tt.text, got, tt.want+"\n")
			}
			var pieces []string
			for _, c := range []byte(tt.text + "\n") {
				pieces = append(pieces, string([]byte{c}))
			}
			if got := logged([]string{tt.secret}, pieces...); got != tt.want+"\n" {
				t.Errorf("%q, byte by byte, gives %q, want %q", tt.text, got, tt.want+"\n")
			}
		})
	}
}

// A line is passed on when it ends, not when it can no longer be the start of a
// secret.
func TestRedactHoldsNoLineBack(t *testing.T) {
	var out strings.Builder
	l := newLogWriter(&out)
	l.hide("hunter2hunter2", "-----BEGIN KEY-----\nabcdefghijklmnopqrst\n-----END KEY-----\n")
	for _, line := range []string{"a hunter2\n", "-----BEGIN\n", "h\n"} {
		out.Reset()
		if _, err := io.WriteString(l, line); err != nil || out.String() != line {
			t.Errorf("after %q: %q, %v", line, out.String(), err)
		}
	}
}

func TestMasked(t *testing.T) {
	var out strings.Builder
	l := newLogWriter(&out)
	l.hide("hunter2", "correct horse")
	if _, err := io.WriteString(l, "x hunt"); err != nil {
		t.Fatal(err)
	}
	if got := l.masked("a hunter2, correct"); got != "a ***, correct" {
		t.Errorf("got %q", got)
	}
	plain := errors.New("nothing of it")
	if err := l.error(plain); err != plain { //nolint:errorlint // the very one
		t.Errorf("got %v", err)
	}
	if err := l.error(fmt.Errorf("hunter2: %w", os.ErrNotExist)); err.Error() != "***: file does not exist" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := io.WriteString(l, "er2 correct horse\n"); err != nil || out.String() != "x *** ***\n" {
		t.Errorf("the stream is %q, %v", out.String(), err)
	}
}

// What masking takes must not depend on what is written: a log could be made
// to look like the start of a secret everywhere.
func TestRedactIsLinear(t *testing.T) {
	var r redactor
	for i := range 50 {
		r.hide(strings.Repeat("a", 4000) + strconv.Itoa(i))
	}
	r.next(nil, false)
	for _, text := range r.texts {
		if len(text) > longestPiece {
			t.Fatalf("compares %d bytes at once", len(text))
		}
	}
	text := bytes.Repeat([]byte("a"), 1<<20)
	if out := r.next(text, false); len(out) > 10 || len(r.rest) >= longestPiece {
		t.Errorf("shows %d bytes and holds %d back", len(out), len(r.rest))
	}
}

func TestRedactIsBounded(t *testing.T) {
	var r redactor
	random := rand.New(rand.NewPCG(1, 2))
	var file strings.Builder
	for file.Len() < 500<<10 {
		fmt.Fprintf(&file, "%064x\n", random.Uint64())
	}
	r.hide(file.String())
	total := 0
	for _, text := range r.texts {
		total += len(text)
	}
	if total > 16<<20 {
		t.Errorf("looks for %d bytes", total)
	}
	if out := r.next([]byte(base64.StdEncoding.EncodeToString([]byte(file.String()))), true); len(out) > 8 {
		t.Errorf("shows %d bytes: %.100q", len(out), out)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("hunter2hunter2", "correct horse battery", "and then ", byte(0), uint64(1))
	f.Add("-----BEGIN KEY-----\nabcdefghijklmnopqrst\n-----END KEY-----\n", "abcdefgh", "\x1b[31m", byte(1), uint64(2))
	f.Add("aaaaaaaaaaaaaaaa", "aaaaaaaab", "aaaa", byte(2), uint64(3))
	f.Add("a\nb\nc\nd\ne\nf\ng", "\"$\\'&<> \t!é", "x\r\n", byte(3), uint64(4))
	f.Add(strings.Repeat("0123456789", 30), "9012345678", "456", byte(4), uint64(5))
	f.Fuzz(func(t *testing.T, one, two, between string, how byte, seed uint64) {
		if !utf8.ValidString(one) || !utf8.ValidString(two) {
			return // what shows it is escaped
		}
		forms := []func(string) string{
			func(s string) string { return s },
			func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
			func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
			url.QueryEscape, url.PathEscape, quote.Shell,
			func(s string) string { b, _ := json.Marshal(s); return string(b) },
		}
		form := forms[int(how)%len(forms)]
		text := between + form(one) + between + form(two) + form(one) + between
		whole := logged([]string{one, two}, text)
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces []string
		for rest := text; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 99))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		if got := logged([]string{one, two}, pieces...); got != whole {
			t.Fatalf("%q gives %q, in pieces %q", text, whole, got)
		}
		for _, secret := range []string{one, two} {
			// What is replaced and escaped may show such a text by chance.
			if secret = strings.TrimSpace(secret); len(secret) < 8 || strings.ContainsAny(secret, "*\\") || strings.Contains(between, secret) {
				continue
			}
			// Blanks, and what takes part in the encoding's frame, are no secret.
			if shown := form(secret); len(shown) >= 8 && strings.Contains(whole, shown) {
				t.Errorf("%q gives %q, which shows %q as %q", text, whole, secret, shown)
			}
		}
	})
}

func BenchmarkLog(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for text.Len() < 4<<20 {
		fmt.Fprintf(&text, "INFO[%04d] Taking snapshot of /usr/lib/x86_64-linux-gnu/lib%x.so.%d, %s\n", random.IntN(9999), random.Uint32(), random.IntN(9),
			base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(random.Int()))))
	}
	hostile := bytes.Repeat([]byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"), 40000)
	for _, bb := range []struct {
		name    string
		secrets int
		text    []byte
		prefix  string
	}{{"0 secrets", 0, text.Bytes(), ""}, {"5 secrets", 5, text.Bytes(), ""}, {"50 secrets", 50, text.Bytes(), ""}, {"50 secrets, hostile", 50, hostile, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}} {
		b.Run(bb.name, func(b *testing.B) {
			l := newLogWriter(io.Discard)
			for range bb.secrets {
				l.hide(bb.prefix + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%x%x", random.Uint64(), random.Uint64())))
			}
			b.SetBytes(int64(len(bb.text)))
			for b.Loop() {
				for rest := bb.text; len(rest) > 0; {
					n := min(32<<10, len(rest))
					_, _ = l.Write(rest[:n])
					rest = rest[n:]
				}
			}
		})
	}
}
