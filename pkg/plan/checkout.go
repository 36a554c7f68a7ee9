package plan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Request says which checkout to look at, and with what.
type Request struct {
	// Directory in the checkout.
	Dir string
	// Revisions as git names them; empty: the base is found, the head is what
	// is checked out.
	Base, Head string
	// Registry that is asked for; empty: see Registry.
	Registry string
	// Time of the plan: RFC 3339 or YYYY-MM-DD, UTC; empty: the pipeline's, else Now.
	Date string

	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
	Now      func() time.Time
	// Directory where what was read out of files is kept for the next run;
	// empty: nothing is.
	ParseCache string

	// Resolve gives the commit of an upstream ref.
	Resolve Resolver
	// Client makes the client that asks registries what is published.
	Client func(config.Publish) *registry.Client
}

// Checkout is a repository with its configuration, and what changed in it.
type Checkout struct {
	Repo     *diff.Repo
	CI       diff.CI
	Head     diff.Commit
	Base     diff.Base
	Changes  []diff.Change
	Config   *config.Repository
	FS       fs.FS
	Registry string
	Created  time.Time
	// Whether the work tree is what is built, and differs from the head.
	Dirty bool

	rev     string // "" for the work tree
	clean   bool   // the work tree is known to be as the head
	request Request
	cache   config.FileCache // may be nil
	entries []diff.Entry     // nil: not listed yet

	saveCache func() // nil: the cache is not open
}

// Open finds the checkout, the head and the base to compare with. Errors are
// failure.ErrInput, or what git said.
func Open(ctx context.Context, r Request) (*Checkout, error) {
	repo, err := diff.Open(ctx, r.Dir)
	if err != nil {
		return nil, err
	}
	ci, err := diff.DetectCI(r.Getenv, r.ReadFile)
	if err != nil {
		return nil, err
	}
	c := &Checkout{Repo: repo, CI: ci, request: r}
	if c.Head, err = head(ctx, repo, r.Head); err != nil {
		return nil, err
	}
	if c.Created, err = created(r, ci); err != nil {
		return nil, err
	}
	if c.Base, err = repo.Base(ctx, ci, r.Base, c.Head); err != nil {
		return nil, err
	}
	if r.Head != "" {
		c.rev, c.Base.WorkTree = c.Head.Hash, false
	}
	c.FS, err = repo.FS(ctx, c.rev)
	return c, err
}

func head(ctx context.Context, repo *diff.Repo, rev string) (diff.Commit, error) {
	if rev == "" {
		return repo.Head(ctx)
	}
	commit, err := repo.Commit(ctx, rev)
	if errors.Is(err, diff.ErrMissing) {
		return commit, failure.Input("--head: %w", err)
	}
	return commit, err
}

// created is the plan's one time.
func created(r Request, ci diff.CI) (time.Time, error) {
	if r.Date != "" {
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if t, err := time.Parse(layout, r.Date); err == nil {
				return t.UTC(), nil
			}
		}
		return time.Time{}, failure.WithHint(failure.Input("--date %q is no time", r.Date), "write it as 2026-11-21 or 2026-11-21T02:03:04Z")
	}
	if !ci.Created.IsZero() {
		return ci.Created.UTC(), nil
	}
	return r.Now().UTC(), nil
}

// Registry is the registry in force: the one asked for, $PIPEGEN_REGISTRY, that
// of pipegen.yaml, or $ECR_REGISTRY; "" if nothing names one.
func Registry(asked string, p config.Pipegen, getenv func(string) string) string {
	return strings.TrimSuffix(firstOf(asked, getenv("PIPEGEN_REGISTRY"), p.Registry, getenv("ECR_REGISTRY")), "/")
}

func checkRegistry(registry string) error {
	if strings.Contains(registry, "://") {
		return failure.WithHint(failure.Input("registry %q has a scheme", registry), "write host[:port][/path], without https://")
	}
	if strings.ContainsAny(registry, " \t\r\n@") {
		return failure.Input("registry %q is not host[:port][/path]", registry)
	}
	return nil
}

// Load reads the configuration of all projects. With config.Faults c.Config
// is there too, as far as it could be read.
func (c *Checkout) Load(ctx context.Context) error {
	files, err := c.list(ctx)
	if err != nil {
		return err
	}
	c.openCache()
	c.Config, err = config.Load(c.FS, files, config.Options{
		CheckReadme: strings.EqualFold(c.request.Getenv("CHECK_README"), "true"), Getenv: c.request.Getenv, Cache: c.cache,
	})
	if err != nil {
		return err
	}
	c.Registry = Registry(c.request.Registry, c.Config.Pipegen, c.request.Getenv)
	return checkRegistry(c.Registry)
}

// compare finds what changed from the base, and whether the work tree is dirty.
func (c *Checkout) compare(ctx context.Context) error {
	if c.rev == "" {
		uncommitted, err := c.Repo.Changes(ctx, c.Head.Hash, "")
		if err != nil {
			return err
		}
		c.Dirty, c.clean = c.matters(uncommitted), len(uncommitted) == 0
	}
	return c.changes(ctx)
}

func (c *Checkout) changes(ctx context.Context) error {
	if !c.Base.Usable {
		return nil
	}
	to := c.Head.Hash
	if c.Base.WorkTree && !c.clean {
		to = ""
	}
	var err error
	c.Changes, err = c.Repo.Changes(ctx, c.Base.Commit, to)
	return err
}

// matters says whether uncommitted changes make what is built differ from the
// head: every change of a file that git knows, and new files in a project.
func (c *Checkout) matters(uncommitted []diff.Change) bool {
	dirs := make([]string, 0, len(c.Config.Projects))
	for _, p := range c.Config.Projects {
		dirs = append(dirs, p.Dir)
	}
	_, outside := diff.Attribute(uncommitted, dirs)
	for _, ch := range outside {
		if ch.Kind != diff.Added {
			return true
		}
	}
	return len(uncommitted) > len(outside)
}

// Plan makes the plan of this checkout. Errors are those of Load and Compute.
// Warnings come back beside it.
func (c *Checkout) Plan(ctx context.Context, sel Selection) (*Plan, config.Faults, error) {
	in, err := c.input(ctx, sel)
	if err != nil {
		return nil, nil, err
	}
	p, warnings, err := Compute(ctx, *in)
	c.saveCache()
	return p, append(c.Config.Warnings, warnings...), err
}

// input gathers what a plan is made from.
func (c *Checkout) input(ctx context.Context, sel Selection) (*Input, error) {
	if err := c.Load(ctx); err != nil {
		return nil, err
	}
	if err := c.compare(ctx); err != nil {
		return nil, err
	}
	changed, err := c.defaultsChanged(ctx)
	if err != nil {
		return nil, err
	}
	branch, err := c.branch(ctx)
	if err != nil {
		return nil, err
	}
	in := &Input{
		Config: c.Config, FS: c.FS, Cache: c.cache, Selection: sel,
		CI: c.CI, Head: c.Head, Base: c.Base, Changes: c.Changes, DefaultsChanged: changed,
		Dirty: c.Dirty, Branch: branch, Entries: c.entries,
		Created: c.Created, Registry: c.Registry, SourceURL: firstOf(c.request.Getenv("CI_PROJECT_URL"), githubURL(c.request.Getenv), c.Repo.RemoteURL()),
		Getenv: c.request.Getenv, Resolve: c.request.Resolve,
	}
	if c.Registry != "" {
		in.Client = c.request.Client(c.Config.Pipegen.Publish)
	}
	return in, nil
}

// branch is what layout git names its tags after: what the CI system says, or
// the branch. For a detached head, and for a commit that is not checked out, it
// is the only branch that holds the commit, as in the clones of Concourse's git
// resource, and else the commit.
func (c *Checkout) branch(ctx context.Context) (string, error) {
	if c.Config.Pipegen.Layout != "git" {
		return "", nil
	}
	current, err := c.Repo.Head(ctx)
	if err != nil {
		return "", err
	}
	if current.Hash == c.Head.Hash {
		name := firstOf(c.request.Getenv("CI_COMMIT_REF_NAME"), c.request.Getenv("GITHUB_REF_NAME"), c.Repo.Branch())
		if name != "" {
			return name, nil
		}
	}
	holding, err := c.Repo.BranchesWith(ctx, c.Head)
	switch {
	case err != nil:
		return "", err
	case slices.Contains(holding, c.request.Head):
		return c.request.Head, nil
	case len(holding) == 1:
		return holding[0], nil
	}
	return short(c.Head.Hash), nil
}

func githubURL(getenv func(string) string) string {
	if server, repo := getenv("GITHUB_SERVER_URL"), getenv("GITHUB_REPOSITORY"); server != "" && repo != "" {
		return server + "/" + repo
	}
	return ""
}

// defaultsChanged says whether pipegen.yaml gives projects other defaults
// than at the base. What cannot be read there counts as changed.
func (c *Checkout) defaultsChanged(ctx context.Context) (bool, error) {
	touched := false
	for _, ch := range c.Changes {
		touched = touched || ch.Path == config.PipegenFile
	}
	if !touched {
		return false, nil
	}
	old, err := c.Repo.FS(ctx, c.Base.Commit)
	if err != nil {
		return false, fmt.Errorf("reading %s at the base: %w", config.PipegenFile, err)
	}
	before, err := config.LoadPipegen(old)
	if err != nil {
		return true, nil // faults of the base are not this commit's
	}
	return !reflect.DeepEqual(before.Defaults, c.Config.Pipegen.Defaults), nil
}
