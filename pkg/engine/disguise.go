package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/quote"
)

// longSecret is the size from which on a secret is looked for as it is and in
// base64 alone: it is a file, and memory is bounded.
const longSecret = 64 << 10

// disguises gives a secret as logs may show it: as it is, and in the usual
// encodings. Blanks around it do not count.
func disguises(secret string) iter.Seq[string] {
	secret = strings.TrimSpace(secret)
	encodings := []func(string) []string{plain, inBase64, inURL, inJSON, inShell}
	if len(secret) > longSecret {
		encodings = encodings[:2]
	}
	return func(yield func(string) bool) {
		for _, forms := range encodings {
			for _, form := range forms(secret) {
				if !yield(form) {
					return
				}
			}
		}
	}
}

// plain is how the log has a text in the end.
func plain(s string) []string {
	var strip stripper
	return []string{s, string(strip.next([]byte(s))), quote.Text(s)}
}

// inBase64 gives the encoding of s (RFC 4648, both alphabets), with and without
// padding, what depends on s alone where it is encoded within a longer text,
// and the lines of programs that break them.
func inBase64(s string) []string {
	var out []string
	for _, alphabet := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		whole := alphabet.EncodeToString([]byte(s))
		out = append(out, whole, strings.TrimRight(whole, "="))
		for before := range 3 {
			// Six bits a character: those before s and after it spoil theirs.
			text := alphabet.EncodeToString(slices.Concat(make([]byte, before), []byte(s)))
			inner := text[(8*before+5)/6 : 8*(before+len(s))/6]
			out = append(out, inner)
			if before > 0 {
				continue
			}
			for _, width := range []int{64, 76} { // PEM's; base64(1)'s and MIME's
				if len(inner) > width {
					out = append(out, slices.Collect(lines(inner, width))...)
				}
			}
		}
	}
	return out
}

func lines(s string, width int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(s) > 0 {
			n := min(width, len(s))
			if !yield(s[:n]) {
				return
			}
			s = s[n:]
		}
	}
}

// inURL gives s as parts of URLs and forms have it: what is escaped differs
// from one program to the next.
func inURL(s string) []string {
	query := url.QueryEscape(s)
	strict := strings.ReplaceAll(query, "+", "%20") // curl --data-urlencode, Python's quote_plus
	out := []string{
		query, strict, url.PathEscape(s), url.UserPassword("", s).String()[1:],
		strings.ReplaceAll(strict, "%2F", "/"), // Python's quote
		strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(strict), // encodeURIComponent
	}
	for _, escaped := range slices.Clone(out) {
		out = append(out, lowerHex(escaped))
	}
	return out
}

// lowerHex gives a URL with its escapes in small letters.
func lowerHex(escaped string) string {
	b := []byte(escaped)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// inJSON gives s as a string of JSON, and of Go's.
func inJSON(s string) []string {
	inside := func(quoted string) string { return strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`) }
	html, _ := json.Marshal(s)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)
	out := []string{inside(string(html)), inside(strings.TrimSuffix(b.String(), "\n"))}
	out = append(out, strings.ReplaceAll(out[1], "/", `\/`), inASCII(out[1]), inside(strconv.Quote(s)), inside(strconv.QuoteToASCII(s)))
	return out
}

// inASCII escapes what is not ASCII, as Python's json does.
func inASCII(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r > 0xffff: // a surrogate pair
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// inShell gives s as shells quote it (set -x, printf %q).
func inShell(s string) []string {
	var words strings.Builder
	for _, r := range s {
		if strings.ContainsRune(" \t!\"#$&'()*,;<>?[\\]^`{|}~", r) {
			words.WriteByte('\\')
		}
		words.WriteRune(r)
	}
	return []string{
		strings.ReplaceAll(s, "'", `'\''`), strings.ReplaceAll(s, "'", `'"'"'`), // bash, dash
		strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x1b", `\E`).Replace(s), // bash's $'…'
		words.String(),
		strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s), // in double quotes
	}
}
