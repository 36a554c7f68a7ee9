package render

import (
	"errors"
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
	kindPrepare  = "prepare"  // plans and renders
	kindBuild    = "build"    // builds one image for one platform
	kindManifest = "manifest" // publishes an image, or looks up what was published
	kindRun      = "run"      // has the controller build and publish an image
	kindGate     = "gate"     // does nothing but stand for others
)

// OverlayError says what is wrong with an overlay. It wraps failure.ErrInput.
type OverlayError struct {
	// Keys from the root of pipegen.yaml down to what is wrong:
	// overlays, CI system, kind of job, and below. A number is an index.
	Path []string
	Err  error
}

// Error names the place by its keys.
func (e *OverlayError) Error() string { return e.Where() + " in pipegen.yaml: " + e.Err.Error() }

// Unwrap gives what is wrong there.
func (e *OverlayError) Unwrap() error { return e.Err }

// Is says that a bad overlay is wrong input.
func (e *OverlayError) Is(target error) bool { return target == failure.ErrInput }

// Where gives the place as overlays.SYSTEM.KIND.KEY.
func (e *OverlayError) Where() string { return quote.Text(strings.Join(e.Path, ".")) }

// Locate finds the place in the text of pipegen.yaml: the key, or the item of
// a list, or the nearest thing above that is there. Lines and columns start at
// 1; 0 means that the text holds no such overlay.
func (e *OverlayError) Locate(text []byte) (line, column int) {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		return 0, 0
	}
	n := doc.Content[0]
	for depth, key := range e.Path {
		for n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if at := entry(n, key); at >= 0 {
			line, column, n = n.Content[at].Line, n.Content[at].Column, n.Content[at+1]
			continue
		}
		if i, ok := position(key); ok && n.Kind == yaml.SequenceNode && i < len(n.Content) {
			n = n.Content[i]
			line, column = n.Line, n.Column
			continue
		}
		if depth < 3 {
			return 0, 0
		}
		break
	}
	return line, column
}

func position(key string) (int, bool) {
	i := 0
	for _, r := range key {
		if r < '0' || r > '9' || i > 1<<20 {
			return 0, false
		}
		i = i*10 + int(r-'0')
	}
	return i, key != ""
}

// CheckOverlays gives all that is wrong with overlays whatever the plan, in
// the order of their keys. CI systems that it does not know have no rules.
func CheckOverlays(overlays map[string]map[string]config.Overlay) []*OverlayError {
	var all []*OverlayError
	for _, system := range slices.Sorted(maps.Keys(overlays)) {
		if rules, ok := overlayRulesOf(system); ok {
			all = append(all, rules.check(overlays[system])...)
		}
	}
	return all
}

// overlayRulesOf gives the rules of each CI system that has some.
func overlayRulesOf(system string) (overlayRules, bool) {
	switch system {
	case "gitlab":
		return gitlabOverlays, true
	case "github":
		return githubOverlays, true
	}
	return overlayRules{}, false
}

// overlayRules say what the overlays of one CI system may hold.
type overlayRules struct {
	system string
	kinds  []string
	// The keys of a job that an overlay can set, with the shapes of their
	// values: map, list, string, bool, int, number. What is left out is
	// pipegen's to say.
	keys map[string][]string
	// The key of a job with its environment, and the names in it that are
	// pipegen's own.
	variables string
	own       []string
	// value judges a value further, and says where below the key a fault is;
	// nil: its shape is enough.
	value func(kind, key string, value any) (at []string, err error)
}

// check gives all that is wrong with the overlays of this system.
func (r overlayRules) check(overlays map[string]config.Overlay) []*OverlayError {
	var all []*OverlayError
	for _, kind := range slices.Sorted(maps.Keys(overlays)) {
		if !slices.Contains(r.kinds, kind) {
			all = append(all, r.fault(failure.WithHint(errors.New("there is no such kind of job"), "there are %s", strings.Join(r.kinds, ", ")), kind))
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(overlays[kind])) {
			if at, err := r.checkKey(kind, key, overlays[kind][key]); err != nil {
				all = append(all, r.fault(err, append([]string{kind, key}, at...)...))
			}
		}
	}
	return all
}

func (r overlayRules) fault(err error, path ...string) *OverlayError {
	return &OverlayError{Path: append([]string{"overlays", r.system}, path...), Err: err}
}

// checkKey judges one key of an overlay; at says where below it the fault is.
func (r overlayRules) checkKey(kind, key string, value any) (at []string, err error) {
	shapes, ok := r.keys[key]
	if !ok {
		known := slices.Sorted(maps.Keys(r.keys))
		err := errors.New("an overlay cannot set this key")
		if near := config.Nearest(key, known); near != "" {
			return nil, failure.WithHint(err, "did you mean %q?", near)
		}
		return nil, failure.WithHint(err, "it can set %s", strings.Join(known, ", "))
	}
	if value == nil {
		return nil, nil // takes the key away
	}
	if shape := shapeOf(value); !slices.Contains(shapes, shape) {
		return nil, fmt.Errorf("want a %s, not a %s", strings.Join(shapes, " or a "), shape)
	}
	if variables, ok := value.(map[string]any); ok && key == r.variables {
		for _, name := range slices.Sorted(maps.Keys(variables)) {
			if slices.Contains(r.own, name) {
				return []string{name}, fmt.Errorf("%s is pipegen's own", name)
			}
			if shape := shapeOf(variables[name]); !slices.Contains([]string{"string", "int", "number", "bool", "map", "null"}, shape) {
				return []string{name}, fmt.Errorf("want a string, not a %s", shape)
			}
		}
	}
	if r.value != nil {
		return r.value(kind, key, value)
	}
	return nil, nil
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

// lay merges the overlay for a kind of job into a job: maps by key, the rest
// replaces, null takes away.
func (r overlayRules) lay(job *yaml.Node, overlay config.Overlay, kind string) error {
	over := new(yaml.Node)
	if err := over.Encode(whole(map[string]any(overlay))); err != nil {
		return r.fault(fmt.Errorf("it cannot be written as YAML: %w", err), kind)
	}
	merge(job, over)
	return nil
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
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
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
