package render

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// Kinds that overlays can name for Concourse beside prepare, build, manifest and
// run, which are tasks there.
const (
	kindJob         = "job"          // the job of an image
	kindResource    = "resource"     // a git resource
	kindWeekly      = "weekly"       // the time resource
	kindSetPipeline = "set_pipeline" // the step that sets the pipeline
	kindPipeline    = "pipeline"     // the pipeline as a whole
)

// hooks are steps that run after another one or after a job.
var hooks = map[string][]string{"on_success": {"map"}, "on_failure": {"map"}, "on_error": {"map"}, "on_abort": {"map"}, "ensure": {"map"}}

// concourseKeys are what an overlay of each kind can set
// (https://concourse-ci.org/docs/pipelines/).
var concourseKeys = func() map[string]map[string][]string {
	step := map[string][]string{
		"attempts": {"int"}, "config": {"map"}, "container_limits": {"map"}, "params": {"map"}, "privileged": {"bool"}, "tags": {"list"}, "timeout": {"string"},
	}
	job := map[string][]string{
		"build_log_retention": {"map"}, "disable_manual_trigger": {"bool"}, "interruptible": {"bool"}, "max_in_flight": {"int"}, "public": {"bool"}, "serial_groups": {"list"},
	}
	maps.Copy(step, hooks)
	maps.Copy(job, hooks)
	resource := map[string][]string{
		"check_every": {"string"}, "check_timeout": {"string"}, "icon": {"string"}, "public": {"bool"}, "source": {"map"}, "tags": {"list"}, "webhook_token": {"string"},
	}
	return map[string]map[string][]string{
		kindPrepare: step, kindBuild: step, kindManifest: step, kindRun: step, kindJob: job, kindResource: resource, kindWeekly: resource,
		kindSetPipeline: {"instance_vars": {"map"}, "var_files": {"list"}, "vars": {"map"}},
		kindPipeline:    {"resource_types": {"list"}, "resources": {"list"}, "var_sources": {"list"}},
	}
}()

// concourseConfig are the keys of a task's configuration that an overlay can
// set.
var concourseConfig = []string{"caches", "container_limits", "image_resource", "params"}

var concourseOverlays = overlayRules{
	system: "concourse", kinds: slices.Sorted(maps.Keys(concourseKeys)), keys: allKeys(concourseKeys),
	variables: "params", own: []string{"PIPEGEN_CI"},
	value: func(kind, key string, value any) ([]string, error) {
		if _, ok := concourseKeys[kind][key]; !ok {
			return nil, failure.WithHint(errors.New("an overlay cannot set this key"), "it can set %s", strings.Join(slices.Sorted(maps.Keys(concourseKeys[kind])), ", "))
		}
		below, _ := value.(map[string]any)
		switch {
		case key == "config":
			for _, name := range slices.Sorted(maps.Keys(below)) {
				if !slices.Contains(concourseConfig, name) {
					return []string{name}, failure.WithHint(errors.New("an overlay cannot set this key"), "it can set %s", strings.Join(concourseConfig, ", "))
				}
				if below[name] == nil && name != "container_limits" && name != "caches" {
					return []string{name}, errors.New("this cannot be taken away")
				}
			}
			if params, ok := below["params"].(map[string]any); ok && slices.Contains(slices.Collect(maps.Keys(params)), "PIPEGEN_CI") {
				return []string{"params", "PIPEGEN_CI"}, errors.New("PIPEGEN_CI is pipegen's own")
			}
		case key == "source" && kind == kindResource:
			for _, name := range []string{"paths", "ignore_paths", "uri"} {
				if v, ok := below[name]; ok && (name != "uri" || v == nil) {
					return []string{name}, fmt.Errorf("%s is pipegen's to say: it follows from the projects", name)
				}
			}
		case kind == kindPipeline:
			items, _ := value.([]any)
			for i, item := range items {
				if m, ok := item.(map[string]any); !ok || m["name"] == nil || m["type"] == nil {
					return []string{strconv.Itoa(i)}, errors.New("want a map with name and type")
				}
			}
		}
		return nil, nil
	},
}

func allKeys(kinds map[string]map[string][]string) map[string][]string {
	all := map[string][]string{}
	for _, keys := range kinds {
		maps.Copy(all, keys)
	}
	return all
}

// extra gives what the overlay of the pipeline adds to it, by key. What hooks
// name must be there, and what is there must be used: Concourse takes nothing
// else.
func (c *concourse) extra() (map[string][]*yaml.Node, error) {
	out := map[string][]*yaml.Node{"var_sources": c.identities()}
	known := map[string]bool{concoursePipeline: true}
	for _, p := range c.projects {
		known[p.resource] = true
	}
	if c.weekly {
		known[concourseWeekly] = true
	}
	overlays := c.config.Pipegen.Overlays["concourse"]
	used := map[string][]string{} // resource → where
	for kind, overlay := range overlays {
		for key, value := range overlay {
			if _, hook := hooks[key]; hook {
				usedResources(value, []string{kind, key}, used)
			}
		}
	}
	added := map[string]bool{}
	if over := c.overlays[kindPipeline]; over != nil {
		for _, key := range []string{"resource_types", "var_sources", "resources"} {
			items := lookup(over, key)
			if items == nil {
				continue
			}
			for i, item := range items.Content {
				if key == "var_sources" && slices.Contains([]string{concourseAWS, concourseSigning, concourseController}, lookup(item, "name").Value) {
					return nil, concourseOverlays.fault(fmt.Errorf("%s is pipegen's own", lookup(item, "name").Value), kindPipeline, key, strconv.Itoa(i))
				}
				out[key] = append(out[key], clone(item))
				if key != "resources" {
					continue
				}
				name := lookup(item, "name").Value
				if known[name] {
					return nil, concourseOverlays.fault(fmt.Errorf("there is a resource %q already", name), kindPipeline, key, strconv.Itoa(i))
				}
				if _, ok := used[name]; !ok {
					return nil, concourseOverlays.fault(fmt.Errorf("nothing uses the resource %q, which Concourse refuses", name), kindPipeline, key, strconv.Itoa(i))
				}
				known[name], added[name] = true, true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !known[name] {
			return nil, concourseOverlays.fault(failure.WithHint(fmt.Errorf("there is no resource %q", name), "add it under overlays.concourse.pipeline.resources"), used[name]...)
		}
	}
	return out, nil
}

// identities are the sources of tokens by which jobs show who they are
// (https://concourse-ci.org/docs/operation/creds/id-token).
func (c *concourse) identities() []*yaml.Node {
	var sources []*yaml.Node
	add := func(name, audience, lasts string) {
		sources = append(sources, mapping("name", name, "type", "idtoken", "config", mapping("audience", flow(list(audience)), "expires_in", lasts)))
	}
	if t := c.plan.Publish.IDToken; t != nil {
		add(concourseAWS, cmp.Or(t.Audience, awsAudience), "")
	}
	if s := c.plan.Publish.Sign; s != nil && s.Keyless {
		add(concourseSigning, s.TokenAudience(), "")
	}
	if audience := c.plan.CI.Audience; audience != "" && slices.ContainsFunc(c.plan.Images, func(img plan.Image) bool { return ControllerRunner(&img) != "" }) {
		// A task follows its run by the token that it began with.
		add(concourseController, audience, "24h")
	}
	return sources
}

// usedResources finds what the get and put steps below a value use.
func usedResources(value any, at []string, used map[string][]string) {
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			usedResources(item, append(slices.Clip(at), strconv.Itoa(i)), used)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			name, ok := v[key].(string)
			switch {
			case ok && (key == "get" || key == "put"):
				if resource, ok := v["resource"].(string); ok {
					name = resource
				}
				used[name] = append(slices.Clip(at), key)
			case key != "params" && key != "vars" && key != "config":
				usedResources(v[key], append(slices.Clip(at), key), used)
			}
		}
	}
}
