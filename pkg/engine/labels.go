package engine

import (
	"maps"
	"strings"

	"github.com/pipegen/pipegen/pkg/plan"
)

// labels are those of the image: the configuration's, what was found out on the
// way, and what says which build it is. Those of an image that is reproducible
// hold no time.
func labels(p *Prepared) map[string]string {
	j := p.Job
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, j.Build.Labels)
	if j.Plan.Head == "" {
		return labels // built from a directory, without a plan
	}
	labels[plan.KeyAnnotation], labels[plan.HeadLabel], labels[plan.CreatedAnnotation] = j.Image.Key, j.Plan.Head, planTime(j.Plan)
	if !j.Build.Reproducible {
		return labels
	}
	delete(labels, plan.CreatedAnnotation)
	if labels["org.opencontainers.image.created"] == planTime(j.Plan) {
		delete(labels, "org.opencontainers.image.created")
	}
	// The version of what has no upstream is the tag of this plan's day.
	if j.Image.Source == nil && strings.Contains(labels["org.opencontainers.image.version"], j.Plan.Created.UTC().Format("20060102")) {
		delete(labels, "org.opencontainers.image.version")
	}
	return labels
}
