package submission

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
)

// file is what a config.yaml says.
type file struct {
	Global settings   `yaml:"global"`
	Bake   []settings `yaml:"bake"`
}

// settings are those of one build: of global, of an entry of bake, or of both.
type settings struct {
	Platform    string       `yaml:"platform"`
	Arch        string       `yaml:"arch"`
	Env         config.Pairs `yaml:"env"`
	CPU         string       `yaml:"cpu"`
	Memory      string       `yaml:"memory"`
	PreScript   *string      `yaml:"pre-script"`
	PostScript  *string      `yaml:"post-script"`
	Credentials []credential `yaml:"kaniko-credentials"`
	Kaniko      kaniko       `yaml:"kaniko"`
	// Not of the original's.
	Engine string `yaml:"engine"`
	// Without effect.
	ContainerName string       `yaml:"container-name"`
	Image         *agentsImage `yaml:"image"`
}

type credential struct {
	Registry string `yaml:"registry"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
}

type kaniko struct {
	ContextPath    string       `yaml:"context-path"`
	Dockerfile     string       `yaml:"dockerfile"`
	BuildArgs      config.Pairs `yaml:"build-args"`
	Destination    string       `yaml:"destination"`
	SnapshotMode   string       `yaml:"snapshot-mode"`
	UseNewRun      *bool        `yaml:"use-new-run"`
	Cleanup        *bool        `yaml:"cleanup"`
	CustomPlatform string       `yaml:"custom-platform"`
	NoPush         *bool        `yaml:"no-push"`
	IgnorePath     []string     `yaml:"ignore-path"`
	ExtraFlags     *string      `yaml:"extra-flags"`
	Cache          *cache       `yaml:"cache"`
	// Without effect.
	Env           config.Pairs `yaml:"env"`
	ContainerName string       `yaml:"container-name"`
	Image         *agentsImage `yaml:"image"`
}

type cache struct {
	Enable     *bool  `yaml:"enable"`
	Repo       string `yaml:"repo"`
	TTL        string `yaml:"ttl"`
	CopyLayers *bool  `yaml:"copy-layers"`
	RunLayers  *bool  `yaml:"run-layers"`
	Compressed *bool  `yaml:"compressed"`
}

type agentsImage struct {
	Secret string `yaml:"secret"`
}

// without are keys that the original's own example has, and that do nothing
// there.
var without = [][]any{
	{"container-name"}, {"image", "secret"}, {"kaniko", "env"}, {"kaniko", "container-name"}, {"kaniko", "image", "secret"},
}

// place is where a setting is written, or would be.
type place struct {
	doc  *config.Document
	path []any
}

func (p place) err(rule, hint, format string, args ...any) {
	p.doc.Report(config.Error, rule, hint, p.path, format, args...)
}

func (p place) warn(rule, hint, format string, args ...any) {
	p.doc.Report(config.Warning, rule, hint, p.path, format, args...)
}

func (p place) below(steps ...any) place { return place{p.doc, append(slices.Clip(p.path), steps...)} }

// origin finds the places of the settings of one build.
type origin struct {
	place
	// Where a compose file has what config.yaml calls otherwise, by the keys of
	// that joined by dots; nil: this is a config.yaml.
	names map[string][]any
	// Where the settings are that this one does not have; may be nil.
	lower *origin
}

// at gives the place of a setting, which may be that of the layer below.
func (o *origin) at(keys ...any) place {
	if p, ok := o.written(keys...); ok {
		return p
	}
	p, _ := o.own(keys)
	return p
}

// written says whether a setting is written at either layer, and where.
func (o *origin) written(keys ...any) (place, bool) {
	for layer := o; layer != nil; layer = layer.lower {
		if p, named := layer.own(keys); named && p.doc.Has(p.path...) {
			return p, true
		}
	}
	return place{}, false
}

func (o *origin) own(keys []any) (p place, named bool) {
	if o.names == nil {
		return o.below(keys...), true
	}
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = fmt.Sprint(k)
	}
	path, named := o.names[strings.Join(parts, ".")]
	return o.below(path...), named
}

// config reads a config.yaml: the settings that all builds begin with, and,
// unless there is a compose file, its builds.
func (c *compiler) config(name string, data []byte, bake bool) {
	doc := config.ParseDocument(name, data)
	c.docs = append(c.docs, doc)
	if doc.Faults().Err() != nil {
		return
	}
	var f file
	doc.Decode(&f)
	doc.Layer(&c.global, "global")
	c.globals = &origin{place: place{doc, []any{"global"}}}
	c.idle(c.globals.place)
	if !bake {
		if doc.Has("bake") {
			place{doc, []any{"bake"}}.warn("unused-key", "", "bake has no effect beside a compose file, whose services are built in its place")
		}
		return
	}
	if len(f.Bake) == 0 {
		place{doc, []any{"bake"}}.err("empty-bake", "write an entry for each architecture: bake: [{arch: amd64}]", "there is no entry in bake, so nothing would be built")
		return
	}
	entries := make([]entry, 0, len(f.Bake))
	for i := range f.Bake {
		e := entry{at: &origin{place: place{doc, []any{"bake", i}}, lower: c.globals}}
		doc.Layer(&e.settings, "global")
		doc.Layer(&e.settings, "bake", i)
		c.idle(e.at.place)
		entries = append(entries, e)
	}
	c.bake(name, entries)
}

// idle warns of keys that have no effect.
func (c *compiler) idle(at place) {
	for _, keys := range without {
		if p := at.below(keys...); p.doc.Has(p.path...) {
			words := make([]string, len(keys))
			for i, k := range keys {
				words[i] = fmt.Sprint(k)
			}
			p.warn("unused-key", "remove it", "%s has no effect", strings.Join(words, "."))
		}
	}
}

// entry is one entry of bake over the global settings.
type entry struct {
	settings
	at *origin
}

// bake makes images of entries: one of all that have the same destination.
func (c *compiler) bake(file string, entries []entry) {
	var groups []*making
	for i := range entries {
		e := &entries[i]
		push := e.Kaniko.NoPush == nil || !*e.Kaniko.NoPush
		to, ok := c.destination(e.Kaniko.Destination, push, e.at.at("kaniko", "destination"))
		platform, known := c.platform(&e.settings, e.at)
		if !ok || !known {
			continue
		}
		m := (*making)(nil)
		for _, g := range groups {
			if to.ref == g.to.ref || to.repository == "" {
				m = g
				break
			}
		}
		if m == nil {
			m = &making{name: c.nameOf(to), detail: file, to: to}
			groups = append(groups, m)
		}
		m.builds = append(m.builds, made{Build: c.build(&e.settings, e.at, platform, to, ""), at: e.at})
	}
	c.making = append(c.making, groups...)
}
