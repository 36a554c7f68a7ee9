package dockerfile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// Finding is something in a Dockerfile that an engine lacks.
type Finding struct {
	// Line of the instruction, from 1.
	Line int
	// Name of the stage, or its number; empty: the file as a whole.
	Stage string
	Msg   string
	// Whether the image can be right all the same.
	Warning bool
}

// Abilities are what executors of Kaniko differ in. The zero value is
// chainguard-dev/kaniko v1.25.3, which has none of them.
type Abilities struct {
	// Here-documents of RUN, in its shell form, and of COPY and ADD.
	HereDocuments bool
	// RUN --mount of the types secret, cache, and bind from the context.
	Secrets, Caches, Binds bool
}

// lacking is a finding unless an executor has one ability.
type lacking struct {
	Finding
	unless func(Abilities) bool // nil: for all
}

func hereDocuments(a Abilities) bool { return a.HereDocuments }

// Unsupported gives what an executor of Kaniko with these abilities lacks, in
// the order of the file, for all stages. Kaniko passes over most of it in
// silence (a RUN with a here-document runs an empty script), so it is told
// here.
func (f *File) Unsupported(have Abilities) []Finding {
	var found []Finding
	for _, l := range f.lacking {
		if l.unless == nil || !l.unless(have) {
			found = append(found, l.Finding)
		}
	}
	return found
}

// lack notes what no executor has.
func (f *File) lack(stage string, line int, format string, args ...any) {
	f.lackUnless(nil, stage, line, format, args...)
}

func (f *File) lackUnless(unless func(Abilities) bool, stage string, line int, format string, args ...any) {
	f.lacking = append(f.lacking, lacking{Finding{Line: line, Stage: stage, Msg: fmt.Sprintf(format, args...)}, unless})
}

// warn notes what no executor heeds.
func (f *File) warn(stage string, line int, format string, args ...any) {
	f.lacking = append(f.lacking, lacking{Finding{line, stage, fmt.Sprintf(format, args...), true}, nil})
}

// dockerfileFrontend matches the names of BuildKit's own frontend for
// Dockerfiles: what it reads is what is read here.
var dockerfileFrontend = lazyregexp.New(`^(docker\.io/|docker\.io/library/)?(docker/)?dockerfile(-upstream)?([:@]|$)`)

// lackSyntax refuses frontends that give the file another meaning.
func (f *File) lackSyntax(text []byte) {
	name, _, at, ok := parser.DetectSyntax(text)
	if ok && !dockerfileFrontend.MatchString(name) {
		f.lack("", firstLine(at), "kaniko has no frontends: it does not read the file as %s would", name)
	}
}

var ofTarget = lazyregexp.New(`^"?\$(TARGETPLATFORM|\{TARGETPLATFORM\})"?$`)

func (f *File) lackFrom(s stage) {
	if p := s.From.Platform; p != "" && !ofTarget.MatchString(p) {
		f.warn(s.ID, s.From.Line, "kaniko ignores FROM --platform: this stage is built from the target platform's image")
	}
}

func (f *File) lackCopy(stage string, c *instructions.CopyCommand, line int) {
	if strings.Contains(c.From, "$") {
		f.lack(stage, line, "COPY --from expands no variables: give the image a stage of its own (FROM … AS …)")
	}
	f.lackSources(stage, "COPY", c.SourcesAndDest, line)
	f.lackFlags(stage, "COPY", c.Link, c.Chmod, c.ExcludePatterns, line)
	if c.Parents {
		f.lack(stage, line, "kaniko has no COPY --parents")
	}
}

// remote matches what BuildKit takes for a git repository.
var remote = lazyregexp.New(`^(git@|git://|ssh://)|^https?://[^#?]+\.git(#|\?|$)`)

func (f *File) lackAdd(stage string, c *instructions.AddCommand, line int) {
	f.lackSources(stage, "ADD", c.SourcesAndDest, line)
	f.lackFlags(stage, "ADD", c.Link, c.Chmod, c.ExcludePatterns, line)
	if c.Checksum != "" {
		f.lack(stage, line, "kaniko does not check ADD --checksum")
	}
	if c.Unpack != nil {
		f.lack(stage, line, "kaniko has no ADD --unpack")
	}
	if slices.ContainsFunc(c.SourcePaths, remote.MatchString) {
		f.lack(stage, line, "kaniko cannot ADD a git repository")
	}
}

var octal = lazyregexp.New(`^[0-7]+$`)

// lackFlags looks at the flags that COPY and ADD share.
func (f *File) lackFlags(stage, name string, link bool, chmod string, exclude []string, line int) {
	if link {
		f.warn(stage, line, "kaniko ignores %s --link: the layer is made anew when one before it changes", name)
	}
	if chmod != "" && !strings.Contains(chmod, "$") && !octal.MatchString(chmod) {
		f.lack(stage, line, "kaniko takes %s --chmod in octal only, not %s", name, chmod)
	}
	if len(exclude) > 0 {
		f.lack(stage, line, "kaniko has no %s --exclude", name)
	}
}

func (f *File) lackSources(stage, name string, s instructions.SourcesAndDest, line int) {
	if len(s.SourceContents) == 0 {
		return
	}
	f.lackUnless(hereDocuments, stage, line, "kaniko has no here-documents: %s <<%s would copy nothing", name, s.SourceContents[0].Path)
	for _, c := range s.SourceContents {
		if c.Expand && strings.Contains(c.Data, "$") {
			f.lackUnless(withoutHereDocuments, stage, line, "kaniko expands no variables in the here-document of %s <<%s", name, c.Path)
		}
	}
}

// withoutHereDocuments is for what is told only of an executor that has them:
// of others all is said.
func withoutHereDocuments(a Abilities) bool { return !a.HereDocuments }

func (f *File) lackRun(stage string, c *instructions.RunCommand, line int) {
	f.lackScript(stage, c, line)
	f.lackIsolation(stage, c, line)
	count := len(instructions.GetMounts(c))
	if count == 0 {
		return
	}
	// Types are read only when variables are expanded; what needs their values
	// to be read is no cache.
	known := c.Expand(func(word string) (string, error) { return word, nil }) == nil
	for i := range count {
		m := instructions.GetMounts(c)[i]
		switch {
		case !known:
			f.lack(stage, line, "kaniko has no RUN --mount")
		case m.Type == instructions.MountTypeCache && m.From == "":
			f.lacking = append(f.lacking, lacking{Finding{line, stage, "kaniko ignores RUN --mount=type=cache: this step starts with an empty directory each time", true}, func(a Abilities) bool { return a.Caches }})
		case m.Type == instructions.MountTypeSecret:
			f.secrets = true
			f.lackUnless(func(a Abilities) bool { return a.Secrets }, stage, line, "kaniko has no RUN --mount=type=secret")
		case m.Type == instructions.MountTypeBind && m.From == "":
			f.binds = true
			f.lackUnless(func(a Abilities) bool { return a.Binds }, stage, line, "kaniko has no RUN --mount=type=bind")
		case m.From != "":
			f.lack(stage, line, "kaniko has no RUN --mount from another stage or image (from=%s)", m.From)
		default:
			f.lack(stage, line, "kaniko has no RUN --mount=type=%s", m.Type)
		}
	}
}

// lackScript looks at the here-documents of a RUN. Executors that have them
// hand them to a shell, whatever their first line says.
func (f *File) lackScript(stage string, c *instructions.RunCommand, line int) {
	if len(c.Files) == 0 {
		return
	}
	name := c.Files[0].Name
	f.lackUnless(hereDocuments, stage, line, "kaniko has no here-documents: RUN <<%s would run nothing", name)
	alone := len(c.Files) == 1 && strings.Join(c.CmdLine, " ") == "<<"+name
	switch {
	case !c.PrependShell:
		f.lackUnless(withoutHereDocuments, stage, line, "kaniko has no here-documents of a RUN that is a list")
	case alone && strings.HasPrefix(c.Files[0].Data, "#!"):
		f.lackUnless(withoutHereDocuments, stage, line, "kaniko runs RUN <<%s with sh, whatever its first line says", name)
	}
}

// lackIsolation looks at the flags of a RUN about what surrounds it: Kaniko
// runs steps in its own container.
func (f *File) lackIsolation(stage string, c *instructions.RunCommand, line int) {
	if n := instructions.GetNetwork(c); n == instructions.NetworkNone {
		f.warn(stage, line, "kaniko ignores RUN --network: this step can reach the network")
	}
	if s := instructions.GetSecurity(c); s == instructions.SecurityInsecure {
		f.lack(stage, line, "kaniko has no RUN --security=%s", s)
	}
	if len(instructions.GetDevices(c)) > 0 {
		f.lack(stage, line, "kaniko has no RUN --device")
	}
}

func (f *File) lackHealth(stage string, c *instructions.HealthCheckCommand, line int) {
	if c.Health.StartInterval > 0 {
		f.warn(stage, line, "kaniko leaves HEALTHCHECK --start-interval out of the image")
	}
}

// Mounts says whether any RUN mounts a secret, and whether any binds a
// directory of the context.
func (f *File) Mounts() (secrets, binds bool) { return f.secrets, f.binds }

// Skippable says whether Kaniko's --skip-unused-stages leaves out something
// for target, and does it right: it finds only stages that are named, once,
// and referred to by just that name.
func (f *File) Skippable(args map[string]string, target string) bool {
	g, err := f.resolve(args, target)
	last, targetErr := f.target(target)
	if err != nil || targetErr != nil || !slices.Contains(g.needed[:last+1], false) {
		return false
	}
	names := map[string]bool{}
	for _, s := range f.stages {
		if names[s.Name] {
			return false
		}
		names[s.Name] = s.Name != ""
	}
	env, err := f.environ(args)
	if err != nil {
		return false
	}
	r := &resolver{Graph: &f.Graph, env: env}
	for i, s := range f.stages[:last+1] {
		if !g.needed[i] {
			continue
		}
		if i != last && s.Name == "" {
			return false
		}
		base, err := r.expand(s.From, s.From.Text)
		if err != nil {
			return false
		}
		refs := append([]string{base}, texts(s.Body.Refs)...)
		for _, ref := range append(refs, texts(s.OnBuild.Refs)...) {
			if _, err := strconv.Atoi(ref); err == nil && ref != base {
				return false
			}
			if n, ok := f.named(ref, len(f.stages)); ok && f.stages[n].Name != ref {
				return false
			}
		}
	}
	return true
}

func texts(refs []ref) []string {
	out := make([]string, len(refs))
	for i, r := range refs {
		out[i] = r.Text
	}
	return out
}

// Below gives what COPY and ADD write to a directory or below it, which an
// engine that lives there leaves out of the image. dir is absolute and clean;
// destinations with variables are not looked at.
func (f *File) Below(dir string) []Finding {
	var found []Finding
	for _, d := range f.written {
		if d.path == dir || strings.HasPrefix(d.path, dir+"/") {
			found = append(found, Finding{Line: d.line, Stage: d.stage, Msg: "kaniko works in " + dir + " here and leaves it out of images; pipegen run can build this"})
		}
	}
	return found
}

func (f *File) writes(stage, to string, line int) {
	f.written = append(f.written, destination{line, stage, below(f.workdir, to)})
}

// below gives a path of a Dockerfile, which may be relative to the working
// directory.
func below(workdir, to string) string {
	if path.IsAbs(to) {
		return path.Clean(to)
	}
	return path.Join("/", workdir, to)
}
