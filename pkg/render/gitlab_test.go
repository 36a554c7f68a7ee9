package render_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

var update = flag.Bool("update", false, "renew the golden files")

const head = "0123456789abcdef0123456789abcdef01234567"

// gitlab renders a plan that fits into one pipeline.
func gitlab(p *plan.Plan, o render.GitLabOptions) ([]byte, error) {
	got, err := render.GitLab(p, o)
	if err != nil {
		if got != nil {
			return nil, errors.New("an error and pipelines")
		}
		return nil, err
	}
	if len(got.Chunks) > 0 {
		return nil, fmt.Errorf("got %d chunks", len(got.Chunks))
	}
	return got.Child, nil
}

// planOf is a plan with these images, and what plans from GitLab have.
func planOf(images ...plan.Image) *plan.Plan {
	return &plan.Plan{
		Version: plan.Version, Event: "push", Head: head, Committed: time.Unix(1794000000, 0).UTC(), Created: time.Unix(1794000060, 0).UTC(),
		Registry: "registry.example/images", Layout: "tag",
		CI:     plan.CI{Runner: config.Runner{GitLab: []string{"$CICD_TAG"}}},
		Images: images, Skipped: []plan.Skipped{},
	}
}

// image has a build for each platform suffix, as in amd64 or arm-v7.
func image(name string, needs []string, suffixes ...string) plan.Image {
	img := plan.Image{Name: name, Dir: "projects/" + name, Needs: needs, Index: true, Tags: []string{name + "-latest"}}
	for _, s := range suffixes {
		tag := "$CICD_TAG_" + strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
		img.Builds = append(img.Builds, plan.Build{
			ID: name + "@" + s, Platform: "linux/" + strings.Replace(s, "-", "/", 1), Engine: "kaniko",
			Runner: "ci", RunsOn: config.Runner{GitLab: []string{tag}}, Timeout: "1h",
		})
	}
	return img
}

// on has a runner do all builds of an image.
func on(runner string, img plan.Image) plan.Image {
	for i := range img.Builds {
		img.Builds[i].Runner = runner
	}
	return img
}

func both(name string, needs ...string) plan.Image { return image(name, needs, "amd64", "arm64") }

func goldenPlans() map[string]*plan.Plan {
	own := both("own")
	own.Builds[0].BuilderImage = "registry.example/tools:kaniko"
	own.Builds[0].Timeout = "1h30m10s"
	own.Builds[1].Timeout = "45m"
	own.Builds[1].RunsOn.GitLab = nil
	ownPlan := planOf(own)
	ownPlan.CI.Image = "registry.example/tools:pipegen"
	ownPlan.CI.Runner = config.Runner{}

	hostile := both("true")
	hostile.Builds[0].BuilderImage = "registry.example/a: b # c"
	hostile.Builds[0].RunsOn.GitLab = []string{"yes", "1:30", "1,000", ":symbol", "- x", "*a", "!tag", "%", `"`, "'", "{a: b}", "null", " blank ", "$$(id)", "`x`", "0x10", "é", "<<", "="}
	hostilePlan := planOf(hostile, both("1"), both("_.-"), both("null"), both("pages"))
	hostilePlan.Head = "0123\n- injected: job\n\u202e"

	overlaid := planOf(both("base"), both("app", "base"))
	overlaid.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {
		"build": {
			"tags": []any{"large"}, "timeout": nil, "image": map[string]any{"pull_policy": "if-not-present"},
			"variables": map[string]any{"GIT_DEPTH": 20.0, "BIG": 1000000.0, "NOTE": "two\nlines: *"}, "interruptible": true,
			"before_script": []any{"echo 'a: b'", []any{"echo nested"}},
			"artifacts":     map[string]any{"expire_in": "1 day"},
		},
		"manifest": {"resource_group": "one-at-a-time", "id_tokens": map[string]any{"TOKEN": map[string]any{"aud": "https://example.com"}}},
		"gate":     {"tags": nil},
	}}
	empty := planOf()
	empty.CI.Overlays = overlaid.CI.Overlays

	many := planOf()
	var names []string
	for i := range 60 {
		names = append(names, "base-"+strconv.Itoa(i))
		many.Images = append(many.Images, image(names[i], nil, "amd64"))
	}
	many.Images = append(many.Images, both("on-many", names...))

	// One that is a file beside the image, one that is not pushed, and the
	// project's own build, which may leave anything.
	files := planOf(both("tar"), both("unpushed"), both("made"))
	for i, engine := range []string{"buildkit", "kaniko", "make"} {
		for k := range files.Images[i].Builds {
			b := &files.Images[i].Builds[k]
			b.Engine, b.Outputs = engine, [][]string{{"image", "docker-tar"}, {"rootfs"}, {"image"}}[i]
		}
	}

	// Some images in jobs, some on runners of the controller, on each other.
	slow := on("kubernetes", both("slow", "base", "side"))
	slow.Builds[1].Timeout = "100h"
	endless := on("ecs", both("endless"))
	endless.Builds[0].Timeout = ""
	unpushed := on("ecs", both("unpushed"))
	for i := range unpushed.Builds {
		unpushed.Builds[i].Outputs = []string{"rootfs"}
	}
	moved := image("moved", nil)
	moved.Retag, moved.Builds = "sha256:0", []plan.Build{}
	controlled := planOf(on("kubernetes", both("base")), both("side"), both("app", "base"), slow, on("ecs", both("top", "app", "slow")), endless, unpushed, moved)
	controlled.Publish.IDToken, controlled.CI.Image = &config.IDToken{Role: "r"}, "registry.example/pipegen"
	controlled.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {"run": {"variables": map[string]any{"PIPEGEN_SERVER": "https://builds.example"}}}}

	allControlled := planOf()
	names = nil
	for i := range 60 {
		names = append(names, "base-"+strconv.Itoa(i))
		allControlled.Images = append(allControlled.Images, on("kubernetes", both(names[i])))
	}
	allControlled.Images = append(allControlled.Images, on("kubernetes", both("on-many", names...)))

	return map[string]*plan.Plan{
		"controller": controlled, "controller-gates": allControlled,
		"files": files, "one": planOf(both("app")), "dependency": planOf(both("base"), both("side"), both("app", "base"), both("top", "app", "side")),
		"single-platform": planOf(image("lambda", nil, "arm64")), "arm-v7": planOf(image("app", nil, "amd64", "arm64", "arm-v7", "windows-amd64")),
		"targets": planOf(both("tools-debug"), both("tools-slim")), "empty": planOf(), "empty-overlay": empty,
		"own-images": ownPlan, "hostile": hostilePlan, "overlay": overlaid, "gates": many,
	}
}

func TestGolden(t *testing.T) {
	for name, p := range goldenPlans() {
		t.Run(name, func(t *testing.T) {
			got, err := gitlab(p, render.GitLabOptions{})
			if err != nil {
				t.Fatal(err)
			}
			again, err := gitlab(p, render.GitLabOptions{})
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("the second rendering differs (%v)", err)
			}
			file := filepath.Join("testdata", name+".child.yml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what the plan gives; renew it with -update\n%s", file, got)
			}
			checkPipeline(t, p, got)
		})
	}
}

// schema is GitLab's own.
var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile("schemas/gitlab-ci.json")
})

// checkPipeline checks what GitLab would: the schema, before and after
// templates are put in, and that needs name jobs of this or earlier stages;
// and what the plan asks for: each build and each image has its one job.
func checkPipeline(t *testing.T, p *plan.Plan, data []byte) map[string]map[string]any {
	t.Helper()
	s, err := schema()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("against GitLab's schema: %v", err)
	}
	jobs := map[string]map[string]any{}
	for key, v := range doc {
		if !slices.Contains([]string{"workflow", "stages", "variables"}, key) && key[0] != '.' {
			job := v.(map[string]any)
			if from, ok := job["extends"].(string); ok {
				job = extend(doc[from].(map[string]any), job)
				delete(job, "extends")
			}
			jobs[key] = job
		}
	}
	resolved := maps.Clone(doc)
	for key, job := range jobs {
		resolved[key] = job
	}
	if err := s.Validate(resolved); err != nil {
		t.Errorf("with templates put in, against GitLab's schema: %v", err)
	}
	stages := doc["stages"].([]any)
	for name, job := range jobs {
		if job["script"] == nil {
			t.Errorf("job %q has no script", name)
		}
		here := slices.Index(stages, job["stage"])
		if here < 0 {
			t.Errorf("job %q has the stage %v, which there is not", name, job["stage"])
		}
		needs, _ := job["needs"].([]any)
		if len(needs) > 50 {
			t.Errorf("job %q needs %d others", name, len(needs))
		}
		for _, need := range needs {
			if needed, ok := need.(string); ok {
				if jobs[needed] == nil || slices.Index(stages, jobs[needed]["stage"]) > here {
					t.Errorf("job %q needs %q, which is not in this or an earlier stage", name, needed)
				}
			}
		}
	}
	for i := range p.Images {
		img := &p.Images[i]
		if len(img.Builds) > 0 && img.Builds[0].Runner != "ci" {
			checkControllerJob(t, p, img, jobs)
			continue
		}
		publish := jobs["manifest "+img.Name]
		if !img.Pushes() {
			if publish != nil {
				t.Errorf("a job publishes %s, which is not pushed", img.Name)
			}
			publish = map[string]any{"variables": map[string]any{"PIPEGEN_NAME": img.Name}, "needs": []any{"plan"}}
			for _, b := range img.Builds {
				publish["needs"] = append(publish["needs"].([]any), "build "+b.ID)
			}
		}
		if got := lookup(publish, "variables", "PIPEGEN_NAME"); got != img.Name {
			t.Errorf("the job that publishes %s has the name %v", img.Name, got)
		}
		for _, b := range img.Builds {
			job := jobs["build "+b.ID]
			if got := lookup(job, "variables", "PIPEGEN_BUILD"); got != b.ID {
				t.Errorf("the job of %s builds %v", b.ID, got)
			}
			if !slices.Contains(publish["needs"].([]any), any("build "+b.ID)) {
				t.Errorf("%s is published without waiting for %s", img.Name, b.ID)
			}
			for _, need := range img.Needs {
				if !reaches(jobs, "build "+b.ID, "manifest "+need) && !reaches(jobs, "build "+b.ID, "run "+need) {
					t.Errorf("%s does not wait for %s", b.ID, need)
				}
			}
		}
		if want := len(img.Builds) + 1; len(publish["needs"].([]any)) != want {
			t.Errorf("%s waits for more than its own builds: %v", img.Name, publish["needs"])
		}
	}
	return jobs
}

// checkControllerJob checks that one job has the controller do all of an image,
// on the runner of jobs that build nothing.
func checkControllerJob(t *testing.T, p *plan.Plan, img *plan.Image, jobs map[string]map[string]any) {
	t.Helper()
	name := "run " + img.Name
	job := jobs[name]
	want := []any{`pipegen run "$PIPEGEN_NAME" --plan "$PIPEGEN_PLAN" --metadata-dir "$PIPEGEN_METADATA_DIR" --runner ` + img.Builds[0].Runner}
	if !reflect.DeepEqual(job["script"], want) || lookup(job, "variables", "PIPEGEN_NAME") != img.Name {
		t.Errorf("%s runs %v for %v", name, job["script"], lookup(job, "variables"))
	}
	var tags []any
	for _, tag := range p.CI.Runner.GitLab {
		tags = append(tags, tag)
	}
	if got, _ := job["tags"].([]any); !slices.Equal(got, tags) {
		t.Errorf("%s is on runners %v, want %v", name, got, tags)
	}
	if variables := fmt.Sprint(job["variables"]); strings.Contains(variables, "TOKEN") {
		t.Errorf("%s has a token in the file: %s", name, variables)
	}
	if left := slices.Contains(asList(lookup(job, "artifacts", "paths")), any(".pipegen/indexes/$PIPEGEN_NAME.json")); left != img.Pushes() {
		t.Errorf("%s leaves %v", name, job["artifacts"])
	}
	for other := range jobs {
		if other == "manifest "+img.Name || strings.HasPrefix(other, "build "+img.Name+"@") {
			t.Errorf("beside %s there is %s", name, other)
		}
	}
	for _, need := range img.Needs {
		if !reaches(jobs, name, "manifest "+need) && !reaches(jobs, name, "run "+need) {
			t.Errorf("%s does not wait for %s", name, need)
		}
	}
	if prepared, _ := asList(job["needs"])[0].(map[string]any); prepared["artifacts"] != true {
		t.Errorf("%s has no plan: %v", name, job["needs"])
	}
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// extend merges as GitLab does: maps by key, the rest replaces.
func extend(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	for k, v := range over {
		below, ok := v.(map[string]any)
		if old, isMap := out[k].(map[string]any); ok && isMap {
			out[k] = extend(old, below)
		} else {
			out[k] = v
		}
	}
	return out
}

func lookup(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func reaches(jobs map[string]map[string]any, from, to string) bool {
	for _, n := range asList(jobs[from]["needs"]) {
		if name, ok := n.(string); ok && (name == to || strings.HasPrefix(name, "gate ") && reaches(jobs, name, to)) {
			return true
		}
	}
	return false
}

func TestBadPlan(t *testing.T) {
	change := func(f func(*plan.Build)) *plan.Plan {
		img := both("app")
		f(&img.Builds[0])
		return planOf(img)
	}
	var platforms []string
	for i := range 50 {
		platforms = append(platforms, "a"+strconv.Itoa(i))
	}
	for name, c := range map[string]struct {
		plan *plan.Plan
		want string
	}{
		"name":             {planOf(both("$(id)")), `"$(id)"`},
		"name newline":     {planOf(both("a\nb")), `"a\nb"`},
		"twice":            {planOf(both("app"), both("app")), `two jobs "build app@amd64"`},
		"no builds":        {planOf(image("app", nil)), "no builds"},
		"id":               {change(func(b *plan.Build) { b.ID = "other@amd64" }), `"other@amd64"`},
		"id slash":         {change(func(b *plan.Build) { b.ID = "app@arm/v7" }), `"app@arm/v7"`},
		"unknown need":     {planOf(both("app", "base")), `needs "base"`},
		"later need":       {planOf(both("app", "base"), both("base")), `needs "base"`},
		"two runners":      {change(func(b *plan.Build) { b.Runner = "kubernetes" }), `build app@arm64 has the runner "ci", and app@amd64 "kubernetes"`},
		"runner":           {planOf(on("nomad", both("app"))), `"nomad"`},
		"controller limit": {planOf(on("ecs", change(func(b *plan.Build) { b.Timeout = "800h" }).Images[0])), "at most 696h"},
		"timeout":          {change(func(b *plan.Build) { b.Timeout = "1 h" }), `"1 h"`},
		"no timeout":       {change(func(b *plan.Build) { b.Timeout = "-1h" }), `"-1h"`},
		"long timeout":     {change(func(b *plan.Build) { b.Timeout = "1000h" }), `"1000h"`},
		"tag rtl":          {change(func(b *plan.Build) { b.RunsOn.GitLab = []string{"a\u202eb"} }), "U+202E"},
		"image newline":    {change(func(b *plan.Build) { b.BuilderImage = "a\rb" }), "U+000D"},
		"image bytes":      {change(func(b *plan.Build) { b.BuilderImage = "a\xffb" }), "not UTF-8"},
		"long name":        {planOf(both(strings.Repeat("a", 300))), "GitLab allows 255"},
		"platforms":        {planOf(image("app", nil, platforms...)), `image "app" has 50 builds`},
	} {
		data, err := gitlab(c.plan, render.GitLabOptions{})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || data != nil {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	for _, file := range []string{"/plan.json", "../plan.json", "a b", "$(id)", "a/../b", "-f", "*"} {
		if _, err := gitlab(planOf(both("app")), render.GitLabOptions{PlanFile: file}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("plan file %q: got %v", file, err)
		}
	}
}

func TestManyImages(t *testing.T) {
	p := planOf()
	for i := range 300 {
		p.Images = append(p.Images, both("project-"+strconv.Itoa(i)))
	}
	data, err := gitlab(p, render.GitLabOptions{PlanFile: "out/plan.json", MetadataDir: "out"})
	if err != nil {
		t.Fatal(err)
	}
	if jobs := checkPipeline(t, p, data); len(jobs) != 900 {
		t.Errorf("%d jobs", len(jobs))
	}
}

// Gates keep every job within the limit, however many images it waits for.
func TestNeedsLimit(t *testing.T) {
	for _, n := range []int{1, 48, 49, 50, 51, 250} {
		p := planOf()
		var names []string
		for i := range n {
			names = append(names, "base-"+strconv.Itoa(i))
			p.Images = append(p.Images, image(names[i], nil, "amd64"))
		}
		p.Images = append(p.Images, both("app", names...))
		data, err := gitlab(p, render.GitLabOptions{})
		if err != nil {
			t.Fatal(err)
		}
		checkPipeline(t, p, data)
		if gates := strings.Count(string(data), "\ngate "); (gates > 0) != (n > 49) {
			t.Errorf("%d needs: %d gates", n, gates)
		}
	}
}

func TestGitLabDirs(t *testing.T) {
	a, b := both("tools-debug"), both("tools-slim")
	a.Dir, b.Dir = "projects/tools", "projects/tools"
	c, d := both("odd"), both("blank")
	c.Dir, d.Dir = "projects/a\nb", "projects/with blank"
	if got, want := string(render.GitLabDirs(planOf(a, c, b, d))), "projects/tools\nprojects/a\\nb\nprojects/with blank\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
