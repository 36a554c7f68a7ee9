package submission

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

const engineHint = "x-pipegen: {engine: buildkit} of the service has it"

// apply puts what only compose files can ask for into a build.
func (w *wants) apply(c *compiler, b *plan.Build, f *composeFile) {
	if w.target != "" {
		b.Target = w.target
	}
	if len(w.labels) > 0 {
		if b.Labels == nil {
			b.Labels = map[string]string{}
		}
		maps.Copy(b.Labels, w.labels)
	}
	w.cache(b)
	w.contextsOf(c, b, f)
	w.secretsOf(c, b, f)
	w.sshOf(c, b, f)
	for _, kind := range slices.Sorted(maps.Keys(w.attest)) {
		switch options := w.attest[kind]; {
		case options == "false":
		case b.Engine != "buildkit":
			w.at.below("build", kind).warn("other-engine", engineHint, "%s has no effect: engine kaniko makes no attestations", kind)
		case options == "true":
			w.opt(b, "attest:"+kind, "")
		default:
			w.opt(b, "attest:"+kind, options)
		}
	}
	if len(w.outputOpts) > 0 {
		if b.Engine == "buildkit" {
			b.OutputOpts = w.outputOpts
		} else {
			w.output.place.warn("other-engine", engineHint, "options of output have no effect: they are for engine buildkit")
		}
	}
}

func (w *wants) opt(b *plan.Build, name, value string) {
	if b.FrontendOpts == nil {
		b.FrontendOpts = map[string]string{}
	}
	b.FrontendOpts[name] = value
}

// cache sets the cache that a build writes to; it is the one that it reads.
func (w *wants) cache(b *plan.Build) {
	buildkit := b.Engine == "buildkit"
	set := false
	for i, text := range w.cacheTo.values {
		here := w.cacheTo.place.below(i)
		options, repository, ok := cacheEntry(text, here)
		if !ok {
			continue
		}
		switch kind := options["type"]; {
		case set && (kind == "registry" || kind == "inline" && buildkit):
			here.warn("unused-value", "", "a build has one cache: this one is not written")
		case kind == "registry":
			set = true
			b.Cache = &config.Cache{Enable: true, Repo: repository}
			if buildkit {
				b.Cache.Mode = options["mode"]
			}
		case kind == "inline" && buildkit:
			set = true
			b.Cache = &config.Cache{Enable: true, Type: "inline"}
		case kind == "inline":
			here.warn("other-engine", engineHint, "a cache of type inline has no effect: engine kaniko has none")
		default:
			here.warn("unused-value", "type=registry,ref=HOST/PATH", "a cache of type %q has no effect: it is out of reach of the machine that builds", kind)
		}
	}
	for i, text := range w.cacheFrom.values {
		here := w.cacheFrom.place.below(i)
		if _, repository, ok := cacheEntry(text, here); ok && (b.Cache == nil || b.Cache.Type != "inline" && b.Cache.Repo != repository) {
			here.warn("unused-value", "name one repository in cache_to", "this cache is not read: a build reads the one that it writes")
		}
	}
	if w.noCache {
		b.Cache = nil
		if buildkit {
			w.opt(b, "no-cache", "")
		}
		return
	}
	if len(w.filters.values) > 0 {
		if buildkit {
			w.opt(b, "no-cache", strings.Join(w.filters.values, ","))
		} else if b.Cache != nil {
			w.filters.place.warn("other-engine", engineHint, "engine kaniko has one cache for all stages, which is off now")
			b.Cache = nil
		}
	}
}

// cacheEntry reads an entry of cache_from or cache_to, and gives the repository
// of one in a registry.
func cacheEntry(text string, here place) (options map[string]string, repository string, ok bool) {
	options = map[string]string{"type": "registry", "ref": text}
	if strings.Contains(text, "=") {
		var err error
		if options, err = attributes(text); err != nil {
			here.err("bad-value", "type=registry,ref=HOST/PATH", "the cache %q cannot be read: %v", text, err)
			return nil, "", false
		}
	}
	if options["type"] == "registry" {
		ref, err := parse(options["ref"])
		if err != nil {
			here.err("bad-reference", failure.Hint(err), "%v", err)
			return nil, "", false
		}
		repository = strings.TrimSuffix(strings.TrimSuffix(options["ref"], "@"+ref.Digest), ":"+ref.Tag)
	}
	return options, repository, true
}

// contextsOf sets the named contexts.
func (w *wants) contextsOf(c *compiler, b *plan.Build, f *composeFile) {
	for _, name := range slices.Sorted(maps.Keys(w.contexts)) {
		value := w.contexts[name]
		here := w.at.below("build", "additional_contexts", name)
		if b.Engine != "buildkit" {
			here.err("other-engine", engineHint, "engine kaniko has no named contexts")
			continue
		}
		if of, ok := strings.CutPrefix(value, "target:"); ok { // as bake calls it
			value = types.ServicePrefix + of
		}
		if !strings.Contains(value, "://") && !strings.HasPrefix(value, "git@") && !strings.HasPrefix(value, types.ServicePrefix) {
			if !filepath.IsAbs(value) {
				value = filepath.Join(f.dir, value)
			}
			rel, ok := c.relative(value)
			if !ok {
				here.err("outside", "pack a directory that holds it: --repo DIR", "the context %s is not in %s, which is packed", f.shown(value), c.shownRoot())
				continue
			}
			value = rel
		}
		if b.Contexts == nil {
			b.Contexts = map[string]string{}
		}
		b.Contexts[name] = value
	}
}

// secretsOf sets the secrets, whose values leave this machine with the request.
func (w *wants) secretsOf(c *compiler, b *plan.Build, f *composeFile) {
	for i, s := range w.buildSecrets {
		here := w.at.below("build", "secrets", i)
		id := s.Target
		if id == "" {
			id = s.Source
		}
		switch is := f.Secrets[s.Source]; {
		case is.Environment != "":
			c.secret(b, id, is.Environment, "", here)
		case is.File != "":
			c.secret(b, id, "", is.File, here)
		default:
			here.err("bad-secret", "environment: NAME or file: PATH", "the secret %s has no value here", s.Source)
		}
	}
	for i, text := range w.secrets.values {
		here := w.secrets.place.below(i)
		options, err := attributes(text)
		if err != nil || options["id"] == "" {
			here.err("bad-secret", "id=ID,env=NAME or id=ID,src=FILE", "an entry of secret has no id")
			continue
		}
		file := options["src"] + options["source"]
		name := options["env"]
		if options["type"] == "env" && name == "" {
			name, file = file, ""
		}
		if name == "" && file == "" {
			name = options["id"]
		}
		if file != "" && !filepath.IsAbs(file) {
			file = filepath.Join(f.dir, file)
		}
		c.secret(b, options["id"], name, file, here)
	}
}

// secret adds a secret whose value is in a variable or a file of this machine.
func (c *compiler) secret(b *plan.Build, id, name, file string, here place) {
	if file != "" {
		value, ok := c.fileSecret(file, here)
		if !ok {
			return
		}
		name = c.keep("PIPEGEN_SECRET_"+variableName(id), value)
	} else {
		value := c.Env[name]
		if value == "" {
			here.err("bad-secret", "set it, or take it from a file", "the variable %s of secret %s is not set", name, id)
			return
		}
		c.secrets[name] = value
	}
	if slices.ContainsFunc(b.Secrets, func(s config.Secret) bool { return s.ID == id }) {
		here.err("duplicate-secret", "", "there are two secrets with the id %s", id)
		return
	}
	b.Secrets = append(b.Secrets, config.Secret{ID: id, Env: name})
}

// sshOf sets the keys for RUN --mount=type=ssh.
func (w *wants) sshOf(c *compiler, b *plan.Build, f *composeFile) {
	keys := slices.Clone(w.buildSSH)
	here := w.at.below("build", "ssh")
	if len(w.ssh.values) > 0 {
		here, keys = w.ssh.place, nil
		for _, text := range w.ssh.values {
			id, file, _ := strings.Cut(text, "=")
			keys = append(keys, types.SSHKey{ID: id, Path: file})
		}
	}
	for _, key := range keys {
		switch {
		case b.Engine != "buildkit":
			here.err("other-engine", engineHint, "engine kaniko has no ssh")
			continue
		case key.Path == "":
			here.err("bad-secret", "name a file with a key: "+key.ID+"=PATH", "the agent of this machine is out of reach of the one that builds")
			continue
		}
		if !filepath.IsAbs(key.Path) {
			key.Path = filepath.Join(f.dir, key.Path)
		}
		value, ok := c.fileSecret(key.Path, here)
		if !ok {
			continue
		}
		if !strings.Contains(value, "-----BEGIN") {
			here.err("bad-secret", "", "%s is no private key in PEM", key.Path)
			continue
		}
		b.SSH = append(b.SSH, config.SSH{ID: key.ID, Env: c.keep("PIPEGEN_SSH_"+variableName(key.ID), value)})
	}
}

// maxSecret is what engines take for a secret, in bytes.
const maxSecret = 500 << 10

// fileSecret reads a secret: a text, since it goes on as a variable.
func (c *compiler) fileSecret(file string, here place) (string, bool) {
	info, err := os.Stat(file)
	var data []byte
	if err == nil && info.Mode().IsRegular() && info.Size() <= maxSecret {
		data, err = os.ReadFile(file)
	}
	switch {
	case err != nil:
		here.err("bad-secret", "", "the secret's file cannot be read: %v", pathless(err))
	case len(data) == 0 || !utf8.Valid(data) || strings.ContainsRune(string(data), 0):
		here.err("bad-secret", "", "the secret's file is no text of at most %d KiB", maxSecret>>10)
	default:
		return string(data), true
	}
	return "", false
}

// keep gives the name under which a value goes with the request.
func (c *compiler) keep(name, value string) string {
	for {
		have, taken := c.secrets[name]
		if _, set := c.Env[name]; !set && (!taken || have == value) {
			c.secrets[name] = value
			return name
		}
		name += "_"
	}
}

// variableName gives an id as a part of the name of a variable.
func variableName(id string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, id)
}
