package attestation

import (
	"net/url"
	"strings"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Names that in-toto gives (https://github.com/in-toto/attestation/tree/main/spec/v1).
const (
	statementType       = "https://in-toto.io/Statement/v1"
	payloadType         = "application/vnd.in-toto+json"
	predicateAnnotation = "in-toto.io/predicate-type"
)

// buildType says how the parameters are to be read: as an image of pipegen's
// plan, whose schema pipegen schema plan prints.
const buildType = "https://github.com/pipegen/pipegen/plan/v1"

// statement is in-toto's Statement.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     any        `json:"predicate"`
}

// resource is in-toto's ResourceDescriptor.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// slsa is the predicate of SLSA's provenance, version 1.
type slsa struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   parameters     `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters,omitempty"`
		ResolvedDependencies []resource     `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version,omitempty"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string `json:"invocationId,omitempty"`
			StartedOn    string `json:"startedOn,omitempty"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

type parameters struct {
	// The image's part of the plan.
	Image *plan.Image `json:"image"`
}

// provenance states how an image was made. The same plan in the same pipeline
// gives the same bytes: times are the plan's, and a job that is repeated is
// still the same run.
func provenance(o Options, p *plan.Plan, img *plan.Image, subject registry.Descriptor, bases []plan.Base) statement {
	var s slsa
	d, r := &s.BuildDefinition, &s.RunDetails
	at := runOf(o.Getenv)
	d.BuildType = buildType
	d.ExternalParameters.Image = public(img)
	d.InternalParameters = map[string]any{"event": p.Event, "layout": p.Layout}
	d.ResolvedDependencies = materials(p, img, at, bases)
	r.Builder.ID, r.Builder.Version = at.builder, map[string]string{"pipegen": o.Version}
	r.Metadata.InvocationID = at.invocation
	if !p.Created.IsZero() {
		r.Metadata.StartedOn = p.Created.UTC().Format("2006-01-02T15:04:05Z")
	}
	return statement{Type: statementType, Subject: []resource{about(img, subject)}, PredicateType: Provenance, Predicate: s}
}

func about(img *plan.Image, subject registry.Descriptor) resource {
	return resource{Name: img.Repository, Digest: digestSet(subject.Digest)}
}

// public is the image without what a URL may carry beside an address.
func public(img *plan.Image) *plan.Image {
	out := *img
	if img.Source != nil {
		source := *img.Source
		source.Repo, out.Source = address(source.Repo), &source
	}
	return &out
}

// materials are what went into the image: the commit of this repository, that
// of the upstream one, and what it was built on.
func materials(p *plan.Plan, img *plan.Image, at run, bases []plan.Base) []resource {
	repository := at.repository
	if repository == "" {
		repository = local(p)
	}
	out := []resource{{Name: "repository", URI: gitURI(repository, ""), Digest: map[string]string{"gitCommit": p.Head}}}
	if img.Source != nil {
		out = append(out, resource{Name: "upstream", URI: gitURI(img.Source.Repo, img.Source.Ref), Digest: map[string]string{"gitCommit": img.Source.Commit}})
	}
	if img.Retag != "" {
		out = append(out, resource{Name: "publication", URI: imageURI(img.Repository, img.Retag), Digest: digestSet(img.Retag)})
	}
	for _, b := range bases {
		out = append(out, resource{Name: "base", URI: imageURI(b.Ref, b.Digest), Digest: digestSet(b.Digest)})
	}
	return out
}

// local gives the address of this repository as the labels of images that are
// made from it have it.
func local(p *plan.Plan) string {
	for i := range p.Images {
		if img := &p.Images[i]; img.Source == nil && len(img.Builds) > 0 {
			return img.Builds[0].Labels["org.opencontainers.image.source"]
		}
	}
	return ""
}

// address is a repository's URL without credentials; the user of ssh is none.
func address(repository string) string {
	u, err := url.Parse(repository)
	if err != nil || u.User == nil {
		return quote.URL(repository)
	}
	if _, secret := u.User.Password(); secret || u.Scheme != "ssh" {
		u.User = nil
	}
	return u.String()
}

// gitURI is the form that SLSA gives for a repository: git+https://HOST/PATH@REF.
func gitURI(repository, ref string) string {
	if repository == "" {
		return ""
	}
	u := address(repository)
	if !strings.Contains(u, "://") { // as in git@host:path
		if host, path, ok := strings.Cut(u, ":"); ok && !strings.HasPrefix(u, "/") {
			u = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
		} else {
			u = "file://" + u
		}
	}
	if ref != "" {
		u += "@" + ref
	}
	return "git+" + u
}

// imageURI is a package URL of type oci
// (https://github.com/package-url/purl-spec/blob/main/types-doc/oci-definition.md).
// What is no reference is given as it is.
func imageURI(ref, digest string) string {
	r, err := registry.ParseReference(ref)
	if err != nil {
		return ref
	}
	name := r.Path[strings.LastIndexByte(r.Path, '/')+1:]
	host := r.Host
	if host == "index.docker.io" {
		host = "docker.io"
	}
	uri := "pkg:oci/" + name
	if digest != "" {
		uri += "@" + strings.ReplaceAll(digest, ":", "%3A")
	}
	uri += "?repository_url=" + strings.ReplaceAll(url.QueryEscape(host+"/"+r.Path), "%2F", "/")
	if r.Tag != "" {
		uri += "&tag=" + r.Tag
	}
	return uri
}

func digestSet(digest string) map[string]string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		return nil
	}
	return map[string]string{algorithm: hex}
}
