package quote_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/quote"
)

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                                nil,
		" \t\n":                           nil,
		"--a --b=c":                       {"--a", "--b=c"},
		`--label="a b" 'c d'e`:            {"--label=a b", "c de"},
		`"" ''`:                           {"", ""},
		`a\ b \"x\"`:                      {"a b", `"x"`},
		"a\\\nb c":                        {"ab", "c"},
		`"a\"b\\c\d"`:                     {`a"b\c\d`},
		"x;y|z<w #no $HOME `id`":          {"x;y|z<w", "#no", "$HOME", "`id`"},
		"--registry-map=a=b;c=d\r\n--two": {"--registry-map=a=b;c=d", "--two"},
	} {
		if got, err := quote.Words(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"'", `"a`, `\`, `"\`} {
		if got, err := quote.Words(in); err == nil {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

// FuzzWords splits what Command joined, and asks a real shell about lines that
// mean the same to it.
func FuzzWords(f *testing.F) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", "a b", "it's", `\`, "a\nb", `"x\"y" 'z'`, "a\\\nb", `"\\" \\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		argv := []string{s, "end"}
		if got, err := quote.Words(quote.Command(argv)); err != nil || !slices.Equal(got, argv) {
			t.Errorf("%q came back as %q, %v", argv, got, err)
		}
		got, err := quote.Words(s)
		if err != nil || strings.ContainsAny(s, "\x00\r$`;&|<>(){}[]*?!~#=\n") || !isASCII(s) {
			return
		}
		out, err := exec.Command(sh, "-c", "for w in "+s+"; do printf '%s\\n' \"$w\"; done").Output()
		if want := strings.Join(append(got, ""), "\n"); err != nil || string(out) != want {
			t.Errorf("%q: got %q, a shell says %q (%v)", s, got, out, err)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 || r < ' ' })
}
