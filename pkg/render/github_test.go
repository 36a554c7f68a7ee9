package render_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// ghImage has a build for each platform suffix, with the label that plan gives it.
func ghImage(name string, needs []string, suffixes ...string) plan.Image {
	img := plan.Image{Name: name, Dir: "projects/" + name, Needs: needs, Index: true, Tags: []string{name + "-latest"}, Reasons: []plan.Reason{{Kind: plan.All}}}
	for _, s := range suffixes {
		label := map[string]string{"amd64": "ubuntu-24.04", "arm64": "ubuntu-24.04-arm"}[s]
		if label == "" {
			label = "self-hosted-" + s
		}
		img.Builds = append(img.Builds, plan.Build{
			ID: name + "@" + s, Platform: "linux/" + strings.Replace(s, "-", "/", 1), Engine: "kaniko", Runner: "ci",
			Destination: "123456789012.dkr.ecr.eu-central-1.amazonaws.com/images:" + name, RunsOn: config.Runner{GitHub: label}, Timeout: "1h",
		})
	}
	return img
}

func ghBoth(name string, needs ...string) plan.Image { return ghImage(name, needs, "amd64", "arm64") }

func ghPlan(images ...plan.Image) *plan.Plan {
	return &plan.Plan{Version: plan.Version, Head: strings.Repeat("0", 40), Layout: "tag", Images: images, Skipped: []plan.Skipped{}}
}

// ghCase is a plan of everything, with the registry that pipegen.yaml names.
type ghCase struct {
	plan     *plan.Plan
	registry string
}

func ghCases() map[string]ghCase {
	own := ghBoth("own")
	own.Source = &plan.Source{Repo: "https://git.example/own.git", Auth: &config.UpstreamAuth{TokenEnv: "UPSTREAM_TOKEN"}}
	own.Builds[0].Secrets = []config.Secret{{ID: "npm", Env: "npm_token"}, {ID: "file", File: "x"}, {ID: "job", Env: "GITHUB_TOKEN"}}
	own.Builds[0].BuilderImage = "ghcr.io/acme/tools:${TOOLS_VERSION}"
	own.Builds[1].Timeout = "2h10s"
	owning := ghPlan(own)
	owning.CI.Image = "$HOST/pipegen:$TAG-${{ github.sha }}"

	hostile := []plan.Image{ghBoth("true"), ghBoth("1"), ghBoth("_.-")}
	for i := range hostile {
		hostile[i].Builds[0].RunsOn.GitHub = `a' || "b": ${{ secrets.X }} }} [c] \ <<`
		hostile[i].Builds[1].RunsOn.GitHub = "- *x !y & % : #é"
	}

	overlaid := ghPlan(ghBoth("base"), ghBoth("app", "base"))
	overlaid.CI.Overlays = map[string]map[string]config.Overlay{"github": {
		"prepare":  {"runs-on": []any{"self-hosted", "light"}, "permissions": map[string]any{"id-token": nil}},
		"build":    {"permissions": map[string]any{"packages": "write", "contents": "write"}, "env": map[string]any{"NOTE": "${{ vars.NOTE }}: *", "BIG": 1e6}, "timeout-minutes": 90.0, "steps": []any{map[string]any{"name": "First", "run": "echo 'a: b'\necho c"}}},
		"manifest": {"environment": "production", "env": map[string]any{"T": "${{ secrets.my_token }}-${{ secrets.GITHUB_TOKEN }}"}, "permissions": map[string]any{"packages": "read"}},
		"gate":     {"runs-on": "light"},
		"workflow": {"on": map[string]any{"push": map[string]any{"branches": []any{"trunk"}}, "schedule": nil}, "run-name": "pipegen of ${{ github.ref_name }}"},
	}}
	many := ghPlan()
	for i := range 600 {
		many.Images = append(many.Images, ghBoth("image-"+strconv.Itoa(i)))
	}
	many.Images = append(many.Images, ghBoth("on-many", "image-1", "image-599"))

	tar, unpushed := ghBoth("tar"), ghBoth("unpushed")
	for k := range tar.Builds {
		tar.Builds[k].Engine, tar.Builds[k].Outputs = "buildkit", []string{"image", "oci-tar"}
		unpushed.Builds[k].Outputs = []string{"rootfs"}
	}
	tar.Builds[0].SSH = []config.SSH{{ID: "default", Env: "DEPLOY_KEY"}, {ID: "agent"}}

	copied := ghPlan(ghBoth("app"))
	copied.Publish.Also = []config.Also{{Registry: "ghcr.io/acme"}, {Registry: "public.ecr.aws/acme", Images: []string{"app"}}}
	copied.Publish.Sign = &config.Sign{Key: "env://COSIGN_PRIVATE_KEY"}
	keyless := ghPlan(ghBoth("app"))
	keyless.Publish.Sign = &config.Sign{Keyless: true}
	kms := ghPlan(ghBoth("app"))
	kms.Publish.Sign = &config.Sign{Key: "awskms:///alias/images"}

	// Some images in jobs, some on runners of the controller, for which no
	// label of a runner need be known.
	top := on("ecs", ghImage("top", []string{"app", "base"}, "amd64", "s390x"))
	top.Builds[1].RunsOn.GitHub, top.Builds[1].Timeout = "", "3h"
	top.Builds[0].Secrets = []config.Secret{{ID: "npm", Env: "NPM_TOKEN"}}
	top.Builds[0].BuilderImage = "registry.example/tools:$TOOLS_VERSION"
	controlled := ghPlan(on("kubernetes", ghBoth("base")), ghBoth("side"), ghBoth("app", "base"), top)
	controlled.Publish.Also = []config.Also{{Registry: "ghcr.io/acme"}}
	controlled.CI.Overlays = map[string]map[string]config.Overlay{"github": {"run": {"env": map[string]any{"PIPEGEN_SERVER": "https://builds.example"}, "steps": []any{map[string]any{"name": "First", "run": "true"}}}}}
	endless := on("kubernetes", ghBoth("app"))
	endless.Builds[1].Timeout = ""

	return map[string]ghCase{
		"controller": {controlled, "registry.example/images"}, "controller-only": {ghPlan(endless), ""},
		"also": {copied, "registry.example/images"}, "keyless": {keyless, "registry.example/images"}, "kms": {kms, "ghcr.io/acme/images"},
		"files": {ghPlan(tar, unpushed), "registry.example/images"},
		"one":   {ghPlan(ghBoth("app")), ""}, "empty": {ghPlan(), "ghcr.io/acme/images"},
		"waves":     {ghPlan(ghBoth("base"), ghBoth("side"), ghBoth("app", "base"), ghBoth("top", "app", "side")), "registry.example/images"},
		"platforms": {ghPlan(ghImage("lambda", nil, "arm64"), ghImage("app", nil, "amd64", "arm64", "arm-v7")), "123456789012.dkr.ecr.eu-central-1.amazonaws.com/images"},
		"own":       {owning, "ghcr.io/acme/images"}, "hostile": {ghPlan(hostile...), ""},
		"overlay": {overlaid, "registry.example/images"}, "chunks": {many, "registry.example/images"},
	}
}

func TestGitHubGolden(t *testing.T) {
	for name, c := range ghCases() {
		t.Run(name, func(t *testing.T) {
			files, err := render.GitHub(c.plan, render.GitHubOptions{Registry: c.registry})
			if err != nil {
				t.Fatal(err)
			}
			again, err := render.GitHub(c.plan, render.GitHubOptions{Registry: c.registry})
			if err != nil || len(again) != 2 || !bytes.Equal(again[0].Data, files[0].Data) || !bytes.Equal(again[1].Data, files[1].Data) {
				t.Errorf("the second rendering differs (%v)", err)
			}
			for _, f := range files {
				file := filepath.Join("testdata", name+".github"+strings.TrimPrefix(f.Name, "pipegen"))
				if *update {
					if err := os.WriteFile(file, f.Data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(f.Data, want) {
					t.Errorf("%s is not what the plan gives; renew it with -update\n%s", file, render.TextDiff(file, want, "now", f.Data))
				}
			}
			if name != "hostile" && name != "overlay" { // labels and actions that do not exist
				ghLint(t, files)
			}
			ghCheck(t, c.plan, files)
		})
	}
}

// ghLint has actionlint look at the workflows as those of a repository, and
// shellcheck at their scripts where it is installed.
func ghLint(t *testing.T, files []render.GitHubFile) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, ".github", "workflows")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Mkdir(filepath.Join(root, ".git"), 0o755)); err != nil {
		t.Fatal(err)
	}
	// Labels of runners of one's own.
	settings := "self-hosted-runner:\n  labels: [self-hosted-arm-v7]\n"
	if err := os.WriteFile(filepath.Join(root, ".github", "actionlint.yaml"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range files {
		paths = append(paths, filepath.Join(dir, f.Name))
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := actionlint.LinterOptions{WorkingDir: root}
	if path, err := exec.LookPath("shellcheck"); err == nil {
		o.Shellcheck = path
	}
	linter, err := actionlint.NewLinter(io.Discard, &o)
	if err != nil {
		t.Fatal(err)
	}
	project, err := actionlint.NewProject(root)
	if err != nil {
		t.Fatal(err)
	}
	faults, err := linter.LintFiles(paths, project)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Errorf("actionlint: %v", f)
	}
}

type ghWorkflow struct {
	On          any               `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]ghJob  `yaml:"jobs"`
}

type ghJob struct {
	Name        string
	Needs       any
	If          string
	RunsOn      any `yaml:"runs-on"`
	Permissions map[string]string
	Outputs     map[string]string
	Env         map[string]string
	Strategy    struct {
		FailFast *bool `yaml:"fail-fast"`
		Matrix   any
	}
	Uses    string
	With    map[string]string
	Secrets map[string]string
	Steps   []struct {
		Name, If, Run, Uses string
		Env                 map[string]string
		With                map[string]any
	}
}

func ghParse(t testing.TB, data []byte) ghWorkflow {
	t.Helper()
	var w ghWorkflow
	if err := yaml.Unmarshal(data, &w); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return w
}

var pinned = regexp.MustCompile(`^\s+uses: (actions/(checkout|upload-artifact|download-artifact)@[0-9a-f]{40} # v\d+\.\d+\.\d+|"\./\.github/workflows/pipegen-image\.yml")$`)

// ghCheck checks what holds for the workflows of any plan.
func ghCheck(t *testing.T, p *plan.Plan, files []render.GitHubFile) {
	t.Helper()
	main, image := ghParse(t, files[0].Data), ghParse(t, files[1].Data)
	for _, f := range files {
		for line := range strings.Lines(string(f.Data)) {
			if strings.Contains(line, "uses:") && !pinned.MatchString(strings.TrimRight(line, "\n")) {
				t.Errorf("%s uses what is not pinned: %s", f.Name, line)
			}
		}
	}
	if len(main.Permissions) > 0 || main.Permissions == nil || image.Permissions == nil || len(image.Permissions) > 0 {
		t.Errorf("permissions for all jobs: %v, %v", main.Permissions, image.Permissions)
	}
	needs := main.Jobs["pipegen"].Needs
	for id, job := range main.Jobs {
		if id != "pipegen" && !slices.Contains(needs.([]any), any(id)) {
			t.Errorf("the last job does not look at %s", id)
		}
		for _, step := range job.Steps {
			if strings.Contains(step.Run, "${{") {
				t.Errorf("%s: an expression in a shell line: %s", id, step.Run)
			}
		}
		if !strings.HasPrefix(id, "wave-") {
			continue
		}
		if main.Jobs["plan"].Outputs[id] != "${{ steps.waves.outputs."+id+" }}" || job.Strategy.Matrix != "${{ fromJSON(needs.plan.outputs."+id+") }}" {
			t.Errorf("%s gets no matrix", id)
		}
		if job.Strategy.FailFast == nil || *job.Strategy.FailFast || !strings.Contains(job.If, "!cancelled()") || !strings.Contains(job.If, "'"+id+"'") {
			t.Errorf("%s is stopped by others: %+v, %s", id, job.Strategy, job.If)
		}
		for name, level := range image.Jobs["build"].Permissions {
			if got := job.Permissions[name]; got != level && got != "write" {
				t.Errorf("%s allows %s: %q, but its builds want %s", id, name, got, level)
			}
		}
		if !slices.Equal(sorted(job.Secrets), sorted(lookup(image.On, "workflow_call", "secrets").(map[string]any))) {
			t.Errorf("%s passes the secrets %v", id, job.Secrets)
		}
	}
	for id, job := range image.Jobs {
		for _, step := range job.Steps {
			if step.Name != "First" && strings.Contains(step.Run, "${{") {
				t.Errorf("%s: an expression in a shell line: %s", id, step.Run)
			}
		}
	}
	labels := ghLabels(t, image)
	for i := range p.Images {
		for _, b := range p.Images[i].Builds {
			_, suffix, _ := strings.Cut(b.ID, "@")
			if b.Runner == "ci" && labels[suffix] != b.RunsOn.GitHub {
				t.Errorf("%s runs on %q, want %q", b.ID, labels[suffix], b.RunsOn.GitHub)
			}
		}
	}
	ghOutputs(t, p, main)
	if slices.ContainsFunc(p.Images, ghControlled) {
		ghCheckController(t, main, image)
	} else if _, ok := image.Jobs["run"]; ok || strings.Contains(string(files[1].Data), "PIPEGEN_TOKEN") {
		t.Errorf("a job for a controller that nothing asks for")
	}
}

func ghControlled(img plan.Image) bool { return len(img.Builds) > 0 && img.Builds[0].Runner != "ci" }

// ghCheckController checks the job that has the controller build an image: it
// runs instead of the two others, and one step of it alone has the token.
func ghCheckController(t *testing.T, main, image ghWorkflow) {
	t.Helper()
	run := image.Jobs["run"]
	if run.If != "${{ !cancelled() && inputs.runner != '' }}" || !strings.Contains(image.Jobs["manifest"].If, "inputs.runner == '' && (") || run.RunsOn != "ubuntu-24.04" || run.Needs != nil {
		t.Errorf("run: %s on %v after %v; manifest: %s", run.If, run.RunsOn, run.Needs, image.Jobs["manifest"].If)
	}
	if run.Env["PIPEGEN_RUNNER"] != "${{ inputs.runner }}" || run.Env["PIPEGEN_SERVER"] == "" || run.Env["PIPEGEN_TOKEN"] != "" {
		t.Errorf("run has the environment %v", run.Env)
	}
	for id, job := range image.Jobs {
		for _, step := range job.Steps {
			_, has := step.Env["PIPEGEN_TOKEN"]
			if want := id == "run" && step.Run == `exec pipegen run "$PIPEGEN_NAME" --plan plan.json --runner "$PIPEGEN_RUNNER"`; has != want {
				t.Errorf("%s, %s: %v", id, step.Name, step.Env)
			}
		}
	}
	steps := make([]string, len(run.Steps))
	for i, step := range run.Steps {
		steps[i] = step.Name
	}
	if got := strings.Join(steps[len(steps)-4:], "; "); got != "Fetch the plan; Fetch what was published of the images below; Build and publish; Keep the result" {
		t.Errorf("run does %s", got)
	}
	for id, job := range main.Jobs {
		if strings.HasPrefix(id, "wave-") && (job.With["runner"] != "${{ matrix.runner }}" || job.Secrets["PIPEGEN_TOKEN"] == "") {
			t.Errorf("%s passes %v, %v", id, job.With, sorted(job.Secrets))
		}
		for name, level := range run.Permissions {
			if got := job.Permissions[name]; strings.HasPrefix(id, "wave-") && got != level && got != "write" {
				t.Errorf("%s allows %s: %q, but run wants %s", id, name, got, level)
			}
		}
	}
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ghLabels evaluates the expression that chooses a runner, as far as it can
// be: fromJSON('...')[matrix.platform].
func ghLabels(t testing.TB, w ghWorkflow) map[string]string {
	t.Helper()
	expression, _ := w.Jobs["build"].RunsOn.(string)
	literal, ok := strings.CutPrefix(expression, "${{ fromJSON('")
	literal, ok2 := strings.CutSuffix(literal, "')[matrix.platform] }}")
	if !ok || !ok2 || strings.Count(strings.ReplaceAll(literal, "''", ""), "'") > 0 {
		t.Fatalf("runs-on: %s", expression)
	}
	var labels map[string]string
	if err := json.Unmarshal([]byte(strings.ReplaceAll(literal, "''", "'")), &labels); err != nil {
		t.Fatal(err)
	}
	return labels
}

type ghMatrix struct {
	Include []struct {
		Image     string
		Platforms *[]string
		Needs     string
		Runner    string
	}
}

// ghOutputs evaluates what the workflow does with the outputs of a plan, checks
// that each image has its one job after those it needs, and gives the builds.
func ghOutputs(t testing.TB, p *plan.Plan, main ghWorkflow) map[string]int {
	t.Helper()
	text, err := render.GitHubOutputs(p)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "amazonaws") {
		t.Errorf("a registry is in the outputs, where it may be masked")
	}
	outputs := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, declared := main.Jobs["plan"].Outputs[name]; !ok || !declared {
			t.Fatalf("the workflow knows no output %q", name)
		}
		outputs[name] = value
	}
	decode := func(name string, into any) {
		if err := json.Unmarshal([]byte(outputs[name]), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var ids, usual []string
	decode("waves", &ids)
	decode("platforms", &usual)
	if len(ids) != len(outputs)-2 {
		t.Errorf("waves are %q, outputs %d", ids, len(outputs))
	}
	images := make(map[string]*plan.Image, len(p.Images))
	for i := range p.Images {
		images[p.Images[i].Name] = &p.Images[i]
	}
	wave := map[string]int{} // of images
	for _, id := range ids {
		var m ghMatrix
		decode(id, &m)
		if len(m.Include) == 0 || len(m.Include) > 256 {
			t.Errorf("%s has %d images", id, len(m.Include))
		}
		number, err := strconv.Atoi(strings.Split(id, "-")[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range m.Include {
			img := images[e.Image]
			if img == nil || wave[e.Image] != 0 {
				t.Fatalf("%s is in no plan, or twice", e.Image)
			}
			wave[e.Image] = number
			platforms := usual
			if e.Platforms != nil {
				platforms = *e.Platforms
			}
			var got, want []string
			for _, s := range platforms {
				got = append(got, e.Image+"@"+s)
			}
			runner := ""
			if ghControlled(*img) {
				runner = img.Builds[0].Runner
			}
			for _, b := range img.Builds {
				if runner == "" {
					want = append(want, b.ID)
				}
			}
			if e.Runner != runner {
				t.Errorf("%s is built by %q, want %q", e.Image, e.Runner, runner)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: builds %q, want %q", e.Image, got, want)
			}
			for _, need := range img.Needs {
				if wave[need] == 0 || wave[need] >= number {
					t.Errorf("%s in wave %d needs %s in wave %d", e.Image, number, need, wave[need])
				}
				if !strings.Contains(e.Needs, need) && !strings.HasSuffix(e.Needs, "*") {
					t.Errorf("%s fetches %q, but needs %s", e.Image, e.Needs, need)
				}
			}
			if len(img.Needs) == 0 && e.Needs != "" {
				t.Errorf("%s fetches %q", e.Image, e.Needs)
			}
		}
	}
	if len(wave) != len(p.Images) {
		t.Errorf("%d of %d images have jobs", len(wave), len(p.Images))
	}
	return wave
}
