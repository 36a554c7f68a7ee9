package glob

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		glob, yes, no string // paths with blanks between them
	}{
		{"a/b", "a/b", "a a/b/c b a/B"},
		{"a/**", "a a/b a/b/c", "ab/c b/a x/a/b"},
		{"**/README.md", "README.md a/README.md a/b/README.md", "README.mdx xREADME.md a/README.md/x"},
		{"a/*", "a/b a/.b", "a a/b/c"},
		{"a/**/b", "a/b a/x/b a/x/y/b", "a b a/bx"},
		{"a/b*/c", "a/b/c a/bx/c", "a/c a/b/x/c"},
		{"{a,b}/*.go", "a/x.go b/y.go", "c/x.go a/x.c"},
		{`a\*`, "a*", "ab a"},
		{"[ab]/x", "a/x b/x", "c/x"},
		{"**", "a a/b", ""},
		{"*", "a", "a/b"},
		{"a[", "", "a a["},
		{"{a", "", "a {a"},
	} {
		for p := range strings.FieldsSeq(tt.yes) {
			if !Match(tt.glob, p) {
				t.Errorf("%s does not match %s", tt.glob, p)
			}
		}
		for p := range strings.FieldsSeq(tt.no) {
			if Match(tt.glob, p) {
				t.Errorf("%s matches %s", tt.glob, p)
			}
		}
	}
}

func TestFind(t *testing.T) {
	paths := strings.Fields("Dockerfile a a-b/c a.txt a/b a/b/c a/c b/README.md lib lib-x/a lib/a lib/b/c z")
	for _, globs := range [][]string{
		{"a/**"}, {"lib/**", "a/**"}, {"a/**", "a/b", "a/*"}, {"**/README.md"}, {"**"}, {"lib*/**"}, {"z", "nothing"}, {"nothing/**"}, {"li[b]/**", "lib"}, nil,
	} {
		set := New(globs)
		var want, got []string
		for _, p := range paths {
			if slices.ContainsFunc(globs, func(g string) bool { return doublestar.MatchUnvalidated(g, p) }) {
				want = append(want, p)
			}
		}
		for i := range Find(set, paths, func(p *string) string { return *p }) {
			got = append(got, paths[i])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", globs, got, want)
		}
	}
}

// Whatever shape a glob has, it means what doublestar says, and Find looks
// everywhere it could match.
func FuzzMatch(f *testing.F) {
	for _, glob := range []string{"a/b", "a/**", "**/x", "a/*/c", "{a,b}", `\a`, "[", "**", "/**", "a//**", "**/", "a/**/b/**", "é*", "a**", "**a/**"} {
		f.Add(glob, "a/b/c")
		f.Add(glob, "a")
	}
	f.Fuzz(func(t *testing.T, glob, path string) {
		if !fs.ValidPath(path) {
			return
		}
		want, err := doublestar.Match(glob, path)
		want = want && err == nil && doublestar.ValidatePattern(glob)
		if got := Match(glob, path); got != want {
			t.Fatalf("%q, %q: got %t, want %t", glob, path, got, want)
		}
		found := slices.Collect(Find(New([]string{glob}), []string{path}, func(p *string) string { return *p }))
		if (len(found) == 1) != want {
			t.Fatalf("%q, %q: found %v, want %t", glob, path, found, want)
		}
	})
}
