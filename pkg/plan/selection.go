package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Selection says which images are wanted; what its parts select adds up.
type Selection struct {
	Changed bool // differs between base and head
	All     bool
	Weekly  bool     // stands in rebuild-weekly.txt
	Names   []string // of images, or of project directories
}

// words of --select.
var words = []string{"changed", "all", "weekly"}

// ParseSelection reads the values of --select (which repeats and takes lists
// with commas) and the names given beside it. A word that is no selection is
// a name. Nothing at all gives the zero Selection, for which Compute chooses
// the default: weekly for scheduled events, changed otherwise.
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
			default:
				s.Names = append(s.Names, word)
			}
		}
	}
	s.Names = append(s.Names, names...)
	return s
}

// Or gives s, or what an event asks for when the user asks for nothing: weekly
// for a schedule, changed for all others.
func (s Selection) Or(event string) Selection {
	switch {
	case s.Changed || s.All || s.Weekly || len(s.Names) > 0:
		return s
	case event == diff.EventSchedule:
		return Selection{Weekly: true}
	}
	return Selection{Changed: true}
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
		for _, c := range cs {
			for _, e := range in.Config.Weekly {
				if e.Matches(c.project, c.name) {
					c.reasons = append(c.reasons, Reason{Weekly, fmt.Sprintf("%s:%d", config.WeeklyFile, e.Line)})
					break
				}
			}
		}
	}
	return chooseNamed(cs, s.Names)
}

func chooseNamed(cs []*candidate, names []string) error {
	for _, name := range names {
		found := false
		for _, c := range cs {
			if c.name == name || c.project.Dir == strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/") || path.Base(c.project.Dir) == name {
				c.reasons = append(c.reasons, Reason{Named, name})
				found = true
			}
		}
		if !found {
			known := slices.Clone(words)
			for _, c := range cs {
				known = append(known, c.name)
			}
			err := failure.Input("there is no image and no selection %q", name)
			if near := config.Nearest(name, known); near != "" {
				return failure.WithHint(err, "did you mean %q?", near)
			}
			return failure.WithHint(err, "pipegen plan --select all shows every image")
		}
	}
	return nil
}

func chooseChanged(cs []*candidate, in *Input) error {
	if !in.Base.Usable {
		for _, c := range cs {
			c.reasons = append(c.reasons, Reason{RemovedBase, in.Base.Why})
		}
		return nil
	}
	root := in.Config.Pipegen
	var changes []diff.Change
	var everything []Reason
	for _, ch := range in.Changes {
		if matchAny(root.Ignore, ch.Path) {
			continue // whatever else would match it
		}
		changes = append(changes, ch)
		if matchAny(root.RebuildAll, ch.Path) {
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
		for _, ch := range changes {
			if len(c.project.Config.Watch) > 0 && matchAny(c.project.Config.Watch, ch.Path) {
				reasons = append(reasons, Reason{Watched, ch.Path})
			}
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

// matchAny matches a path as doublestar does, with the same meaning for every
// list of globs: relative to the root of the repository, ** for any number of
// directories. Globs were checked when the configuration was read.
func matchAny(globs []string, p string) bool {
	for _, g := range globs {
		if ok, err := doublestar.Match(g, p); err == nil && ok {
			return true
		}
	}
	return false
}

// whyNot says why an image was left out.
func (s Selection) whyNot(in *Input) string {
	var parts []string
	if s.Changed {
		parts = append(parts, "no change since "+short(in.Base.Commit))
	}
	if s.Weekly {
		parts = append(parts, "not in "+config.WeeklyFile)
	}
	if len(s.Names) > 0 {
		parts = append(parts, "not named")
	}
	return strings.Join(parts, ", ")
}

func short(sha string) string {
	if len(sha) > shortSHA {
		return sha[:shortSHA]
	}
	return sha
}
