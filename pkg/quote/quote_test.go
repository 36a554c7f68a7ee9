package quote_test

import (
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/quote"
)

func TestShell(t *testing.T) {
	for in, want := range map[string]string{
		"":                "''",
		"app@arm64":       "app@arm64",
		"--flag=a,b":      "--flag=a,b",
		"a b":             "'a b'",
		"it's":            `'it'\''s'`,
		"$(id)":           "'$(id)'",
		"~":               "'~'",
		"a\nb":            "'a\nb'",
		"ünï":             "'ünï'",
		"-- x":            "'-- x'",
		"!x":              "'!x'",
		"`x`":             "'`x`'",
		"registry:5/a@b%": "registry:5/a@b%",
	} {
		if got := quote.Shell(in); got != want {
			t.Errorf("Shell(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzShell asks a real shell what the word means.
func FuzzShell(f *testing.F) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", "a b", "it's", "$(id)", "\\", "\n", "*", "~root", "-n", "\xff", "'\"'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return
		}
		out, err := exec.Command(sh, "-c", "printf %s "+quote.Command([]string{s, "end"})).Output()
		if err != nil || string(out) != s+"end" {
			t.Errorf("%q came back as %q (%v)", s, out, err)
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünï → text":    "plain ünï → text",
		"a\nb\tc\r":           `a\nb\tc\r`,
		"\x1b[31mred":         `\x1b[31mred`,
		"rtl \u202emirror":    `rtl \u202emirror`,
		"bad \xff utf":        `bad \xff utf`,
		"separator \u2028 x":  `separator \u2028 x`,
		"zero\u200bwidth\x00": `zero\u200bwidth\x00`,
	} {
		if got := quote.Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\nb")
	f.Add("\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := quote.Text(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Errorf("Text(%q) = %q ends a line or a string", s, got)
		}
		if again := quote.Text(got); again != got {
			t.Errorf("Text(Text(%q)) = %q, not %q", s, again, got)
		}
	})
}

func TestURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:secret@host/x.git":               "https://REDACTED@host/x.git",
		"https://token@host/x":                         "https://REDACTED@host/x",
		"clone https://u:p@host/x: no, ssh://git@h/y?": "clone https://REDACTED@host/x: no, ssh://REDACTED@h/y?",
		"https://u:p@p@host/x":                         "https://REDACTED@host/x",
		"https://host/x@v1":                            "https://host/x@v1",
		"git@host:path/x.git":                          "git@host:path/x.git",
		"no address":                                   "no address",
	} {
		if got := quote.URL(in); got != want {
			t.Errorf("URL(%q) = %q, want %q", in, got, want)
		}
	}
}
