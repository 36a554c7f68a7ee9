package plan

import (
	"context"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Input is everything a plan is made from.
type Input struct {
	Config    *config.Repository
	FS        fs.FS            // the files that Config was read from, for Dockerfiles
	Cache     config.FileCache // what is known of them; may be nil
	Selection Selection

	CI      diff.CI
	Head    diff.Commit
	Base    diff.Base
	Changes []diff.Change // from Base to what is built, sorted by path
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
	Resolve Resolver
	// Client asks registries what is published; nil: there is none to ask.
	Client *registry.Client
}

// publishesKeys says whether publications carry key tags.
func (in *Input) publishesKeys() bool {
	keys := in.Config.Pipegen.Publish.Keys
	return keys == nil || *keys
}

// Compute makes the plan. The error is config.Faults for a configuration that
// cannot be planned (unknown dependencies, circles, tags that collide), a
// failure.ErrInput for a selection that names nothing or asks what cannot be
// asked, what Resolve gave, or an *UndecidedError.
// Faults that are only warnings come back beside the plan.
func Compute(ctx context.Context, in Input) (*Plan, config.Faults, error) {
	w, warnings, err := prepare(ctx, &in)
	if err != nil {
		return nil, nil, err
	}
	return w.plan(), warnings, nil
}

// prepare does all that a plan needs but write it down.
func prepare(ctx context.Context, in *Input) (*work, config.Faults, error) {
	root := in.Config.Pipegen
	n := newNaming(in.Registry, root.Layout, in.Created, in.Head.Hash, in.Branch, in.Dirty, in.CI.System != "")
	cs := candidates(in.Config, n)
	order, faults := arrange(cs, n, in.Registry, dockerfiles{in.FS, in.Cache})
	if err := faults.Err(); err != nil {
		return nil, nil, err
	}
	w := &work{
		in: in, naming: n, candidates: cs, byName: make(map[string]*candidate, len(cs)), order: order, sel: in.Selection.Or(in.CI, in.Client != nil && in.publishesKeys()),
		tree: newContentTree(in.Entries, root.Ignore, in.Config.Projects), upstream: upstreamCommits{ask: in.Resolve, known: map[upstreamRef]string{}},
		asking: asking{in.Client, n, in.publishesKeys(), in.Config.Pipegen.Publish.MediaType == "docker"},
	}
	for _, c := range cs {
		w.byName[c.name] = c
	}
	return w, faults, w.choose(ctx)
}

// plan writes down what was found out.
func (w *work) plan() *Plan {
	in, root := w.in, w.in.Config.Pipegen
	p := &Plan{
		Version: Version, Event: in.CI.Event, Base: in.Base.Commit, Head: in.Head.Hash, Dirty: in.Dirty,
		Committed: in.Head.Committed, Created: in.Created.UTC().Truncate(time.Second), Pipeline: in.CI.Pipeline,
		Registry: in.Registry, Layout: root.Layout,
		CI:      CI{Image: firstOf(root.Images.Pipegen, root.Images.Kaniko), Runner: lightRunner(root.Runners, in.Getenv), Overlays: root.Overlays, Audience: root.Server.TokenAudience()},
		Publish: root.Publish, BuildKit: root.BuildKit,
		Images: []Image{}, Skipped: []Skipped{},
	}
	selected := map[string]bool{}
	for _, level := range w.order {
		for _, c := range level {
			if len(c.reasons) == 0 {
				continue
			}
			selected[c.name] = true
			p.Images = append(p.Images, c.image(in, w.naming, selected))
		}
	}
	for _, c := range w.candidates {
		if !selected[c.name] {
			p.Skipped = append(p.Skipped, Skipped{c.name, w.sel.whyNot(c, in)})
		}
	}
	p.Skipped = append(p.Skipped, deleted(in)...)
	return p
}

// Check reports what is wrong with a configuration as a whole: unknown
// dependencies, circles, tags that collide; and, as warnings, Dockerfiles
// that do not parse. cache may be nil.
func Check(cfg *config.Repository, fsys fs.FS, cache config.FileCache, registry string) config.Faults {
	n := newNaming(registry, cfg.Pipegen.Layout, time.Unix(0, 0), strings.Repeat("0", 40), "main", false, false)
	_, faults := arrange(candidates(cfg, n), n, registry, dockerfiles{fsys, cache})
	return faults
}

// arrange finds the edges between candidates and their order.
func arrange(cs []*candidate, n naming, registry string, read dockerfiles) ([][]*candidate, config.Faults) {
	faults := collisions(n, cs)
	faults = append(faults, findEdges(cs, registry, read)...)
	faults = append(faults, needless(cs)...)
	order, circles := levels(cs)
	faults = append(faults, circles...)
	faults.Sort()
	return order, faults
}

// work is a plan in the making.
type work struct {
	in         *Input
	naming     naming
	candidates []*candidate
	byName     map[string]*candidate
	order      [][]*candidate // dependencies first
	sel        Selection
	tree       *contentTree
	upstream   upstreamCommits
	asking     asking
}

// choose selects the images, with what depends on them, finds out which of
// them need no build, and gives them their content keys.
func (w *work) choose(ctx context.Context) error {
	if err := w.sel.checkAsking(w.in); err != nil {
		return err
	}
	if err := w.sel.choose(w.candidates, w.in); err != nil {
		return err
	}
	if w.sel.Missing {
		if err := w.keys(ctx, w.candidates); err != nil {
			return err
		}
		if err := w.asking.missing(ctx, w.candidates); err != nil {
			return err
		}
	}
	if unsure := w.unsure(); len(unsure) > 0 {
		if err := w.keys(ctx, unsure); err != nil {
			return err
		}
		if err := w.asking.stale(ctx, unsure); err != nil {
			return err
		}
	}
	if !w.sel.Alone {
		dependents(w.order)
	}
	var selected []*candidate
	for _, c := range w.candidates {
		if len(c.reasons) > 0 {
			selected = append(selected, c)
		}
	}
	if err := w.keys(ctx, selected); err != nil {
		return err
	}
	if w.sel.Missing {
		return w.asking.reuse(ctx, w.order)
	}
	return nil
}

// unsure are those that are selected only if a base of theirs moved.
func (w *work) unsure() []*candidate {
	if w.in.Client == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.candidates), func(c *candidate) bool {
		return !c.pushes() || !w.sel.Stale && (c.weekly == nil || c.weekly.Policy != config.PolicyStale)
	})
}

// keys gives candidates their content keys, and first all that they are built
// on, whose keys are part of theirs.
func (w *work) keys(ctx context.Context, of []*candidate) error {
	wanted := map[string]bool{}
	var want func(c *candidate)
	want = func(c *candidate) {
		if wanted[c.name] {
			return
		}
		wanted[c.name] = true
		for _, e := range c.edges {
			want(w.byName[e.to])
		}
	}
	for _, c := range of {
		want(c)
	}
	if err := w.upstream.of(ctx, w.candidates, wanted); err != nil {
		return err
	}
	return keys(ctx, w.order, wanted, w.tree)
}

// image is the candidate's part of the plan. selected holds the images that
// stand before it.
func (c *candidate) image(in *Input, n naming, selected map[string]bool) Image {
	cfg := c.project.Config
	img := Image{
		Name: c.name, Dir: c.project.Dir, Key: c.key, Reasons: c.reasons, Repository: c.repository, Tags: c.tags, Aliases: c.aliases,
		Needs: []string{}, Index: c.index(), Annotations: cfg.Annotations, Retag: c.retag, Inputs: abridgedInputs(c.inputs), Builds: []Build{},
	}
	if !in.Dirty && in.publishesKeys() {
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
	if c.retag != "" {
		return img
	}
	var labels map[string]string
	for i, pl := range c.platforms {
		if i == 0 || c.specs[i] != c.specs[i-1] {
			labels = c.labels(in, n, c.specs[i])
		}
		img.Builds = append(img.Builds, c.build(in, n, pl, c.specs[i], labels, selected))
	}
	return img
}

func (c *candidate) build(in *Input, n naming, pl config.Platform, s *config.BuildConfig, labels map[string]string, selected map[string]bool) Build {
	root := "."
	if !c.upstream() {
		root = c.project.Dir
	}
	b := Build{
		ID: c.name + "@" + pl.Suffix(), Platform: pl.String(), Engine: s.Engine, Destination: n.destination(c.name, pl),
		Context: join(root, s.ContextPath), Dockerfile: join(root, s.DockerfilePath), Target: s.Target,
		Args: s.BuildArgs, EngineArgs: s.EngineArgs, Frontend: s.Frontend, FrontendOpts: s.FrontendOpts, Contexts: c.contexts(in, n, s, selected),
		Env: s.Env, Outputs: s.Outputs, Labels: labels, Cache: s.Cache, Resources: s.Resources, Secrets: s.Secrets,
		OutputOpts: s.OutputOpts, Reproducible: s.Reproducible != nil && *s.Reproducible, RegistryMirrors: s.RegistryMirrors, SSH: s.SSH,
		BuilderImage: s.BuilderImage,
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
func (c *candidate) labels(in *Input, n naming, s *config.BuildConfig) map[string]string {
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
