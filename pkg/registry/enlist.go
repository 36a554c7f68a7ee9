package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// How often the list under the fallback tag is written when others write it
	// too, how often the registry's own is looked at until it shows what was
	// written, and the first pause, which doubles up to the longest.
	entries        = 12
	listLooks      = 4
	firstListing   = 100 * time.Millisecond
	longestListing = 2 * time.Second
)

// ListReferrers gives the manifests that refer to a digest (ref is
// repository@digest): by the registry's own list, or, where it keeps none, by
// the one that clients keep under a tag (OCI distribution specification 1.1,
// "Referrers Tag Schema"). Nothing that refers to it is an empty list.
func (c *Client) ListReferrers(ctx context.Context, ref string) (*v1.IndexManifest, error) {
	index, _, _, err := c.referrers(ctx, ref)
	return index, err
}

// referrers gives the list. native says whether the registry keeps it;
// otherwise it is that of the fallback tag, whose digest is held.
func (c *Client) referrers(ctx context.Context, ref string) (index *v1.IndexManifest, native bool, held string, err error) {
	index, err = c.Referrers(ctx, ref)
	if !errors.Is(err, ErrUnsupported) {
		return index, true, "", err
	}
	index, held, err = c.taggedReferrers(ctx, ref)
	return index, false, held, err
}

// taggedReferrers reads the list under the fallback tag; an empty one where
// there is none.
func (c *Client) taggedReferrers(ctx context.Context, ref string) (*v1.IndexManifest, string, error) {
	tag, err := referrersTag(ref)
	if err != nil {
		return nil, "", err
	}
	held, raw, err := c.Get(ctx, tag)
	if errors.Is(err, ErrNotFound) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil || !IsIndex(held.MediaType) {
		return nil, "", fmt.Errorf("%s, which should list what refers to %s, holds something else", tag, ref)
	}
	return index, held.Digest, nil
}

// referrersTag is the reference of the tag that lists referrers where the
// registry does not.
func referrersTag(ref string) (string, error) {
	r, err := ParseReference(ref)
	if err == nil && r.Digest == "" {
		err = failure.Input("reference %q names no digest", ref)
	}
	return r.Repository() + ":" + strings.Replace(r.Digest, ":", "-", 1), err
}

// Enlist sees to it that d, which is there and refers to ref
// (repository@digest), is listed: by the registry itself, or under the fallback
// tag where it has no list, or one that stays empty. What others entered there
// stays.
func (c *Client) Enlist(ctx context.Context, ref string, d v1.Descriptor) error {
	pause := firstListing
	for look := range entries {
		index, native, held, err := c.referrers(ctx, ref)
		if err == nil && native && look >= listLooks-1 && !lists(index, d.Digest) {
			index, held, err = c.taggedReferrers(ctx, ref)
			native = false
		}
		if err != nil || lists(index, d.Digest) {
			return err
		}
		if !native {
			if err := c.enter(ctx, ref, index, d, held); err != nil {
				return err
			}
		}
		if err := sleep(ctx, pause/2+rand.N(pause)); err != nil { //nolint:gosec // jitter
			return err
		}
		pause = min(2*pause, longestListing)
	}
	return fmt.Errorf("the list of what refers to %s: others overwrote it %d times", ref, entries)
}

// enter adds an entry to the list under the fallback tag. What others enter at
// the same moment they find missing, as Enlist does ours.
func (c *Client) enter(ctx context.Context, ref string, index *v1.IndexManifest, d v1.Descriptor, held string) error {
	tag, err := referrersTag(ref)
	if err != nil {
		return err
	}
	index.Manifests = append(index.Manifests, d)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if now, err := c.Head(ctx, tag); err == nil && now.Digest != held {
		return nil // read it again
	}
	_, err = c.Put(ctx, tag, string(types.OCIImageIndex), raw)
	return err
}

func lists(index *v1.IndexManifest, digest v1.Hash) bool {
	return slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == digest })
}
