package render

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/jsonschema"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// gitlabOverlays leave out the keys that decide whether, when or as what a
// job runs.
var gitlabOverlays = overlayRules{
	system: "gitlab",
	kinds:  []string{kindPrepare, kindBuild, kindManifest, kindRun, kindGate},
	keys: map[string][]string{
		"after_script": {"list", "string"}, "allow_failure": {"bool", "map"}, "artifacts": {"map"}, "before_script": {"list", "string"},
		"cache": {"list", "map"}, "environment": {"map", "string"}, "hooks": {"map"}, "id_tokens": {"map"}, "identity": {"string"},
		"image": {"map", "string"}, "interruptible": {"bool"}, "resource_group": {"string"}, "retry": {"int", "map"}, "secrets": {"map"},
		"services": {"list"}, "tags": {"list"}, "timeout": {"string"}, "variables": {"map"},
	},
	variables: "variables",
	// What scripts and artifacts are named by.
	own:   []string{"PIPEGEN_BUILD", "PIPEGEN_NAME", "PIPEGEN_NAMES", "PIPEGEN_PLAN", "PIPEGEN_PIPELINE_ID", "PIPEGEN_METADATA_DIR"},
	value: checkGitLabValue,
}

func checkGitLabValue(_, key string, value any) ([]string, error) {
	variables, _ := value.(map[string]any)
	if key != "variables" {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		v := variables[name]
		if name == "GIT_STRATEGY" && v != "fetch" && v != "clone" || name == "GIT_CHECKOUT" && fmt.Sprint(v) != "true" {
			return []string{name}, fmt.Errorf("%s would leave the job without a clean checkout", quote.Text(fmt.Sprint(v)))
		}
	}
	return nil, nil
}

// layGitLab merges an overlay into a job. Artifacts that other jobs wait for
// must still be there.
func layGitLab(j namedJob, overlay config.Overlay) error {
	before := artifactPaths(j.node)
	if err := gitlabOverlays.lay(j.node, overlay, j.kind); err != nil {
		return err
	}
	after := artifactPaths(j.node)
	for _, p := range before {
		if !slices.Contains(after, p) {
			return gitlabOverlays.fault(failure.WithHint(fmt.Errorf("it drops %s, which other jobs need", p), "list it in artifacts.paths too"), j.kind, "artifacts", "paths")
		}
	}
	artifacts := lookup(j.node, "artifacts")
	switch when := lookup(artifacts, "when"); {
	case len(before) == 0:
	case lookup(artifacts, "exclude") != nil:
		return gitlabOverlays.fault(errors.New("it would withhold what other jobs need"), j.kind, "artifacts", "exclude")
	case when != nil && when.Value == "on_failure":
		return gitlabOverlays.fault(errors.New("on_failure would withhold what other jobs need"), j.kind, "artifacts", "when")
	}
	return nil
}

func artifactPaths(job *yaml.Node) []string {
	var paths []string
	if list := lookup(lookup(job, "artifacts"), "paths"); list != nil {
		for _, n := range list.Content {
			paths = append(paths, n.Value)
		}
	}
	return paths
}

// checkOverlaid checks jobs that overlays changed against GitLab's schema and
// its limit on the size of a job. Jobs that extend a template are as it is.
func checkOverlaid(jobs []namedJob, overlays map[string]config.Overlay) error {
	var schema *jsonschema.Schema
	seen := map[string]bool{}
	for _, j := range jobs {
		overlay := overlays[j.kind]
		alone := lookup(j.node, "extends") == nil && lookup(j.node, "trigger") == nil
		// Of jobs that stand alone, one of a kind is enough.
		if len(overlay) == 0 || !alone || seen[j.kind] && !strings.HasPrefix(j.name, ".") {
			continue
		}
		seen[j.kind] = true
		if schema == nil {
			var err error
			if schema, err = jsonschema.Parse(gitlabSchema); err != nil {
				return err
			}
		}
		if err := checkJobSize(j.kind, j.node); err != nil {
			return gitlabOverlays.fault(err, j.kind)
		}
		var job any
		if err := j.node.Decode(&job); err != nil {
			return gitlabOverlays.fault(err, j.kind)
		}
		if faults := schema.Check(map[string]any{"job": job}); len(faults) > 0 {
			path, why := blame(faults, overlay)
			return gitlabOverlays.fault(failure.WithHint(errors.New(why), "GitLab's schema of .gitlab-ci.yml does not take it"), append([]string{j.kind}, path...)...)
		}
	}
	return nil
}

// gitlabSchema is the JSON Schema of .gitlab-ci.yml, which GitLab's own
// editor checks with: app/assets/javascripts/editor/schema/ci.json in
// https://gitlab.com/gitlab-org/gitlab, MIT licence, unchanged.
//
//go:embed schemas/gitlab-ci.json
var gitlabSchema []byte

// blame finds what of an overlay the schema refuses: the deepest place that
// the overlay sets.
func blame(faults []jsonschema.Fault, overlay config.Overlay) (path []string, why string) {
	why = "the job is not valid: " + faults[0].Message
	for _, f := range faults {
		at := f.Path
		if len(at) > 0 {
			at = at[1:] // the job
		}
		// A key that the overlay does not set may lack in one that it does.
		for len(at) > 0 && !holds(map[string]any(overlay), at) {
			at = at[:len(at)-1]
		}
		if len(at) > len(path) {
			path, why = at, f.Message
		}
	}
	return path, quote.Text(why)
}

// holds says whether a value has something at a path.
func holds(v any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch v := v.(type) {
	case map[string]any:
		below, ok := v[path[0]]
		return ok && holds(below, path[1:])
	case []any:
		i, ok := position(path[0])
		return ok && i < len(v) && holds(v[i], path[1:])
	}
	return false
}
