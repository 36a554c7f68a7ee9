// Package archive reads and writes images as files: archives as docker save
// makes them, OCI image layouts as tar or directory, and the bare file system.
// Everything streams; what is written appears whole or not at all.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/pkg/quote"
)

// ErrNoImage is what errors of Open are when there is a readable file or
// directory that holds no image.
var ErrNoImage = errors.New("holds no image")

// Found is an image in an archive or a layout.
type Found struct {
	// Image reads from the archive, and verifies every blob as it is read.
	Image v1.Image
	// Names are the reference names that the archive gives the image, as they
	// are written there: RepoTags, else io.containerd.image.name, else
	// org.opencontainers.image.ref.name, which is often a tag alone. May be
	// empty.
	Names []string
	// Index is the index that holds the image together with its attestations;
	// nil if there are none.
	Index v1.ImageIndex
}

// Archive is an open archive or layout.
type Archive struct {
	found []Found

	mu     sync.Mutex
	closed bool
	files  []io.Closer
}

// Images gives the images in the archive's order. One that is listed under
// several names is one image with several names.
func (a *Archive) Images() []Found { return slices.Clone(a.found) }

// Close releases the files. The images cannot be read any more.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	var errs []error
	for _, f := range slices.Backward(a.files) {
		errs = append(errs, f.Close())
	}
	a.files = nil
	return errors.Join(errs...)
}

// keep has a file closed with the archive.
func (a *Archive) keep(f io.Closer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files = append(a.files, f)
}

// Open reads what is at path: an archive of docker save, an OCI image layout
// as a tar (either may be compressed with gzip or zstd), or as a directory.
//
// A tar that is both, as Docker has written them since version 25, is read as
// a layout, whose manifests keep their digests, unless its layers are not
// compressed; the RepoTags count then too. Layers that are not compressed get
// compressed with gzip in archives of docker save, since that is what one wants to
// push; Open reads all layers of such an archive once, and keeps compressed
// ones in temporary files until Close.
//
// What holds no image gives an error that is ErrNoImage; what is damaged gives
// another, with the path.
func Open(ctx context.Context, path string) (*Archive, error) {
	a := &Archive{}
	err := a.open(ctx, path)
	if err == nil && len(a.found) == 0 {
		err = ErrNoImage
	}
	if err != nil {
		_ = a.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("reading %s: %w", quote.Text(path), err)
	}
	return a, nil
}

func (a *Archive) open(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return withoutPath(err)
	case info.IsDir():
		return a.openDir(path)
	case !info.Mode().IsRegular():
		return ErrNoImage // opening a pipe would wait for its other end
	}
	f, err := os.Open(path)
	if err != nil {
		return withoutPath(err)
	}
	a.keep(f)
	return a.openTar(ctx, f)
}

// add takes an image in, or the names of one that is there already.
func (a *Archive) add(found Found) error {
	digest, err := found.Image.Digest()
	if err != nil {
		return err
	}
	for n := range a.found {
		have := &a.found[n]
		if d, err := have.Image.Digest(); err != nil || d != digest || !sameIndex(have.Index, found.Index) {
			continue
		}
		for _, name := range found.Names {
			if !slices.Contains(have.Names, name) {
				have.Names = append(have.Names, name)
			}
		}
		return nil
	}
	a.found = append(a.found, found)
	return nil
}

func sameIndex(a, b v1.ImageIndex) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	x, errX := a.Digest()
	y, errY := b.Digest()
	return errX == nil && errY == nil && x == y
}

// withoutPath gives a system's error without the path, which the caller adds.
func withoutPath(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// canceling ends reading when the context ends.
type canceling struct {
	ctx context.Context
	r   io.Reader
}

func (c canceling) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Seek seeks if the reader can; archive/tar uses it to skip.
func (c canceling) Seek(offset int64, whence int) (int64, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	if s, ok := c.r.(io.Seeker); ok {
		return s.Seek(offset, whence)
	}
	return 0, errors.ErrUnsupported
}
