package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxManifest is what registries accept at most (OCI distribution
// specification: at least 4 MiB should be).
const maxManifest = 4 << 20

// manifestTypes are the media types that a manifest may have.
var manifestTypes = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
}, ", ")

// IsIndex says whether a media type is that of an OCI index or a Docker
// manifest list.
func IsIndex(mediaType string) bool { return types.MediaType(mediaType).IsIndex() }

// IsImage says whether a media type is that of an image's manifest.
func IsImage(mediaType string) bool { return types.MediaType(mediaType).IsImage() }

// Head asks what a tag or digest holds, without its bytes. For a tag, that is
// the registry's word; Get verifies. errors.Is(err, ErrNotFound) when there
// is no such manifest or repository.
func (c *Client) Head(ctx context.Context, ref string) (Descriptor, error) {
	const op = "looking up"
	r, err := parseManifest(ref)
	if err != nil {
		return Descriptor{}, err
	}
	resp, err := c.do(ctx, http.MethodHead, r, "manifests/"+r.identifier(), http.Header{"Accept": {manifestTypes}}, nil, false)
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, r, err)
	}
	defer drain(resp)
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return Descriptor{}, c.explain(ctx, op, r, err)
	}
	d := Descriptor{MediaType: mediaType(resp.Header), Digest: resp.Header.Get("Docker-Content-Digest"), Size: resp.ContentLength}
	if d.MediaType == "" || d.Size < 0 || !digestPattern.MatchString(d.Digest) {
		// Both headers are optional in the specification.
		d, _, err = c.Get(ctx, ref)
		return d, err
	}
	if r.Digest != "" && d.Digest != r.Digest {
		return Descriptor{}, &Error{Op: op, Ref: r.String(), Message: "the registry answers with the digest " + d.Digest}
	}
	return d, nil
}

// Get fetches a manifest, at most 4 MiB. Its bytes are those of the digest
// that it returns, and of the one that was asked for.
func (c *Client) Get(ctx context.Context, ref string) (Descriptor, []byte, error) {
	const op = "reading"
	r, err := parseManifest(ref)
	if err != nil {
		return Descriptor{}, nil, err
	}
	header, raw, err := c.fetch(ctx, r, "manifests/"+r.identifier(), manifestTypes)
	if err != nil {
		return Descriptor{}, nil, c.explain(ctx, op, r, err)
	}
	d := Descriptor{MediaType: mediaType(header), Digest: digestLike(r.Digest, raw), Size: int64(len(raw))}
	bad := func(format string, args ...any) (Descriptor, []byte, error) {
		return Descriptor{}, nil, &Error{Op: op, Ref: r.String(), Message: fmt.Sprintf(format, args...)}
	}
	if r.Digest != "" && d.Digest != r.Digest {
		return bad("the bytes that the registry sent have the digest %s", d.Digest)
	}
	if said := header.Get("Docker-Content-Digest"); r.Digest == "" && digestPattern.MatchString(said) && said != digestLike(said, raw) {
		return bad("the registry says that the digest is %s, but its bytes have %s", said, d.Digest)
	}
	if !IsIndex(d.MediaType) && !IsImage(d.MediaType) {
		return bad("media type %q is neither that of an image nor of an index", quote.Text(d.MediaType))
	}
	return d, raw, nil
}

// Put writes a manifest under a tag or its digest. When the registry refuses
// since the tag may not be moved, the error is an *ImmutableError; when
// such a tag holds these bytes already, that is no error.
func (c *Client) Put(ctx context.Context, ref, mediaType string, raw []byte) (Descriptor, error) {
	const op = "writing"
	r, err := parseManifest(ref)
	if err != nil {
		return Descriptor{}, err
	}
	d := Descriptor{MediaType: mediaType, Digest: digestLike(r.Digest, raw), Size: int64(len(raw))}
	if r.Digest != "" && r.Digest != d.Digest {
		return Descriptor{}, &Error{Op: op, Ref: r.String(), Message: "the bytes to be written have the digest " + d.Digest}
	}
	if len(raw) > maxManifest {
		return Descriptor{}, &Error{Op: op, Ref: r.String(), Message: fmt.Sprintf("the manifest has %d bytes, more than the %d that registries take", len(raw), maxManifest)}
	}
	resp, err := c.do(ctx, http.MethodPut, r, "manifests/"+r.identifier(), http.Header{"Content-Type": {mediaType}}, raw, true)
	if err != nil {
		return Descriptor{}, c.explain(ctx, op, r, err)
	}
	defer drain(resp)
	if err := transport.CheckError(resp, http.StatusOK, http.StatusCreated, http.StatusAccepted); err != nil {
		if r.Digest == "" && refuses(err) {
			held, herr := c.Head(ctx, ref)
			switch {
			case herr != nil:
			case held.Digest == d.Digest:
				return d, nil
			case c.immovable(ctx, r, mediaType, raw, err):
				return Descriptor{}, &ImmutableError{Tag: r.String(), Holds: held.Digest, Wanted: d.Digest, Said: refusal(err)}
			}
		}
		return Descriptor{}, c.explain(ctx, op, r, err)
	}
	if said := resp.Header.Get("Docker-Content-Digest"); digestPattern.MatchString(said) && said != digestLike(said, raw) {
		return Descriptor{}, &Error{Op: op, Ref: r.String(), Message: fmt.Sprintf("the registry stored the digest %s instead of %s", said, d.Digest)}
	}
	return d, nil
}

// parseManifest reads a reference that names one manifest.
func parseManifest(ref string) (Reference, error) {
	r, err := ParseReference(ref)
	if err == nil && r.identifier() == "" {
		err = failure.Input("reference %q names neither a tag nor a digest", ref)
	}
	return r, err
}

// do sends one request to a path below the repository.
func (c *Client) do(ctx context.Context, method string, r Reference, path string, header http.Header, body []byte, push bool) (*http.Response, error) {
	client, err := c.open(ctx, r, push)
	if err != nil {
		return nil, err
	}
	// The transport puts in the scheme that the ping found.
	req, err := http.NewRequestWithContext(ctx, method, "https://"+r.Host+"/v2/"+r.Path+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(body))
	}
	req.Header = header
	return client.Do(req)
}

// fetch reads what may be as large as a manifest.
func (c *Client) fetch(ctx context.Context, r Reference, path, accept string) (http.Header, []byte, error) {
	return c.fetchUpTo(ctx, r, path, accept, maxManifest)
}

// fetchUpTo reads a body of at most that many bytes whole, and again when the
// connection breaks in the middle of it.
func (c *Client) fetchUpTo(ctx context.Context, r Reference, path, accept string, most int64) (http.Header, []byte, error) {
	const attempts = 3
	for attempt := 0; ; attempt++ {
		resp, err := c.do(ctx, http.MethodGet, r, path, http.Header{"Accept": {accept}}, nil, false)
		if err != nil {
			return nil, nil, err
		}
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			_ = resp.Body.Close()
			return nil, nil, err
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
		_ = resp.Body.Close()
		switch {
		case err == nil && int64(len(raw)) > most:
			return nil, nil, fmt.Errorf("answered with more than %d bytes", most)
		case err == nil:
			return resp.Header, raw, nil
		case ctx.Err() != nil || attempt+1 == attempts || !broken(err):
			return nil, nil, err
		}
		if err := sleep(ctx, c.transport.pause(attempt, nil)); err != nil {
			return nil, nil, err
		}
	}
}

// mediaType gives the content type without its parameters.
func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// digestLike gives the digest of raw by the algorithm of another digest;
// sha256 when there is none.
func digestLike(other string, raw []byte) string {
	if strings.HasPrefix(other, "sha512:") {
		sum := sha512.Sum512(raw)
		return "sha512:" + hex.EncodeToString(sum[:])
	}
	return Digest(raw)
}

// Digest gives the sha256 digest of raw.
func Digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
