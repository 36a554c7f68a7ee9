package plan

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/registry"
)

// What a publication records of itself: as annotations of its index, and as far
// as a build knows them as labels of each image. Moving tags are compared by
// them, and planning reads them again.
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
	// InputsAnnotation holds what went into that key, as Image.Inputs, in JSON.
	InputsAnnotation = "dev.pipegen.inputs"
	// BasesAnnotation lists what the image was built on, as JSON: a list of
	// REF@DIGEST, or a map from platform to such a list where they differ.
	BasesAnnotation = "dev.pipegen.bases"
	// HeadLabel is what a build calls CommitAnnotation.
	HeadLabel = "dev.pipegen.head"
)

// Publication is what a manifest in a registry says of the publication that
// put it there. What it does not say is empty.
type Publication struct {
	registry.Descriptor
	Commit             string
	Committed, Created time.Time
	Pipeline           string
	Key                string
	Inputs             map[string]string
	Bases              []Base
	// Commit that the image's labels give as that of its source, which is in
	// this repository or in an upstream one.
	Revision string
}

// ReadPublication reads what a tag or digest holds, and what that says of
// itself: by its annotations, or, where it has none of pipegen's (a bare
// manifest, a Docker list), by the labels of the first of its images that has
// some. The error is
// registry.ErrNotFound when it is not there.
func ReadPublication(ctx context.Context, c *registry.Client, ref string) (*Publication, error) {
	held, raw, err := c.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return PublicationOf(ctx, c, ref, held, raw)
}

// PublicationOf is ReadPublication for a manifest that was read already. ref
// tells the repository. A manifest of somebody else's says nothing.
func PublicationOf(ctx context.Context, c *registry.Client, ref string, held registry.Descriptor, raw []byte) (*Publication, error) {
	p := &Publication{Descriptor: held}
	var m struct {
		Annotations map[string]string `json:"annotations"`
		Manifests   []struct {
			MediaType string `json:"mediaType"`
			Digest    string `json:"digest"`
			Platform  struct {
				OS string `json:"os"`
			} `json:"platform"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return p, nil //nolint:nilerr // as the comment says
	}
	if m.Annotations[CommitAnnotation] != "" {
		p.annotated(m.Annotations)
		return p, nil
	}
	r, err := registry.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if !registry.IsIndex(held.MediaType) {
		return p, p.readLabels(ctx, c, r, raw)
	}
	asked := 0
	for _, child := range m.Manifests {
		if !registry.IsImage(child.MediaType) || child.Platform.OS == "unknown" { // an attestation
			continue
		}
		if asked++; asked > mostChildren {
			break
		}
		_, raw, err := c.Get(ctx, r.Repository()+"@"+child.Digest)
		if err == nil {
			err = p.readLabels(ctx, c, r, raw)
		}
		if err = unlessGone(err); err != nil || p.Commit != "" || p.Revision != "" || !p.Created.IsZero() {
			return p, err
		}
	}
	return p, nil
}

// mostChildren is how many images of an index are asked for labels.
const mostChildren = 3

// readLabels reads what the labels of an image say, whose manifest is raw.
func (p *Publication) readLabels(ctx context.Context, c *registry.Client, r registry.Reference, raw []byte) error {
	config, err := c.Config(ctx, r.Repository(), raw)
	if err != nil {
		return unlessGone(err)
	}
	p.labelled(config.Labels)
	return nil
}

func (p *Publication) annotated(a map[string]string) {
	p.Commit, p.Pipeline, p.Key = a[CommitAnnotation], a[PipelineAnnotation], a[KeyAnnotation]
	p.Committed, p.Created = parseTime(a[CommittedAnnotation]), parseTime(a[CreatedAnnotation])
	if json.Unmarshal([]byte(a[InputsAnnotation]), &p.Inputs) != nil {
		p.Inputs = nil
	}
	p.Bases = parseBases(a[BasesAnnotation])
}

func (p *Publication) labelled(l map[string]string) {
	if l[CommitAnnotation] != "" {
		p.annotated(l)
	} else {
		p.Commit, p.Key, p.Created = l[HeadLabel], l[KeyAnnotation], parseTime(l["org.opencontainers.image.created"])
		p.Revision = l["org.opencontainers.image.revision"]
	}
	if json.Unmarshal([]byte(l[BasesAnnotation]), &p.Bases) != nil {
		p.Bases = nil
	}
}

// BasesOf gives what annotations of an index say that it was built on, each
// base once.
func BasesOf(annotations map[string]string) []Base { return parseBases(annotations[BasesAnnotation]) }

// parseBases reads BasesAnnotation, each base once.
func parseBases(s string) []Base {
	lists := map[string][]string{}
	var one []string
	if json.Unmarshal([]byte(s), &one) == nil {
		lists[""] = one
	} else if json.Unmarshal([]byte(s), &lists) != nil {
		return nil
	}
	var bases []Base
	seen := map[string]bool{}
	for _, platform := range slices.Sorted(maps.Keys(lists)) {
		for _, entry := range lists[platform] {
			if at := strings.LastIndexByte(entry, '@'); at > 0 && !seen[entry] {
				seen[entry] = true
				bases = append(bases, Base{Ref: entry[:at], Digest: entry[at+1:]})
			}
		}
	}
	return bases
}

// parseTime gives the zero time for what is none.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// unlessGone keeps errors of the connection: an image that is not there, or
// is no image, says nothing, but what could not be asked might have.
func unlessGone(err error) error {
	var e *registry.Error
	if err == nil || errors.Is(err, registry.ErrNotFound) || errors.As(err, &e) && e.Status == 0 && e.Unwrap() == nil {
		return nil
	}
	return err
}
