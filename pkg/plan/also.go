package plan

import (
	"slices"
	"strings"
)

// Copy is another repository that an image is published to, after its own.
type Copy struct {
	// Repository without tag.
	Repository string
	// Which of the image's tags go there, in the order of publishing: the fixed
	// tag, the key tag, the moving ones.
	Tags []string
}

// Copies gives where publish.also sends an image, in the order of the
// configuration. Of several entries for one repository the first that means
// the image counts. What was built from uncommitted changes goes nowhere else.
func (p *Plan) Copies(img *Image) []Copy {
	if p.Dirty || !img.Pushes() || len(img.Tags) == 0 {
		return nil
	}
	tags := slices.Insert(slices.Clone(img.Tags), 1, img.KeyTag)
	taken := map[string]bool{img.Repository: true}
	var copies []Copy
	for _, also := range p.Publish.Also {
		n := naming{registry: strings.TrimSuffix(also.Registry, "/"), layout: p.Layout}
		c := Copy{Repository: n.repository(img.Name)}
		if taken[c.Repository] || !also.Means(img.Name) {
			continue
		}
		taken[c.Repository] = true
		for i, tag := range tags {
			if tag != "" && also.Takes(strings.TrimPrefix(tag, n.prefix(img.Name)), i == 1) {
				c.Tags = append(c.Tags, tag)
			}
		}
		if len(c.Tags) > 0 {
			copies = append(copies, c)
		}
	}
	return copies
}
