// Package quote carries text from configuration, git and the network safely
// to the three places where it could do harm: shell lines, logs, and messages
// that would show a credential in a URL. YAML and JSON are always written by
// their encoders and need no function here.
package quote

import (
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// Shell gives s as one word of a POSIX shell line. s must not hold NUL, which
// no argument can carry.
func Shell(s string) string {
	if s != "" && strings.IndexFunc(s, unsafeInShell) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Command gives an argument vector as one shell line.
func Command(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = Shell(a)
	}
	return strings.Join(words, " ")
}

func unsafeInShell(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r))
}

// Text gives s for a line of a log or a terminal: control characters, invalid
// UTF-8 and the marks that reorder text are escaped as in a Go string, so
// that s can neither end the line nor change what is shown around it.
func Text(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, unsafeInText) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])>>4, 16) + strconv.FormatUint(uint64(s[i])&15, 16))
		case unsafeInText(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

func unsafeInText(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

var userinfo = lazyregexp.New(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s'"]*@`)

// URL gives s with the user information of every URL in it replaced: an
// address without scheme, as in git@host:path, is left alone, since what
// stands before its @ is a name and no secret.
func URL(s string) string {
	if u, err := url.Parse(s); err == nil && u.User == nil {
		return s
	}
	return userinfo.ReplaceAllString(s, "${1}REDACTED@")
}
