package render

import (
	"regexp"
	"testing"
)

func FuzzPlain(f *testing.F) {
	for _, s := range []string{"", "a", "a b", "a  b", " a", "a ", "$A", ".ab", ".a", ".1a", "a.b/c@d$e-f_g", "a:b", "1a", "-a", "é", "a\nb", "yes"} {
		f.Add(s)
	}
	words := regexp.MustCompile(`\A(\.[A-Za-z]{2}|[A-Za-z$])[A-Za-z0-9_./@$-]*( [A-Za-z0-9_./@$-]+)*\z`)
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := plain(s), words.MatchString(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	})
}
