package manifest

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
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
	return recorded(a, p, img, bases(results))
}

// again are the annotations of an index over what was published before. What
// they say of the images stays, what they say of the publication is new.
func again(p *plan.Plan, img *plan.Image, before map[string]string) map[string]string {
	a := map[string]string{}
	for _, key := range []string{ociTitle, ociCreated, ociRevision, ociSource, ociVersion, ociBaseName, ociBaseDigest} {
		a[key] = before[key]
	}
	return recorded(a, p, img, before[plan.BasesAnnotation])
}

// described are the annotations of an image's descriptor: its builder's own,
// and over them those of the index, with the image's own bases in the place of
// all. An image without any keeps what its descriptor says of them.
func described(own, index map[string]string, bases []plan.Base) map[string]string {
	a := map[string]string{}
	maps.Copy(a, own)
	for _, key := range []string{
		ociTitle, ociCreated, ociRevision, ociSource, ociVersion,
		plan.CommitAnnotation, plan.CommittedAnnotation, plan.CreatedAnnotation, plan.PipelineAnnotation, plan.KeyAnnotation,
	} {
		delete(a, key) // of an earlier publication, say
		if v, ok := index[key]; ok {
			a[key] = v
		}
	}
	if len(bases) > 0 {
		a[plan.BasesAnnotation] = listed(bases)
		delete(a, ociBaseName)
		delete(a, ociBaseDigest)
		if at := slices.IndexFunc(bases, func(b plan.Base) bool { return b.Final }); at >= 0 {
			a[ociBaseName], a[ociBaseDigest] = bases[at].Ref, bases[at].Digest
		}
	}
	return a
}

// recorded puts the configured annotations over those of the images, and
// pipegen's own over both.
func recorded(a map[string]string, p *plan.Plan, img *plan.Image, bases string) map[string]string {
	maps.Copy(a, img.Annotations)
	maps.Copy(a, map[string]string{
		plan.CommitAnnotation:    p.Head,
		plan.CommittedAnnotation: timestamp(p.Committed),
		plan.CreatedAnnotation:   timestamp(p.Created),
		plan.PipelineAnnotation:  p.Pipeline,
		plan.KeyAnnotation:       img.Key,
		plan.InputsAnnotation:    inputs(img),
		plan.BasesAnnotation:     bases,
	})
	maps.DeleteFunc(a, func(_, v string) bool { return v == "" })
	return a
}

func inputs(img *plan.Image) string {
	if len(img.Inputs) == 0 {
		return ""
	}
	raw, err := json.Marshal(img.Inputs)
	if err != nil {
		return "" // strings always marshal
	}
	return string(raw)
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

// bases gives the value of plan.BasesAnnotation, or "" when there is none.
func bases(results []plan.Result) string {
	all := make(map[string][]string, len(results))
	var first []string
	same, some := true, false
	for i, r := range results {
		list := baseList(r.Bases)
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

// baseList gives bases as REF@DIGEST, each once.
func baseList(bases []plan.Base) []string {
	list := []string{}
	for _, b := range bases {
		if s := b.Ref + "@" + b.Digest; !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// listed gives the value of plan.BasesAnnotation for one image.
func listed(bases []plan.Base) string {
	raw, err := json.Marshal(baseList(bases))
	if err != nil {
		return "" // strings always marshal
	}
	return string(raw)
}
