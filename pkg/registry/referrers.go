package registry

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ErrUnsupported is what errors of Referrers and Untag are when the registry
// does not have that part of the API.
var ErrUnsupported = errors.New("the registry does not support it")

// Referrers gives the list of manifests that refer to a digest, by the API
// of the OCI distribution specification 1.1. ErrUnsupported where the registry
// has no such API: the list is then under a tag that clients keep.
func (c *Client) Referrers(ctx context.Context, ref string) (*v1.IndexManifest, error) {
	const op = "listing what refers to"
	r, err := parseManifest(ref)
	if err != nil {
		return nil, err
	}
	header, raw, err := c.fetch(ctx, r, "referrers/"+r.identifier(), string(types.OCIImageIndex))
	if te, ok := errors.AsType[*transport.Error](err); ok {
		switch te.StatusCode {
		// The specification says 404; the others are older registries'.
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable:
			return nil, &Error{Op: op, Ref: r.String(), Message: ErrUnsupported.Error(), err: ErrUnsupported}
		}
	}
	if err != nil {
		return nil, c.explain(ctx, op, r, err)
	}
	if mediaType(header) != string(types.OCIImageIndex) {
		return nil, &Error{Op: op, Ref: r.String(), Message: ErrUnsupported.Error(), err: ErrUnsupported}
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, c.explain(ctx, op, r, err)
	}
	return index, nil
}
