package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
)

// naming makes repositories and tags of one plan; date, sha and layout are
// fixed once, here.
type naming struct {
	registry, layout string
	date, sha        string
	branch           string // layout git
	dirty, ci        bool
}

// maxTag is the longest tag of the OCI distribution specification.
const maxTag = 128

// shortSHA is the length of an abbreviated commit in tags.
const shortSHA = 7

func newNaming(registry, layout string, created time.Time, head, branch string, dirty, ci bool) naming {
	sha := head
	if len(sha) > shortSHA {
		sha = sha[:shortSHA]
	}
	return naming{
		registry: registry, layout: layout,
		date: created.UTC().Format("20060102"), sha: sha,
		branch: tagWord(branch), dirty: dirty, ci: ci,
	}
}

// maxBranch is how much of a branch's name stands in tags: with the commit and
// a platform behind it these are never too long.
const maxBranch = 80

// tagWord gives a branch name as the beginning of a tag, where a slash cannot
// stand, and . and - not come first. Of a long one the end is a hash of all of
// it, so that branches that begin alike have tags of their own.
func tagWord(s string) string {
	word := strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '_' || r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '-'
	}, s)
	if word != "" && (word[0] == '.' || word[0] == '-') {
		word = "_" + word[1:]
	}
	if len(word) > maxBranch {
		sum := sha256.Sum256([]byte(s))
		word = word[:maxBranch-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return word
}

func (n naming) repository(image string) string {
	if n.layout == "tag" {
		return n.registry
	}
	if n.registry == "" {
		return image
	}
	return n.registry + "/" + image
}

// prefix stands before every tag: in layout tag all images share a repository.
func (n naming) prefix(image string) string {
	if n.layout == "tag" {
		return image + "-"
	}
	return ""
}

// fixed is the tag of this one plan, without prefix.
func (n naming) fixed() string {
	if n.layout == "git" {
		if n.dirty {
			return n.branch + ".SNAPSHOT"
		}
		return n.branch + "." + n.sha
	}
	s := n.date + "-" + n.sha
	if n.dirty {
		s += "-dirty"
	}
	return s
}

// tags are the image's tags, the fixed one first. A dirty tree gets one tag,
// and none in CI.
func (n naming) tags(image string, additional []string) []string {
	if n.dirty && n.ci {
		return []string{}
	}
	tags := []string{n.prefix(image) + n.fixed()}
	if n.dirty {
		return tags
	}
	return append(tags, n.moving(image, additional)...)
}

// moving are the tags that go from publication to publication.
func (n naming) moving(image string, additional []string) []string {
	var tags []string
	if n.layout == "git" {
		tags = append(tags, n.branch)
	}
	for _, t := range additional {
		if t = n.prefix(image) + t; n.layout != "git" || t != n.branch {
			tags = append(tags, t)
		}
	}
	return tags
}

func (n naming) keyTag(image, key string) string {
	return n.prefix(image) + "key-" + key[:12]
}

// destination is the reference of one build; without a registry, which only
// looking at a plan can do without, in layout tag the tag alone.
func (n naming) destination(image string, pl config.Platform) string {
	tag := n.archTag(image, pl)
	if repo := n.repository(image); repo != "" {
		return repo + ":" + tag
	}
	return tag
}

func (n naming) archTag(image string, pl config.Platform) string {
	return n.prefix(image) + n.fixed() + "-" + pl.Suffix()
}

// collisions are tags and build destinations that two images would both
// write: the later would silently win in the registry.
func collisions(n naming, images []*candidate) config.Faults {
	type owner struct {
		c    *candidate
		what string
		path []any
	}
	owners := map[string]owner{}
	var faults config.Faults
	claim := func(ref string, o owner) {
		first, taken := owners[ref]
		if !taken {
			owners[ref] = o
			return
		}
		faults = append(faults, o.c.project.Fault("duplicate-tag",
			fmt.Sprintf("%s of image %q is the same reference as %s of image %q: %s", o.what, o.c.name, first.what, first.c.name, ref),
			"change the name or the tag of one of them", o.path...))
	}
	for _, c := range images {
		for i, t := range c.tags {
			what, path := "a tag", []any{"additional_tags", i - 1}
			switch {
			case i == 0:
				what, path = "the tag of date and commit", []any{"name"}
			case n.layout == "git":
				path = []any{"additional_tags"}
			}
			claim(c.repository+":"+t, owner{c, what, path})
		}
		for _, pl := range c.platforms {
			claim(n.repository(c.name)+":"+n.archTag(c.name, pl), owner{c, "the build for " + pl.String(), []any{"platforms"}})
		}
		for _, t := range c.tags {
			if len(t) > maxTag {
				faults = append(faults, c.tooLong(t))
			}
		}
		for _, pl := range c.platforms {
			if tag := n.archTag(c.name, pl); len(tag) > maxTag {
				faults = append(faults, c.tooLong(tag))
			}
		}
	}
	return faults
}

func (c *candidate) tooLong(tag string) config.Fault {
	return c.project.Fault("tag-too-long", fmt.Sprintf("tag %s has %d characters, a tag may have %d", tag, len(tag), maxTag),
		"choose a shorter name", "name")
}
