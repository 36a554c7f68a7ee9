package registry

import (
	"net"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Reference names a repository, and in it a tag, a digest, both or neither.
type Reference struct {
	// Host is the registry, host[:port]; docker.io is written index.docker.io.
	Host string
	// Path is the repository within the registry.
	Path   string
	Tag    string
	Digest string
}

// The grammar is that of the distribution project's references and of the OCI
// distribution specification.
var (
	hostPattern   = lazyregexp.New(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:.]+\])(?::[0-9]{1,5})?$`)
	pathPattern   = lazyregexp.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = lazyregexp.New(`^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

// maxName is the limit that the distribution specification's registries set
// for host and path together.
const maxName = 255

// ParseReference reads HOST[:PORT]/PATH[:TAG][@DIGEST]. Nothing is assumed: no
// tag means no tag, not "latest". As in Docker, a first part without a dot, a
// colon, or the name localhost is no host but belongs to a repository of
// Docker Hub. Errors wrap failure.ErrInput.
func ParseReference(s string) (Reference, error) {
	var r Reference
	rest, digest, digested := strings.Cut(s, "@")
	if digested && !digestPattern.MatchString(digest) {
		return Reference{}, failure.Input("reference %q: %q is no digest (sha256: and 64 hex digits)", s, digest)
	}
	r.Digest = digest
	// A colon starts a tag only after the last slash; before it stands a port.
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:colon], rest[colon+1:]
		if !tagPattern.MatchString(r.Tag) {
			return Reference{}, failure.Input("reference %q: %q is no tag", s, r.Tag)
		}
	}
	first, path, slash := strings.Cut(rest, "/")
	switch {
	case slash && (strings.ContainsAny(first, ".:") || first == "localhost"):
		r.Host, r.Path = first, path
	case slash:
		r.Host, r.Path = name.DefaultRegistry, rest
	default:
		r.Host, r.Path = name.DefaultRegistry, "library/"+rest
	}
	if r.Host == "docker.io" {
		r.Host = name.DefaultRegistry
		if !strings.Contains(r.Path, "/") {
			r.Path = "library/" + r.Path
		}
	}
	if !hostPattern.MatchString(r.Host) {
		return Reference{}, failure.Input("reference %q: %q is no registry host", s, r.Host)
	}
	if !pathPattern.MatchString(r.Path) {
		return Reference{}, failure.Input("reference %q: %q is no repository name (lower-case letters, digits, and . _ - / between them)", s, r.Path)
	}
	if len(r.Repository()) > maxName {
		return Reference{}, failure.Input("reference %q: longer than %d characters", s, maxName)
	}
	if _, err := name.NewRegistry(r.Host, name.StrictValidation); err != nil {
		return Reference{}, failure.Input("reference %q: %q is no registry host", s, r.Host)
	}
	return r, nil
}

// Repository gives host and path, without tag and digest.
func (r Reference) Repository() string { return r.Host + "/" + r.Path }

// String gives the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// identifier is what the API calls reference: the digest, else the tag.
func (r Reference) identifier() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// IsLoopback says whether host, with or without a port, can only be this
// machine: 127.0.0.0/8, ::1 or localhost.
func IsLoopback(host string) bool {
	host = hostname(host)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// hostname cuts the port and the brackets of an IPv6 address.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
