package manifest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// surveys is how many tags are looked at side by side; the client's budget
// says how many in a second.
const surveys = 16

// Tag is a tag of an image and what it holds.
type Tag struct {
	Name string       `json:"tag"`
	Kind plan.TagKind `json:"kind"`
	// Fixed tag that the tag of a build belongs to.
	Of     string `json:"of,omitempty"`
	Digest string `json:"digest"`
	// Commit that was published, 40 hex digits; empty if it does not say.
	Commit string `json:"commit,omitempty"`
	// Time of the plan that was published; zero if it does not say.
	Created   time.Time `json:"created,omitzero"`
	Pipeline  string    `json:"pipeline,omitempty"`
	Key       string    `json:"key,omitempty"`
	Platforms []string  `json:"platforms,omitempty"`
	// Why what it holds could not be read, if so.
	Problem string `json:"problem,omitempty"`
}

// Scope says how much of an image is looked at; the zero value is everything
// but the tags of builds.
type Scope struct {
	// Newest publications alone, by the date in their tags; 0: all.
	Newest int
	// Builds looks at the tags of builds too.
	Builds bool
}

// Inventory is what a registry holds of an image.
type Inventory struct {
	Name       string
	Repository string
	// Tags, the newest publication first.
	Tags []Tag
	// How many tags were left out by the scope.
	Left int

	manifests map[string]*held // by digest
}

// held is a manifest that was read.
type held struct {
	registry.Descriptor
	raw      []byte
	of       *plan.Publication
	title    string
	children []v1.Descriptor // attestations included
	platform []string
}

// Survey reads what is published for an image: one list, one request for each
// fixed tag and each other tag, and one more for a digest that only the latter
// have. A tag that vanishes meanwhile is left out. A repository that does not
// exist holds nothing.
func Survey(ctx context.Context, c *registry.Client, k plan.Known, scope Scope) (*Inventory, error) {
	names, err := c.List(ctx, k.Repository)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	return SurveyOf(ctx, c, k, names, scope)
}

// SurveyOf is Survey with a list of the repository's tags that is at hand.
func SurveyOf(ctx context.Context, c *registry.Client, k plan.Known, names []string, scope Scope) (*Inventory, error) {
	inv := &Inventory{Name: k.Name, Repository: k.Repository, Tags: []Tag{}, manifests: map[string]*held{}}
	for _, name := range names {
		if kind, of := k.Kind(name); kind != "" {
			inv.Tags = append(inv.Tags, Tag{Name: name, Kind: kind, Of: of})
		}
	}
	inv.limit(scope)
	if err := inv.read(ctx, c, scope); err != nil {
		return nil, err
	}
	inv.describe(k)
	return inv, nil
}

// limit leaves out what the scope does.
func (inv *Inventory) limit(scope Scope) {
	before := len(inv.Tags)
	newest := map[string]bool{}
	if scope.Newest > 0 {
		var fixed []string
		for _, t := range inv.Tags {
			if t.Kind == plan.Fixed {
				fixed = append(fixed, t.Name)
			}
		}
		slices.SortFunc(fixed, func(a, b string) int { return strings.Compare(b, a) })
		for _, name := range fixed[:min(scope.Newest, len(fixed))] {
			newest[name] = true
		}
	}
	inv.Tags = slices.DeleteFunc(inv.Tags, func(t Tag) bool {
		switch t.Kind {
		case plan.Fixed:
			return scope.Newest > 0 && !newest[t.Name]
		case plan.Built:
			return !scope.Builds || scope.Newest > 0 && !newest[t.Of]
		}
		return false
	})
	inv.Left = before - len(inv.Tags)
}

// read fills in what the tags hold.
func (inv *Inventory) read(ctx context.Context, c *registry.Client, scope Scope) error {
	// Each fixed tag has a digest of its own, so that a HEAD would be wasted.
	if err := inv.each(ctx, func(t *Tag) bool { return t.Kind == plan.Fixed }, func(ctx context.Context, t *Tag) (*held, error) {
		return inv.get(ctx, c, t, inv.Repository+":"+t.Name)
	}); err != nil {
		return err
	}
	if scope.Newest > 0 {
		inv.keysOf()
	}
	if err := inv.each(ctx, func(t *Tag) bool { return t.Kind != plan.Fixed }, func(ctx context.Context, t *Tag) (*held, error) {
		d, err := c.Head(ctx, inv.Repository+":"+t.Name)
		t.Digest = d.Digest
		return nil, err
	}); err != nil {
		return err
	}
	// What only these tags hold, each digest once. Of builds the digest says
	// enough.
	seen := map[string]bool{}
	return inv.each(ctx, func(t *Tag) bool {
		fresh := t.Kind != plan.Built && t.Digest != "" && inv.manifests[t.Digest] == nil && !seen[t.Digest]
		seen[t.Digest] = seen[t.Digest] || fresh
		return fresh
	}, func(ctx context.Context, t *Tag) (*held, error) {
		return inv.get(ctx, c, t, inv.Repository+"@"+t.Digest)
	})
}

// keysOf leaves out the key tags of publications that were left out.
func (inv *Inventory) keysOf() {
	wanted := map[string]bool{}
	for _, h := range inv.manifests {
		if len(h.of.Key) >= 12 {
			wanted[h.of.Key[:12]] = true
		}
	}
	before := len(inv.Tags)
	inv.Tags = slices.DeleteFunc(inv.Tags, func(t Tag) bool {
		return t.Kind == plan.Keyed && !wanted[t.Name[len(t.Name)-12:]]
	})
	inv.Left += before - len(inv.Tags)
}

// each looks at the tags that are wanted, side by side. What is not there any
// more is left out; what cannot be read is noted.
func (inv *Inventory) each(ctx context.Context, wanted func(*Tag) bool, look func(context.Context, *Tag) (*held, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(surveys)
	found := make([]*held, len(inv.Tags))
	gone := make([]bool, len(inv.Tags))
	for i := range inv.Tags {
		t := &inv.Tags[i]
		if !wanted(t) {
			continue
		}
		g.Go(func() error {
			var err error
			found[i], err = look(ctx, t)
			e, ours := errors.AsType[*registry.Error](err)
			switch {
			case errors.Is(err, registry.ErrNotFound):
				gone[i] = true
			case ours && e.Status == 0 && e.Unwrap() == nil: // it is there, but nothing that pipegen publishes
				t.Problem = e.Message
			default:
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, h := range found {
		if h != nil {
			inv.manifests[h.Digest] = h
		}
	}
	kept := inv.Tags[:0]
	for i, t := range inv.Tags {
		if !gone[i] {
			kept = append(kept, t)
		}
	}
	inv.Tags = kept
	return nil
}

// get reads a manifest and what it says of itself.
func (inv *Inventory) get(ctx context.Context, c *registry.Client, t *Tag, ref string) (*held, error) {
	d, raw, err := c.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	t.Digest = d.Digest
	h := &held{Descriptor: d, raw: raw}
	if h.of, err = plan.PublicationOf(ctx, c, inv.Repository+"@"+d.Digest, d, raw); err != nil {
		return nil, err
	}
	if !registry.IsIndex(d.MediaType) {
		p, known := c.KnownPlatform(d.Digest)
		if !known {
			config, err := c.Config(ctx, inv.Repository, raw)
			if err != nil {
				return nil, err
			}
			p = config.Platform
		}
		h.platform = []string{p.String()}
		return h, nil
	}
	var notes struct {
		Annotations map[string]string `json:"annotations"`
	}
	_ = json.Unmarshal(raw, &notes) // flatten says what is wrong with it
	h.title = notes.Annotations[ociTitle]
	f, err := flatten(raw)
	if err != nil {
		t.Problem = err.Error()
		return h, nil
	}
	h.children = slices.Concat(f.images, f.attestations, f.indexes)
	for _, child := range f.images {
		if child.Platform != nil {
			h.platform = append(h.platform, registry.NormalPlatform(child.Platform.OS, child.Platform.Architecture, child.Platform.Variant, "").String())
		}
	}
	return h, nil
}

// describe fills in what the manifests say, leaves out what is of another
// image, and sorts.
func (inv *Inventory) describe(k plan.Known) {
	inv.Tags = slices.DeleteFunc(inv.Tags, func(t Tag) bool {
		h := inv.manifests[t.Digest]
		// PROJECT-PART of a project's own build is no image of the configuration.
		return h != nil && k.Layout == "tag" && strings.HasPrefix(h.title, k.Name+"-") && strings.HasPrefix(t.Name, h.title+"-")
	})
	of := map[string]time.Time{} // by fixed tag
	for i := range inv.Tags {
		t := &inv.Tags[i]
		if h := inv.manifests[t.Digest]; h != nil && t.Kind != plan.Built {
			t.Commit, t.Created, t.Pipeline, t.Key, t.Platforms = h.of.Commit, h.of.Created, h.of.Pipeline, h.of.Key, h.platform
		}
		if t.Kind == plan.Fixed {
			of[t.Name] = t.Created
		}
	}
	when := func(t Tag) time.Time {
		if t.Kind == plan.Built {
			return of[t.Of]
		}
		return t.Created
	}
	rank := map[plan.TagKind]int{plan.Fixed: 0, plan.Moving: 1, plan.Keyed: 2, plan.Built: 3}
	slices.SortFunc(inv.Tags, func(a, b Tag) int {
		return cmp.Or(when(b).Compare(when(a)), cmp.Compare(rank[a.Kind], rank[b.Kind]), strings.Compare(a.Name, b.Name))
	})
}
