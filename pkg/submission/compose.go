package submission

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// composeFile is a compose file as it is read.
type composeFile struct {
	*types.Project
	doc *config.Document
	// Directory that its paths are relative to, with links resolved.
	dir string
}

// compose makes an image of each service that has a build.
func (c *compiler) compose(ctx context.Context) error {
	data, err := read(c.Compose)
	if err != nil {
		return err
	}
	doc := config.ParseDocument(c.Compose, data)
	c.docs = append(c.docs, doc)
	if doc.Faults().Err() != nil {
		return nil // finish says it
	}
	dir, err := directory(filepath.Dir(c.Compose))
	if err != nil {
		return err
	}
	if c.Env, err = withFile(c.Env, filepath.Join(dir, ".env")); err != nil {
		return err
	}
	project, err := c.load(ctx, dir, data)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		explain(doc, dir, err)
		return nil
	}
	f := &composeFile{project, doc, dir}
	names, err := c.choose(f)
	if err != nil {
		return err
	}
	byName := map[string]*making{}
	for _, name := range names {
		service, _ := f.service(name)
		c.unset(doc, name)
		if m := c.service(f, name, service); m != nil {
			byName[name] = m
			c.making = append(c.making, m)
		}
	}
	c.contexts(f, byName)
	return nil
}

// load has compose-go interpolate, include, extend, check and merge. Where it
// takes values of an odd type for granted it panics, which is an error here.
func (c *compiler) load(ctx context.Context, dir string, data []byte) (project *types.Project, err error) {
	defer func() {
		if e := recover(); e != nil {
			project, err = nil, fmt.Errorf("a value has a type that nobody expects there (%v)", e)
		}
	}()
	env := maps.Clone(c.Env)
	if env == nil {
		env = map[string]string{}
	}
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir: dir, Environment: env,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, filepath.Base(c.Compose)), Content: withoutVersion(data)}},
	}, func(o *loader.Options) {
		name := loader.NormalizeProjectName(filepath.Base(dir))
		if name == "" {
			name = "project"
		}
		o.SetProjectName(name, false)
		for p := range strings.SplitSeq(env["COMPOSE_PROFILES"], ",") {
			if p = strings.TrimSpace(p); p != "" {
				o.Profiles = append(o.Profiles, p)
			}
		}
		// What containers run with does not matter to what they are made from.
		o.SkipResolveEnvironment = true
		o.Interpolate.Substitute = func(text string, lookup template.Mapping) (string, error) {
			return template.SubstituteWithOptions(text, lookup, template.WithoutLogging)
		}
	})
}

var variable = lazyregexp.New(`\$\$|\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// unset warns of variables of a service's build that have neither a value nor a
// default.
func (c *compiler) unset(doc *config.Document, service string) {
	for _, key := range []string{"image", "build", "x-bake"} {
		doc.Walk([]any{"services", service, key}, func(path []any, text string) {
			for _, m := range variable.FindAllStringSubmatch(text, -1) {
				name := m[1] + m[2]
				if _, set := c.Env[name]; name != "" && !set {
					place{doc, path}.warn("unset-variable", "set it, or write ${"+name+":-default}", "the variable %s is not set, and stands for nothing", name)
				}
			}
		})
	}
}

var version = lazyregexp.New(`(?m)^version:`)

// withoutVersion takes away the key that files of old have, of which compose-go
// would warn on the terminal. Lines stay where they are.
func withoutVersion(data []byte) []byte { return version.ReplaceAll(data, []byte("#ersion:")) }

func (f *composeFile) service(name string) (types.ServiceConfig, bool) {
	if s, ok := f.Services[name]; ok {
		return s, true
	}
	s, ok := f.DisabledServices[name]
	return s, ok
}

// choose gives the services to build, sorted: those that are asked for, or all
// whose profiles are enabled, and those that they are built from.
func (c *compiler) choose(f *composeFile) ([]string, error) {
	all := slices.Sorted(maps.Keys(f.AllServices()))
	var asked []string
	for _, name := range c.Services {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if _, known := f.service(name); !known {
			err := failure.Input("there is no service %q in %s", name, c.Compose)
			if near := config.Nearest(name, all); near != "" {
				return nil, failure.WithHint(err, "did you mean %q?", near)
			}
			return nil, failure.WithHint(err, "services: %s", strings.Join(all, ", "))
		}
		asked = append(asked, name)
	}
	queue := slices.Clone(asked)
	if len(asked) == 0 {
		queue = f.ServiceNames()
	}
	chosen := map[string]bool{}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		s, ok := f.service(name)
		if !ok || chosen[name] {
			continue
		}
		if s.Build == nil {
			c.skipped = append(c.skipped, plan.Skipped{Name: name, Reason: "the service has no build"})
			if slices.Contains(asked, name) {
				place{f.doc, []any{"services", name}}.warn("no-build", "", "service %s has no build, and is skipped", name)
			}
			continue
		}
		chosen[name] = true
		for _, value := range s.Build.AdditionalContexts {
			if of, ok := strings.CutPrefix(value, types.ServicePrefix); ok {
				queue = append(queue, of)
			}
		}
	}
	slices.SortFunc(c.skipped, func(a, b plan.Skipped) int { return strings.Compare(a.Name, b.Name) })
	c.skipped = slices.Compact(c.skipped)
	return slices.Sorted(maps.Keys(chosen)), nil
}

var (
	pathInError    = lazyregexp.New(`\b(?:services|jobs|secrets|configs|networks|volumes|models|include|name)(?:\.[A-Za-z0-9_.\[\]-]+)?`)
	serviceInError = lazyregexp.New(`service "([^"]+)"`)
	keysInError    = lazyregexp.New(`additional properties ('[^']*'(?:, '[^']*')*) not allowed`)
)

// explain reports what compose-go says is wrong, where that is.
func explain(doc *config.Document, dir string, err error) {
	text := strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "")
	text = quote.Text(strings.Join(strings.Fields(text), " "))
	at := place{doc, nil}
	if m := pathInError.FindString(text); m != "" {
		at.path = steps(doc, strings.Trim(m, "."))
	} else if m := serviceInError.FindStringSubmatch(text); m != nil {
		at.path = []any{"services", m[1]}
	}
	m := keysInError.FindStringSubmatch(text)
	if m == nil {
		at.err("compose", "", "%s", text)
		return
	}
	for key := range strings.SplitSeq(m[1], ", ") {
		key = strings.Trim(key, "'")
		hint := ""
		if near := config.Nearest(key, composeKeys(at.path)); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		at.below(key).err("unknown-key", hint, "unknown key %q", key)
	}
}

// steps splits a path at dots, which names of services may have too.
func steps(doc *config.Document, path string) []any {
	var out []any
	words := strings.Split(path, ".")
	for len(words) > 0 {
		n := len(words)
		for ; n > 1; n-- {
			if doc.Has(append(slices.Clip(out), strings.Join(words[:n], "."))...) {
				break
			}
		}
		out = append(out, strings.Join(words[:n], "."))
		words = words[n:]
	}
	return out
}

// composeKeys gives the keys that there are in a mapping of a compose file.
func composeKeys(path []any) []string {
	t := reflect.TypeFor[types.Project]()
	switch {
	case len(path) == 2 && path[0] == "services":
		t = reflect.TypeFor[types.ServiceConfig]()
	case len(path) == 3 && path[2] == "build":
		t = reflect.TypeFor[types.BuildConfig]()
	case len(path) > 0:
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name != "" && name != "-" && !strings.HasPrefix(name, "#") {
			keys = append(keys, name)
		}
	}
	return keys
}
