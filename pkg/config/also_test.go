package config

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

func TestAlso(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"none", "also: []", ""},
		{"plain", "also: [{registry: docker.io/acme/images}]", ""},
		{"all keys", "also: [{registry: 'localhost:5000/a', images: ['base-*', app], tags: ['v*', latest]}]", ""},
		{"by images", "also: [{registry: r.example.org/a, images: [a]}, {registry: r.example.org/a}]", ""},
		{"no registry", "also: [{images: [a]}]", "missing-key|registry: host/repository"},
		{"scheme", "also: [{registry: 'https://r.example.org/a'}]", "bad-registry|without https://"},
		{"variable", "also: [{registry: $HOST/a}]", "bad-registry|host/repository"},
		{"no host", "also: [{registry: acme/images}]", "bad-registry|docker.io/NAME"},
		{"tag", "also: [{registry: 'r.example.org/a:latest'}]", "bad-registry|no tag"},
		{"capitals", "also: [{registry: r.example.org/A}]", "bad-registry|small letters"},
		{"slash", "also: [{registry: r.example.org/a/}]", "bad-registry|small letters"},
		{"host alone", "also: [{registry: r.example.org}]", "bad-registry|no repository"},
		{"alias alone", "also: [{registry: public.ecr.aws/acme}]", "bad-registry|public.ecr.aws/ALIAS/NAME"},
		{"itself", "also: [{registry: own.example.org/a}]", "duplicate-registry|anyway"},
		{"twice", "also: [{registry: r.example.org/a}, {registry: r.example.org/a, images: [b]}]", "duplicate-registry|before"},
		{"no images", "also: [{registry: r.example.org/a, images: []}]", "empty|nothing would be copied"},
		{"no tags", "also: [{registry: r.example.org/a, tags: []}]", "empty|nothing would be copied"},
		{"glob", "also: [{registry: r.example.org/a, images: ['[a']}]", "bad-glob|no glob of images"},
		{"glob with a slash", "also: [{registry: r.example.org/a, tags: [a/b]}]", "bad-glob|no glob of tags"},
		{"unknown key", "also: [{registry: r.example.org/a, image: [a]}]", `unknown-key|did you mean "images"`},
		{"a map", "also: {registry: r.example.org/a}", "wrong-type|"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadPipegen(fstest.MapFS{"pipegen.yaml": {Data: []byte("registry: own.example.org/a\npublish:\n  " + tt.text + "\n")}})
			rule, words, _ := strings.Cut(tt.want, "|")
			faults, _ := errors.AsType[Faults](err)
			switch {
			case tt.want == "" && err == nil:
			case len(faults) != 1 || faults[0].Rule != rule || faults[0].Line != 3 || faults[0].Column < 5 || !strings.Contains(faults[0].String(), words):
				t.Errorf("got %v", err)
			}
		})
	}
	for text, want := range map[string]bool{"r.example.org": true, "public.ecr.aws/acme": true, "public.ecr.aws": false, "r.example.org/a/b": true} {
		_, err := LoadPipegen(fstest.MapFS{"pipegen.yaml": {Data: []byte("layout: repository\npublish: {also: [{registry: " + text + "}]}\n")}})
		if (err == nil) != want {
			t.Errorf("layout repository, %s: %v", text, err)
		}
	}
}

func TestAlsoSelects(t *testing.T) {
	some := Also{Images: []string{"base-*", "app"}, Tags: []string{"v[0-9]*", "latest"}}
	var all Also
	for name, want := range map[string]bool{"base-a": true, "app": true, "application": false, "my-base-a": false} {
		if some.Means(name) != want || !all.Means(name) {
			t.Errorf("%s: %v, %v", name, some.Means(name), all.Means(name))
		}
	}
	for tag, want := range map[string]bool{"v1.2": true, "latest": true, "vnext": false, "20261121-abc1234": false, "key-0123456789ab": false} {
		if some.Takes(tag, false) != want {
			t.Errorf("%s: %v", tag, !want)
		}
	}
	every := Also{Tags: []string{"*"}}
	if all.Takes("key-0123456789ab", true) || !all.Takes("20261121-abc1234", false) || !every.Takes("key-0123456789ab", true) {
		t.Error("key tags go where they are named, and only there")
	}
}

func TestAlsoMeansNoImage(t *testing.T) {
	fsys := fstest.MapFS{
		"pipegen.yaml":          {Data: []byte("publish:\n  also:\n    - registry: r.example.org/a\n      images: [app, 'tool*', ap]\n")},
		"app/build-config.yaml": {Data: []byte("index: true\n")}, "app/Dockerfile": {},
	}
	repo, err := Load(fsys, paths(fsys), Options{})
	if err != nil || len(repo.Warnings) != 2 || repo.Warnings[0].Rule != "no-match" || repo.Warnings[0].Line != 4 || !strings.Contains(repo.Warnings[1].String(), `did you mean "app"`) {
		t.Errorf("%v, %v", repo.Warnings, err)
	}
	// What make leaves has names that only its build tells.
	fsys["made/build-config.yaml"] = &fstest.MapFile{Data: []byte("engine: make\n")}
	fsys["made/Makefile"] = &fstest.MapFile{}
	if repo, err = Load(fsys, paths(fsys), Options{}); err != nil || len(repo.Warnings) > 0 {
		t.Errorf("%v, %v", repo.Warnings, err)
	}
}
