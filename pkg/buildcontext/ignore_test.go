package buildcontext_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/pipegen/pipegen/pkg/buildcontext"
)

// What stays is what moby's own answer for each single file says, though whole
// directories are passed over.
func FuzzIgnore(f *testing.F) {
	for _, patterns := range []string{
		"*", "a\n!a/b/c", "**\n!**/*.go", "a/*\n!a/b", "*\n!a/b/../b/c", "# no\n\n/a/b/ \n", "a/?/c", "[a-b]\n!b", "!a\na", "**/c\n!a/**/c", "a*\n!ab/x.go", "\\a", "a/b\n!a/b/*", ".\n!a",
	} {
		f.Add(patterns)
	}
	files := []string{"a/b/c", "a/b/d/e.go", "a/f.go", "ab/c", "ab/x.go", "b", "c/a/b/c", "x.go"}
	f.Fuzz(func(t *testing.T, patterns string) {
		dir := t.TempDir()
		for _, name := range append(slices.Clone(files), ".dockerignore") {
			text := name
			if name == ".dockerignore" {
				text = patterns
			}
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		lines, err := ignorefile.ReadAll(strings.NewReader(patterns))
		if err != nil {
			return
		}
		m, err := patternmatcher.New(lines)
		if err != nil {
			return
		}
		var want []string
		for _, name := range files {
			out, err := m.MatchesOrParentMatches(name)
			if err != nil {
				return
			}
			if !out {
				want = append(want, name)
			}
		}
		var b strings.Builder
		if _, err := buildcontext.Pack(t.Context(), dir, &b, buildcontext.PackOptions{Workers: 1}); err != nil {
			return // a pattern that no file has come to
		}
		var got []string
		for _, line := range listing(t, []byte(b.String())) {
			if name := strings.Fields(line)[1]; slices.Contains(files, name) {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q keeps %q, want %q", patterns, got, want)
		}
	})
}
