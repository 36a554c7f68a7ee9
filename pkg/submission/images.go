package submission

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// making is an image in the making.
type making struct {
	name string
	// Why it is built: the service, or the file that asks for it.
	detail string
	to     target
	// Tags beside that of the destination, in the same repository.
	tags   []string
	builds []made
	// Names of what must be published first.
	needs []string
}

// made is a build without its id and destination.
type made struct {
	plan.Build
	at *origin
}

// Limits of the OCI distribution specification, and of plans.
const maxTag = 128

var validName = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// nameOf is the name of the image of a config.yaml.
func (c *compiler) nameOf(to target) string {
	switch {
	case c.Name != "":
		return c.Name
	case to.repository != "":
		return path.Base(to.ref.Path)
	case c.root != "" && validName.MatchString(filepath.Base(c.root)):
		return filepath.Base(c.root)
	}
	return "image"
}

// images makes the images of the plan, in the order of their needs.
func (c *compiler) images() []plan.Image {
	taken := map[string]bool{}
	references := map[string]string{}
	for _, m := range c.making {
		base := m.name
		for n := 2; taken[m.name]; n++ {
			m.name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[m.name] = true
		if !validName.MatchString(m.name) && len(m.builds) > 0 {
			m.builds[0].at.err("bad-name", "letters, digits, _, . and -, not beginning with . or -", "%q cannot be the name of an image", m.name)
		}
	}
	var images []plan.Image
	for _, m := range c.arrange() {
		for _, img := range c.split(m, taken) {
			c.claim(&img, m, references)
			images = append(images, img)
		}
	}
	return images
}

// split makes the images of what has one destination: the first, with a build
// for each platform, and one for each further build of the same platform. The
// only build that pushes has the destination as it is. Of several each has that
// of its platform, and the first image is an index over its own.
func (c *compiler) split(m *making, taken map[string]bool) []plan.Image {
	builds := slices.Clone(m.builds)
	slices.SortStableFunc(builds, func(a, b made) int { return order(a.Pushes()) - order(b.Pushes()) })
	pushing := 0
	for _, b := range builds {
		if b.Pushes() {
			pushing++
		}
	}
	first := c.image(m, m.name)
	first.Tags = append([]string{m.to.tag}, m.tags...)
	first.Index = pushing > 1
	var more []plan.Image
	count := map[string]int{}
	for _, b := range builds {
		pl, err := config.ParsePlatform(b.Platform)
		if err != nil {
			continue // reported
		}
		suffix, img := pl.Suffix(), &first
		if n := count[b.Platform]; n > 0 {
			suffix = fmt.Sprintf("%s-%d", suffix, n)
			name := m.name + "-" + suffix
			for taken[name] {
				name += "-again"
			}
			taken[name] = true
			more = append(more, c.image(m, name))
			img = &more[len(more)-1]
			img.Tags = []string{m.to.tag + "-" + suffix}
		}
		count[b.Platform]++
		tag := m.to.tag
		if pushing > 1 || img != &first {
			tag += "-" + suffix
		}
		b.ID = img.Name + "@" + pl.Suffix()
		if m.to.repository != "" {
			b.Destination = m.to.repository + ":" + tag
		}
		c.check(&b, m)
		img.Builds = append(img.Builds, b.Build)
	}
	all := append([]plan.Image{first}, more...)
	for i := range all {
		if !all[i].Pushes() || m.to.repository == "" {
			all[i].Tags = []string{}
		}
	}
	return all
}

// order puts what pushes first.
func order(pushes bool) int {
	if pushes {
		return 0
	}
	return 1
}

func (c *compiler) image(m *making, name string) plan.Image {
	needs := m.needs
	if needs == nil {
		needs = []string{}
	}
	return plan.Image{
		Name: name, Dir: ".", Reasons: []plan.Reason{{Kind: plan.Named, Detail: m.detail}},
		Repository: m.to.repository, Needs: needs,
	}
}

// check judges a build as its engine will, before it is sent.
func (c *compiler) check(b *made, m *making) {
	at, ok := b.at.written("kaniko", "extra-flags")
	if !ok {
		at = b.at.place
	}
	if !slices.Contains(engines, b.Engine) {
		return // reported
	}
	if err := engine.Check(&b.Build); err != nil {
		text := strings.TrimPrefix(err.Error(), "build "+b.ID+": ")
		at.err("bad-build", failure.Hint(err), "%s", strings.Replace(text, "engine_args:", "extra-flags:", 1))
	}
	if _, tag, _ := strings.Cut(b.Destination, m.to.repository+":"); b.Destination != "" && len(tag) > maxTag {
		b.at.at("kaniko", "destination").err("long-tag", "", "the tag %s has %d characters, %d are allowed", tag, len(tag), maxTag)
	}
}

// claim refuses a reference that two images would both write.
func (c *compiler) claim(img *plan.Image, m *making, references map[string]string) {
	if !img.Pushes() {
		return
	}
	tags := slices.Clone(img.Tags)
	for _, b := range img.Builds {
		if _, tag, found := strings.Cut(b.Destination, img.Repository+":"); found && b.Pushes() {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	for _, tag := range slices.Compact(tags) {
		ref := m.to.ref
		ref.Tag = tag
		if other, twice := references[ref.String()]; twice && other != img.Name {
			m.builds[0].at.at("kaniko", "destination").err("duplicate-tag", "give one of them another tag", "%s and %s are both pushed to %s", other, img.Name, ref)
		}
		references[ref.String()] = img.Name
	}
}
