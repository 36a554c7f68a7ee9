package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// relate judges what depends on more than one value: keys that belong
// together, and names. own is what the file says by itself.
func (p *Project) relate(layout string, own *BuildConfig) {
	p.source(own)
	p.names(layout)
	b := &p.Config
	if len(b.Targets) > 0 && b.Target != "" {
		p.fault("target-and-targets", "give the stage of each image in targets", at("target"), "target and targets exclude each other")
	}
	for _, e := range (checker{doc: p.doc}).entries("overrides") {
		pl, err := ParsePlatform(e.key.Value)
		if err != nil {
			continue
		}
		if !slices.Contains(b.Platforms, pl.String()) {
			p.fault("unused-override", oneOf(pl.String(), b.Platforms), at("overrides", e.key.Value), "overrides are for %s, which is not in platforms", show(e.key.Value))
		}
		if len(b.Targets) > 0 && own.Overrides[e.key.Value].Target != "" {
			p.fault("target-and-targets", "give the stage of each image in targets", at("overrides", e.key.Value, "target"), "target and targets exclude each other")
		}
	}
	if !*b.Index && len(b.Platforms) > 1 {
		p.fault("index", "name one platform, or remove index: false", at("index"), "index: false needs a single platform, there are %d", len(b.Platforms))
	}
	for _, image := range p.Images() {
		if i := slices.Index(b.DependsOn, image.Name); i >= 0 {
			p.fault("depends-on-itself", "", at("depends_on", i), "%s depends on itself", show(image.Name))
		}
	}
	p.engines(own)
	p.runners()
}

// locate judges a project by the files of its checkout.
func (p *Project) locate(fsys fs.FS, files []string) {
	if p.watches {
		for i, pattern := range p.Config.Watch {
			if rule, hint, message := unmatchedGlob(pattern, files); rule != "" {
				p.warn(rule, hint, at("watch", i), "%s", message)
			}
		}
	}
	if p.Config.UpstreamRepo != "" || p.Config.UpstreamRef != "" {
		return
	}
	checked := map[[2]string]bool{}
	for _, s := range p.Config.Platforms {
		pl, err := ParsePlatform(s)
		if err != nil {
			continue
		}
		b := p.For(pl)
		if badPath(b.ContextPath) != "" {
			continue
		}
		once(checked, "context_path", b.ContextPath, func() { p.localContext(fsys, pl, &b) })
		if badPath(b.DockerfilePath) == "" && b.DockerfilePath != "." && b.Engine != "make" {
			once(checked, "dockerfile_path", b.DockerfilePath, func() { p.localDockerfile(fsys, files, pl, &b) })
		}
	}
}

func (p *Project) fault(rule, hint string, where []any, format string, args ...any) {
	if !p.doc.full() {
		p.doc.add(p.Fault(rule, fmt.Sprintf(format, args...), hint, where...))
	}
}

func (p *Project) warn(rule, hint string, where []any, format string, args ...any) {
	if !p.doc.full() {
		f := p.Fault(rule, fmt.Sprintf(format, args...), hint, where...)
		f.Severity = Warning
		p.doc.add(f)
	}
}

// source judges where the context comes from.
func (p *Project) source(own *BuildConfig) {
	b := &p.Config
	local := b.UpstreamRepo == ""
	switch {
	case !local && b.UpstreamRef == "":
		p.fault("missing-key", "upstream_ref: a tag, a branch or a commit SHA", at("upstream_repo"), "upstream_repo needs upstream_ref")
	case local && b.UpstreamRef != "":
		p.fault("missing-key", "upstream_repo: https://host/path", at("upstream_ref"), "upstream_ref needs upstream_repo")
	}
	switch {
	case !local && *b.UseLocalContext:
		p.fault("context", "remove one of the two", at("use_local_context"), "use_local_context: true and upstream_repo exclude each other")
	case local && !*b.UseLocalContext:
		p.fault("context", "add upstream_repo and upstream_ref, or remove the key", at("use_local_context"), "use_local_context: false needs upstream_repo")
	}
	if local && own.UpstreamAuth != nil {
		p.warn("unused-key", "", at("upstream_auth"), "upstream_auth has no effect without upstream_repo")
	}
}

// names judges the names and the tags of the images: they are never
// normalised.
func (p *Project) names(layout string) {
	for i, image := range p.Images() {
		where, whatTags := at("name"), at("additional_tags")
		if len(p.Config.Targets) > 0 {
			if p.Config.Targets[i].Name == "" {
				continue
			}
			where = at("targets", i, "name")
			if p.Config.Targets[i].AdditionalTags != nil {
				whatTags = at("targets", i, "additional_tags")
			}
		}
		switch {
		case p.Config.Name == "":
			p.fault("missing-key", "name: my-image", at(), "a project at the root of the repository needs a name")
			return
		case !isTag(image.Name):
			p.fault("bad-name", "write name: with letters, digits, _, . and -, not beginning with . or -", where, "%s cannot be the name of an image, which begins its tags", show(image.Name))
			continue
		case layout != "tag" && !isComponent(image.Name):
			p.fault("bad-name", "write name: in small letters and digits, with single . or _ or any number of - between them", where, "%s cannot be the name of an image, which in layout %s is part of a repository's name", show(image.Name), layout)
			continue
		}
		if layout != "tag" {
			continue
		}
		suffix := len("dirty")
		for _, pl := range image.Platforms {
			suffix = max(suffix, len(pl.Suffix()))
		}
		if n := len(image.Name) + len("-20060102-1234567-") + suffix; n > maxTag {
			p.fault("long-tag", "write a shorter name:", where, "the name %s makes tags of %d characters, %d are allowed", show(image.Name), n, maxTag)
		}
		for j, tag := range image.AdditionalTags {
			if n := len(image.Name) + len("-") + len(tag); isTag(tag) && n > maxTag {
				p.fault("long-tag", "", append(slices.Clip(whatTags), j), "the tag %s has %d characters with the name before it, %d are allowed", show(tag), n, maxTag)
			}
		}
	}
}

// engines warns of keys that are for none of the engines in use.
func (p *Project) engines(own *BuildConfig) {
	used := map[string]bool{}
	for _, s := range p.Config.Platforms {
		if pl, err := ParsePlatform(s); err == nil {
			used[p.For(pl).Engine] = true
		}
	}
	var cache Cache
	if own.Cache != nil {
		cache = *own.Cache
	}
	if cache.Type != "" && cache.Type != "registry" && used["kaniko"] {
		p.fault("other-engine", "engine: buildkit has it, or remove the key", at("cache", "type"), "engine kaniko caches in a registry only")
	}
	for _, key := range []struct {
		name, engine string
		written      bool
		where        []any
	}{
		{"frontend", "buildkit", own.Frontend != "", at("frontend")},
		{"frontend_opts", "buildkit", own.FrontendOpts != nil, at("frontend_opts")},
		{"contexts", "buildkit", own.Contexts != nil, at("contexts")},
		{"output_opts", "buildkit", own.OutputOpts != nil, at("output_opts")},
		{"ssh", "buildkit", own.SSH != nil, at("ssh")},
		{"cache.mode", "buildkit", cache.Mode != "", at("cache", "mode")},
		{"cache.ttl", "kaniko", cache.TTL != "", at("cache", "ttl")},
		{"cache.copy_layers", "kaniko", cache.CopyLayers != nil, at("cache", "copy_layers")},
		{"cache.run_layers", "kaniko", cache.RunLayers != nil, at("cache", "run_layers")},
		{"cache.compressed", "kaniko", cache.Compressed != nil, at("cache", "compressed")},
		{"command", "make", own.Command != "", at("command")},
	} {
		if key.written && !used[key.engine] {
			p.warn("other-engine", "", key.where, "%s has no effect: it is for engine %s", key.name, key.engine)
		}
	}
}

// runners judges where the builds of an image are done. What the controller
// does it does whole, and it hands back no files.
func (p *Project) runners() {
	first := ""
	for _, s := range p.Config.Platforms {
		pl, err := ParsePlatform(s)
		if err != nil {
			continue
		}
		b := p.For(pl)
		switch {
		case !slices.Contains(runners, b.Runner): // a fault already
			continue
		case first == "":
			first = b.Runner
		case b.Runner != first:
			p.fault("runners", "write one runner: for all platforms", p.where(pl, "runner"), "%s would be built by %s, another platform by %s: one runner builds an image", pl, b.Runner, first)
			return
		}
		if b.Runner == "ci" {
			continue
		}
		if b.Runner == "ecs" && b.Engine == "buildkit" && !p.daemons {
			p.fault("runner-engine", "name daemons in buildkit.addresses of pipegen.yaml, or write engine: kaniko", p.where(pl, "engine"), "runner ecs cannot start BuildKit: Fargate gives no privilege")
			return
		}
		for _, output := range b.Outputs {
			if slices.Contains(outputs, output) && output != "image" {
				p.fault("runner-outputs", "write outputs: [image], or runner: ci", p.where(pl, "outputs"), "the output %s would stay where runner %s builds: it hands back no files", output, b.Runner)
				return
			}
		}
	}
}

func once(done map[[2]string]bool, key, value string, check func()) {
	if k := [2]string{key, value}; !done[k] {
		done[k] = true
		check()
	}
}

// where gives the path of a key in the overrides of a platform if it is set
// there, else at the top.
func (p *Project) where(pl Platform, key string) []any {
	written, n := p.doc.override(pl)
	if n != nil {
		if _, value := child(target(n), key); value != nil {
			return at("overrides", written, key)
		}
	}
	return at(key)
}

func (p *Project) localContext(fsys fs.FS, pl Platform, b *BuildConfig) {
	if b.ContextPath == "." {
		return
	}
	fault := func(rule, format string) {
		p.fault(rule, "", p.where(pl, "context_path"), format, show(path.Join(p.Dir, b.ContextPath)))
	}
	info, err := within(fsys, p.Dir, b.ContextPath)
	switch {
	case errors.Is(err, errOutside):
		fault("outside", "the context %s is a symbolic link that leaves the project")
	case errors.Is(err, fs.ErrPermission):
		fault("unreadable", "the context %s cannot be read: permission denied")
	case err != nil:
		fault("missing-context", "there is no directory %s")
	case !info.IsDir():
		fault("missing-context", "the context %s is no directory")
	}
}

func (p *Project) localDockerfile(fsys fs.FS, files []string, pl Platform, b *BuildConfig) {
	full := path.Join(p.Dir, b.DockerfilePath)
	if _, regular := blobOf(fsys, full); regular {
		if _, there := slices.BinarySearch(files, full); there {
			return
		}
	}
	fault := func(rule, hint, format string) {
		p.fault(rule, hint, p.where(pl, "dockerfile_path"), format, show(full))
	}
	info, err := within(fsys, p.Dir, b.DockerfilePath)
	switch {
	case errors.Is(err, errOutside):
		fault("outside", "copy the file into the project", "the Dockerfile %s is a symbolic link that leaves the project")
	case errors.Is(err, fs.ErrPermission):
		fault("unreadable", "", "the Dockerfile %s cannot be read: permission denied")
	case err != nil:
		hint := "write dockerfile_path:, or upstream_repo: and upstream_ref: if it is in another repository"
		if near := Nearest(path.Base(full), namesIn(files, path.Dir(full))); near != "" {
			hint = fmt.Sprintf("did you mean %q?", path.Join(path.Dir(b.DockerfilePath), near))
		}
		fault("missing-dockerfile", hint, "there is no Dockerfile %s")
	case !info.Mode().IsRegular():
		fault("missing-dockerfile", "", "the Dockerfile %s is no regular file")
	}
}

// errOutside says that a path leaves the directory it must stay in.
var errOutside = errors.New("leaves the directory")

// within gives what is at a path below dir. Symbolic links are followed as
// long as they stay below dir; one that does not gives errOutside.
func within(fsys fs.FS, dir, rel string) (fs.FileInfo, error) {
	const mostLinks = 40
	here, links := dir, 0
	var info fs.FileInfo
	var err error
	for rest := strings.Split(rel, "/"); err == nil && len(rest) > 0; {
		step := rest[0]
		rest = rest[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if here == dir {
				return nil, errOutside
			}
			here, info = path.Dir(here), nil
			continue
		}
		next := path.Join(here, step)
		if info, err = fs.Lstat(fsys, next); err != nil {
			break
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			here = next
			continue
		}
		to, lerr := fs.ReadLink(fsys, next)
		if links++; lerr != nil || links > mostLinks {
			return nil, errors.Join(fmt.Errorf("following %s", show(next)), lerr)
		}
		if path.IsAbs(to) {
			return nil, errOutside
		}
		rest = append(strings.Split(to, "/"), rest...)
		info = nil
	}
	if info == nil && err == nil {
		return fs.Lstat(fsys, here)
	}
	return info, err
}

// isDir says whether a directory holds any of the files, which are sorted.
func isDir(files []string, dir string) bool {
	i, _ := slices.BinarySearch(files, dir+"/")
	return i < len(files) && strings.HasPrefix(files[i], dir+"/")
}

// namesIn gives the names of the files directly in dir.
func namesIn(files []string, dir string) []string {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	var names []string
	i, _ := slices.BinarySearch(files, prefix)
	for ; i < len(files) && strings.HasPrefix(files[i], prefix); i++ {
		if name := files[i][len(prefix):]; !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}
