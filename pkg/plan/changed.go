package plan

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/glob"
)

// Difference is what pipegen diff shows: the projects with a change in their
// own directory. What depends on them is a matter of planning.
type Difference struct {
	// Commits; Base is empty when none could be used, then all projects count.
	Base string `json:"base"`
	Head string `json:"head"`
	// How the base was found, or why none could be used.
	How string `json:"how"`
	// Sorted by directory.
	Projects []ChangedProject `json:"projects"`
	// Directories of projects that the head no longer has.
	Deleted []string `json:"deleted"`
}

// ChangedProject is a project and the paths that changed in it.
type ChangedProject struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Empty when everything counts as changed.
	Paths []string `json:"paths"`
}

// Diff compares base and head. It reads pipegen.yaml and the configuration of
// the changed projects alone, so that it costs what git's own diff costs.
func (c *Checkout) Diff(ctx context.Context) (*Difference, error) {
	if err := c.changes(ctx); err != nil {
		return nil, err
	}
	d := &Difference{Base: c.Base.Commit, Head: c.Head.Hash, How: c.Base.How, Projects: []ChangedProject{}, Deleted: []string{}}
	if !c.Base.Usable {
		d.Base, d.How = "", c.Base.Why
		return d, c.allProjects(ctx, d)
	}
	root, err := config.LoadPipegen(c.FS)
	if err != nil {
		return nil, err
	}
	ignore := glob.New(root.Ignore)
	var kept []diff.Change
	for _, ch := range c.Changes {
		if !ignore.Match(ch.Path) {
			kept = append(kept, ch)
		}
	}
	configs, err := c.configsAbove(ctx, kept, &root)
	if err != nil {
		return nil, err
	}
	byDir, _ := diff.Attribute(kept, slices.Collect(maps.Keys(configs)))
	for dir, changes := range byDir {
		name, err := config.ProjectName(dir, configs[dir])
		if err != nil {
			return nil, err
		}
		paths := make([]string, 0, len(changes))
		for _, ch := range changes {
			paths = append(paths, ch.Path)
		}
		d.Projects = append(d.Projects, ChangedProject{name, dir, paths})
	}
	slices.SortFunc(d.Projects, func(a, b ChangedProject) int { return strings.Compare(a.Dir, b.Dir) })
	for _, ch := range c.Changes {
		if dir, file := path.Split(ch.Path); ch.Kind == diff.Deleted && file == config.BuildFile {
			d.Deleted = append(d.Deleted, path.Clean(dir))
		}
	}
	return d, nil
}

func (c *Checkout) allProjects(ctx context.Context, d *Difference) error {
	if err := c.Load(ctx); err != nil {
		return err
	}
	for _, p := range c.Config.Projects {
		d.Projects = append(d.Projects, ChangedProject{p.Config.Name, p.Dir, []string{}})
	}
	return nil
}

// configsAbove gives the text of the build-config.yaml of every project
// directory above the changed paths.
func (c *Checkout) configsAbove(ctx context.Context, changes []diff.Change, root *config.Pipegen) (map[string][]byte, error) {
	seen := map[string]bool{}
	var files []string
	for _, ch := range changes {
		for dir := path.Dir(ch.Path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			if root.Covers(dir) {
				files = append(files, join(dir, config.BuildFile))
			}
		}
	}
	texts, err := c.Repo.Contents(ctx, c.rev, files)
	if err != nil {
		return nil, err
	}
	configs := make(map[string][]byte, len(texts))
	for file, text := range texts {
		configs[path.Dir(file)] = text
	}
	return configs, nil
}
