package config

import (
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/glob"
)

// BuildFile is the file that makes a directory a project.
const BuildFile = "build-config.yaml"

// Options are what Load needs to know beside the files.
type Options struct {
	// CheckReadme makes a project without README.md an error.
	CheckReadme bool
	// Getenv reads the environment, whose PIPEGEN_LAYOUT comes before layout
	// in pipegen.yaml; nil: it is empty.
	Getenv func(string) string
	// Cache keeps what was read out of files; nil: nothing is kept.
	Cache FileCache
}

// Repository is the configuration of a checkout.
type Repository struct {
	// Pipegen is pipegen.yaml with its defaults filled in, apart from
	// registry, which stays as it is written.
	Pipegen Pipegen
	// Projects are sorted by Dir.
	Projects []*Project
	// Weekly holds the entries of rebuild-weekly.txt, in the order of the file.
	Weekly []WeeklyEntry
	// Warnings are the faults that stop nothing.
	Warnings Faults
}

// Load reads the configuration of a checkout. fsys is rooted at the root of
// the repository; files are the paths, with slashes and sorted, of all files
// that belong to the checkout: tracked, and untracked but not ignored. Only
// these are looked at to find projects.
//
// The error is Faults, all of severity Error, sorted, when anything is wrong;
// the Repository is returned beside it as far as it could be read.
func Load(fsys fs.FS, files []string, o Options) (*Repository, error) {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	l := loader{fsys: fsys, files: files, checkReadme: o.CheckReadme}
	settings, _ := l.document(PipegenFile, true)
	var repo Repository
	var defaults *yaml.Node
	repo.Pipegen, defaults = loadPipegen(fsys, settings, o.Getenv)
	l.defaults = &document{file: PipegenFile, root: defaults}
	l.pipegen = &repo.Pipegen
	l.keep = &keep{o.Cache, Blob(settings.text), repo.Pipegen.Layout}
	l.unmatchedGlobs(settings)

	found := l.find(settings)
	projects := make([]*Project, len(found))
	// A few goroutines with deep stacks, not one with a new stack a project.
	var workers sync.WaitGroup
	var next atomic.Int64
	for range min(len(found), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(found)); i = next.Add(1) - 1 {
				projects[i] = l.project(found[i])
			}
		})
	}
	workers.Wait()
	repo.Projects = slices.DeleteFunc(projects, func(p *Project) bool { return p == nil })
	l.unmeant(settings, repo.Projects)

	weekly, faults := l.weekly()
	repo.Weekly = weekly
	all := append(slices.Concat(l.faults, settings.faults, faults), sameNames(repo.Projects)...)
	unread := false
	for _, p := range repo.Projects {
		all = append(all, p.doc.faults...)
		unread = unread || !p.doc.known()
	}
	// What could not be read may be what an entry means.
	if !unread {
		all = append(all, unmatched(weekly, repo.Projects)...)
	}
	errs, warnings := all.split()
	repo.Warnings = warnings
	return &repo, errs.Err()
}

type loader struct {
	fsys        fs.FS
	files       []string
	checkReadme bool
	pipegen     *Pipegen
	defaults    *document
	keep        *keep
	faults      Faults
}

// has says whether a path is a file of the checkout, or a directory of it.
func (l *loader) has(file string) bool {
	_, found := slices.BinarySearch(l.files, file)
	return found || isDir(l.files, file)
}

// document reads a YAML file of the checkout; false: there is none.
func (l *loader) document(file string, mayBeEmpty bool) (*document, bool) {
	if !l.has(file) {
		return &document{file: file}, false
	}
	return open(l.fsys, file, mayBeEmpty)
}

// find gives the build-config.yaml of every project, sorted by directory.
func (l *loader) find(settings *document) []string {
	dirs := l.candidates()
	patterns := l.pipegen.Projects
	if patterns != nil {
		for i, pattern := range patterns {
			if problem, _ := badGlob(pattern, false); problem != "" {
				continue
			}
			n, _ := locate(settings.root, at("projects", i))
			f := Fault{File: PipegenFile, Line: n.Line, Column: n.Column}
			_, matched := slices.BinarySearch(dirs, pattern)
			for range glob.Find(glob.New([]string{pattern}), dirs, itself) {
				matched = true
				break
			}
			switch {
			case matched:
			case glob.HasMeta(pattern):
				f.Severity, f.Rule, f.Message = Warning, "no-match", show(pattern)+" matches no directory with a "+BuildFile
				l.faults = append(l.faults, f)
			default:
				f.Severity, f.Rule, f.Message = Error, "missing-config", show(pattern)+" has no "+BuildFile
				f.Hint = "write one, or check that git does not ignore it"
				if near := Nearest(pattern, dirs); near != "" {
					f.Hint = fmt.Sprintf("did you mean %q?", near)
				}
				l.faults = append(l.faults, f)
			}
		}
		dirs = slices.DeleteFunc(dirs, func(dir string) bool { return !l.pipegen.Covers(dir) })
	}
	found := make([]string, len(dirs))
	for i, dir := range dirs {
		found[i] = path.Join(dir, BuildFile)
	}
	return found
}

// candidates gives the directories that hold a build-config.yaml, whatever it
// is, and warns of names that are nearly right.
func (l *loader) candidates() []string {
	var dirs []string
	for _, file := range l.files {
		// All that matters ends in these names, or is below them.
		if !strings.Contains(file, "build-config.y") && !strings.HasPrefix(file, "pipegen.yml") {
			continue
		}
		for dir, name := range steps(file) {
			switch {
			case name == BuildFile:
				dirs = append(dirs, dir)
			case name == "build-config.yml", name == "pipegen.yml" && dir == ".":
				l.faults = append(l.faults, Fault{
					File: path.Join(dir, name), Severity: Warning, Rule: "misnamed-file",
					Message: "this file is not read", Hint: "name it " + strings.TrimSuffix(name, "yml") + "yaml",
				})
			}
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// steps gives each directory on the way to a file with the name that follows.
func steps(file string) func(yield func(dir, name string) bool) {
	return func(yield func(dir, name string) bool) {
		dir := "."
		for name := range strings.SplitSeq(file, "/") {
			if !yield(dir, name) {
				return
			}
			dir = path.Join(dir, name)
		}
	}
}

// project reads one project; nil: its file is gone from the work tree.
func (l *loader) project(file string) *Project {
	p := &Project{Dir: path.Dir(file), File: file, defaults: l.defaults, images: l.pipegen.Images, daemons: len(l.pipegen.BuildKit.Addresses) > 0}
	if !l.has(file) || !l.read(p) {
		return nil
	}
	if !p.doc.known() {
		return p
	}
	p.locate(l.fsys, l.files)
	if readme := path.Join(p.Dir, "README.md"); l.checkReadme && !l.has(readme) {
		p.fault("missing-readme", "", at(), "there is no %s, and CHECK_README=TRUE asks for one", show(readme))
	}
	return p
}

// read finds out what the file of p says, from the cache if that knows it;
// false: the file is gone.
func (l *loader) read(p *Project) bool {
	var text []byte
	again := func() []byte {
		if text == nil {
			text, _, _ = read(l.fsys, p.File) // without it faults have no position
		}
		return text
	}
	blob, _ := blobOf(l.fsys, p.File)
	hashed := blob != ""
	if !hashed {
		var faults Faults
		var err error
		text, faults, err = read(l.fsys, p.File)
		if err != nil {
			return false
		}
		if faults != nil {
			p.doc = &document{file: p.File, faults: faults}
			p.interpret(l.keep.layout)
			return true
		}
		if l.keep.cache != nil {
			blob = Blob(text)
		}
	}
	if !l.keep.restore(p, blob) {
		if hashed {
			p.doc, _ = open(l.fsys, p.File, false)
		} else {
			p.doc = parse(p.File, text, false)
		}
		p.interpret(l.keep.layout)
		l.keep.store(p, blob)
		if p.doc.root == nil {
			return true
		}
	}
	p.doc.shelve(again)
	return true
}

// interpret finds out what p's document says, and judges it by itself.
func (p *Project) interpret(layout string) {
	var own BuildConfig
	decode(p.doc, p.doc.root, &own)
	p.Config, p.watches = own, own.Watch != nil
	if p.defaults.root != nil {
		p.Config = BuildConfig{}
		layer(p.defaults.root, &p.Config)
		layer(p.doc.root, &p.Config)
	}
	p.fill(&p.Config)
	if p.doc.root == nil {
		return
	}
	if len(p.Config.Overrides) > 0 {
		for _, s := range p.Config.Platforms {
			if pl, err := ParsePlatform(s); err == nil {
				p.byPlatform = append(p.byPlatform, p.layered(pl))
			}
		}
	}
	checker{doc: p.doc}.build(&own)
	p.relate(layout, &own)
}

func (l *loader) weekly() ([]WeeklyEntry, Faults) {
	if !l.has(WeeklyFile) {
		return nil, nil
	}
	data, faults, err := read(l.fsys, WeeklyFile)
	if err != nil || faults != nil {
		return nil, faults
	}
	return parseWeekly(data)
}

// sameNames gives a fault for every image whose name another one has too.
func sameNames(projects []*Project) Faults {
	type place struct {
		p     *Project
		image int
	}
	first := make(map[string]place, len(projects))
	places := map[string][]place{}
	for _, p := range projects {
		if !p.doc.known() {
			continue
		}
		for i, image := range p.Images() {
			switch other, twice := first[image.Name]; {
			case image.Name == "":
			case !twice:
				first[image.Name] = place{p, i}
			case places[image.Name] == nil:
				places[image.Name] = []place{other, {p, i}}
			default:
				places[image.Name] = append(places[image.Name], place{p, i})
			}
		}
	}
	where := func(x place) []any {
		if len(x.p.Config.Targets) > 0 {
			return at("targets", x.image, "name")
		}
		return at("name")
	}
	var faults Faults
	for name, all := range places {
		for i, here := range all {
			other := all[0]
			if i == 0 {
				other = all[1]
			}
			if other.p == here.p {
				continue // reported as a duplicate target
			}
			there := other.p.Fault("", "", "", where(other)...)
			faults = append(faults, here.p.Fault("duplicate-image", fmt.Sprintf(
				"the image %s is also made by %s:%d:%d", show(name), there.File, there.Line, there.Column,
			), "give one of them another name:", where(here)...))
		}
	}
	return faults
}
