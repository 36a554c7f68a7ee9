package dockerfile

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Finding is something in a Dockerfile that an engine lacks.
type Finding struct {
	// Line of the instruction, from 1.
	Line int
	// Name of the stage, or its number.
	Stage string
	Msg   string
	// Whether the image can be right all the same.
	Warning bool
}

// Unsupported gives what Kaniko (chainguard-dev/kaniko v1.25.3) lacks, in the
// order of the file, for all stages. It passes over these things in silence:
// a RUN with a here-document runs an empty script. So it is told here.
func (f *File) Unsupported() []Finding { return slices.Clone(f.findings) }

func (f *File) lack(stage string, line int, warning bool, format string, args ...any) {
	f.findings = append(f.findings, Finding{line, stage, fmt.Sprintf(format, args...), warning})
}

var ofTarget = regexp.MustCompile(`^"?\$(TARGETPLATFORM|\{TARGETPLATFORM\})"?$`)

func (f *File) lackFrom(s stage) {
	if p := s.From.Platform; p != "" && !ofTarget.MatchString(p) {
		f.lack(s.ID, s.From.Line, true, "kaniko ignores FROM --platform: this stage is built from the target platform's image")
	}
}

func (f *File) lackCopy(stage string, c *instructions.CopyCommand, line int) {
	if strings.Contains(c.From, "$") {
		f.lack(stage, line, false, "COPY --from expands no variables: give the image a stage of its own (FROM … AS …)")
	}
	f.lackSources(stage, "COPY", c.SourcesAndDest, line)
	if c.Parents {
		f.lack(stage, line, false, "kaniko has no COPY --parents")
	}
	if len(c.ExcludePatterns) > 0 {
		f.lack(stage, line, false, "kaniko has no COPY --exclude")
	}
}

// remote matches what BuildKit takes for a git repository.
var remote = regexp.MustCompile(`^(git@|git://|ssh://)|^https?://[^#?]+\.git(#|\?|$)`)

func (f *File) lackAdd(stage string, c *instructions.AddCommand, line int) {
	f.lackSources(stage, "ADD", c.SourcesAndDest, line)
	if len(c.ExcludePatterns) > 0 {
		f.lack(stage, line, false, "kaniko has no ADD --exclude")
	}
	if c.Checksum != "" {
		f.lack(stage, line, false, "kaniko does not check ADD --checksum")
	}
	if c.Unpack != nil {
		f.lack(stage, line, false, "kaniko has no ADD --unpack")
	}
	if slices.ContainsFunc(c.SourcePaths, remote.MatchString) {
		f.lack(stage, line, false, "kaniko cannot ADD a git repository")
	}
}

func (f *File) lackSources(stage, name string, s instructions.SourcesAndDest, line int) {
	if len(s.SourceContents) > 0 {
		f.lack(stage, line, false, "kaniko has no here-documents: %s <<%s would copy nothing", name, s.SourceContents[0].Path)
	}
}

func (f *File) lackRun(stage string, c *instructions.RunCommand, line int) {
	if len(c.Files) > 0 {
		f.lack(stage, line, false, "kaniko has no here-documents: RUN <<%s would run nothing", c.Files[0].Name)
	}
	count := len(instructions.GetMounts(c))
	if count == 0 {
		return
	}
	// Types are read only when variables are expanded; what needs their values
	// to be read is no cache.
	known := c.Expand(func(word string) (string, error) { return word, nil }) == nil
	for i := range count {
		kind := instructions.MountType("")
		if known {
			kind = instructions.GetMounts(c)[i].Type
		}
		if kind == instructions.MountTypeCache {
			f.lack(stage, line, true, "kaniko ignores RUN --mount=type=cache: this step starts with an empty directory each time")
		} else {
			f.lack(stage, line, false, "kaniko has no RUN --mount")
		}
	}
}

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
