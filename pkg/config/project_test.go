package config

import (
	"reflect"
	"slices"
	"testing"
)

// only gives the single project of a checkout without faults.
func only(t *testing.T, files map[string]string) *Project {
	t.Helper()
	fsys := tree(files)
	repo, err := Load(fsys, paths(fsys), Options{})
	sameWithCache(t, fsys, paths(fsys), Options{})
	if err != nil || len(repo.Projects) != 1 {
		t.Fatalf("%d projects, %v", len(repo.Projects), err)
	}
	return repo.Projects[0]
}

var (
	amd64 = Platform{OS: "linux", Arch: "amd64"}
	arm64 = Platform{OS: "linux", Arch: "arm64"}
)

func TestDefaultsOfAProject(t *testing.T) {
	p := only(t, map[string]string{"x/app/build-config.yaml": "index: true\n", "x/app/Dockerfile": ""})
	want := BuildConfig{
		Name: "app", DockerfilePath: "Dockerfile", ContextPath: ".", UseLocalContext: new(true),
		Platforms: []string{"linux/amd64", "linux/arm64"}, Engine: "kaniko", Outputs: []string{"image"},
		Index: new(true), Runner: "ci", Timeout: "1h",
	}
	if got := p.For(arm64); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !reflect.DeepEqual(p.Config, want) {
		t.Errorf("Config is %+v", p.Config)
	}
	if p.Dir != "x/app" || p.File != "x/app/build-config.yaml" {
		t.Errorf("Dir %q, File %q", p.Dir, p.File)
	}
}

func TestLayers(t *testing.T) {
	p := only(t, map[string]string{
		"a.Dockerfile": "",
		"pipegen.yaml": `
images: {kaniko: registry/builder}
defaults:
  platforms: [linux/amd64]
  build_args: {A: defaults, B: defaults, C: defaults, D: defaults}
  additional_tags: [latest]
  labels: [team=x]
  pre_script: echo defaults
  post_script: echo defaults
  timeout: 2h
  cache: {enable: true, repo: r, ttl: 1h}
  resources: {cpu: "1", memory: 1Gi}
  overrides:
    linux/arm64:
      build_args: {D: defaults for arm64}
      timeout: 3h
      resources: {memory: 4Gi}
`,
		"app/Dockerfile": "", "app/arm/Dockerfile": "",
		"app/build-config.yaml": `
platforms: [linux/arm64/v8, linux/amd64]
build_args: [B=file, C=file, E=1.10]
additional_tags: []
post_script: ""
timeout: 4h
cache: {ttl: 2h}
overrides:
  linux/aarch64:
    dockerfile_path: ./arm//Dockerfile
    build_args: {C: override}
    pre_script: |
      echo override
    cache: {enable: false}
    engine_args: [--a]
`,
	})
	base := BuildConfig{
		Name: "app", DockerfilePath: "Dockerfile", ContextPath: ".", UseLocalContext: new(true),
		Platforms: []string{"linux/arm64", "linux/amd64"}, Engine: "kaniko", BuilderImage: "registry/builder",
		BuildArgs:      Pairs{"A": "defaults", "B": "file", "C": "file", "D": "defaults", "E": "1.10"},
		AdditionalTags: []string{}, Labels: Pairs{"team": "x"}, PreScript: new("echo defaults"), PostScript: new(""),
		Cache:     &Cache{Enable: true, Repo: "r", TTL: "2h"},
		Resources: &Resources{CPU: "1", Memory: "1Gi"},
		Outputs:   []string{"image"}, Index: new(true), Runner: "ci", Timeout: "4h",
	}
	if got := p.For(amd64); !reflect.DeepEqual(got, base) {
		t.Errorf("amd64\ngot  %+v\nwant %+v", got, base)
	}
	arm := base
	arm.DockerfilePath = "arm/Dockerfile"
	arm.BuildArgs = Pairs{"A": "defaults", "B": "file", "C": "override", "D": "defaults for arm64", "E": "1.10"}
	arm.PreScript = new("echo override\n")
	arm.EngineArgs = []string{"--a"}
	arm.Cache = &Cache{Enable: false, Repo: "r", TTL: "2h"}
	arm.Resources = &Resources{CPU: "1", Memory: "4Gi"}
	if got := p.For(arm64); !reflect.DeepEqual(got, arm) {
		t.Errorf("arm64\ngot  %+v\nwant %+v", got, arm)
	}
}

func TestMergeKeysAndAnchors(t *testing.T) {
	p := only(t, map[string]string{"app/Dockerfile": "", "app/build-config.yaml": `
build_args: &args {A: "1", B: "1"}
overrides:
  linux/arm64: &arm
    build_args: {<<: *args, B: "2", C: "3"}
    target: &stage arm
  linux/amd64:
    <<: *arm
    target: *stage
    timeout: 5m
`})
	want := Pairs{"A": "1", "B": "2", "C": "3"}
	for pl, timeout := range map[Platform]string{arm64: "1h", amd64: "5m"} {
		b := p.For(pl)
		if !reflect.DeepEqual(b.BuildArgs, want) || b.Target != "arm" || b.Timeout != timeout {
			t.Errorf("%s: %v, target %q, timeout %q", pl, b.BuildArgs, b.Target, b.Timeout)
		}
	}
}

func TestUpstreamPaths(t *testing.T) {
	p := only(t, map[string]string{"app/build-config.yaml": `
upstream_repo: https://gitlab.example.org/a/b.git
upstream_ref: 0123456789012345678901234567890123456789
dockerfile_path: ./deploy//Dockerfile
context_path: src/../
`})
	b := p.For(amd64)
	if b.DockerfilePath != "deploy/Dockerfile" || b.ContextPath != "." || *b.UseLocalContext || b.UpstreamRef != "0123456789012345678901234567890123456789" {
		t.Errorf("%+v", b)
	}
}

func TestImages(t *testing.T) {
	p := only(t, map[string]string{"app/Dockerfile": "", "app/build-config.yaml": "target: debug\nadditional_tags: [v1]\nplatforms: [linux/arm/v7]\n"})
	want := []ProjectImage{{"app", "debug", []string{"v1"}, []Platform{{"linux", "arm", "v7"}}}}
	if got := p.Images(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	p = only(t, map[string]string{"app/Dockerfile": "", "app/build-config.yaml": `
name: kaniko
additional_tags: [v1]
platforms: [linux/amd64]
targets:
- {name: executor}
- {name: debug, target: kaniko-debug, additional_tags: [debug]}
- {name: warmer, additional_tags: []}
`})
	one := []Platform{amd64}
	want = []ProjectImage{
		{"kaniko-executor", "executor", []string{"v1"}, one},
		{"kaniko-debug", "kaniko-debug", []string{"debug"}, one},
		{"kaniko-warmer", "warmer", []string{}, one},
	}
	if got := p.Images(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFaultOfAProject(t *testing.T) {
	p := only(t, map[string]string{
		"pipegen.yaml":   "defaults:\n  depends_on: [base]\n",
		"app/Dockerfile": "", "app/build-config.yaml": "name: x\nbuild_args:\n- A=1\n- B=2\nlabels: {c: d}\ncache:\n  enable: true\n",
	})
	for _, tt := range []struct {
		path []any
		want string
	}{
		{at("name"), "app/build-config.yaml:1:7: m"},
		{at("build_args"), "app/build-config.yaml:2:1: m"},
		{at("build_args", 1), "app/build-config.yaml:4:3: m"},
		{at("build_args", "B"), "app/build-config.yaml:4:3: m"},
		{at("build_args", "Z"), "app/build-config.yaml:2:1: m"},
		{at("labels", "c"), "app/build-config.yaml:5:13: m"},
		{at("cache"), "app/build-config.yaml:6:1: m"},
		{at("cache", "ttl"), "app/build-config.yaml:6:1: m"},
		{at("nothing", 3, "x"), "app/build-config.yaml:1:1: m"},
		{at(), "app/build-config.yaml:1:1: m"},
		{at("depends_on", 0), "app/build-config.yaml:1:1: m (from the defaults in pipegen.yaml:2:16)"},
	} {
		if got := p.Fault("r", "m", "", tt.path...).String(); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.path, got, tt.want)
		}
	}
	if got := (&Project{File: "f"}).Fault("r", "m", "h", "x"); got.String() != "f: m\n  hint: h" || got.Rule != "r" || got.Severity != Error {
		t.Errorf("a project without a file: %+v", got)
	}
}

func TestFreeFormKeepsItsTypes(t *testing.T) {
	fsys := tree(map[string]string{"pipegen.yaml": `
overlays:
  gitlab:
    build:
      retry: 2
      when: 2026-01-02
      tags: null
      variables: {A: "1", B: 1.5, 3: x, on: true}
      rules: [{if: $X}, ~]
server: {url: "https://x"}
`})
	repo, err := Load(fsys, paths(fsys), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Overlay{
		"retry": 2, "when": "2026-01-02", "tags": nil,
		"variables": map[string]any{"A": "1", "B": 1.5, "3": "x", "on": true},
		"rules":     []any{map[string]any{"if": "$X"}, nil},
	}
	if got := repo.Pipegen.Overlays["gitlab"]["build"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	if repo.Pipegen.Server == nil || repo.Pipegen.Server.URL != "https://x" {
		t.Errorf("server %v", repo.Pipegen.Server)
	}
}

func TestFaultsErr(t *testing.T) {
	warning, fault := Fault{File: "b", Severity: Warning}, Fault{File: "a", Severity: Error}
	if err := (Faults{warning}).Err(); err != nil {
		t.Errorf("a warning is an error: %v", err)
	}
	fs := Faults{warning, fault}
	if err := fs.Err(); err == nil {
		t.Error("an error is none")
	}
	fs.Sort()
	if !slices.Equal(fs, Faults{fault, warning}) {
		t.Errorf("sorted %v", fs)
	}
}
