package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/glob"
)

// Selection says which images are wanted; what its parts select adds up.
type Selection struct {
	Changed bool // differs between base and head
	All     bool
	Weekly  bool     // stands in rebuild-weekly.txt
	Missing bool     // the registry lacks this content
	Stale   bool     // a base moved since the image was built
	Names   []string // of images, or of project directories
	Alone   bool     // without what is built on these
}

// words of --select.
var words = []string{"changed", "all", "weekly", "missing", "stale"}

// ParseSelection reads the values of --select (which repeats and takes lists
// with commas) and the names given beside it. A word that is no selection is
// a name. Nothing at all gives the zero Selection; see Or.
func ParseSelection(selects, names []string) Selection {
	var s Selection
	for _, value := range selects {
		for word := range strings.SplitSeq(value, ",") {
			switch word = strings.TrimSpace(word); word {
			case "":
			case "changed":
				s.Changed = true
			case "all":
				s.All = true
			case "weekly":
				s.Weekly = true
			case "missing":
				s.Missing = true
			case "stale":
				s.Stale = true
			default:
				s.Names = append(s.Names, word)
			}
		}
	}
	s.Names = append(s.Names, names...)
	return s
}

// Or gives s, or what is selected when the user asks for nothing: weekly for a
// schedule; changed and missing on the default branch in CI, where changed alone
// would forget a build that failed last time; changed elsewhere. Missing is left
// out where there is nothing to ask: askable says whether there is.
func (s Selection) Or(ci diff.CI, askable bool) Selection {
	switch {
	case s.Changed || s.All || s.Weekly || s.Missing || s.Stale || len(s.Names) > 0:
		return s
	case ci.Event == diff.EventSchedule:
		return Selection{Weekly: true}
	}
	return Selection{Changed: true, Missing: askable && ci.System != "" && ci.OnDefaultBranch}
}

// maxEvidence bounds how many paths are given as evidence for one image.
const maxEvidence = 20

// choose gives every candidate that the selection names its reasons.
func (s Selection) choose(cs []*candidate, in *Input) error {
	if s.All {
		for _, c := range cs {
			c.reasons = append(c.reasons, Reason{All, "--select all"})
		}
	}
	if s.Changed {
		if err := chooseChanged(cs, in); err != nil {
			return err
		}
	}
	if s.Weekly {
		chooseWeekly(cs, in)
	}
	return chooseNamed(cs, s.Names)
}

// chooseWeekly selects what rebuild-weekly.txt lists. Of several entries that
// mean an image the last one decides. Those with the policy stale wait for
// what the registries say; without one to ask they are selected.
func chooseWeekly(cs []*candidate, in *Input) {
	for _, c := range cs {
		for _, e := range in.Config.Weekly {
			if e.Matches(c.project, c.name) {
				c.weekly = &e
			}
		}
		if c.weekly == nil {
			continue
		}
		where := fmt.Sprintf("%s:%d", config.WeeklyFile, c.weekly.Line)
		switch {
		case c.weekly.Policy != config.PolicyStale:
			c.reasons = append(c.reasons, Reason{Weekly, where})
		case in.Client == nil:
			c.reasons = append(c.reasons, Reason{Weekly, where + ": without a registry, whether it is stale cannot be told"})
		}
	}
}

func chooseNamed(cs []*candidate, names []string) error {
	for _, name := range names {
		meant, err := named(cs, name)
		if err != nil {
			return err
		}
		for _, c := range meant {
			c.reasons = append(c.reasons, Reason{Named, name})
		}
	}
	return nil
}

// named are the images that a name means: an image's, or a project's name or
// directory.
func named(cs []*candidate, name string) ([]*candidate, error) {
	dir := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	var meant []*candidate
	for _, c := range cs {
		if c.name == name || c.project.Dir == dir || path.Base(c.project.Dir) == name {
			meant = append(meant, c)
		}
	}
	if len(meant) > 0 {
		return meant, nil
	}
	known := slices.Clone(words)
	for _, c := range cs {
		known = append(known, c.name)
	}
	err := failure.Input("there is no image and no selection %q", name)
	if near := config.Nearest(name, known); near != "" {
		return nil, failure.WithHint(err, "did you mean %q?", near)
	}
	return nil, failure.WithHint(err, "pipegen plan --select all shows every image")
}

func chooseChanged(cs []*candidate, in *Input) error {
	if !in.Base.Usable {
		for _, c := range cs {
			c.reasons = append(c.reasons, Reason{RemovedBase, in.Base.Why})
		}
		return nil
	}
	root := in.Config.Pipegen
	ignore, rebuildAll := glob.New(root.Ignore), glob.New(root.RebuildAll)
	var changes []diff.Change
	var everything []Reason
	for _, ch := range in.Changes {
		if ignore.Match(ch.Path) {
			continue // whatever else would match it
		}
		changes = append(changes, ch)
		if rebuildAll.Match(ch.Path) {
			everything = append(everything, Reason{RebuildAll, ch.Path})
		}
	}
	if in.DefaultsChanged {
		everything = append(everything, Reason{RebuildAll, config.PipegenFile + ": defaults"})
	}
	dirs := make([]string, 0, len(in.Config.Projects))
	for _, p := range in.Config.Projects {
		dirs = append(dirs, p.Dir)
	}
	byDir, _ := diff.Attribute(changes, dirs)
	for _, c := range cs {
		var reasons []Reason
		for _, ch := range byDir[c.project.Dir] {
			reasons = append(reasons, Reason{Changed, ch.Path})
		}
		for i := range glob.Find(glob.New(c.project.Config.Watch), changes, changedPath) {
			reasons = append(reasons, Reason{Watched, changes[i].Path})
		}
		c.reasons = append(c.reasons, bounded(append(reasons, everything...))...)
	}
	return nil
}

// bounded keeps the evidence readable: a moved tree of 10,000 files is no
// better evidence than its first paths.
func bounded(reasons []Reason) []Reason {
	if len(reasons) <= maxEvidence {
		return reasons
	}
	rest := len(reasons) - maxEvidence
	out := slices.Clone(reasons[:maxEvidence])
	out[maxEvidence-1].Detail += fmt.Sprintf(" and %d more", rest)
	return out
}

func changedPath(ch *diff.Change) string { return ch.Path }

// whyNot says why an image was left out.
func (s Selection) whyNot(c *candidate, in *Input) string {
	var parts []string
	if s.Changed {
		parts = append(parts, "no change since "+short(in.Base.Commit))
	}
	if s.Missing {
		parts = append(parts, c.notMissing)
	}
	if s.Stale || c.weekly != nil {
		parts = append(parts, c.notStale)
	}
	if s.Weekly && c.weekly == nil {
		parts = append(parts, "not in "+config.WeeklyFile)
	}
	if len(s.Names) > 0 {
		parts = append(parts, "not named")
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

func short(sha string) string {
	if len(sha) > shortSHA {
		return sha[:shortSHA]
	}
	return sha
}
