package dockerfile

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// answers is all that a graph says.
func answers(g *Graph, args map[string]string, target string) string {
	bases, err := g.Bases(args, target)
	line, runs := g.Runs(args, target)
	stages, stagesErr := g.Stages(args, target)
	return fmt.Sprintf("%+v %v %d %t %q %v", bases, err, line, runs, stages, stagesErr)
}

// A graph from a cache says the same as the file itself, faults included.
func FuzzGraph(f *testing.F) {
	seeds(f)
	f.Add([]byte("ARG A=${B!c}\nFROM x AS y\nFROM $A\n"), "z")
	f.Add([]byte("# escape=`\nARG A\nARG B=\"`$A\"\nFROM ${B}a'b'\n"), "")
	f.Fuzz(func(t *testing.T, text []byte, target string) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		data, ok := file.Append([]byte("x"))
		if !ok {
			return // too large
		}
		g, err := DecodeGraph(string(data[1:]))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(*g, file.Graph) {
			t.Fatalf("got %+v, want %+v", *g, file.Graph)
		}
		for _, args := range []map[string]string{nil, arm64(), {"A": "b$", "TARGETPLATFORM": "windows/amd64"}} {
			if got, want := answers(g, args, target), answers(&file.Graph, args, target); got != want {
				t.Fatalf("got %s\nwant %s", got, want)
			}
		}
	})
}

func FuzzDecodeGraph(f *testing.F) {
	for _, text := range []string{"FROM a\n", "ARG A=1\nFROM a AS b\nRUN --mount=from=x y\nFROM b\nCOPY --from=0 a b\nONBUILD COPY --from=c d e\n"} {
		file, err := Parse([]byte(text))
		if err != nil {
			f.Fatal(err)
		}
		data, _ := file.Append(nil)
		f.Add(string(data), "")
	}
	f.Fuzz(func(_ *testing.T, data, target string) {
		if g, err := DecodeGraph(data); err == nil {
			answers(g, arm64(), target)
		}
	})
}

// Words that are not given to BuildKit's lexer are what it would make of them.
func FuzzExpand(f *testing.F) {
	for _, word := range []string{"alpine:3", "${A}", "a$Ab", `"a b"`, `\a`, "a`b", "é\x00", "a b", "<<x", "${A}:${B}-$TARGETARCH/$AB", "${A", "$1", "${A:-b}", "a$", "$A_1b}", "${}", "$$A"} {
		f.Add(word, false)
	}
	f.Fuzz(func(t *testing.T, word string, backtick bool) {
		escape := byte('\\')
		if backtick {
			escape = '`'
		}
		e := &environ{args: map[string]string{"A": word, "AB": "'b\\"}, platform: "linux/arm/v7", escape: escape}
		got, gotErr := e.expand(word)
		want, _, wantErr := shell.NewLex(rune(escape)).ProcessWord(word, e)
		if got != want || (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%q: got %q, %v; want %q, %v", word, got, gotErr, want, wantErr)
		}
	})
}
