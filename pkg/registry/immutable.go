package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// ImmutableError says that a registry does not let a tag be moved.
type ImmutableError struct {
	// Tag is the whole reference, host/path:tag.
	Tag string
	// Holds is the digest that the tag has, Wanted the one it should have had.
	Holds, Wanted string
	// Said is how the registry refused, in one line.
	Said string
}

func (e *ImmutableError) Error() string {
	return fmt.Sprintf("tag %s is immutable and holds %s, not %s (the registry says %s)", e.Tag, e.Holds, e.Wanted, e.Said)
}

// immutable knows how registries word the refusal: ECR and ECR Public
// ("already exists … and cannot be overwritten because the repository is
// immutable", ImageTagAlreadyExistsException), Harbor ("configured as
// immutable"), Docker Hub ("already assigned to an image in this repository and
// cannot be updated due to immutability settings"), DTR, Quay and GitLab
// ("immutable"), Google ("enabled tag immutability"), Alibaba ("already exists
// and cannot be overwritten"), Artifactory ("Not enough permissions to
// delete/overwrite … needs DELETE permission"), Nexus ("does not allow
// updating"), Azure (locked images: "operation is disallowed").
var immutable = lazyregexp.New(`(?i)immutab|ImageTagAlreadyExists|cannot be overwritten|already exists?\b|permissions? to (delete/)?overwrite|needs DELETE permission|does not allow updating|operation is disallowed on this registry, repository or image|tag .*\b(is )?locked`)

// refuses says whether err may be the refusal to move a tag; whether it is
// shows in what the tag holds.
func refuses(err error) bool {
	te, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return false
	}
	switch te.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed, http.StatusLocked:
		return true
	}
	return false
}

// saysImmutable says whether a refusal has the words for it.
func saysImmutable(err error) bool {
	te, ok := errors.AsType[*transport.Error](err)
	return ok && (immutable.MatchString(te.Error()) || slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.TagInvalidErrorCode
	}))
}

// immovable says whether the refusal to write a manifest under a tag that holds
// another is for the tag's sake: by the words, or, since GHCR, Artifactory and
// proxies in front of distribution say no more than "denied", by the same
// manifest being taken under its digest.
func (c *Client) immovable(ctx context.Context, r Reference, mediaType string, raw []byte, err error) bool {
	if saysImmutable(err) {
		return true
	}
	r.Tag, r.Digest = "", Digest(raw)
	_, perr := c.Put(ctx, r.String(), mediaType, raw)
	return perr == nil
}

// refusal gives status and words of one.
func refusal(err error) string {
	te, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return line(err.Error())
	}
	return (&Error{Status: te.StatusCode, Message: said(te)}).said()
}
