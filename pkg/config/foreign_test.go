package config

import (
	"slices"
	"strings"
	"testing"
)

type foreign struct {
	Name string       `yaml:"name"`
	Text *string      `yaml:"text"`
	List []string     `yaml:"list"`
	Env  Pairs        `yaml:"env"`
	Sub  *foreignSub  `yaml:"sub"`
	Subs []foreignSub `yaml:"subs"`
}

type foreignSub struct {
	On *bool  `yaml:"on"`
	A  string `yaml:"a"`
}

func TestDocument(t *testing.T) {
	doc := ParseDocument("f.yaml", []byte(`
name: first
text: "lines\n"
list: [a]
env: {A: 1, B: }
sub: {on: true, a: x}
subs:
- {a: y}
`))
	var f foreign
	doc.Decode(&f)
	if faults := doc.Faults(); len(faults) > 0 {
		t.Fatal(faults)
	}
	if f.Name != "first" || *f.Text != "lines\n" || f.Env["B"] != "" || !*f.Sub.On || f.Subs[0].A != "y" {
		t.Errorf("got %+v", f)
	}
	// What is empty does not replace what is there.
	over := ParseDocument("g.yaml", []byte("name: \"\"\ntext: \"\"\nlist: []\nenv: {A: 2}\nsub: {on: false, a: }\nsubs:\n"))
	over.Layer(&f)
	if f.Name != "first" || *f.Text != "" || !slices.Equal(f.List, []string{"a"}) || f.Env["A"] != "2" || *f.Sub.On || f.Sub.A != "x" || len(f.Subs) != 1 {
		t.Errorf("layered: %+v, sub %+v", f, *f.Sub)
	}
	if !doc.Has("subs", 0, "a") || doc.Has("subs", 1) || doc.Has("name", "x") {
		t.Error("Has is wrong")
	}
	var walked []string
	doc.Walk([]any{"sub"}, func(path []any, value string) { walked = append(walked, path[len(path)-1].(string)+"="+value) })
	if !slices.Equal(walked, []string{"on=true", "a=x"}) {
		t.Errorf("walked %q", walked)
	}
	doc.Report(Warning, "r", "", []any{"subs", 0, "b"}, "there")
	doc.Report(Error, "r", "", []any{"env", "A"}, "here")
	if got, want := doc.Faults().Error(), "f.yaml:5:10: here\nf.yaml:8:3: warning: there"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDocumentFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "f.yaml:1:1: the file is empty",
		"naem: x":                `f.yaml:1:1: unknown key "naem"` + "\n  hint: did you mean \"name\"?",
		"name: a\nname: b":       `f.yaml:2:1: "name" is written twice, first in line 1`,
		"subs: [{a: [x]}]":       "f.yaml:1:12: a wants text, not a list",
		"\xff":                   "f.yaml:1:1: is not UTF-8 text",
		"a: &a [*a]":             "f.yaml:1:8:",
		strings.Repeat("#", 2e6): "f.yaml: is larger than 1 MiB",
	} {
		doc := ParseDocument("f.yaml", []byte(text))
		var f foreign
		doc.Decode(&f)
		if got := doc.Faults().Error(); !strings.HasPrefix(got, want) {
			t.Errorf("%.20q: got %s, want %s", text, got, want)
		}
		doc.Report(Error, "r", "", []any{"x"}, "more")
		if doc.Has("x") {
			t.Errorf("%.20q has x", text)
		}
	}
}
