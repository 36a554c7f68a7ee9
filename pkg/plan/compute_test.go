package plan

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
)

var (
	planTime  = time.Date(2026, 11, 21, 2, 3, 4, 0, time.UTC)
	committed = time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	headSHA   = "abc1234def5678abc1234def5678abc1234def56"
	baseSHA   = "0123456789abcdef0123456789abcdef01234567"
)

// tree is a checkout by path and text. A directory "x" whose text is given as
// "x" gets a build-config.yaml with it and a Dockerfile from scratch.
type tree map[string]string

func (t tree) files() fstest.MapFS {
	fsys := fstest.MapFS{}
	for p, text := range t {
		if strings.Contains(p, ".") || strings.Contains(p, "Dockerfile") {
			fsys[p] = &fstest.MapFile{Data: []byte(text)}
			continue
		}
		fsys[p+"/build-config.yaml"] = &fstest.MapFile{Data: []byte(text)}
		if t[p+"/Dockerfile"] == "" {
			fsys[p+"/Dockerfile"] = &fstest.MapFile{Data: []byte("FROM scratch\nCOPY . /\n")}
		}
	}
	return fsys
}

// input is a plan's input for a checkout in which everything but the paths
// given is unchanged.
func input(t *testing.T, files tree, changed ...string) Input {
	t.Helper()
	fsys := files.files()
	paths := slices.Sorted(maps.Keys(fsys))
	cfg, err := config.Load(fsys, paths, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := Input{
		Config: cfg, FS: fsys,
		CI:   diff.CI{System: "gitlab", Event: "push", Pipeline: "1234"},
		Head: diff.Commit{Hash: headSHA, Committed: committed},
		Base: diff.Base{Commit: baseSHA, Usable: true, How: "--base"}, Created: planTime,
		Registry: "registry.example.com/images", Branch: "main", Getenv: func(string) string { return "" },
		Resolve: func(context.Context, string, string, *config.UpstreamAuth) (string, error) {
			return "fedcba9876543210fedcba9876543210fedcba98", nil
		},
	}
	for _, p := range changed {
		in.Changes = append(in.Changes, diff.Change{Path: p, Kind: diff.Modified})
	}
	for _, p := range paths {
		sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(fsys[p].Data), fsys[p].Data))
		in.Entries = append(in.Entries, diff.Entry{Path: p, Mode: "100644", Object: hex.EncodeToString(sum[:])})
	}
	return in
}

func compute(t *testing.T, in Input) *Plan {
	t.Helper()
	p, _, err := Compute(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// why gives the images of a plan with the kinds of their reasons.
func kinds(p *Plan) string {
	var out []string
	for _, img := range p.Images {
		var ks []string
		for _, r := range img.Reasons {
			ks = append(ks, string(r.Kind)+"="+r.Detail)
		}
		out = append(out, img.Name+"("+strings.Join(ks, " ")+")")
	}
	return strings.Join(out, " ")
}

func TestSelection(t *testing.T) {
	files := tree{
		"p/base":               "additional_tags: [latest]",
		"p/app":                "depends_on: [base]\nwatch: ['shared/**']",
		"p/app/README.md":      "app",
		"p/tool":               "additional_tags: [latest]",
		"p/tool/sub/inner":     "additional_tags: [latest]",
		"many":                 "targets: [{name: a, target: one}, {name: b, target: two}]",
		"many/Dockerfile":      "FROM scratch AS one\nCOPY . /\nFROM scratch AS two\nCOPY . /\n",
		"rebuild-weekly.txt":   "# weekly\ntool\n\np/app stale\n",
		"pipegen.yaml":         "rebuild_all: ['build/**']",
		"shared/lib.sh":        "x",
		"build/rules.mk.txt":   "x",
		"docs/unrelated.md":    "x",
		"p/tool/sub/notes.txt": "x",
	}
	for name, tc := range map[string]struct {
		selection Selection
		event     string
		base      diff.Base
		changed   []string
		want      string
	}{
		"nothing":                         {changed: []string{"docs/unrelated.md"}},
		"one":                             {changed: []string{"p/tool/Dockerfile"}, want: "tool(changed=p/tool/Dockerfile)"},
		"readme":                          {changed: []string{"p/app/README.md"}},
		"dependents":                      {changed: []string{"p/base/x"}, want: "base(changed=p/base/x) app(dependency=base)"},
		"watched":                         {changed: []string{"shared/lib.sh"}, want: "app(watched=shared/lib.sh)"},
		"ignored, though watched":         {changed: []string{"shared/README.md"}},
		"ignored, though it rebuilds all": {changed: []string{"build/README.md"}},
		"nested to the deepest":           {changed: []string{"p/tool/sub/inner/x"}, want: "inner(changed=p/tool/sub/inner/x)"},
		"beside the nested one":           {changed: []string{"p/tool/sub/notes.txt"}, want: "tool(changed=p/tool/sub/notes.txt)"},
		"targets":                         {changed: []string{"many/x"}, want: "many-a(changed=many/x) many-b(changed=many/x)"},
		"rebuild all": {changed: []string{"build/rules.mk.txt"}, want: "base(rebuild-all=build/rules.mk.txt) inner(rebuild-all=build/rules.mk.txt) " +
			"many-a(rebuild-all=build/rules.mk.txt) many-b(rebuild-all=build/rules.mk.txt) tool(rebuild-all=build/rules.mk.txt) app(rebuild-all=build/rules.mk.txt dependency=base)"},
		"weekly by event": {event: "schedule", want: "tool(weekly=rebuild-weekly.txt:2) app(weekly=rebuild-weekly.txt:4: without a registry, whether it is stale cannot be told)"},
		"names":           {selection: Selection{Names: []string{"many", "p/tool/"}}, want: "many-a(named=many) many-b(named=many) tool(named=p/tool/)"},
		"names add up": {selection: Selection{Changed: true, Names: []string{"inner"}}, changed: []string{"p/tool/x"},
			want: "inner(named=inner) tool(changed=p/tool/x)"},
		"all": {selection: Selection{All: true}, want: "base(all=--select all) inner(all=--select all) many-a(all=--select all) many-b(all=--select all) " +
			"tool(all=--select all) app(all=--select all dependency=base)"},
		"no base": {base: diff.Base{Why: "all zeros"}, want: "base(removed-base=all zeros) inner(removed-base=all zeros) many-a(removed-base=all zeros) " +
			"many-b(removed-base=all zeros) tool(removed-base=all zeros) app(removed-base=all zeros dependency=base)"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, files, tc.changed...)
			in.Selection = tc.selection
			if tc.event != "" {
				in.CI.Event = tc.event
			}
			if tc.base != (diff.Base{}) {
				in.Base = tc.base
			}
			p := compute(t, in)
			if got := kinds(p); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if got := len(p.Images) + len(p.Skipped); got != 6 {
				t.Errorf("%d images planned or left out, of 6", got)
			}
			for _, s := range p.Skipped {
				if s.Reason == "" {
					t.Errorf("%s is left out without a reason", s.Name)
				}
			}
		})
	}
}

func TestUnknownName(t *testing.T) {
	in := input(t, tree{"app": "additional_tags: [latest]"})
	in.Selection = Selection{Names: []string{"ap"}}
	_, _, err := Compute(t.Context(), in)
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(failure.Hint(err), `"app"`) {
		t.Errorf("got %v, hint %q", err, failure.Hint(err))
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	var changed []string
	for i := range 1000 {
		changed = append(changed, fmt.Sprintf("app/%04d", i))
	}
	p := compute(t, input(t, tree{"app": "{}"}, changed...))
	reasons := p.Images[0].Reasons
	if len(reasons) != maxEvidence || reasons[maxEvidence-1].Detail != "app/0019 and 980 more" {
		t.Errorf("%d reasons, the last %v", len(reasons), reasons[len(reasons)-1])
	}
}

func TestTags(t *testing.T) {
	type want struct{ repository, tags, destination string }
	for name, tc := range map[string]struct {
		layout, registry string
		dirty, local     bool
		want             want
	}{
		"tag":        {layout: "tag", registry: "r.example.com/x", want: want{"r.example.com/x", "app-20261121-abc1234 app-latest app-v1", "r.example.com/x:app-20261121-abc1234-arm-v7"}},
		"repository": {layout: "repository", registry: "r.example.com/x", want: want{"r.example.com/x/app", "20261121-abc1234 latest v1", "r.example.com/x/app:20261121-abc1234-arm-v7"}},
		"git":        {layout: "git", registry: "r.example.com/x", want: want{"r.example.com/x/app", "feature-x.abc1234 feature-x latest v1", "r.example.com/x/app:feature-x.abc1234-arm-v7"}},
		"dirty tag": {layout: "tag", registry: "r.example.com/x", dirty: true, local: true,
			want: want{"r.example.com/x", "app-20261121-abc1234-dirty", "r.example.com/x:app-20261121-abc1234-dirty-arm-v7"}},
		"dirty git":   {layout: "git", registry: "r.example.com/x", dirty: true, local: true, want: want{"r.example.com/x/app", "feature-x.SNAPSHOT", "r.example.com/x/app:feature-x.SNAPSHOT-arm-v7"}},
		"dirty in CI": {layout: "tag", registry: "r.example.com/x", dirty: true, want: want{"r.example.com/x", "", "r.example.com/x:app-20261121-abc1234-dirty-arm-v7"}},
		"no registry": {layout: "tag", want: want{"", "app-20261121-abc1234 app-latest app-v1", "app-20261121-abc1234-arm-v7"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, tree{"app": "additional_tags: [latest, v1]\nplatforms: [linux/arm/v7]", "pipegen.yaml": "layout: " + tc.layout}, "app/x")
			in.Registry, in.Dirty, in.Branch = tc.registry, tc.dirty, "feature/x"
			if tc.local {
				in.CI = diff.CI{Event: "local"}
			}
			img := compute(t, in).Images[0]
			got := want{img.Repository, strings.Join(img.Tags, " "), img.Builds[0].Destination}
			if got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if img.Builds[0].ID != "app@arm-v7" {
				t.Errorf("id %s", img.Builds[0].ID)
			}
			if tc.dirty != (img.KeyTag == "") {
				t.Errorf("key tag %q", img.KeyTag)
			}
		})
	}
}

func TestFaultsOfTheWhole(t *testing.T) {
	for name, tc := range map[string]struct {
		files tree
		want  string
	}{
		"unknown dependency": {tree{"app": "depends_on: [bsae]", "base": "{}"}, "app/build-config.yaml:1:14: depends_on: there is no image \"bsae\"\n  hint: did you mean \"base\"?"},
		"circle": {tree{"a": "depends_on: [b]", "b": "depends_on: [c]", "c": "depends_on: [a]"},
			"c/build-config.yaml:1:14: images are built on each other in a circle: a → b → c → a\n  hint: remove one of the dependencies"},
		"circle through a Dockerfile": {tree{"a": "additional_tags: [latest]\ndepends_on: [b]", "b": "{}", "b/Dockerfile": "FROM scratch\nCOPY --from=registry.example.com/images:a-latest / /\n"},
			"b/Dockerfile:2:1: images are built on each other in a circle: a → b → a\n  hint: build one of them on something else"},
		"one tag twice": {tree{"a": "additional_tags: [b-latest]", "a-b": "additional_tags: [latest]"},
			"a-b/build-config.yaml:1:19: a tag of image \"a-b\" is the same reference as a tag of image \"a\": registry.example.com/images:a-b-latest\n  hint: change the name or the tag of one of them"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Compute(t.Context(), input(t, tc.files))
			var faults config.Faults
			if !errors.As(err, &faults) || faults.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestEdges(t *testing.T) {
	files := tree{
		"base":              "additional_tags: [latest]\nplatforms: [linux/amd64]",
		"middle":            "additional_tags: [v1]\nplatforms: [linux/amd64]",
		"middle/Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:base-latest\n",
		"top":               "platforms: [linux/amd64]\nbuild_args: {FROM_TAG: middle-v1}",
		"top/Dockerfile":    "ARG FROM_TAG=other\nFROM registry.example.com/images:${FROM_TAG} AS x\nFROM scratch\nCOPY --from=x /a /a\nCOPY --from=docker.io/library/base:latest /b /b\n",
		"broken":            "platforms: [linux/amd64]",
		"broken/Dockerfile": "FORM scratch\n",
		"unneeded":          "platforms: [linux/amd64]\ntarget: last",
		"unneeded/Dockerfile": "FROM registry.example.com/images:base-latest AS first\nFROM scratch AS last\n" +
			"COPY a /\n",
	}
	in := input(t, files, "base/x")
	p, warnings, err := Compute(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := kinds(p), "base(changed=base/x) middle(dependency=base) top(dependency=middle)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := p.Images[2].Needs; !slices.Equal(got, []string{"middle"}) {
		t.Errorf("top needs %v", got)
	}
	if len(warnings) != 1 || warnings[0].File != "broken/Dockerfile" || warnings[0].Line != 1 || warnings[0].Severity != config.Warning {
		t.Errorf("warnings %v", warnings)
	}
	// An image that is not planned is not needed either: it is published.
	p = compute(t, input(t, files, "top/x"))
	if len(p.Images) != 1 || len(p.Images[0].Needs) != 0 {
		t.Errorf("got %+v", p.Images)
	}
}

func TestUpstream(t *testing.T) {
	in := input(t, tree{"tool": "upstream_repo: https://token@git.example.com/tool\nupstream_ref: v1.2\ncontext_path: src\nupstream_auth: {token_env: TOKEN}"}, "tool/build-config.yaml")
	img := compute(t, in).Images[0]
	if img.Source == nil || img.Source.Commit != "fedcba9876543210fedcba9876543210fedcba98" || img.Source.Auth.TokenEnv != "TOKEN" {
		t.Fatalf("source %+v", img.Source)
	}
	b := img.Builds[0]
	if b.Context != "src" || b.Dockerfile != "Dockerfile" {
		t.Errorf("context %s, Dockerfile %s", b.Context, b.Dockerfile)
	}
	if got := b.Labels["org.opencontainers.image.revision"]; got != img.Source.Commit {
		t.Errorf("revision %s", got)
	}
	in.Resolve = func(context.Context, string, string, *config.UpstreamAuth) (string, error) {
		return "", errors.New("unreachable")
	}
	if _, _, err := Compute(t.Context(), in); err == nil || !strings.Contains(err.Error(), "image tool: unreachable") || failure.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
}

// TestKey changes one thing at a time: what decides the image's bytes changes
// the key, the rest does not.
func TestKey(t *testing.T) {
	start := func() tree {
		return tree{
			"base": "additional_tags: [latest]", "app": "depends_on: [base]\nbuild_args: {A: '1'}\nadditional_tags: [latest]",
			"app/main.go": "package main", "app/README.md": "read", "app/nested": "{}", "pipegen.yaml": "layout: tag",
		}
	}
	key := func(f tree, more ...func(*Input)) string {
		in := input(t, f)
		in.Selection = Selection{Names: []string{"app"}}
		for _, m := range more {
			m(&in)
		}
		return compute(t, in).Images[0].Key
	}
	before := key(start())
	if len(before) != 64 {
		t.Fatalf("key %q", before)
	}
	edit := func(p, text string) tree { f := start(); f[p] = text; return f }
	for name, f := range map[string]tree{
		"a readme":         edit("app/README.md", "other"),
		"a tag":            edit("app", "depends_on: [base]\nbuild_args: {A: '1'}\nadditional_tags: [v2]"),
		"spelling":         edit("app", "# comment\ndepends_on:\n  - base\nbuild_args: [A=1]\nadditional_tags: [latest]"),
		"a nested project": edit("app/nested/x.txt", "x"),
		"where it runs":    edit("pipegen.yaml", "layout: tag\nrunners: {linux/amd64: {gitlab: [big]}}"),
	} {
		if got := key(f); got != before {
			t.Errorf("%s changed the key", name)
		}
	}
	for name, f := range map[string]tree{
		"a file":        edit("app/main.go", "package other"),
		"a new file":    edit("app/new.go", "package main"),
		"an argument":   edit("app", "depends_on: [base]\nbuild_args: {A: '2'}\nadditional_tags: [latest]"),
		"a default":     edit("pipegen.yaml", "layout: tag\ndefaults: {build_args: {B: '1'}}"),
		"the base":      edit("base/file.txt", "x"),
		"a platform":    edit("app", "depends_on: [base]\nbuild_args: {A: '1'}\nplatforms: [linux/amd64]"),
		"the builder":   edit("pipegen.yaml", "layout: tag\ndefaults: {builder_image: 'example.com/builder:2'}"),
		"a script":      edit("app", "depends_on: [base]\nbuild_args: {A: '1'}\npre_script: echo"),
		"a watched one": edit("app", "depends_on: [base]\nbuild_args: {A: '1'}\nwatch: ['base/**']"),
	} {
		if got := key(f); got == before {
			t.Errorf("%s did not change the key", name)
		}
	}
	if key(start(), func(in *Input) {
		in.Registry = "elsewhere.example.com"
		in.Created = planTime.AddDate(0, 0, 1)
		in.Head.Hash = baseSHA
	}) != before {
		t.Error("registry, time or commit changed the key")
	}
}

func TestDeterminism(t *testing.T) {
	files := tree{"pipegen.yaml": "rebuild_all: ['x.txt']"}
	for i := range 40 {
		files[fmt.Sprintf("p/i%02d", i)] = "additional_tags: [latest]\nlabels: {a: b, c: d}\nbuild_args: {X: x, Y: y, Z: z}"
		if i > 0 {
			files[fmt.Sprintf("p/i%02d", i)] += fmt.Sprintf("\ndepends_on: [i%02d]", i/2)
		}
	}
	var first []byte
	for range 5 {
		data, err := compute(t, input(t, files, "x.txt")).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Fatal("the same input gave other bytes")
		}
	}
	p, err := Read(bytes.NewReader(first), "plan.json")
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.Bytes()
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("reading and writing a plan changed it: %v", err)
	}
}

func TestDeletedProjectsAreReported(t *testing.T) {
	in := input(t, tree{"app": "{}"})
	in.Changes = []diff.Change{{Path: "old/thing/build-config.yaml", Kind: diff.Deleted}, {Path: "old/thing/Dockerfile", Kind: diff.Deleted}}
	p := compute(t, in)
	if len(p.Images) != 0 || !slices.Contains(p.Skipped, Skipped{"thing", "deleted: old/thing/build-config.yaml"}) {
		t.Errorf("images %v, skipped %v", p.Images, p.Skipped)
	}
}

func TestRunners(t *testing.T) {
	arm, v7 := config.Platform{OS: "linux", Arch: "arm64"}, config.Platform{OS: "linux", Arch: "arm", Variant: "v7"}
	env := func(set ...string) func(string) string {
		return func(k string) string {
			if slices.Contains(set, k) {
				return "x"
			}
			return ""
		}
	}
	configured := map[string]config.Runner{"linux/arm64/v8": {GitLab: []string{"graviton"}, GitHub: "big-arm"}}
	for name, tc := range map[string]struct {
		pl         config.Platform
		configured map[string]config.Runner
		env        func(string) string
		want       string
	}{
		"nothing known":      {arm, nil, env(), "[$CICD_TAG_ARM64] ubuntu-24.04-arm [arm64]"},
		"own tag":            {arm, nil, env("CICD_TAG", "CICD_TAG_ARM64"), "[$CICD_TAG_ARM64] ubuntu-24.04-arm [arm64]"},
		"tag of all":         {arm, nil, env("CICD_TAG"), "[$CICD_TAG] ubuntu-24.04-arm [arm64]"},
		"configured":         {arm, configured, env("CICD_TAG"), "[graviton] big-arm [arm64]"},
		"other platform":     {v7, configured, env(), "[$CICD_TAG_ARM_V7]  [arm-v7]"},
		"amd64 needs no tag": {config.Platform{OS: "linux", Arch: "amd64"}, nil, env(), "[$CICD_TAG_AMD64] ubuntu-24.04 []"},
	} {
		r := runnerOf(tc.configured, tc.pl, tc.env)
		if got := fmt.Sprintf("%v %s %v", r.GitLab, r.GitHub, r.Concourse); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
	if got := lightRunner(configured, env()).GitLab; !slices.Equal(got, []string{"graviton"}) {
		t.Errorf("light jobs run on %v", got)
	}
	if got := lightRunner(nil, env("CICD_TAG_ARM64")).GitLab; !slices.Equal(got, []string{"$CICD_TAG_ARM64"}) {
		t.Errorf("light jobs run on %v", got)
	}
}
