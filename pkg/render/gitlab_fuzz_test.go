package render_test

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// FuzzYAML renders plans with arbitrary values: they come back unchanged, or
// the plan is refused.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"app", "a: b", "- x", "*a", "&a", "!tag", "%", `"`, "'", "a\nb", "\x00", "\u202e", "$(id)", "`x`", "yes", "1:30", "1,000", ":a", "~", "", " ", "a #b", "\xff", "é", "<<", "\t", "a\n"} {
		f.Add("app", s, s, s, s)
		f.Add(s, "tag", "image", "value", "45m")
	}
	f.Fuzz(func(t *testing.T, name, tag, builder, variable, timeout string) {
		img := both(name)
		img.Builds[0].RunsOn.GitLab = []string{tag, "second"}
		img.Builds[0].BuilderImage, img.Builds[0].Timeout = builder, timeout
		p := planOf(img)
		p.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {"build": {"variables": map[string]any{"MINE": variable, variable: "key"}}}}
		data, err := gitlab(p, render.GitLabOptions{})
		if err != nil {
			if !errors.Is(err, failure.ErrInput) || data != nil {
				t.Fatalf("got %v", err)
			}
			return
		}
		var top yaml.Node
		if err := yaml.Unmarshal(data, &top); err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		doc := map[string]map[string]any{}
		for i := 0; i < len(top.Content[0].Content); i += 2 {
			var job map[string]any
			if key := top.Content[0].Content[i].Value; key != "stages" {
				if err := top.Content[0].Content[i+1].Decode(&job); err != nil {
					t.Fatal(err)
				}
				doc[key] = job
			}
		}
		if len(doc) != 2+2+1+3 {
			t.Fatalf("%d entries:\n%s", len(doc), data)
		}
		job := doc["build "+name+"@amd64"]
		if got := lookup(job, "variables", "PIPEGEN_BUILD"); got != name+"@amd64" {
			t.Fatalf("id %q came back as %q", name, got)
		}
		template := doc[".build-amd64"]
		if got := template["tags"]; !slices.Equal(got.([]any), []any{tag, "second"}) {
			t.Fatalf("tag %q came back as %q", tag, got)
		}
		if builder == "" {
			builder = "$PIPEGEN_IMAGE"
		}
		if got := lookup(template, "image", "name"); got != builder {
			t.Fatalf("image %q came back as %q", builder, got)
		}
		if got := lookup(template, "variables", "MINE"); variable != "MINE" && got != variable {
			t.Fatalf("variable %q came back as %q", variable, got)
		}
	})
}

// FuzzArgv renders plans whose values are hostile, runs the script of each
// build's job with its variables in a shell, and looks in the plan for what it
// asks for: the engine gets the very arguments that were planned.
func FuzzArgv(f *testing.F) {
	for _, s := range []string{
		"$(id)", "`id`", "a: b", "- x", "*a", "!tag", "%", "%s", `"`, "'", `\`, "a\nb", "\x00", "\u202e", "$HOME", "${CI_JOB_TOKEN}", "$$", "; id", "a b", "--force",
		"<<", "~", "", "é", "#", "{{x}}", "((x))", "$[[ inputs.x ]]", strings.Repeat("a", 300),
	} {
		f.Add(s, s, s, uint8(0))
		f.Add("app", s, "value", uint8(4))
	}
	f.Fuzz(func(t *testing.T, name, value, tag string, size uint8) {
		if !utf8.ValidString(name + value + tag) {
			return // a plan is JSON, which holds no such text
		}
		p := planOf()
		for i := range 1 + size%5 {
			img := both("image-"+strconv.Itoa(int(i)), "base-of-many")
			if i == 0 {
				img = both("base-of-many")
			}
			if i == 1 {
				img = both(name, "base-of-many")
			}
			img.Dir, img.Key = "projects/"+value, value
			for k := range img.Builds {
				b := &img.Builds[k]
				b.Context, b.Dockerfile, b.Target = img.Dir, value+"/Dockerfile", tag
				b.Destination = "registry.example/images:" + tag
				b.Args = map[string]string{"A": value, value: "x"}
				b.Labels = map[string]string{"l": value, value: tag}
				b.EngineArgs, b.Outputs = []string{value, "--x=" + tag}, []string{"image"}
			}
			p.Images = append(p.Images, img)
		}
		o := render.GitLabOptions{MaxJobs: 3 + int(size)%20}
		got, err := render.GitLab(p, o)
		if err != nil {
			if !errors.Is(err, failure.ErrInput) || got != nil {
				t.Fatalf("got %v", err)
			}
			return
		}
		raw, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		handed, err := plan.Read(bytes.NewReader(raw), "plan.json")
		if err != nil {
			if !errors.Is(err, failure.ErrInput) {
				t.Fatalf("got %v", err)
			}
			return
		}
		seen := 0
		for _, c := range append(got.Chunks, render.GitLabChunk{Data: got.Child}) {
			for job, spec := range withinLimits(t, c.File, c.Data).jobs {
				if !strings.HasPrefix(job, "build ") {
					continue
				}
				seen++
				argv := shell(t, spec)
				want, planned := argvOf(t, p, strings.TrimPrefix(job, "build "))
				have, _ := argvOf(t, handed, argv[2])
				if argv[1] != "build" || argv[2] != planned || !slices.Equal(have, want) {
					t.Fatalf("%s runs %q, which is\n%q, and the plan has\n%q", job, argv, have, want)
				}
			}
		}
		if seen != 2*len(p.Images) {
			t.Fatalf("%d builds, want %d", seen, 2*len(p.Images))
		}
	})
}

// shell gives the arguments that a job's script calls pipegen with.
func shell(t *testing.T, job map[string]any) []string {
	t.Helper()
	script := job["script"].([]any)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", `pipegen() { printf '%s\0' pipegen "$@"; }`+"\n"+script[0].(string))
	cmd.Env = []string{"PIPEGEN_PLAN=plan.json", "PIPEGEN_METADATA_DIR=.pipegen"}
	for k, v := range job["variables"].(map[string]any) {
		cmd.Env = append(cmd.Env, k+"="+v.(string))
	}
	out, err := cmd.Output()
	if err != nil || len(script) != 1 {
		t.Fatalf("%q: %v", script, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// argvOf gives the command line of the engine for a build, and its id.
func argvOf(t *testing.T, p *plan.Plan, id string) ([]string, string) {
	t.Helper()
	img, b, ok := p.Find(id)
	if !ok {
		t.Fatalf("there is no build %q", id)
	}
	argv, err := engine.Argv(t.Context(), engine.Job{Plan: p, Image: img, Build: b, Root: "/checkout", Getenv: func(string) string { return "" }})
	if err != nil && !errors.Is(err, failure.ErrInput) {
		t.Fatal(err)
	}
	return argv, b.ID
}
