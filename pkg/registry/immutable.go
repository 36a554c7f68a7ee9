package registry

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ImmutableError says that a registry does not let a tag be moved.
type ImmutableError struct {
	// Tag is the whole reference, host/path:tag.
	Tag string
	// Holds is the digest that the tag has, Wanted the one it should have had.
	Holds, Wanted string
}

func (e *ImmutableError) Error() string {
	return fmt.Sprintf("tag %s is immutable and holds %s, not %s", e.Tag, e.Holds, e.Wanted)
}

// immutable knows how registries word the refusal: ECR ("cannot be
// overwritten because the repository is immutable",
// ImageTagAlreadyExistsException), Harbor ("configured as immutable"), Docker
// Hub and Quay ("immutable"), Google ("enabled tag immutability"), Alibaba
// ("already exists and cannot be overwritten"), Artifactory ("Not enough
// permissions to delete/overwrite"), Nexus ("does not allow updating"),
// Azure (locked images: "operation is disallowed"), and proxies in front of
// distribution and GHCR, which themselves have no immutable tags.
var immutable = regexp.MustCompile(`(?i)immutab|ImageTagAlreadyExists|cannot be overwritten|already exists?\b|permissions? to (delete/)?overwrite|needs DELETE permission|does not allow updating|operation is disallowed on this registry, repository or image|tag .*\b(is )?locked`)

// saysImmutable says whether err may be the refusal to move a tag; whether it
// is shows in what the tag holds.
func saysImmutable(err error) bool {
	var te *transport.Error
	if !errors.As(err, &te) {
		return false
	}
	switch te.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnauthorized:
	default:
		return false
	}
	return immutable.MatchString(te.Error()) || slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.TagInvalidErrorCode
	})
}
