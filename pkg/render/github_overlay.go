package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
)

// kindWorkflow is the workflow as a whole: when it runs, and what all of its
// jobs see.
const kindWorkflow = "workflow"

// githubOwn are the variables that steps are driven by.
var githubOwn = []string{
	"PIPEGEN_BUILD", "PIPEGEN_NAME", "PIPEGEN_SELECT", "PIPEGEN_NAMES", "PIPEGEN_PLAN", "PIPEGEN_METADATA_DIR", "PIPEGEN_RUNNER",
	dockerVariable, tokenVariable, audienceVariable,
}

var githubOverlays = overlayRules{
	system: "github",
	kinds:  []string{kindPrepare, kindBuild, kindManifest, kindRun, kindGate, kindWorkflow},
	keys: map[string][]string{
		"concurrency": {"map", "string"}, "env": {"map"}, "environment": {"map", "string"}, "name": {"string"}, "on": {"map"},
		"permissions": {"map"}, "run-name": {"string"}, "runs-on": {"list", "map", "string"}, "services": {"map"}, "steps": {"list"},
		"timeout-minutes": {"int"},
	},
	variables: "env",
	own:       githubOwn,
	value:     checkGitHubOverlay,
}

// ofWorkflow and ofBoth are the keys that the workflow has, alone or as jobs do.
var (
	ofWorkflow = []string{"name", "on", "run-name"}
	ofBoth     = []string{"concurrency", "env"}
)

// checkGitHubOverlay refuses keys in the wrong place, and what is no step or no permission.
func checkGitHubOverlay(kind, key string, value any) (at []string, err error) {
	switch whole := slices.Contains(ofWorkflow, key); {
	case slices.Contains(ofBoth, key):
	case kind == kindWorkflow && !whole:
		return nil, errors.New("this is a key of jobs: set it for prepare, build, manifest, run or gate")
	case kind != kindWorkflow && whole:
		return nil, errors.New("this is a key of the workflow: set it for workflow")
	}
	switch key {
	case "permissions":
		levels, _ := value.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(levels)) {
			level, _ := levels[name].(string)
			if levels[name] != nil && !slices.Contains(permissionLevels, level) {
				return []string{name}, errors.New("want read, write or none")
			}
		}
	case "steps":
		steps, _ := value.([]any)
		for i, step := range steps {
			s, _ := step.(map[string]any)
			if _, runs := s["run"]; !runs && s["uses"] == nil {
				return []string{strconv.Itoa(i)}, errors.New("want a step: a map with run or uses")
			}
		}
	}
	return nil, nil
}

// permissionLevels in rising order.
var permissionLevels = []string{"none", "read", "write"}

// overlaidSteps takes the steps out of an overlay: they go before pipegen's
// own and replace none.
func overlaidSteps(overlay config.Overlay) (config.Overlay, []*yaml.Node, error) {
	steps, ok := overlay["steps"].([]any)
	if !ok {
		return overlay, nil, nil
	}
	rest := maps.Clone(overlay)
	delete(rest, "steps")
	n := new(yaml.Node)
	if err := n.Encode(whole(steps)); err != nil {
		return nil, nil, fmt.Errorf("they cannot be written as YAML: %w", err)
	}
	return rest, n.Content, nil
}

// mostOf gives the permissions that allow what any of jobs may do.
func mostOf(jobs ...*yaml.Node) *yaml.Node {
	most := mapping()
	for _, permissions := range jobs {
		for i := 0; permissions != nil && i+1 < len(permissions.Content); i += 2 {
			name, level := permissions.Content[i], permissions.Content[i+1]
			at := entry(most, name.Value)
			switch {
			case at < 0:
				most.Content = append(most.Content, text(name.Value), text(level.Value))
			case slices.Index(permissionLevels, level.Value) > slices.Index(permissionLevels, most.Content[at+1].Value):
				most.Content[at+1] = text(level.Value)
			}
		}
	}
	return most
}

// namedSecret is a secret in an expression.
var namedSecret = lazyregexp.New(`\bsecrets\.([A-Za-z_][A-Za-z0-9_]*)`)

// secretsNamed gives the secrets that expressions in overlays name, in capitals.
func secretsNamed(overlays ...config.Overlay) []string {
	names := map[string]bool{}
	var look func(v any)
	look = func(v any) {
		switch v := v.(type) {
		case string:
			for _, m := range namedSecret.FindAllStringSubmatch(v, -1) {
				names[strings.ToUpper(m[1])] = true
			}
		case []any:
			for _, e := range v {
				look(e)
			}
		case map[string]any:
			for _, e := range v {
				look(e)
			}
		}
	}
	for _, o := range overlays {
		look(map[string]any(o))
	}
	return slices.Sorted(maps.Keys(names))
}
