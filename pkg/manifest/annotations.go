package manifest

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// What a publication records of itself, as annotations of the index. Moving
// tags are compared by them.
const (
	// CommitAnnotation is the head of the plan, 40 hex digits.
	CommitAnnotation = "dev.pipegen.commit"
	// CommittedAnnotation is the committer time of that head, RFC 3339 in UTC.
	CommittedAnnotation = "dev.pipegen.committed"
	// CreatedAnnotation is the plan's time, RFC 3339 in UTC.
	CreatedAnnotation = "dev.pipegen.created"
	// PipelineAnnotation is the number of the CI pipeline; absent outside CI.
	PipelineAnnotation = "dev.pipegen.pipeline"
	// KeyAnnotation is the image's content key.
	KeyAnnotation = "dev.pipegen.key"
	// BasesAnnotation lists what the image was built on, as JSON: a list of
	// REF@DIGEST, or a map from platform to such a list where they differ.
	BasesAnnotation = "dev.pipegen.bases"
)

// Annotations and labels of the OCI image specification.
const (
	ociCreated    = "org.opencontainers.image.created"
	ociTitle      = "org.opencontainers.image.title"
	ociRevision   = "org.opencontainers.image.revision"
	ociSource     = "org.opencontainers.image.source"
	ociVersion    = "org.opencontainers.image.version"
	ociBaseName   = "org.opencontainers.image.base.name"
	ociBaseDigest = "org.opencontainers.image.base.digest"
)

// annotations are those of the index: OCI's own, under the configured ones,
// under pipegen's. The same plan and results give the same annotations.
func annotations(p *plan.Plan, img *plan.Image, results []plan.Result) map[string]string {
	a := map[string]string{
		ociTitle:   img.Name,
		ociCreated: timestamp(p.Created),
		// What the builds' labels agree on says it best: it is what the images carry.
		ociRevision: common(img, ociRevision),
		ociSource:   common(img, ociSource),
		ociVersion:  common(img, ociVersion),
	}
	if a[ociRevision] == "" {
		a[ociRevision] = p.Head
		if img.Source != nil {
			a[ociRevision] = img.Source.Commit
		}
	}
	if a[ociSource] == "" && img.Source != nil {
		a[ociSource] = quote.URL(img.Source.Repo)
	}
	if a[ociVersion] == "" && img.Source != nil {
		a[ociVersion] = img.Source.Ref
	}
	a[ociBaseName], a[ociBaseDigest] = finalBase(results)
	maps.Copy(a, img.Annotations)
	maps.Copy(a, map[string]string{
		CommitAnnotation:    p.Head,
		CommittedAnnotation: timestamp(p.Committed),
		CreatedAnnotation:   timestamp(p.Created),
		PipelineAnnotation:  p.Pipeline,
		KeyAnnotation:       img.Key,
		BasesAnnotation:     bases(results),
	})
	maps.DeleteFunc(a, func(_, v string) bool { return v == "" })
	return a
}

func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// common gives the label that all builds have with one value, or "".
func common(img *plan.Image, label string) string {
	value := img.Builds[0].Labels[label]
	for i := range img.Builds {
		if img.Builds[i].Labels[label] != value {
			return ""
		}
	}
	return value
}

// finalBase gives the base that the image stands on where all builds have the
// same; without the digest where that differs.
func finalBase(results []plan.Result) (ref, digest string) {
	for i, r := range results {
		at := slices.IndexFunc(r.Bases, func(b plan.Base) bool { return b.Final })
		if at < 0 {
			return "", ""
		}
		last := r.Bases[at]
		switch {
		case i == 0:
			ref, digest = last.Ref, last.Digest
		case last.Ref != ref:
			return "", ""
		case last.Digest != digest:
			digest = ""
		}
	}
	return ref, digest
}

// bases gives the value of BasesAnnotation, or "" when there is none.
func bases(results []plan.Result) string {
	all := make(map[string][]string, len(results))
	var first []string
	same, some := true, false
	for i, r := range results {
		list := []string{}
		for _, b := range r.Bases {
			if s := b.Ref + "@" + b.Digest; !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
		if i == 0 {
			first = list
		}
		same = same && slices.Equal(list, first)
		some = some || len(list) > 0
		all[r.Platform] = list
	}
	if !some {
		return ""
	}
	var v any = all
	if same {
		v = first
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return "" // strings always marshal
	}
	return string(raw)
}
