package render_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// Whatever part of the images a plan has, the workflow of all of them has the
// jobs for it.
func TestGitHubOutputsOfAnyPart(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 4))
		everything := ghPlan()
		for i := range 1 + r.IntN(700) {
			var needs []string
			for range r.IntN(3) {
				if i > 0 && r.IntN(3) == 0 {
					needs = append(needs, everything.Images[r.IntN(i)].Name)
				}
			}
			slices.Sort(needs)
			suffixes := [][]string{{"amd64", "arm64"}, {"amd64"}, {"arm64"}, {"amd64", "arm64", "arm-v7"}}[r.IntN(4)]
			img := ghImage(fmt.Sprintf("image-%d", i), slices.Compact(needs), suffixes...)
			everything.Images = append(everything.Images, on([]string{"ci", "ci", "ecs"}[r.IntN(3)], img))
		}
		files, err := render.GitHub(everything, render.GitHubOptions{})
		if err != nil {
			t.Fatal(err)
		}
		main := ghParse(t, files[0].Data)
		for range 5 {
			part, there := ghPlan(), map[string]bool{}
			keep := r.IntN(100)
			for _, img := range everything.Images {
				if r.IntN(100) > keep {
					continue
				}
				there[img.Name] = true
				img.Needs = slices.DeleteFunc(slices.Clone(img.Needs), func(n string) bool { return !there[n] })
				if r.IntN(10) == 0 {
					img.Retag, img.Builds = "sha256:0", []plan.Build{}
				}
				part.Images = append(part.Images, img)
			}
			ghOutputs(t, part, main)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestGitHubOutputs(t *testing.T) {
	retag := ghBoth("moved")
	retag.Retag, retag.Builds = "sha256:0", []plan.Build{}
	if got, err := render.GitHubOutputs(ghPlan(on("ecs", ghBoth("base")), ghBoth("app", "base"))); err != nil || !strings.HasPrefix(string(got), `wave-1={"include":[{"image":"base","runner":"ecs"}]}
wave-2={"include":[{"image":"app","platforms":["amd64","arm64"],"needs":"pipegen-index-base"}]}
`) {
		t.Errorf("the controller: got %v\n%s", err, got)
	}
	got, err := render.GitHubOutputs(ghPlan(ghBoth("base"), retag, ghImage("one", nil, "amd64"), ghBoth("app", "base", "one"), ghBoth("top", "app")))
	want := `wave-1={"include":[{"image":"base"},{"image":"moved","platforms":[]},{"image":"one","platforms":["amd64"]}]}
wave-2={"include":[{"image":"app","needs":"pipegen-index-{base,one}"}]}
wave-3={"include":[{"image":"top","needs":"pipegen-index-app"}]}
waves=["wave-1","wave-2","wave-3"]
platforms=["amd64","arm64"]
`
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%s", err, got)
	}
	if got, err := render.GitHubOutputs(ghPlan()); err != nil || string(got) != "waves=[]\nplatforms=[]\n" {
		t.Errorf("nothing to do: got %v, %s", err, got)
	}
	names := make([]string, 500)
	p := ghPlan()
	for i := range names {
		names[i] = fmt.Sprintf("image-%d", i)
		p.Images = append(p.Images, ghBoth(names[i]))
	}
	p.Images = append(p.Images, ghBoth("app", names...))
	if got, err := render.GitHubOutputs(p); err != nil || !strings.Contains(string(got), `{"image":"app","needs":"pipegen-index-*"}`) {
		t.Errorf("many needs: got %v, %s", err, got)
	}
}

func TestGitHubLimits(t *testing.T) {
	many := func(n int, name string) *plan.Plan {
		p := ghPlan()
		for i := range n {
			p.Images = append(p.Images, ghBoth(fmt.Sprintf(name, i)))
		}
		return p
	}
	for _, n := range []int{256, 257, 512, 513, 10_000} {
		p := many(n, "project-%05d")
		files, err := render.GitHub(p, render.GitHubOptions{})
		if err != nil {
			t.Fatal(err)
		}
		main := ghParse(t, files[0].Data)
		if got, want := len(main.Jobs), 2+(n+255)/256; got != want {
			t.Errorf("%d images: %d jobs, want %d", n, got, want)
		}
		ghOutputs(t, p, main)
	}
	_, err := render.GitHubOutputs(many(10_000, "an-image-with-a-name-that-is-rather-long-%05d"))
	if !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" || !strings.Contains(err.Error(), "1024 KiB") {
		t.Errorf("too much for outputs: got %v", err)
	}
	chain := ghPlan(ghBoth("i0"))
	for i := range 1000 {
		chain.Images = append(chain.Images, ghBoth(fmt.Sprintf("i%d", i+1), fmt.Sprintf("i%d", i)))
	}
	_, err = render.GitHub(chain, render.GitHubOptions{})
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "1001 levels") {
		t.Errorf("too much for a workflow: got %v", err)
	}
}

func TestGitHubRefuses(t *testing.T) {
	change := func(f func(*plan.Image)) *plan.Plan {
		img := ghBoth("app")
		f(&img)
		return ghPlan(img)
	}
	for name, c := range map[string]struct {
		plan *plan.Plan
		want string
	}{
		"name":             {ghPlan(ghBoth("$(id)")), `"$(id)"`},
		"name newline":     {ghPlan(ghBoth("a\nb")), `"a\nb"`},
		"twice":            {ghPlan(ghBoth("app"), ghBoth("app")), `two images "app"`},
		"id":               {change(func(i *plan.Image) { i.Builds[0].ID = "other@amd64" }), `"other@amd64"`},
		"id expression":    {change(func(i *plan.Image) { i.Builds[0].ID = "app@${{ x }}" }), `"app@${{ x }}"`},
		"unknown need":     {ghPlan(ghBoth("app", "base")), `needs "base"`},
		"two runners":      {change(func(i *plan.Image) { i.Builds[0].Runner = "ecs" }), `"ecs"`},
		"runner":           {ghPlan(on("nomad", ghBoth("app"))), `"nomad"`},
		"controller limit": {ghPlan(on("ecs", change(func(i *plan.Image) { i.Builds[0].Timeout = "130h" }).Images[0])), "at most 119h50m"},
		"token":            {change(func(i *plan.Image) { i.Builds[0].Secrets = []config.Secret{{ID: "a", Env: "PIPEGEN_TOKEN"}} }), "PIPEGEN_TOKEN"},
		"no label":         {change(func(i *plan.Image) { i.Builds[0].RunsOn.GitHub = "" }), "no runner of GitHub is known for linux/amd64"},
		"timeout":          {change(func(i *plan.Image) { i.Builds[0].Timeout = "1 h" }), `"1 h"`},
		"long timeout":     {change(func(i *plan.Image) { i.Builds[0].Timeout = "130h" }), `"130h"`},
		"two labels":       {ghPlan(ghBoth("a"), change(func(i *plan.Image) { i.Builds[0].RunsOn.GitHub = "b" }).Images[0]), `others for linux/amd64 on "ubuntu-24.04"`},
		"label rtl":        {change(func(i *plan.Image) { i.Builds[0].RunsOn.GitHub = "a\u202eb" }), "U+202E"},
		"label bytes":      {change(func(i *plan.Image) { i.Builds[0].RunsOn.GitHub = "a\xffb" }), "not UTF-8"},
		"secret":           {change(func(i *plan.Image) { i.Builds[0].Secrets = []config.Secret{{ID: "a", Env: "GITHUB_PAT"}} }), "GITHUB_PAT"},
		"own secret":       {change(func(i *plan.Image) { i.Builds[0].Secrets = []config.Secret{{ID: "a", Env: "PIPEGEN_BUILD"}} }), "PIPEGEN_BUILD"},
		"image variable":   {change(func(i *plan.Image) { i.Builds[0].BuilderImage = "$GITHUB_REPOSITORY:x" }), "GITHUB_REPOSITORY"},
	} {
		files, err := render.GitHub(c.plan, render.GitHubOptions{})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || files != nil {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestGitHubBadOverlay(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		kind    string
		overlay config.Overlay
		want    string
	}{
		{"build", config.Overlay{"run": "true"}, "overlays.github.build.run"},
		{"build", config.Overlay{"needs": nil}, "overlays.github.build.needs"},
		{"build", config.Overlay{"if": "false"}, "overlays.github.build.if"},
		{"build", config.Overlay{"container": "x"}, "overlays.github.build.container"},
		{"manifest", config.Overlay{"continue-on-error": true}, "overlays.github.manifest.continue-on-error"},
		{"build", config.Overlay{"env": m{"PIPEGEN_BUILD": "x"}}, "PIPEGEN_BUILD is pipegen's own"},
		{"build", config.Overlay{"env": m{"A": []any{}}}, "want a string, not a list"},
		{"build", config.Overlay{"permissions": m{"contents": "all"}}, "overlays.github.build.permissions.contents"},
		{"build", config.Overlay{"permissions": "write-all"}, "want a map"},
		{"build", config.Overlay{"steps": []any{m{"run": "true"}, "x"}}, "overlays.github.build.steps.1"},
		{"build", config.Overlay{"on": m{}}, "a key of the workflow"},
		{"workflow", config.Overlay{"steps": []any{}}, "a key of jobs"},
		{"workflow", config.Overlay{"jobs": m{}}, "overlays.github.workflow.jobs"},
		{"workflow", config.Overlay{"run-name": "a\u202eb"}, "U+202E"},
		{"deploy", config.Overlay{}, "overlays.github.deploy"},
	} {
		p := ghPlan(ghBoth("app"))
		p.CI.Overlays = map[string]map[string]config.Overlay{"github": {c.kind: c.overlay}}
		files, err := render.GitHub(p, render.GitHubOptions{})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || files != nil {
			t.Errorf("%s %v: got %v, want an error with %q", c.kind, c.overlay, err, c.want)
		}
	}
}

func TestGitHubSummary(t *testing.T) {
	p := ghPlan(ghBoth("app"), ghBoth("gone"))
	p.Images[0].Reasons = []plan.Reason{{Kind: plan.Changed, Detail: "a|b`c`<d>[e](f)\n\u202eg"}, {Kind: plan.All}}
	p.Images[1].Retag, p.Images[1].Builds = "sha256:0", nil
	p.Skipped = []plan.Skipped{{Name: "x"}}
	want := "### 2 builds of 2 images at `0000000`\n\n| image | platforms | tags | why |\n|---|---|---|---|\n" +
		`| app | amd64 arm64 | app-latest | changed: a\|b\` + "`c\\`" + `\<d\>\[e\]\(f\)\\n\\u202eg (+1) |` + "\n" +
		"| gone | built before, gets tags | gone-latest | all:  |\n\n1 image left out.\n\n"
	if got := string(render.GitHubSummary(p)); got != strings.ReplaceAll(want, "(+1)", `\(+1\)`) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := string(render.GitHubSummary(ghPlan(on("ecs", ghBoth("app"))))); !strings.Contains(got, "| app | amd64 arm64 on ecs | app-latest |") {
		t.Errorf("got\n%s", got)
	}
	for i := range 20_000 {
		p.Images = append(p.Images, ghBoth(fmt.Sprintf("a-name-to-fill-the-summary-%d", i)))
	}
	if got := render.GitHubSummary(p); len(got) > 1<<20 || !strings.Contains(string(got), " more\n") {
		t.Errorf("%d bytes of summary", len(got))
	}
	published := render.PublishedMarkdown([]plan.Published{{Name: "app", Repository: "r/i", Digest: "sha256:1", Tags: []string{"app-1", "app_latest"}, Kept: []plan.KeptTag{{Tag: "x", Reason: "later"}}}})
	if want := "**app** r/i\\@sha256:1\n\n- app-1\n- app\\_latest\n- left x: later\n\n"; string(published) != want {
		t.Errorf("got\n%s", published)
	}
}

// FuzzGitHub renders plans with arbitrary values: they come back unchanged, or
// the plan is refused.
func FuzzGitHub(f *testing.F) {
	for _, s := range []string{"app", "a: b", "- x", "*a", "!tag", "%", `"`, "'", "''", "a\nb", "\x00", "\u202e", "$(id)", "`x`", "${{ x }}", "}}", "$X", "${X}y", "yes", "~", "", " ", "a #b", "\xff", "é", "<<"} {
		f.Add("app", s, s, s)
		f.Add(s, "label", "image", "value")
	}
	f.Fuzz(func(t *testing.T, name, label, image, value string) {
		p := ghPlan(ghBoth(name), ghBoth("other", name))
		p.Images[0].Builds[0].RunsOn.GitHub, p.Images[1].Builds[0].RunsOn.GitHub = label, label
		p.CI.Image = image
		p.CI.Overlays = map[string]map[string]config.Overlay{"github": {"build": {"env": map[string]any{"MINE": value}}}}
		files, err := render.GitHub(p, render.GitHubOptions{})
		if err != nil {
			if !errors.Is(err, failure.ErrInput) || files != nil {
				t.Fatalf("got %v", err)
			}
			return
		}
		main, called := ghParse(t, files[0].Data), ghParse(t, files[1].Data)
		if got := ghLabels(t, called)["amd64"]; got != label {
			t.Fatalf("label %q came back as %q", label, got)
		}
		if got := called.Jobs["build"].Env["MINE"]; got != value {
			t.Fatalf("value %q came back as %q", value, got)
		}
		// Literal text is an expression that gives it; what reads variables is one too.
		got := strings.ReplaceAll(main.Jobs["plan"].Env["PIPEGEN_IMAGE"], "${{ '${{' }}", "\x00")
		rest := got
		for strings.Contains(rest, "${{") {
			_, rest, _ = strings.Cut(rest, "${{ vars.")
			variable, after, ok := strings.Cut(rest, " }}")
			if !ok || strings.ContainsAny(variable, " '(") {
				t.Fatalf("image %q became %q", image, got)
			}
			rest = after
		}
		if !strings.Contains(image, "$") && image != "" && got != image {
			t.Fatalf("image %q came back as %q", image, got)
		}
		if wave := ghOutputs(t, p, main); wave[name] != 1 || wave["other"] != 2 {
			t.Fatalf("waves %v", wave)
		}
	})
}

func BenchmarkGitHub(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		p := ghPlan()
		for i := range n {
			var needs []string
			if i >= n/2 {
				needs = []string{p.Images[i-n/2].Name}
			}
			p.Images = append(p.Images, ghBoth(fmt.Sprintf("p-%05d", i), needs...))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := render.GitHub(p, render.GitHubOptions{}); err != nil {
					b.Fatal(err)
				}
				if _, err := render.GitHubOutputs(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
