package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// contextKey is where a context is in the blob store.
func contextKey(digest string) string { return "contexts/" + strings.Replace(digest, ":", "/", 1) }

func onContext(digest string) []store.Key { return []store.Key{store.OnContext(digest)} }

func checkDigest(digest string) error {
	if !contextDigest.MatchString(digest) {
		return failure.Input("%s is no sha256 digest", quote.Text(digest))
	}
	return nil
}

// AnnounceContext says how to bring a context: not at all if it is there, in
// parts to signed addresses, or, where the blob store has none, in one part to
// the controller's own path.
func (c *Controller) AnnounceContext(ctx context.Context, r api.ContextRequest) (u api.ContextUpload, err error) {
	if err := checkDigest(r.Digest); err != nil {
		return u, err
	}
	if r.Size <= 0 {
		return u, failure.Input("a context has at least one byte, not %d", r.Size)
	}
	if u.Exists, err = c.haveContext(ctx, r.Digest); err != nil || u.Exists {
		return u, err
	}
	up, err := c.o.Blobs.Upload(ctx, contextKey(r.Digest), r.Size)
	if errors.Is(err, blob.ErrNotSigned) {
		u.PartSize, u.Parts = r.Size, []api.SignedURL{{URL: "/v1/contexts/" + r.Digest}}
		return u, nil
	}
	if err != nil {
		return u, fmt.Errorf("context %s: %w", r.Digest, err)
	}
	return api.ContextUpload{Upload: up.ID, PartSize: up.PartSize, Parts: up.Parts, Have: up.Have}, nil
}

// haveContext says whether a context is there, and that it is used. One that is
// being deleted is waited for.
func (c *Controller) haveContext(ctx context.Context, digest string) (bool, error) {
	leaving := false
	for range 50 {
		err := c.o.Store.Write(ctx, onContext(digest), func(tx *store.Tx) (err error) {
			if leaving, err = tx.ContextLeaves(digest); err != nil || leaving {
				return err
			}
			return tx.UseContext(digest, c.o.Now())
		})
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !leaving {
			break
		}
		if !pause(ctx, 100*time.Millisecond) {
			return false, ctx.Err()
		}
	}
	if leaving {
		return false, fmt.Errorf("%w: context %s is being deleted", ErrConflict, digest)
	}
	_, err := c.o.Blobs.Stat(ctx, contextKey(digest))
	if errors.Is(err, blob.ErrNotFound) { // somebody else has deleted it
		err = c.o.Store.Write(ctx, onContext(digest), func(tx *store.Tx) error { return tx.DropContext(digest) })
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("context %s: %w", digest, err)
	}
	return true, nil
}

// CompleteContext ends an upload to signed addresses. It reads what came: bytes
// with another digest are deleted, and a failure.ErrInput.
func (c *Controller) CompleteContext(ctx context.Context, digest string, r api.ContextComplete) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	// What one upload leaves must be known for good or bad before the next ends,
	// at this controller or another one.
	defer c.uploads.lock(digest)()
	for {
		first, err := c.o.Store.Lead(ctx, "complete "+digest, func(ctx context.Context) error { return c.completeContext(ctx, digest, r) })
		switch {
		case err != nil || first:
			return err
		case !pause(ctx, 200*time.Millisecond):
			return ctx.Err()
		}
	}
}

func (c *Controller) completeContext(ctx context.Context, digest string, r api.ContextComplete) error {
	if there, err := c.haveContext(ctx, digest); err != nil || there {
		return err
	}
	key := contextKey(digest)
	if err := c.o.Blobs.Complete(ctx, key, r.Upload, r.ETags); err != nil {
		if errors.Is(err, blob.ErrNotFound) {
			err = fmt.Errorf("%w: there is no such upload", ErrNotFound)
		}
		return fmt.Errorf("context %s: %w", digest, err)
	}
	body, _, err := c.o.Blobs.Get(ctx, key, 0)
	if err != nil {
		return fmt.Errorf("context %s: %w", digest, err)
	}
	in := &hashing{r: body, hash: sha256.New()}
	_, err = io.Copy(io.Discard, in)
	if err := errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("context %s: %w", digest, err)
	}
	if err := in.check(digest); err != nil {
		return errors.Join(err, c.o.Blobs.Delete(ctx, key))
	}
	return c.addContext(ctx, digest, in.size)
}

// ReceiveContext takes a context that is brought to the controller itself; size
// -1: not known. Bytes with another digest are a failure.ErrInput.
func (c *Controller) ReceiveContext(ctx context.Context, digest string, size int64, body io.Reader) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	if there, err := c.haveContext(ctx, digest); err != nil || there {
		return err
	}
	in := &hashing{r: body, hash: sha256.New(), digest: digest}
	if err := c.o.Blobs.Put(ctx, contextKey(digest), in, size); err != nil {
		return fmt.Errorf("context %s: %w", digest, err)
	}
	return c.addContext(ctx, digest, in.size)
}

func (c *Controller) addContext(ctx context.Context, digest string, size int64) error {
	return c.o.Store.Write(ctx, onContext(digest), func(tx *store.Tx) error { return tx.AddContext(digest, size, c.o.Now()) })
}

// OpenContext gives the context of a task to its agent, from an offset on.
// ErrNotFound: it has none; ErrGone: it has ended.
func (c *Controller) OpenContext(ctx context.Context, task string, offset int64) (io.ReadCloser, blob.Info, error) {
	var digest string
	err := c.o.Store.Read(ctx, func(tx *store.Tx) error {
		t, err := tx.Task(task)
		if err != nil {
			return fmt.Errorf("task %s: %w", quote.Text(task), err)
		}
		if t.State != api.Running {
			return fmt.Errorf("%w: task %s is %s", ErrGone, task, t.State)
		}
		r, err := tx.Run(t.Run)
		if err == nil && r.Context == "" {
			err = fmt.Errorf("task %s has no context: %w", task, ErrNotFound)
		}
		digest = r.Context
		return err
	})
	if err != nil {
		return nil, blob.Info{}, err
	}
	body, info, err := c.o.Blobs.Get(ctx, contextKey(digest), offset)
	if errors.Is(err, blob.ErrNotFound) {
		err = fmt.Errorf("%w: context %s", ErrGone, digest)
	}
	return body, info, err
}

// hashing hashes what is read. With a digest, the end is an error if the bytes
// do not have it, so that they are not kept.
type hashing struct {
	r      io.Reader
	hash   hash.Hash
	size   int64
	digest string
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.hash.Write(p[:n])
	h.size += int64(n)
	if errors.Is(err, io.EOF) && h.digest != "" {
		if err := h.check(h.digest); err != nil {
			return n, err
		}
	}
	return n, err
}

func (h *hashing) check(digest string) error {
	if got := "sha256:" + hex.EncodeToString(h.hash.Sum(nil)); got != digest {
		return failure.WithHint(failure.Input("the bytes are not those of context %s but of %s", digest, got), "the archive changed, or was damaged on its way")
	}
	return nil
}
