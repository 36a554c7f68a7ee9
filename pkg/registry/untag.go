package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"
	public "github.com/aws/aws-sdk-go-v2/service/ecrpublic/types"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Untag removes a tag by its name: by DELETE (OCI distribution specification
// 1.1, "Deleting tags"), in ECR by its API. What it named stays, unless the
// registry sees that otherwise; callers look. The error is ErrUnsupported when
// the registry removes no tags by name, and ErrNotFound when there is none.
// A digest is refused: it would take all tags with it.
func (c *Client) Untag(ctx context.Context, ref string) error {
	const op = "removing the tag"
	r, err := parseManifest(ref)
	if err != nil {
		return err
	}
	if r.Digest != "" {
		return failure.Input("%s: %q names a digest", op, ref)
	}
	if isECR(r.Host) {
		err := c.untagECR(ctx, r)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s %s: %w", op, r, context.Cause(ctx))
		case is[ecrRefusal](err):
			return &Error{Op: op, Ref: r.String(), Message: line(err.Error())}
		case denied(err):
			return failure.WithHint(explainAWS(op, r.String(), err), "AWS has to allow ecr:BatchDeleteImage (of ecr-public the same)")
		}
		return explainAWS(op, r.String(), err)
	}
	resp, err := c.do(ctx, http.MethodDelete, r, "manifests/"+r.Tag, http.Header{}, nil, true)
	if err != nil {
		return c.explain(ctx, op, r, err)
	}
	defer drain(resp)
	err = transport.CheckError(resp, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
	if te, ok := errors.AsType[*transport.Error](err); ok && removesNoTags(te) {
		return failure.WithHint(&Error{Op: op, Ref: r.String(), Status: te.StatusCode, Message: said(te), err: ErrUnsupported},
			"this registry removes no tags by name: deleting must be on, or its own retention rules do it")
	}
	if err != nil {
		return c.explain(ctx, op, r, err)
	}
	return nil
}

// removesNoTags recognises how registries say that they delete nothing, or
// manifests by digest alone.
func removesNoTags(te *transport.Error) bool {
	switch te.StatusCode {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest, http.StatusNotFound:
		for _, d := range te.Errors {
			if d.Code == transport.UnsupportedErrorCode || d.Code == transport.DigestInvalidErrorCode {
				return true
			}
		}
	}
	return false
}

// untagECR removes a tag by the API, which keeps the last tag of an image that
// an index holds.
func (c *Client) untagECR(ctx context.Context, r Reference) error {
	cfg, host, err := c.aws.config(ctx, r.Host, c.getenv)
	if err != nil {
		return err
	}
	if host.public {
		cfg.Region = publicRegion
		_, path, _ := strings.Cut(r.Path, "/") // without the registry's alias
		out, err := ecrpublic.NewFromConfig(cfg).BatchDeleteImage(ctx, &ecrpublic.BatchDeleteImageInput{
			RepositoryName: &path, ImageIds: []public.ImageIdentifier{{ImageTag: &r.Tag}},
		})
		if err != nil || len(out.Failures) == 0 {
			return err
		}
		return refusalOf(string(out.Failures[0].FailureCode), out.Failures[0].FailureReason)
	}
	out, err := ecr.NewFromConfig(cfg).BatchDeleteImage(ctx, &ecr.BatchDeleteImageInput{
		RegistryId: &host.account, RepositoryName: &r.Path, ImageIds: []types.ImageIdentifier{{ImageTag: &r.Tag}},
	})
	if err != nil || len(out.Failures) == 0 {
		return err
	}
	return refusalOf(string(out.Failures[0].FailureCode), out.Failures[0].FailureReason)
}

// ecrRefusal is why ECR keeps a tag.
type ecrRefusal string

func (e ecrRefusal) Error() string { return string(e) }

func refusalOf(code string, reason *string) error {
	text := code
	if reason != nil {
		text += ": " + *reason
	}
	switch code {
	case string(types.ImageFailureCodeImageNotFound):
		return nil // somebody else was first
	case string(types.ImageFailureCodeImageReferencedByManifestList):
		return ecrRefusal("ECR keeps the last tag of an image that an index holds (" + text + ")")
	}
	return ecrRefusal(text)
}
