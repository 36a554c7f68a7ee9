package submission

import (
	"encoding/csv"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// wants is what a service's build asks for: what build says, and x-bake over
// it.
type wants struct {
	at                                                                 *origin
	context, dockerfile, inline, target                                string
	args, labels, contexts                                             map[string]string
	tags, platforms, cacheFrom, cacheTo, secrets, ssh, output, filters words
	buildSecrets                                                       []types.ServiceSecretConfig
	buildSSH                                                           types.SSHConfig
	noCache                                                            bool
	// Attestations by type, with their options.
	attest map[string]string
	// Options of BuildKit's exporter of the image.
	outputOpts map[string]string
}

// words is a list, and where it is written.
type words struct {
	values []string
	place  place
}

// bakeKeys are those of x-bake: docker bake's own, and those of its targets
// that can be honoured.
var bakeKeys = []string{
	"args", "attest", "cache-from", "cache-to", "context", "contexts", "dockerfile", "dockerfile-inline", "labels", "no-cache", "no-cache-filter",
	"output", "platforms", "pull", "secret", "ssh", "tags", "target",
}

// targetKeys are those of bake's targets that cannot.
var targetKeys = []string{"annotations", "call", "description", "entitlements", "extra-hosts", "inherits", "matrix", "name", "network", "shm-size", "ulimits"}

// bakes collects what a service asks for.
func (c *compiler) bakes(f *composeFile, name string, svc types.ServiceConfig, at *origin) wants {
	b := svc.Build
	here := func(key string) place { return at.below("build", key) }
	w := wants{
		at: at, context: b.Context, dockerfile: b.Dockerfile, inline: b.DockerfileInline, target: b.Target,
		args: map[string]string{}, labels: maps.Clone(b.Labels), contexts: maps.Clone(b.AdditionalContexts),
		tags: words{b.Tags, here("tags")}, platforms: words{b.Platforms, here("platforms")},
		cacheFrom: words{b.CacheFrom, here("cache_from")}, cacheTo: words{b.CacheTo, here("cache_to")},
		buildSecrets: b.Secrets, buildSSH: b.SSH, noCache: b.NoCache, attest: map[string]string{}, outputOpts: map[string]string{},
	}
	for k, v := range b.Args {
		if v != nil {
			w.args[k] = *v
		}
	}
	for kind, options := range map[string]string{"provenance": b.Provenance, "sbom": b.SBOM} {
		if options != "" {
			w.attest[kind] = options
		}
	}
	w.unsupported(b, here)
	for _, level := range []struct {
		extensions types.Extensions
		path       []any
	}{{svc.Extensions, []any{"x-bake"}}, {b.Extensions, []any{"build", "x-bake"}}} {
		value, there := level.extensions["x-bake"]
		if !there {
			continue
		}
		all, ok := value.(map[string]any)
		if !ok {
			if value != nil {
				at.below(level.path...).err("wrong-type", "", "x-bake wants a map")
			}
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			w.bake(key, all[key], at.below(level.path...).below(key))
		}
	}
	return w
}

// unsupported says what of build has no meaning where nothing is privileged.
func (w *wants) unsupported(b *types.BuildConfig, here func(string) place) {
	if b.Privileged {
		here("privileged").err("unsupported-key", "", "builds are never privileged")
	}
	if len(b.Entitlements) > 0 {
		here("entitlements").err("unsupported-key", "", "builds have no entitlements")
	}
	for key, written := range map[string]bool{
		"shm_size": b.ShmSize != 0, "ulimits": len(b.Ulimits) > 0, "extra_hosts": len(b.ExtraHosts) > 0,
		"isolation": b.Isolation != "" && b.Isolation != "default", "network": b.Network != "" && b.Network != "default",
	} {
		if written {
			here(key).warn("unused-key", "", "build.%s has no effect here", key)
		}
	}
}

// bake takes one key of x-bake.
func (w *wants) bake(key string, value any, here place) {
	lists := map[string]*words{
		"tags": &w.tags, "platforms": &w.platforms, "cache-from": &w.cacheFrom, "cache-to": &w.cacheTo,
		"secret": &w.secrets, "ssh": &w.ssh, "output": &w.output, "no-cache-filter": &w.filters,
	}
	texts := map[string]*string{"context": &w.context, "dockerfile": &w.dockerfile, "dockerfile-inline": &w.inline, "target": &w.target}
	pairs := map[string]*map[string]string{"args": &w.args, "labels": &w.labels, "contexts": &w.contexts}
	var ok bool
	want := "text"
	switch {
	case value == nil:
		return
	case lists[key] != nil:
		want = "a list"
		list := words{place: here}
		if list.values, ok = listOf(value); ok {
			*lists[key] = list
		}
	case texts[key] != nil:
		var text string
		if text, ok = value.(string); ok && text != "" {
			*texts[key] = text
			if key == "dockerfile" {
				w.inline = ""
			}
		}
	case pairs[key] != nil:
		want = "a map"
		var more map[string]string
		if more, ok = pairsOf(value); ok {
			if *pairs[key] == nil {
				*pairs[key] = map[string]string{}
			}
			maps.Copy(*pairs[key], more)
		}
	case key == "no-cache":
		want = "true or false"
		var on bool
		if on, ok = value.(bool); ok {
			w.noCache = on
		}
	case key == "pull": // bases are always looked up
		want = "true or false"
		_, ok = value.(bool)
	case key == "attest":
		want = "a list"
		var list []string
		if list, ok = listOf(value); ok {
			w.attests(list, here)
		}
	case key == "description":
		return
	case slices.Contains(targetKeys, key):
		here.err("unsupported-key", "remove it", "x-bake.%s cannot be honoured here", key)
		return
	default:
		here.err("unknown-key", oneOf(key, bakeKeys), "unknown key %q of x-bake", key)
		return
	}
	if !ok {
		here.err("wrong-type", "", "x-bake.%s wants %s", key, want)
	}
}

func (w *wants) attests(list []string, here place) {
	for i, text := range list {
		options, err := attributes(text)
		kind := options["type"]
		if err != nil || kind == "" {
			here.below(i).err("bad-value", "type=provenance,mode=max or type=sbom", "an entry of attest has no type")
			continue
		}
		delete(options, "type")
		w.attest[kind] = "true"
		if disabled := options["disabled"]; disabled == "true" {
			w.attest[kind] = "false"
		} else if len(options) > 0 {
			w.attest[kind] = joined(options)
		}
	}
}

// listOf gives a list of texts as bake reads it: words of one text, or texts or
// maps of options.
func listOf(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return strings.Fields(v), true
	case []any:
		out := make([]string, len(v))
		for i, element := range v {
			text, ok := scalar(element)
			if options, isMap := element.(map[string]any); isMap {
				var pairs map[string]string
				pairs, ok = pairsOf(options)
				text = joined(pairs)
			}
			if !ok {
				return nil, false
			}
			out[i] = text
		}
		return out, true
	}
	return nil, false
}

// pairsOf gives a map of texts, or a list of NAME=VALUE, as a map.
func pairsOf(v any) (map[string]string, bool) {
	out := map[string]string{}
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			text, ok := scalar(value)
			if !ok {
				return nil, false
			}
			out[k] = text
		}
		return out, true
	case []any:
		for _, element := range v {
			text, ok := element.(string)
			name, value, found := strings.Cut(text, "=")
			if !ok || !found {
				return nil, false
			}
			out[name] = value
		}
		return out, true
	}
	return nil, false
}

// attributes reads options as docker build does: NAME=VALUE fields of one line
// of CSV.
func attributes(text string) (map[string]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	fields, err := r.Read()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, "=")
		out[strings.ToLower(strings.TrimSpace(name))] = value
	}
	return out, nil
}

// joined writes options as attributes reads them, sorted.
func joined(options map[string]string) string {
	fields := make([]string, 0, len(options))
	for _, name := range slices.Sorted(maps.Keys(options)) {
		fields = append(fields, name+"="+options[name])
	}
	var b strings.Builder
	out := csv.NewWriter(&b)
	_ = out.Write(fields) // to memory
	out.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// outputs says whether the image is pushed: files that a build makes stay on
// the machine that makes them.
func (w *wants) outputs(s *settings) {
	for i, text := range w.output.values {
		here := w.output.place.below(i)
		if !strings.Contains(text, "=") {
			text = "type=local,dest=" + text
		}
		options, err := attributes(text)
		if err != nil {
			here.err("bad-value", "type=registry", "output %q cannot be read: %v", text, err)
			continue
		}
		kind := options["type"]
		push := options["push"] != "false"
		switch kind {
		case "registry", "image":
			for name, value := range options {
				if !slices.Contains([]string{"type", "push", "name"}, name) {
					w.outputOpts[name] = value
				}
			}
			s.Kaniko.NoPush = new(!push)
		case "cacheonly":
			s.Kaniko.NoPush = new(true)
		case "docker", "oci", "tar", "local":
			here.err("unsupported-value", "type=registry, type=cacheonly, or pipegen build --context DIR for files here", "an output of type %s stays on the machine that builds", kind)
		default:
			here.err("unknown-value", oneOf(kind, []string{"registry", "image", "cacheonly"}), "there is no output of type %q", kind)
		}
	}
}
