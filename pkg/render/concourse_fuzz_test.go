package render_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// FuzzConcourse renders configurations with arbitrary values: they come back
// unchanged, as the same arguments and parameters, or are refused; and nothing
// of them is a variable to Concourse.
func FuzzConcourse(f *testing.F) {
	for _, s := range []string{
		"app", "a: b", "- x", "*a", "&a", "!tag", "%", `"`, "'", "a\nb", "\x00", "\u202e", "$(id)", "`x`", "yes", "1:30", "~", "", " ", "a #b", "\xff", "é", "<<",
		"((x))", "((", "((.:x))", "a((b))c", "(( x ))", "weekly", "built-amd64", "set-pipeline", "MyApp", "1", "_x", strings.Repeat("a", 300),
	} {
		f.Add("app", s, s, s, s)
		f.Add(s, "dir", "arm64", "registry.example/images:builder", "SECRET")
	}
	f.Fuzz(func(t *testing.T, name, dir, tag, builder, secret string) {
		settings := checkout{"pipegen.yaml": "registry: registry.example/images\n"}
		p, cfg := settings.with(project("p", "name: app\n", "FROM scratch\n")).with(project("q", "depends_on: [app]\n", "FROM scratch\n")).load(t)
		// What loading would refuse is rendered too.
		img := &p.Images[0]
		cfg.Projects[0].Dir, img.Dir = dir, dir
		cfg.Projects[0].Config.Name, img.Name = name, name
		p.Images[1].Needs = []string{name}
		for i := range img.Builds {
			b := &img.Builds[i]
			_, suffix, _ := strings.Cut(b.ID, "@")
			b.ID, b.RunsOn.Concourse, b.BuilderImage = name+"@"+suffix, []string{tag, "second"}, builder
			b.Secrets = []config.Secret{{ID: "s", Env: secret}}
		}
		cfg.Pipegen.Overlays = map[string]map[string]config.Overlay{"concourse": {"build": {"params": map[string]any{"MINE": tag}}}}
		if cfg.Projects[1].Dir == dir || name == "q" {
			return
		}
		data, err := render.Concourse(p, cfg, render.ConcourseOptions{})
		if err != nil {
			if !errors.Is(err, failure.ErrInput) || data != nil {
				t.Fatalf("got %v", err)
			}
			return
		}
		pipeline := ccParse(t, data)
		if len(pipeline.Jobs) != 3 || len(pipeline.Resources) != 3 {
			t.Fatalf("%d jobs and %d resources:\n%s", len(pipeline.Jobs), len(pipeline.Resources), data)
		}
		builds := pipeline.Jobs[1].Plan[2].InParallel
		for i, b := range img.Builds {
			task := builds[i].Task
			if got := task.Config.Run.Args; got[1] != b.ID {
				t.Fatalf("id %q came back as %q", b.ID, got)
			}
			if !slices.Equal(task.Tags, []string{tag, "second"}) || task.Params["MINE"] != tag {
				t.Fatalf("tag %q came back as %q and %q", tag, task.Tags, task.Params)
			}
			if secret != "" && task.Config.Params[secret] != "(("+secret+"))" {
				t.Fatalf("secret %q came back as %q", secret, task.Config.Params)
			}
		}
		if got := pipeline.Jobs[2].Plan[1].Task.Config.Run.Args; !slices.ContainsFunc(got, func(arg string) bool { return strings.HasPrefix(arg, "--after="+name+"=") }) {
			t.Fatalf("dependency %q came back as %q", name, got)
		}
		if own := variables(t, data); !slices.Equal(own, expected(p, secret)) {
			t.Fatalf("variables %q, want %q", own, expected(p, secret))
		}
	})
}

// variables gives what Concourse would replace, each once.
func variables(t *testing.T, data []byte) []string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "((") {
			found[n.Value] = true
		}
		for _, child := range n.Content {
			walk(child)
		}
	}
	walk(&doc)
	return slices.Sorted(maps.Keys(found))
}

func expected(p *plan.Plan, secret string) []string {
	all := map[string]bool{"((git_uri))": true}
	if p.CI.Image == "" {
		all["((pipegen_image.repository))"], all["((pipegen_image.tag))"] = true, true
	}
	if secret != "" {
		all["(("+secret+"))"] = true
	}
	return slices.Sorted(maps.Keys(all))
}
