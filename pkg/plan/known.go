package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Known is an image of the configuration as registries know it.
type Known struct {
	Name string
	// Repository without tag.
	Repository string
	// tag, repository or git.
	Layout string
	// Tags that the configuration gives it beside those of each plan.
	Moving []string
	// Names of other images in the same repository.
	Others []string
}

// TagKind says what a tag of an image is for.
type TagKind string

// The kinds of tag.
const (
	// Fixed is of one plan: date and commit, or branch and commit.
	Fixed TagKind = "fixed"
	// Moving goes from publication to publication.
	Moving TagKind = "moving"
	// Keyed carries a content key.
	Keyed TagKind = "key"
	// Built is what one build pushed.
	Built TagKind = "build"
)

var (
	fixedTag   = lazyregexp.New(`^[0-9]{8}-[0-9a-f]{7}(?:-dirty)?$`)
	fixedOfGit = lazyregexp.New(`^.+\.(?:[0-9a-f]{7}|SNAPSHOT)$`)
	keyedTag   = lazyregexp.New(`^key-[0-9a-f]{12}$`)
	// What refers to a manifest is listed, and was stored, under its digest.
	referrersTag = lazyregexp.New(`^sha256-[0-9a-f]{64}(?:\..+)?$`)
)

// Kind says what a tag in the image's repository is for; of is the fixed tag
// that a build's belongs to. It is "" for a tag that is of another image, or of
// none.
func (k Known) Kind(tag string) (kind TagKind, of string) {
	if referrersTag.MatchString(tag) {
		return "", ""
	}
	rest := tag
	if k.Layout == "tag" {
		var ok bool
		if rest, ok = strings.CutPrefix(tag, k.Name+"-"); !ok || rest == "" || k.foreign(tag) {
			return "", ""
		}
	}
	if slices.Contains(k.Moving, tag) {
		return Moving, ""
	}
	fixed := fixedTag
	if k.Layout == "git" {
		fixed = fixedOfGit
	}
	switch {
	case keyedTag.MatchString(rest):
		return Keyed, ""
	case fixed.MatchString(rest):
		return Fixed, ""
	}
	for i := strings.LastIndexByte(rest, '-'); i > 0; i = strings.LastIndexByte(rest[:i], '-') {
		if isSuffix(rest[i+1:]) && fixed.MatchString(rest[:i]) {
			return Built, tag[:len(tag)-len(rest)+i]
		}
	}
	return Moving, ""
}

// foreign says whether a tag is of another image whose name begins with this
// one's.
func (k Known) foreign(tag string) bool {
	return slices.ContainsFunc(k.Others, func(other string) bool {
		return len(other) > len(k.Name) && strings.HasPrefix(other, k.Name+"-") && strings.HasPrefix(tag, other+"-")
	})
}

// isSuffix says whether s is what a build's tag ends in.
func isSuffix(s string) bool {
	for _, platform := range []string{"linux/" + strings.ReplaceAll(s, "-", "/"), strings.ReplaceAll(s, "-", "/")} {
		if p, err := config.ParsePlatform(platform); err == nil && p.Suffix() == s {
			return true
		}
	}
	return false
}

// KnownImages gives the images of these names, all if there are none, sorted by
// name. What a project's own build made beside its image, PROJECT-PART, is known
// by its name alone. The error is failure.ErrInput for a name that no project
// has, and where there is no registry.
func KnownImages(cfg *config.Repository, registry string, names []string) ([]Known, error) {
	if registry == "" {
		return nil, failure.WithHint(failure.Input("there is no registry to ask"),
			"set --registry, $PIPEGEN_REGISTRY, registry in pipegen.yaml, or $ECR_REGISTRY")
	}
	if err := checkRegistry(registry); err != nil {
		return nil, err
	}
	n := naming{registry: registry, layout: cfg.Pipegen.Layout}
	var all []Known
	var makers, every []string
	for _, p := range cfg.Projects {
		for _, img := range p.Images() {
			k := Known{Name: img.Name, Repository: n.repository(img.Name), Layout: n.layout}
			for _, t := range img.AdditionalTags {
				k.Moving = append(k.Moving, n.prefix(img.Name)+t)
			}
			all, every = append(all, k), append(every, img.Name)
			if p.Config.Engine == "make" {
				makers = append(makers, img.Name)
			}
		}
	}
	for _, name := range names {
		if slices.Contains(every, name) {
			continue
		}
		if !slices.ContainsFunc(makers, func(maker string) bool { return strings.HasPrefix(name, maker+"-") }) || !component.MatchString(name) {
			err := failure.Input("there is no image %q", name)
			if near := config.Nearest(name, every); near != "" {
				return nil, failure.WithHint(err, "did you mean %q?", near)
			}
			return nil, failure.WithHint(err, "%s", some(every))
		}
		all, every = append(all, Known{Name: name, Repository: n.repository(name), Layout: n.layout}), append(every, name)
	}
	slices.SortFunc(all, func(a, b Known) int { return strings.Compare(a.Name, b.Name) })
	out := []Known{}
	for _, k := range all {
		if len(names) > 0 && !slices.Contains(names, k.Name) {
			continue
		}
		if n.layout == "tag" {
			k.Others = slices.DeleteFunc(slices.Clone(every), func(other string) bool { return other == k.Name })
		}
		out = append(out, k)
	}
	return out, nil
}

// some lists the first of many names.
func some(names []string) string {
	if len(names) == 0 {
		return "the configuration has no images"
	}
	slices.Sort(names)
	if len(names) > 10 {
		return fmt.Sprintf("the images are: %s, and %d more", strings.Join(names[:10], ", "), len(names)-10)
	}
	return "the images are: " + strings.Join(names, ", ")
}
