package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// hostile are texts that some shell, YAML reader, CI system or terminal takes
// for more than text.
var hostile = []string{
	"$(id)", "`x`", "a: b", "- x", "*a", "!tag", "%", `"`, "a\nb", "a\x00b", "a\u202eb", strings.Repeat("a", 300),
	"$HOME", "${{ secrets.X }}", "((x))", "--force", "'", `\`, "~", "#", "a b", "é",
}

// Each hostile text, wherever it stands, is refused with its position, or it
// reaches the engine as it is.
func TestHostileText(t *testing.T) {
	for _, text := range hostile {
		t.Run(text[:min(len(text), 20)], func(t *testing.T) {
			h := &hostileRepo{dir: t.TempDir()}
			t.Chdir(h.dir)
			h.git(t, "init", "-q", "-b", "main")
			raw, err := json.Marshal(text) // is YAML, too
			if err != nil {
				t.Fatal(err)
			}
			quoted := string(raw)
			places := map[string]func(img *plan.Image, argv []string) bool{
				"args":   func(_ *plan.Image, argv []string) bool { return slices.Contains(argv, "--build-arg=X="+text) },
				"labels": func(_ *plan.Image, argv []string) bool { return slices.Contains(argv, "--label=l="+text) },
				"target": func(_ *plan.Image, argv []string) bool { return slices.Contains(argv, "--target="+text) },
				"tag":    func(img *plan.Image, _ []string) bool { return slices.Contains(img.Tags, "tag-"+text) },
				"name":   func(img *plan.Image, _ []string) bool { return img.Name == text },
			}
			h.project(t, "args", "build_args: {X: "+quoted+"}\n")
			h.project(t, "labels", "labels: {l: "+quoted+"}\n")
			h.project(t, "target", "target: "+quoted+"\n")
			h.project(t, "tag", "additional_tags: ["+quoted+"]\n")
			h.project(t, "name", "name: "+quoted+"\n")
			directory := "in/" + text + "/x"
			if !strings.ContainsRune(text, 0) && len(text) < 256 {
				h.project(t, directory, "")
				places[directory] = func(img *plan.Image, argv []string) bool {
					return img.Dir == directory && slices.ContainsFunc(argv, func(a string) bool { return strings.HasSuffix(a, "/"+directory) })
				}
			}
			h.git(t, "add", "-A")
			h.git(t, "commit", "-qm", "first")

			// What concerns images together is looked at once each is right.
			refused := map[string]bool{}
			for found := h.validate(t); len(found) > 0; found = h.validate(t) {
				for place := range found {
					if refused[place] || places[place] == nil {
						t.Fatalf("%q is refused again", place)
					}
					refused[place] = true
					h.git(t, "rm", "-rq", "--", ":(literal)"+place)
				}
				h.git(t, "commit", "-qm", "without what was refused")
			}
			h.run(t, 0, "plan", "--select", "all", "--registry", "registry.example.com/images", "-f", "json", "-o", "plan.json")
			h.run(t, 0, "render", "gitlab", "-o", "child.yml")
			f, err := os.Open("plan.json")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := plan.Read(f, "plan.json")
			if err != nil {
				t.Fatal(err)
			}
			carried := 0
			for place, ok := range places {
				if refused[place] {
					continue
				}
				carried++
				at := slices.IndexFunc(p.Images, func(img plan.Image) bool { return img.Dir == place })
				if at < 0 {
					t.Errorf("%q in %q is lost", text, place)
					continue
				}
				img := &p.Images[at]
				argv, err := engine.Argv(t.Context(), engine.Job{Plan: p, Image: img, Build: &img.Builds[0], Root: h.dir, Getenv: h.getenv})
				if err != nil || !ok(img, argv) {
					t.Errorf("%q in %q came out as %+v: %q (%v)", text, place, img, argv, err)
				}
			}
			if carried != len(p.Images) {
				t.Errorf("%d images, want %d", len(p.Images), carried)
			}
			t.Logf("refused in %d places, carried in %d", len(refused), carried)
		})
	}
}

// A branch is part of tags in layout git: as far as a tag can hold it.
func TestHostileBranch(t *testing.T) {
	h := &hostileRepo{dir: t.TempDir(), env: map[string]string{"CI": "true", "GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "push", "PIPEGEN_LAYOUT": "git"}}
	t.Chdir(h.dir)
	h.git(t, "init", "-q", "-b", "main")
	h.project(t, "app", "")
	h.git(t, "add", "-A")
	h.git(t, "commit", "-qm", "first")
	for _, text := range hostile {
		h.env["CI_COMMIT_BRANCH"] = text
		var stdout, stderr bytes.Buffer
		a := newApp(&stdout, &stderr)
		a.getenv = h.getenv
		code := a.execute(t.Context(), []string{"plan", "--select", "all", "--registry", "registry.example.com/images", "-f", "json"})
		if code == 2 && stdout.Len() == 0 {
			continue
		}
		p, err := plan.Read(&stdout, "stdout")
		if code != 0 || err != nil {
			t.Errorf("%q: exit code %d, %v\n%s", text, code, err, stderr.Bytes())
			continue
		}
		for _, tag := range p.Images[0].Tags {
			if !regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`).MatchString(tag) {
				t.Errorf("%q: tag %q", text, tag)
			}
		}
	}
}

// hostileRepo is a checkout, and pipegen in it.
type hostileRepo struct {
	dir string
	env map[string]string
}

func (h *hostileRepo) getenv(name string) string {
	if name == "HOME" {
		return h.dir
	}
	return h.env[name]
}

func (h *hostileRepo) project(t *testing.T, dir, settings string) {
	t.Helper()
	dir = filepath.Join(h.dir, dir)
	err := errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "build-config.yaml"), []byte("platforms: [linux/amd64]\n"+settings), 0o644),
		os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func (h *hostileRepo) git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

func (h *hostileRepo) run(t *testing.T, code int, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := newApp(&stdout, &stderr)
	a.getenv = h.getenv
	if got := a.execute(t.Context(), args); got != code {
		t.Fatalf("pipegen %q: exit code %d, want %d\n%s%s", args, got, code, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// validate gives the directories of projects with faults, all of which have
// a position.
func (h *hostileRepo) validate(t *testing.T) map[string]bool {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := newApp(&stdout, &stderr)
	a.getenv = h.getenv
	code := a.execute(t.Context(), []string{"validate", "-f", "json"})
	var faults config.Faults
	if err := json.Unmarshal(stdout.Bytes(), &faults); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	refused := map[string]bool{}
	for _, f := range faults {
		if f.Severity != config.Error {
			continue
		}
		if f.Line == 0 || strings.ContainsAny(f.Message, "\x00\u202e\n") {
			t.Errorf("a fault without position, or that shows text as it is: %+v", f)
		}
		refused[strings.TrimSuffix(strings.TrimSuffix(f.File, "/build-config.yaml"), "/Dockerfile")] = true
	}
	if (code == 0) != (len(refused) == 0) || code != 0 && !errors.Is(faults, failure.ErrInput) {
		t.Errorf("exit code %d with %d faults", code, len(refused))
	}
	return refused
}
