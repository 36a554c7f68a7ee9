package plan

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Input is everything a plan is made from.
type Input struct {
	Config    *config.Repository
	FS        fs.FS // the files that Config was read from, for Dockerfiles
	Selection Selection

	CI      diff.CI
	Head    diff.Commit
	Base    diff.Base
	Changes []diff.Change // from Base to what is built
	// Whether the defaults of pipegen.yaml differ between Base and what is built.
	DefaultsChanged bool
	// Whether the work tree differs from Head.
	Dirty  bool
	Branch string
	// Files with their object ids, sorted by path.
	Entries []diff.Entry

	Created  time.Time
	Registry string // effective; may be empty
	// Address of this repository for the image's labels.
	SourceURL string
	Getenv    func(string) string

	// Resolve gives the commit of an upstream ref. It is called once for each
	// repository and ref that the plan needs, several at a time.
	Resolve func(ctx context.Context, repo, ref string, auth *config.UpstreamAuth) (string, error)
}

// upstreams bounds how many upstream repositories are asked at once.
const upstreams = 8

// Compute makes the plan. The error is config.Faults for a configuration that
// cannot be planned (unknown dependencies, circles, tags that collide), a
// failure.ErrInput for a selection that names nothing, or what Resolve gave.
// Faults that are only warnings come back beside the plan.
func Compute(ctx context.Context, in Input) (*Plan, config.Faults, error) {
	root := in.Config.Pipegen
	n := newNaming(in.Registry, root.Layout, in.Created, in.Head.Hash, in.Branch, in.Dirty, in.CI.System != "")
	cs := candidates(in.Config, n)
	order, faults := arrange(cs, n, in.Registry, in.FS)
	if err := faults.Err(); err != nil {
		return nil, nil, err
	}

	sel := in.Selection.Or(in.CI.Event)
	if err := sel.choose(cs, &in); err != nil {
		return nil, nil, err
	}
	dependents(order)

	wanted := needed(cs)
	if err := resolve(ctx, cs, wanted, in.Resolve); err != nil {
		return nil, nil, err
	}
	if err := keys(ctx, order, wanted, newContentTree(in.Entries, root.Ignore, in.Config.Projects)); err != nil {
		return nil, nil, err
	}

	p := &Plan{
		Version: Version, Event: in.CI.Event, Base: in.Base.Commit, Head: in.Head.Hash, Dirty: in.Dirty,
		Committed: in.Head.Committed, Created: in.Created.UTC().Truncate(time.Second), Pipeline: in.CI.Pipeline,
		Registry: in.Registry, Layout: root.Layout,
		CI:      CI{Image: firstOf(root.Images.Pipegen, root.Images.Kaniko), Runner: lightRunner(root.Runners, in.Getenv), Overlays: root.Overlays},
		Publish: root.Publish,
		Images:  []Image{}, Skipped: []Skipped{},
	}
	selected := map[string]bool{}
	for _, level := range order {
		for _, c := range level {
			if len(c.reasons) == 0 {
				continue
			}
			selected[c.name] = true
			p.Images = append(p.Images, c.image(&in, n, selected))
		}
	}
	for _, c := range cs {
		if !selected[c.name] {
			p.Skipped = append(p.Skipped, Skipped{c.name, sel.whyNot(&in)})
		}
	}
	p.Skipped = append(p.Skipped, deleted(&in)...)
	return p, faults, nil
}

// Check reports what is wrong with a configuration as a whole: unknown
// dependencies, circles, tags that collide; and, as warnings, Dockerfiles
// that do not parse.
func Check(cfg *config.Repository, fsys fs.FS, registry string) config.Faults {
	n := newNaming(registry, cfg.Pipegen.Layout, time.Unix(0, 0), strings.Repeat("0", 40), "main", false, false)
	_, faults := arrange(candidates(cfg, n), n, registry, fsys)
	return faults
}

// arrange finds the edges between candidates and their order.
func arrange(cs []*candidate, n naming, registry string, fsys fs.FS) ([][]*candidate, config.Faults) {
	faults := collisions(n, cs)
	faults = append(faults, findEdges(cs, registry, fsys)...)
	order, circles := levels(cs)
	faults = append(faults, circles...)
	faults.Sort()
	return order, faults
}

// needed are the selected images and everything that they are built on, whose
// keys are part of theirs.
func needed(cs []*candidate) map[string]bool {
	byName := make(map[string]*candidate, len(cs))
	for _, c := range cs {
		byName[c.name] = c
	}
	wanted := map[string]bool{}
	var want func(c *candidate)
	want = func(c *candidate) {
		if wanted[c.name] {
			return
		}
		wanted[c.name] = true
		for _, e := range c.edges {
			want(byName[e.to])
		}
	}
	for _, c := range cs {
		if len(c.reasons) > 0 {
			want(c)
		}
	}
	return wanted
}

func resolve(ctx context.Context, cs []*candidate, wanted map[string]bool, ask func(context.Context, string, string, *config.UpstreamAuth) (string, error)) error {
	type question struct{ repo, ref string }
	asked := map[question][]*candidate{}
	for _, c := range cs {
		if wanted[c.name] && c.upstream() {
			q := question{c.project.Config.UpstreamRepo, c.project.Config.UpstreamRef}
			asked[q] = append(asked[q], c)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(upstreams)
	for q, waiting := range asked {
		g.Go(func() error {
			commit, err := ask(ctx, q.repo, q.ref, waiting[0].project.Config.UpstreamAuth)
			if err != nil && failure.Hint(err) == "" {
				err = failure.WithHint(err, "is the address right, the host reachable, and upstream_auth set if the repository is private?")
			}
			if err != nil {
				return fmt.Errorf("image %s: %w", waiting[0].name, err)
			}
			for _, c := range waiting {
				c.commit = commit
			}
			return nil
		})
	}
	return g.Wait()
}

// image is the candidate's part of the plan. selected holds the images that
// stand before it.
func (c *candidate) image(in *Input, n naming, selected map[string]bool) Image {
	cfg := c.project.Config
	img := Image{
		Name: c.name, Dir: c.project.Dir, Key: c.key, Reasons: c.reasons, Repository: c.repository, Tags: c.tags,
		Needs: []string{}, Index: cfg.Index == nil || *cfg.Index, Annotations: cfg.Annotations,
	}
	if keys := in.Config.Pipegen.Publish.Keys; !in.Dirty && (keys == nil || *keys) {
		img.KeyTag = n.keyTag(c.name, c.key)
	}
	for _, e := range c.edges {
		if selected[e.to] {
			img.Needs = append(img.Needs, e.to)
		}
	}
	if c.upstream() {
		img.Source = &Source{Repo: cfg.UpstreamRepo, Ref: cfg.UpstreamRef, Commit: c.commit, Auth: cfg.UpstreamAuth}
	}
	for i, pl := range c.platforms {
		img.Builds = append(img.Builds, c.build(in, n, pl, c.specs[i]))
	}
	return img
}

func (c *candidate) build(in *Input, n naming, pl config.Platform, s config.BuildConfig) Build {
	root := "."
	if !c.upstream() {
		root = c.project.Dir
	}
	b := Build{
		ID: c.name + "@" + pl.Suffix(), Platform: pl.String(), Engine: s.Engine, Destination: n.destination(c.name, pl),
		Context: join(root, s.ContextPath), Dockerfile: join(root, s.DockerfilePath), Target: s.Target,
		Args: s.BuildArgs, EngineArgs: s.EngineArgs, Frontend: s.Frontend, FrontendOpts: s.FrontendOpts, Contexts: s.Contexts,
		Env: s.Env, Outputs: s.Outputs, Labels: c.labels(in, n, s), Cache: s.Cache, Resources: s.Resources, Secrets: s.Secrets,
		BuilderImage: firstOf(s.BuilderImage, engineImage(in.Config.Pipegen.Images, s.Engine)),
		Runner:       s.Runner, RunsOn: runnerOf(in.Config.Pipegen.Runners, pl, in.Getenv), Timeout: s.Timeout,
	}
	if s.Engine == "make" {
		b.Command = s.Command
	}
	if s.PreScript != nil {
		b.PreScript = *s.PreScript
	}
	if s.PostScript != nil {
		b.PostScript = *s.PostScript
	}
	return b
}

// labels are the user's, over those of the OCI image specification's
// annotation keys.
func (c *candidate) labels(in *Input, n naming, s config.BuildConfig) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.created": in.Created.UTC().Format(time.RFC3339),
	}
	source, revision, version := in.SourceURL, in.Head.Hash, n.fixed()
	if c.upstream() {
		source, revision, version = c.project.Config.UpstreamRepo, c.commit, c.project.Config.UpstreamRef
	}
	for k, v := range map[string]string{"source": quote.URL(source), "revision": revision, "version": version} {
		if v != "" {
			l["org.opencontainers.image."+k] = v
		}
	}
	maps.Copy(l, s.Labels)
	return l
}

// deleted reports projects that the head no longer has.
func deleted(in *Input) []Skipped {
	var out []Skipped
	kept := make(map[string]bool, len(in.Config.Projects))
	for _, p := range in.Config.Projects {
		kept[p.Dir] = true
	}
	for _, ch := range in.Changes {
		dir, file := path.Split(ch.Path)
		if dir = path.Clean(dir); ch.Kind == diff.Deleted && file == config.BuildFile && !kept[dir] {
			out = append(out, Skipped{path.Base(dir), "deleted: " + ch.Path})
		}
	}
	slices.SortFunc(out, func(a, b Skipped) int { return strings.Compare(a.Name+"\x00"+a.Reason, b.Name+"\x00"+b.Reason) })
	return out
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func engineImage(images config.Images, engine string) string {
	switch engine {
	case "buildkit":
		return images.BuildKit
	case "make":
		return images.Make
	}
	return images.Kaniko
}
