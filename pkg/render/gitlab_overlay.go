package render

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Kinds of rendered jobs, as overlays name them.
const (
	kindBuild    = "build"
	kindManifest = "manifest"
	kindNoop     = "noop"
)

// overlayKeys are the keys of a job that an overlay can set, with the shapes
// that GitLab takes. What is left out decides whether, when or as what a job
// runs, which is pipegen's to say.
var overlayKeys = map[string][]string{
	"after_script": {"list", "string"}, "allow_failure": {"bool", "map"}, "artifacts": {"map"}, "before_script": {"list", "string"},
	"cache": {"list", "map"}, "environment": {"map", "string"}, "hooks": {"map"}, "id_tokens": {"map"}, "identity": {"string"},
	"image": {"map", "string"}, "interruptible": {"bool"}, "resource_group": {"string"}, "retry": {"int", "map"}, "secrets": {"map"},
	"services": {"list"}, "tags": {"list"}, "timeout": {"string"}, "variables": {"map"},
}

// ownVariables are what scripts and artifacts are named by.
var ownVariables = []string{"PIPEGEN_BUILD", "PIPEGEN_NAME", "PIPEGEN_PLAN", "PIPEGEN_METADATA_DIR"}

// checkOverlays refuses what would break a job of any plan.
func checkOverlays(overlays map[string]config.Overlay) error {
	for _, kind := range slices.Sorted(maps.Keys(overlays)) {
		switch kind {
		case kindBuild, kindManifest, kindNoop:
		case "prepare":
			return failure.WithHint(failure.Input("overlays.gitlab.prepare in pipegen.yaml has no effect: that job is in .gitlab-ci.yml"), "change it there")
		default:
			return failure.WithHint(failure.Input("overlays.gitlab.%s in pipegen.yaml: there is no such kind of job", quote.Text(kind)), "there are build, manifest and noop")
		}
		overlay := overlays[kind]
		for _, key := range slices.Sorted(maps.Keys(overlay)) {
			if err := checkOverlayKey(key, overlay[key]); err != nil {
				return failure.WithHint(failure.Input("overlays.gitlab.%s.%s in pipegen.yaml: %w", kind, quote.Text(key), err), "%s", failure.Hint(err))
			}
		}
	}
	return nil
}

func checkOverlayKey(key string, value any) error {
	shapes, ok := overlayKeys[key]
	if !ok {
		known := slices.Sorted(maps.Keys(overlayKeys))
		err := fmt.Errorf("an overlay cannot set this key")
		if near := config.Nearest(key, known); near != "" {
			return failure.WithHint(err, "did you mean %q?", near)
		}
		return failure.WithHint(err, "it can set %s", strings.Join(known, ", "))
	}
	if value == nil {
		return nil // takes the key away
	}
	if shape := shapeOf(value); !slices.Contains(shapes, shape) {
		return fmt.Errorf("want a %s, not a %s", strings.Join(shapes, " or a "), shape)
	}
	variables, ok := value.(map[string]any)
	if key != "variables" || !ok {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		value := variables[name]
		switch {
		case slices.Contains(ownVariables, name):
			return fmt.Errorf("%s is pipegen's own", name)
		case name == "GIT_STRATEGY" && value != "fetch" && value != "clone", name == "GIT_CHECKOUT" && fmt.Sprint(value) != "true":
			return fmt.Errorf("%s: %s would leave the job without a clean checkout", name, quote.Text(fmt.Sprint(value)))
		case !slices.Contains([]string{"string", "int", "number", "bool", "map"}, shapeOf(value)):
			return fmt.Errorf("%s: want a string, not a %s", quote.Text(name), shapeOf(value))
		}
	}
	return nil
}

func shapeOf(value any) string {
	switch v := value.(type) {
	case map[string]any:
		return "map"
	case []any:
		return "list"
	case string:
		return "string"
	case bool:
		return "bool"
	case int, int64, uint64:
		return "int"
	case float64:
		if v == math.Trunc(v) {
			return "int"
		}
		return "number"
	case nil:
		return "null"
	}
	return fmt.Sprintf("%T", value)
}

// lay merges an overlay into a job: maps by key, the rest replaces, null
// takes away. Artifacts that other jobs wait for must still be there.
func lay(job *yaml.Node, overlay config.Overlay, kind string) error {
	before := artifactPaths(job)
	over := new(yaml.Node)
	if err := over.Encode(whole(map[string]any(overlay))); err != nil {
		return failure.Input("overlays.gitlab.%s in pipegen.yaml: %w", kind, err)
	}
	merge(job, over)
	artifacts := lookup(job, "artifacts")
	after := artifactPaths(job)
	for _, p := range before {
		if !slices.Contains(after, p) {
			return failure.WithHint(failure.Input("overlays.gitlab.%s.artifacts in pipegen.yaml drops %s, which other jobs need", kind, p), "list it in artifacts.paths too")
		}
	}
	if when := lookup(artifacts, "when"); len(before) > 0 && (lookup(artifacts, "exclude") != nil || when != nil && when.Value == "on_failure") {
		return failure.Input("overlays.gitlab.%s.artifacts in pipegen.yaml would withhold what other jobs need: exclude and when: on_failure cannot be used", kind)
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

func merge(base, over *yaml.Node) {
	for i := 0; i < len(over.Content); i += 2 {
		key, val := over.Content[i], over.Content[i+1]
		at := entry(base, key.Value)
		switch {
		case val.ShortTag() == "!!null":
			if at >= 0 {
				base.Content = slices.Delete(base.Content, at, at+2)
			}
		case at < 0:
			base.Content = append(base.Content, key, val)
		case base.Content[at+1].Kind == yaml.MappingNode && val.Kind == yaml.MappingNode:
			merge(base.Content[at+1], val)
		default:
			base.Content[at+1] = val
		}
	}
}

// entry gives where the key of a mapping stands in its content, or -1.
func entry(n *yaml.Node, key string) int {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// lookup gives what a mapping holds for a key, or nil.
func lookup(n *yaml.Node, key string) *yaml.Node {
	if at := entry(n, key); at >= 0 {
		return n.Content[at+1]
	}
	return nil
}

// whole gives numbers without a fraction as integers: an overlay comes out of
// the plan's JSON, where all numbers are floats, and YAML would write 1e+06.
func whole(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = whole(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = whole(e)
		}
		return out
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
	}
	return v
}
