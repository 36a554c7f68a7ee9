package render_test

import (
	"errors"
	"slices"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
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
		data, err := render.GitLab(p, render.GitLabOptions{})
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
