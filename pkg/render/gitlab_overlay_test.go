package render_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/render"
)

func TestOverlay(t *testing.T) {
	p := goldenPlans()["overlay"]
	data, err := gitlab(p, render.GitLabOptions{})
	if err != nil {
		t.Fatal(err)
	}
	jobs := checkPipeline(t, p, data)
	build := jobs["build app@arm64"]
	for _, c := range []struct {
		got  any
		want string
	}{
		{build["tags"], "[large]"}, {build["timeout"], "<nil>"}, {lookup(build, "image", "pull_policy"), "if-not-present"}, {lookup(build, "image", "name"), "$PIPEGEN_IMAGE"},
		{lookup(build, "variables", "BIG"), "1000000"}, {lookup(build, "variables", "NOTE"), "two\nlines: *"}, {lookup(build, "variables", "PIPEGEN_BUILD"), "app@arm64"},
		{lookup(build, "artifacts", "expire_in"), "1 day"}, {lookup(build, "artifacts", "when"), "always"},
		{jobs["manifest app"]["resource_group"], "one-at-a-time"}, {jobs["manifest app"]["interruptible"], "<nil>"},
	} {
		if got := fmt.Sprint(c.got); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestBadOverlay(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		kind    string
		overlay config.Overlay
		want    string
	}{
		{"build", config.Overlay{"script": []any{"true"}}, "overlays.gitlab.build.script"},
		{"build", config.Overlay{"needs": nil}, "overlays.gitlab.build.needs"},
		{"build", config.Overlay{"extends": ".mine"}, "overlays.gitlab.build.extends"},
		{"manifest", config.Overlay{"rules": []any{m{"when": "never"}}}, "overlays.gitlab.manifest.rules"},
		{"manifest", config.Overlay{"when": "manual"}, "overlays.gitlab.manifest.when"},
		{"build", config.Overlay{"variables": m{"PIPEGEN_BUILD": "x"}}, "PIPEGEN_BUILD is pipegen's own"},
		{"build", config.Overlay{"variables": m{"PIPEGEN_METADATA_DIR": nil}}, "PIPEGEN_METADATA_DIR is pipegen's own"},
		{"build", config.Overlay{"variables": m{"GIT_STRATEGY": "none"}}, "GIT_STRATEGY"},
		{"build", config.Overlay{"variables": m{"A": []any{}}}, "overlays.gitlab.build.variables.A in pipegen.yaml: want a string, not a list"},
		{"build", config.Overlay{"variables": []any{}}, "want a map, not a list"},
		{"build", config.Overlay{"tags": "arm"}, "want a list, not a string"},
		{"build", config.Overlay{"interruptible": "yes"}, "want a bool"},
		{"build", config.Overlay{"artifacts": nil}, "drops .pipegen/builds/$PIPEGEN_BUILD.json"},
		{"build", config.Overlay{"artifacts": m{"paths": []any{"out"}}}, "drops .pipegen/builds/$PIPEGEN_BUILD.json"},
		{"manifest", config.Overlay{"artifacts": m{"exclude": []any{"**"}}}, "exclude"},
		{"manifest", config.Overlay{"artifacts": m{"when": "on_failure"}}, "on_failure"},
		{"build", config.Overlay{"before_script": []any{"echo \u202e"}}, "U+202E"},
		{"build", config.Overlay{"before_script": []any{"echo \x00"}}, "U+0000"},
		{"prepare", config.Overlay{"script": []any{"x"}}, "overlays.gitlab.prepare.script"},
		{"noop", config.Overlay{}, "there is no such kind"},
		// What the shape does not show, GitLab's schema does.
		{"build", config.Overlay{"retry": 7.0}, "overlays.gitlab.build.retry in pipegen.yaml: "},
		{"build", config.Overlay{"image": m{"name": "x", "pull_polcy": "always"}}, "overlays.gitlab.build.image"},
		{"build", config.Overlay{"image": m{"pull_policy": "sometimes"}}, "overlays.gitlab.build.image.pull_policy"},
		{"manifest", config.Overlay{"id_tokens": m{"T": m{"audience": "x"}}}, "overlays.gitlab.manifest.id_tokens.T"},
		{"gate", config.Overlay{"services": []any{m{"nam": "x"}}}, "overlays.gitlab.gate.services"},
		{"build", config.Overlay{"before_script": []any{strings.Repeat("x", 1<<20)}}, "too big"},
		{"deploy", config.Overlay{}, "overlays.gitlab.deploy"},
		{"build", config.Overlay{"timeuot": "1h"}, "overlays.gitlab.build.timeuot"},
	} {
		p := planOf(both("app"))
		if c.kind == "gate" {
			p = goldenPlans()["gates"]
		}
		p.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {c.kind: c.overlay}}
		data, err := gitlab(p, render.GitLabOptions{})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || data != nil {
			t.Errorf("%s %v: got %v, want an error with %q", c.kind, c.overlay, err, c.want)
		}
	}
	p := planOf(both("app"))
	p.CI.Overlays = map[string]map[string]config.Overlay{"gitlab": {"build": {"timeuot": "1h"}}}
	if _, err := gitlab(p, render.GitLabOptions{}); failure.Hint(err) != `did you mean "timeout"?` {
		t.Errorf("hint %q", failure.Hint(err))
	}
}
