package render_test

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// shapes of plans: what the i-th image of n needs.
var shapes = map[string]func(i, n int) []int{
	"apart":    func(int, int) []int { return nil },
	"one base": func(i, _ int) []int { return only(i > 0, 0) },
	"teams": func(i, n int) []int { // a base, teams of 31: one on the base, thirty on that
		if i == 0 {
			return nil
		}
		return []int{max(0, i-1-(i-1)%31+1) * btoi((i-1)%31 > 0)}
	},
	"two bases": func(i, _ int) []int { return only(i > 1, i%2) },
	"chain":     func(i, _ int) []int { return only(i > 0, i-1) },
	"all": func(i, n int) []int { // the last on all others
		var all []int
		for k := range i * btoi(i == n-1) {
			all = append(all, k)
		}
		return all
	},
	"random": func(i, n int) []int {
		r := rand.New(rand.NewPCG(uint64(i), uint64(n)))
		var needs []int
		for range min(i, r.IntN(4)) {
			if k := r.IntN(i); !slices.Contains(needs, k) {
				needs = append(needs, k)
			}
		}
		return needs
	},
	"layers": func(i, n int) []int { // each of ten layers on ten images of the one below
		layer := max(1, n/10)
		var needs []int
		for k := range 10 * btoi(i >= layer) {
			if need := i/layer*layer - layer + (i*7+k*13)%layer; !slices.Contains(needs, need) {
				needs = append(needs, need)
			}
		}
		return needs
	},
}

func only(when bool, need int) []int {
	if when {
		return []int{need}
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func shaped(shape string, n int) *plan.Plan {
	p := planOf()
	for i := range n {
		img := both("project-" + strconv.Itoa(i))
		for _, need := range shapes[shape](i, n) {
			img.Needs = append(img.Needs, "project-"+strconv.Itoa(need))
		}
		p.Images = append(p.Images, img)
	}
	return p
}

// At any size and shape every pipeline is within every limit, and every edge
// of the plan is kept.
func TestChunks(t *testing.T) {
	for _, c := range []struct {
		n          int
		shapes     string // some; empty: all
		options    render.GitLabOptions
		single     bool
		controlled int // of so many images the first is built by the controller; 0: none
	}{
		{n: 50, single: true},
		{n: 51, single: true},
		{n: 300, single: true, shapes: "one base, random, layers"},
		{n: 51, options: render.GitLabOptions{MaxJobs: 30, ChildFile: "out/pipes.yaml", PrepareJob: "images: prepare", MetadataDir: "results"}},
		{n: 300, options: render.GitLabOptions{MaxJobs: 100}},
		{n: 51, shapes: "all", options: render.GitLabOptions{MaxJobs: 4}},
		{n: 3000, shapes: "one base, chain, random"},
		{n: 51, single: true, controlled: 1},
		{n: 300, options: render.GitLabOptions{MaxJobs: 100}, controlled: 3},
		{n: 3000, shapes: "one base, random", controlled: 1},
	} {
		for shape := range shapes {
			if c.shapes != "" && !slices.Contains(strings.Split(c.shapes, ", "), shape) {
				continue
			}
			t.Run(fmt.Sprintf("%s %d %d %d", shape, c.n, c.options.MaxJobs, c.controlled), func(t *testing.T) {
				t.Parallel()
				p := shaped(shape, c.n)
				for i := 0; c.controlled > 0 && i < len(p.Images); i += c.controlled {
					p.Images[i] = on("kubernetes", p.Images[i])
				}
				got, err := render.GitLab(p, c.options)
				if err != nil {
					t.Fatal(err)
				}
				t.Log(got)
				if c.single != (len(got.Chunks) == 0) {
					t.Fatalf("%d chunks", len(got.Chunks))
				}
				checkPipelines(t, p, c.options, got)
			})
		}
	}
}

// pipeline is one of several, as GitLab would read it.
type pipeline struct {
	file string
	jobs map[string]map[string]any
}

// checkPipelines checks the limits of each pipeline on its bytes, and that all
// of them together do what the plan says, in its order.
func checkPipelines(t *testing.T, p *plan.Plan, o render.GitLabOptions, got *render.GitLabPipelines) {
	t.Helper()
	if len(got.Chunks) == 0 {
		withinLimits(t, "child", got.Child)
		checkPipeline(t, p, got.Child)
		return
	}
	if o.PrepareJob == "" {
		o.PrepareJob = "prepare"
	}
	starter := withinLimits(t, "child", got.Child)
	passing := starter.jobs["plan"]
	if need := passing["needs"].([]any)[0]; lookup(need, "job") != o.PrepareJob || lookup(need, "pipeline") != "$PARENT_PIPELINE_ID" {
		t.Errorf("the child hands on the artifacts of %v", need)
	}
	if len(got.Chunks)+2 > 1000 {
		t.Errorf("%d chunks", len(got.Chunks))
	}
	home := map[string]int{} // chunk of each image
	chunks := make([]pipeline, len(got.Chunks))
	triggers := make([]string, len(got.Chunks))
	for name, job := range starter.jobs {
		trigger, ok := job["trigger"]
		if !ok {
			continue
		}
		include := lookup(trigger, "include").([]any)
		if len(include) != 1 || lookup(include[0], "job") != "plan" || lookup(job, "variables", "PIPEGEN_PIPELINE_ID") != "$CI_PIPELINE_ID" {
			t.Errorf("job %s does not start a chunk: %v", name, job)
		}
		if waits := len(job["needs"].([]any)) > 1; (job["when"] == "always") != waits {
			t.Errorf("job %s runs when %v, and needs %v", name, job["when"], job["needs"])
		}
		at := slices.IndexFunc(got.Chunks, func(c render.GitLabChunk) bool { return c.File == lookup(include[0], "artifact") })
		if at < 0 || triggers[at] != "" || !slices.Contains(lookup(passing, "artifacts", "paths").([]any), any(got.Chunks[at].File)) {
			t.Fatalf("job %s starts %v", name, include)
		}
		triggers[at] = name
	}
	for k, c := range got.Chunks {
		if triggers[k] == "" {
			t.Errorf("nothing starts %s", c.File)
		}
		chunks[k] = withinLimits(t, c.File, c.Data)
		for name, job := range chunks[k].jobs {
			if job["trigger"] != nil {
				t.Errorf("%s starts further pipelines", c.File)
			}
			list, _ := job["needs"].([]any)
			for _, need := range list {
				if _, ok := need.(string); !ok && (lookup(need, "pipeline") != "$PIPEGEN_PIPELINE_ID" || lookup(need, "job") != "plan") {
					t.Errorf("%s: %s needs %v", c.File, name, need)
				}
			}
			if img := publishes(name); img != "" {
				if _, twice := home[img]; twice {
					t.Errorf("%s is published twice", img)
				}
				home[img] = k
			}
		}
	}
	needs := map[string][]string{}
	for i := range p.Images {
		img := &p.Images[i]
		needs[img.Name] = img.Needs
		k, ok := home[img.Name]
		if !ok {
			t.Fatalf("%s is not published", img.Name)
		}
		jobs := chunks[k].jobs
		var building []string
		for _, b := range img.Builds {
			if b.Runner != "ci" {
				building = []string{"run " + img.Name}
				continue
			}
			building = append(building, "build "+b.ID)
			if lookup(jobs["build "+b.ID], "variables", "PIPEGEN_BUILD") != b.ID {
				t.Fatalf("%s is not built beside its manifest", b.ID)
			}
		}
		for _, job := range building {
			waits := results(jobs, job)
			for _, need := range img.Needs {
				at, waited := waits[need]
				if !waited {
					t.Fatalf("%s does not wait for %s", job, need)
				}
				if here := home[need] == k; here != (at == "manifest "+need || at == "run "+need) {
					t.Errorf("%s takes %s from %s", job, need, at)
				}
				if home[need] != k && !after(starter.jobs, triggers[k], triggers[home[need]]) {
					t.Fatalf("%s may start before %s", triggers[k], triggers[home[need]])
				}
			}
			// One image that fails costs no others.
			if len(waits) > len(img.Needs) {
				for have := range waits {
					if !slices.Contains(img.Needs, have) {
						t.Fatalf("%s waits for %s, which it does not need", job, have)
					}
				}
			}
		}
	}
}

// publishes gives the image that a job publishes, or has published.
func publishes(job string) string {
	for _, kind := range []string{"manifest ", "run "} {
		if img, ok := strings.CutPrefix(job, kind); ok {
			return img
		}
	}
	return ""
}

// results gives the images whose publications a job is handed, and the jobs
// that these come from.
func results(jobs map[string]map[string]any, from string) map[string]string {
	found := map[string]string{}
	var visit func(string)
	visit = func(name string) {
		list, _ := jobs[name]["needs"].([]any)
		for _, n := range list {
			need, ok := n.(string)
			switch {
			case !ok:
			case publishes(need) != "":
				found[publishes(need)] = need
			case strings.HasPrefix(need, "published "):
				names, _ := lookup(jobs[need], "variables", "PIPEGEN_NAMES").(string)
				for img := range strings.SplitSeq(names, ",") {
					found[img] = need
				}
			default:
				visit(need)
			}
		}
	}
	visit(from)
	return found
}

// after says whether a job waits for another, also through others.
func after(jobs map[string]map[string]any, from, to string) bool {
	seen := map[string]bool{}
	var visit func(string) bool
	visit = func(name string) bool {
		seen[name] = true
		list, _ := jobs[name]["needs"].([]any)
		return slices.ContainsFunc(list, func(n any) bool {
			need, ok := n.(string)
			return ok && (need == to || !seen[need] && visit(need))
		})
	}
	return visit(from)
}

// withinLimits checks a file against GitLab's limits and its schema.
func withinLimits(t *testing.T, file string, data []byte) pipeline {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil { // also of a key that is there twice
		t.Fatalf("%s: %v", file, err)
	}
	if len(data) > 2<<20 {
		t.Errorf("%s: %d bytes", file, len(data))
	}
	if size := deepSize(doc); size > 2<<20 {
		t.Errorf("%s: %d bytes of memory", file, size)
	}
	stages := doc["stages"].([]any)
	all := pipeline{file, map[string]map[string]any{}}
	sample := map[string]any{}
	for key, v := range doc {
		if key == "workflow" || key == "stages" || key == "variables" || key[0] == '.' {
			sample[key] = v
			continue
		}
		job := v.(map[string]any)
		if from, ok := job["extends"].(string); ok {
			job = extend(doc[from].(map[string]any), job)
			delete(job, "extends")
		}
		all.jobs[key] = job
		if len(sample) < 60 { // the schema takes its time
			sample[key] = job
		}
		if size := deepSize(job); size > 1<<20 { // more than its JSON is
			t.Errorf("%s: job %q is %d bytes", file, key, size)
		}
		needs, _ := job["needs"].([]any)
		others := 0
		for _, n := range needs {
			if _, ok := n.(string); !ok {
				others++
			}
		}
		if len(needs) > 50 || others > 5 {
			t.Errorf("%s: job %q needs %d jobs, %d of them of other pipelines", file, key, len(needs), others)
		}
	}
	for key, job := range all.jobs {
		here := slices.Index(stages, job["stage"])
		if here < 0 {
			t.Errorf("%s: job %q has the stage %v", file, key, job["stage"])
		}
		needs, _ := job["needs"].([]any)
		for _, n := range needs {
			if need, ok := n.(string); ok && (all.jobs[need] == nil || slices.Index(stages, all.jobs[need]["stage"]) > here) {
				t.Errorf("%s: job %q needs %q, which is not in this or an earlier stage", file, key, need)
			}
		}
	}
	s, err := schema()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(sample); err != nil {
		t.Errorf("%s against GitLab's schema: %v", file, err)
	}
	return all
}

// deepSize is what the objects of a document take up in Ruby 3.3: slots of 40,
// 80, 160, 320 or 640 bytes, and what does not fit there beside them.
func deepSize(v any) int {
	switch v := v.(type) {
	case string:
		for _, slot := range []int{40, 80, 160, 320, 640} {
			if len(v)+25 <= slot {
				return slot
			}
		}
		return 40 + len(v) + 1
	case []any:
		size := 40
		if len(v) > 3 {
			size += 8 * len(v)
		}
		for _, e := range v {
			size += deepSize(e)
		}
		return size
	case map[string]any:
		size := 160
		if len(v) > 8 {
			size += 32 * len(v)
		}
		for k, e := range v {
			size += deepSize(k) + deepSize(e)
		}
		return size
	}
	return 0
}

// A plan of 10,000 images is within all limits, and GitLab can read its
// pipelines out of the artifacts that hold it.
func TestArchive(t *testing.T) {
	t.Parallel()
	p := shaped("one base", 10000)
	random := rand.NewChaCha8([32]byte{})
	for i := range p.Images {
		p.Images[i].Key = fmt.Sprintf("%016x%016x%016x%016x", random.Uint64(), random.Uint64(), random.Uint64(), random.Uint64())
		p.Images[i].Dir = "projects/" + p.Images[i].Name
		for k := range p.Images[i].Builds {
			b := &p.Images[i].Builds[k]
			b.Labels = map[string]string{"org.opencontainers.image.revision": head, "dev.pipegen.key": p.Images[i].Key}
			b.Destination = "registry.example/images:" + p.Images[i].Name + "-20261121-0123456-" + b.ID
		}
	}
	got, err := render.GitLab(p, render.GitLabOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkPipelines(t, p, render.GitLabOptions{}, got)
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	files := [][]byte{raw, got.Child}
	for _, c := range got.Chunks {
		files = append(files, c.Data)
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), render.CheckGitLabArchive(files...)); err != nil || b.Len() > 5<<20 {
		t.Errorf("%d bytes: %v", b.Len(), err)
	}
	t.Logf("%d KiB, compressed %d KiB", len(raw)>>10, b.Len()>>10)

	noise := make([]byte, 6<<20)
	for i := range noise {
		noise[i] = byte(random.Uint64())
	}
	if err := render.CheckGitLabArchive(noise); !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
		t.Errorf("6 MiB that cannot be compressed: got %v", err)
	}
}

// A part that cannot be divided is an error, not a pipeline that GitLab refuses.
func TestIndivisible(t *testing.T) {
	for _, jobs := range []int{-1, 2} {
		got, err := render.GitLab(shaped("apart", 3), render.GitLabOptions{MaxJobs: jobs})
		if !errors.Is(err, failure.ErrInput) || got != nil {
			t.Errorf("%d jobs a pipeline: got %v", jobs, err)
		}
	}
}

// Images that are only published again have one job, which waits for nothing.
func TestRetag(t *testing.T) {
	base, app := both("base"), both("app", "base")
	base.Builds, base.Retag = nil, "sha256:"+strings.Repeat("a", 64)
	old := both("old", "base")
	old.Builds, old.Retag = nil, base.Retag
	data, err := gitlab(planOf(base, old, app), render.GitLabOptions{})
	if err != nil {
		t.Fatal(err)
	}
	jobs := withinLimits(t, "child", data).jobs
	if len(jobs) != 5 {
		t.Errorf("%d jobs:\n%s", len(jobs), data)
	}
	for _, name := range []string{"manifest base", "manifest old"} {
		if needs := jobs[name]["needs"].([]any); len(needs) != 1 || lookup(needs[0], "job") != "prepare" {
			t.Errorf("%s needs %v", name, needs)
		}
	}
	if !slices.Contains(jobs["build app@arm64"]["needs"].([]any), any("manifest base")) {
		t.Error("app does not wait for base")
	}
	app.Retag = base.Retag
	if _, err := gitlab(planOf(base, app), render.GitLabOptions{}); !errors.Is(err, failure.ErrInput) {
		t.Errorf("builds and something to publish again: got %v", err)
	}
}

// Builds may be stopped where a newer pipeline does them itself.
func TestInterruptible(t *testing.T) {
	for _, c := range []struct {
		event   string
		keyTag  string
		reasons []plan.ReasonKind
		want    bool
	}{
		{"push", "app-key-0", []plan.ReasonKind{plan.Changed, plan.Missing}, true},
		{"push", "", []plan.ReasonKind{plan.Changed}, false},
		{"push", "app-key-0", []plan.ReasonKind{plan.Changed, plan.Stale}, false},
		{"push", "app-key-0", []plan.ReasonKind{plan.Named}, false},
		{"schedule", "app-key-0", []plan.ReasonKind{plan.Changed}, false},
		{"merge_request", "", []plan.ReasonKind{plan.All}, true},
	} {
		img := both("app")
		img.KeyTag = c.keyTag
		for _, kind := range c.reasons {
			img.Reasons = append(img.Reasons, plan.Reason{Kind: kind})
		}
		p := planOf(img)
		p.Event = c.event
		data, err := gitlab(p, render.GitLabOptions{})
		if err != nil {
			t.Fatal(err)
		}
		jobs := checkPipeline(t, p, data)
		if got := jobs["build app@amd64"]["interruptible"] == true; got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
		if jobs["manifest app"]["interruptible"] != nil {
			t.Errorf("%+v: publishing may be stopped", c)
		}
	}
}

// Overlays reach the jobs of every chunk and of what starts them, once.
func TestOverlayOfChunks(t *testing.T) {
	p := shaped("one base", 40)
	p.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {
		"build": {"tags": []any{"large"}}, "manifest": {"tags": []any{"small"}}, "gate": {"tags": []any{"any"}},
	}}
	o := render.GitLabOptions{MaxJobs: 30}
	got, err := render.GitLab(p, o)
	if err != nil {
		t.Fatal(err)
	}
	checkPipelines(t, p, o, got)
	want := map[string]string{"build": "[large]", "manifest": "[small]", "published": "[small]", "plan": "[any]", "chunk": "<nil>"}
	for _, c := range append(got.Chunks, render.GitLabChunk{File: "child", Data: got.Child}) {
		for name, job := range withinLimits(t, c.File, c.Data).jobs {
			kind, _, _ := strings.Cut(name, " ")
			if tags := fmt.Sprint(job["tags"]); tags != want[kind] {
				t.Errorf("%s: %s has the tags %s, want %s", c.File, name, tags, want[kind])
			}
		}
	}
}

// BenchmarkGitLab renders plans of the size and shape that the name says.
func BenchmarkGitLab(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for _, shape := range []string{"apart", "one base", "random"} {
			p := shaped(shape, n)
			b.Run(shape+" "+strconv.Itoa(n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := render.GitLab(p, render.GitLabOptions{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
