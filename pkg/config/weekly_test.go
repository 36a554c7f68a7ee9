package config

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

func TestWeekly(t *testing.T) {
	projects := map[string]string{
		"images/app/build-config.yaml": "index: true", "images/app/Dockerfile": "",
		"images/two/build-config.yaml": "targets: [{name: a}, {name: b}]", "images/two/Dockerfile": "",
		"with blank/build-config.yaml": "name: blank", "with blank/Dockerfile": "",
	}
	for _, tt := range []struct {
		name, text string
		entries    []string // "line pattern policy images"
		faults     []string
	}{
		{"empty", "", nil, nil},
		{"comments and blank lines", "# all\n\n   \n\t# more\n", nil, nil},
		{"name", "app\n", []string{"1 app always [app]"}, nil},
		{"policies", "app stale\ntwo-a always # why\ntwo-b # always\n", []string{"1 app stale [app]", "2 two-a always [two-a]", "3 two-b always [two-b]"}, nil},
		{"project with targets", "two\n", []string{"1 two always [two-a two-b]"}, nil},
		{"directory", "images/app/\n./images/two\n", []string{"1 images/app always [app]", "2 images/two always [two-a two-b]"}, nil},
		{"globs", "images/*\n**\ntwo-*\n", []string{"1 images/* always [app two-a two-b]", "2 ** always [app two-a two-b blank]", "3 two-* always [two-a two-b]"}, nil},
		{"quotes", "  \"with blank\" stale\n\"app\"\n", []string{"1 with blank stale [blank]", "2 app always [app]"}, nil},
		{"line ends of Windows, no last newline", "\ufeffapp stale\r\n\r\nblank", []string{"1 app stale [app]", "3 blank always [blank]"}, nil},
		{"# within a word", "a#b\n", []string{"1 a#b always []"}, []string{"1:1 no-match"}},
		{"nothing of that name", "app\n  ap\nnone/*\n", []string{"1 app always [app]", "2 ap always []", "3 none/* always []"}, []string{"2:3 no-match", "3:1 no-match"}},
		{"unknown policy", "app stal\nwith blank\n", nil, []string{"1:5 unknown-value", "2:6 unknown-value"}},
		{"extra word", "app stale now\n", nil, []string{"1:11 extra-word"}},
		{"open quote", "app\n  \"with\n", []string{"1 app always [app]"}, []string{"2:3 bad-quote"}},
		{"open quote in the policy", "app \"stale\n", nil, []string{"1:5 bad-quote"}},
		{"no blank after a quote", "\"app\"x\n", nil, []string{"1:1 bad-quote"}},
		{"nothing in quotes", "\"\"\n", nil, []string{"1:1 bad-glob"}},
		{"bad globs", "a[\n/a\n../a\n", nil, []string{"1:1 bad-glob", "2:1 bad-glob", "3:1 bad-glob"}},
		{"twice", "app\nblank\napp stale\n", []string{"1 app always [app]", "2 blank always [blank]"}, []string{"3:1 duplicate-entry"}},
		{"control character", "app\nä\x1b[31m\n", []string{"1 app always [app]"}, []string{"2:2 control-character"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fsys := tree(projects)
			maps.Copy(fsys, tree(map[string]string{"rebuild-weekly.txt": tt.text}))
			repo, faults := load(t, fsys, paths(fsys), Options{})
			var got []string
			for _, e := range repo.Weekly {
				images := []string{}
				for _, p := range repo.Projects {
					for _, image := range p.Images() {
						if e.Matches(p, image.Name) {
							images = append(images, image.Name)
						}
					}
				}
				got = append(got, fmt.Sprintf("%d %s %s %v", e.Line, e.Pattern, e.Policy, images))
			}
			if !slices.Equal(got, tt.entries) {
				t.Errorf("entries %q, want %q", got, tt.entries)
			}
			for i := range tt.faults {
				tt.faults[i] = "rebuild-weekly.txt:" + tt.faults[i]
			}
			if !slices.Equal(faults, tt.faults) {
				t.Errorf("faults %q, want %q", faults, tt.faults)
			}
		})
	}
}

// TestWeeklyBesideAFileThatCannotBeRead: what an entry means may be in the
// file, so nothing is said of the entry.
func TestWeeklyBesideAFileThatCannotBeRead(t *testing.T) {
	fsys := tree(map[string]string{"a/build-config.yaml": "name: [x\n", "rebuild-weekly.txt": "x\n"})
	if _, faults := load(t, fsys, paths(fsys), Options{}); !slices.Equal(faults, []string{"a/build-config.yaml:1:1 syntax"}) {
		t.Errorf("faults %q", faults)
	}
	fsys = tree(map[string]string{"rebuild-weekly.txt": "\xff\n"})
	if _, faults := load(t, fsys, paths(fsys), Options{}); !slices.Equal(faults, []string{"rebuild-weekly.txt:1:1 not-utf8"}) {
		t.Errorf("faults %q", faults)
	}
}
