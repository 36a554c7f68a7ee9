package plan

import (
	"context"
	"fmt"
	"slices"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/glob"
)

// Explanation says why an image is built or not.
type Explanation struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// build, retag or leave.
	Decision string `json:"decision"`
	// Why it is left out; empty otherwise.
	Left string `json:"left,omitempty"`
	// As in the plan; none if it is left out.
	Reasons []Reason `json:"reasons"`
	// For each image whose building led to this one's, how: from this image
	// down to one that is selected for a reason of its own.
	Chains []Chain `json:"chains"`
	// Images that it is built on, and those built on it.
	Needs      []Edge   `json:"needs"`
	Dependents []string `json:"dependents"`
	// Whole references that it will have; none if it is left out.
	Tags []string `json:"tags"`
	// Whole references that it will have in other registries.
	Also []string `json:"also,omitempty"`
	// Command lines of its jobs, as a list of arguments each.
	Commands [][]string `json:"commands"`
	// Nil unless it was asked for.
	Key *KeyExplanation `json:"key,omitempty"`
}

// Edge says that an image is built on another one, and where that is written.
type Edge struct {
	Name string `json:"name"`
	// depends_on, or FILE:LINE of a Dockerfile.
	Detail string `json:"detail"`
}

// Chain leads from an image to the one whose change rebuilds it.
type Chain struct {
	Edges []Edge `json:"edges"`
	// Why the last one is built.
	Reason Reason `json:"reason"`
}

// KeyExplanation shows what a content key was made from.
type KeyExplanation struct {
	Key    string     `json:"key"`
	Inputs []KeyInput `json:"inputs"`
	// What is published of the image: under its key, or else under its first
	// moving tag. Empty: nothing, or there is no registry to ask.
	Published string `json:"published,omitempty"`
	// Key and commit that this says it was made for.
	PublishedKey    string `json:"published_key,omitempty"`
	PublishedCommit string `json:"published_commit,omitempty"`
	// Names of inputs that differ; with Unrecorded set it cannot be told which.
	Differs    []string `json:"differs,omitempty"`
	Unrecorded bool     `json:"unrecorded,omitempty"`
	// Files of the image that differ between the published commit and what is
	// built, where the clone has that commit.
	Paths []string `json:"paths,omitempty"`
}

// Decisions of an Explanation.
const (
	DecisionBuild = "build"
	DecisionRetag = "retag"
	DecisionLeave = "leave"
)

// Explain says why images are built or not; name is that of an image, or a
// project's name or directory. With key it also says what went into their
// content keys, and what of that differs from what is published. Errors are
// those of Plan, and failure.ErrInput for an unknown name.
func (c *Checkout) Explain(ctx context.Context, sel Selection, name string, key bool) ([]Explanation, config.Faults, error) {
	in, err := c.input(ctx, sel)
	if err != nil {
		return nil, nil, err
	}
	w, warnings, err := prepare(ctx, in)
	c.saveCache()
	warnings = append(c.Config.Warnings, warnings...)
	if err != nil {
		return nil, warnings, err
	}
	meant, err := named(w.candidates, name)
	if err != nil {
		return nil, warnings, err
	}
	if key {
		if err := w.keys(ctx, meant); err != nil {
			return nil, warnings, err
		}
	}
	p := w.plan()
	out := make([]Explanation, 0, len(meant))
	for _, m := range meant {
		e := w.explain(m, p)
		if key {
			if e.Key, err = c.explainKey(ctx, w, m); err != nil {
				return nil, warnings, fmt.Errorf("content key of image %s: %w", m.name, err)
			}
		}
		out = append(out, e)
	}
	return out, warnings, nil
}

func (w *work) explain(c *candidate, p *Plan) Explanation {
	e := Explanation{
		Name: c.name, Dir: c.project.Dir, Decision: DecisionLeave, Reasons: []Reason{}, Chains: []Chain{}, Needs: []Edge{}, Dependents: []string{},
		Tags: []string{}, Commands: [][]string{},
	}
	for _, edge := range c.edges {
		e.Needs = append(e.Needs, Edge{edge.to, edge.detail})
	}
	for _, other := range w.candidates {
		if slices.ContainsFunc(other.edges, func(edge edge) bool { return edge.to == c.name }) {
			e.Dependents = append(e.Dependents, other.name)
		}
	}
	img, ok := p.Image(c.name)
	if !ok {
		e.Left = w.sel.whyNot(c, w.in)
		return e
	}
	e.Decision, e.Reasons, e.Chains = DecisionBuild, img.Reasons, w.chains(c)
	if img.Retag != "" {
		e.Decision = DecisionRetag
	}
	for _, tag := range img.Tags {
		e.Tags = append(e.Tags, reference(img.Repository, tag))
	}
	for _, to := range p.Copies(img) {
		for _, tag := range to.Tags {
			e.Also = append(e.Also, reference(to.Repository, tag))
		}
	}
	for i := range img.Builds {
		e.Commands = append(e.Commands, []string{"pipegen", "build", img.Builds[i].ID, "--plan", "plan.json"})
	}
	e.Commands = append(e.Commands, []string{"pipegen", "manifest", img.Name, "--plan", "plan.json"})
	return e
}

// reference joins repository and tag; in layout tag a plan without a registry
// has no repository.
func reference(repository, tag string) string {
	if repository == "" {
		return tag
	}
	return repository + ":" + tag
}

// chains follows each dependency that is built down to an image with a reason
// of its own, by the shortest way.
func (w *work) chains(c *candidate) []Chain {
	chains := []Chain{}
	for _, e := range c.edges {
		if to := w.byName[e.to]; len(to.reasons) > 0 {
			chains = append(chains, w.chain([]Edge{{e.to, e.detail}}, to))
		}
	}
	return chains
}

func (w *work) chain(so []Edge, c *candidate) Chain {
	type step struct {
		edges []Edge
		at    *candidate
	}
	seen := map[string]bool{}
	for queue := []step{{so, c}}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		if i := slices.IndexFunc(s.at.reasons, func(r Reason) bool { return r.Kind != Dependency }); i >= 0 {
			return Chain{s.edges, s.at.reasons[i]}
		}
		for _, e := range s.at.edges {
			if to := w.byName[e.to]; len(to.reasons) > 0 && !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, step{append(slices.Clone(s.edges), Edge{e.to, e.detail}), to})
			}
		}
	}
	return Chain{so, c.reasons[0]} // not reached: every chain has its cause
}

func (c *Checkout) explainKey(ctx context.Context, w *work, m *candidate) (*KeyExplanation, error) {
	k := &KeyExplanation{Key: m.key, Inputs: m.inputs}
	if w.in.Client == nil || !m.pushes() {
		return k, nil
	}
	published, err := w.asking.publication(ctx, m)
	if err != nil || published == nil {
		return k, err
	}
	k.Published, k.PublishedKey, k.PublishedCommit = m.repository+"@"+published.Digest, published.Key, published.Commit
	if published.Key == m.key {
		return k, nil
	}
	if published.Inputs == nil {
		k.Unrecorded = true
	} else {
		k.Differs = differing(abridgedInputs(m.inputs), published.Inputs)
	}
	if slices.Contains(k.Differs, "tree") || slices.Contains(k.Differs, "watch") || k.Unrecorded {
		k.Paths = c.pathsSince(ctx, w, m, published.Commit)
	}
	return k, nil
}

// differing are the names of inputs that only one side has, or both with
// different values.
func differing(ours, theirs map[string]string) []string {
	var names []string
	for name, value := range ours {
		if theirs[name] != value {
			names = append(names, name)
		}
	}
	for name := range theirs {
		if _, ok := ours[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pathsSince are the image's files that changed since a commit; none where
// the clone cannot tell.
func (c *Checkout) pathsSince(ctx context.Context, w *work, m *candidate, commit string) []string {
	if commit == "" || m.upstream() {
		return nil
	}
	changes, err := c.Repo.Changes(ctx, commit, c.rev)
	if err != nil {
		return nil // another clone's history, or one that is cut off
	}
	ignore, watch := glob.New(w.in.Config.Pipegen.Ignore), glob.New(m.project.Config.Watch)
	changes = slices.DeleteFunc(changes, func(ch diff.Change) bool { return ignore.Match(ch.Path) })
	dirs := make([]string, 0, len(w.in.Config.Projects))
	for _, p := range w.in.Config.Projects {
		dirs = append(dirs, p.Dir)
	}
	byDir, _ := diff.Attribute(changes, dirs)
	var paths []string
	for _, ch := range byDir[m.project.Dir] {
		paths = append(paths, ch.Path)
	}
	for _, ch := range changes {
		if watch.Match(ch.Path) && !slices.Contains(paths, ch.Path) {
			paths = append(paths, ch.Path)
		}
	}
	return paths
}
