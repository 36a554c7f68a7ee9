package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pipegen/pipegen/pkg/archive/content"
	"github.com/pipegen/pipegen/pkg/quote"
)

// The files by which a tar is known as an image.
const (
	dockerManifest = "manifest.json"
	layoutMarker   = "oci-layout"
	layoutIndex    = "index.json"
)

// maxEntries is how many files a tar with images may have.
const maxEntries = 100_000

// tarball is a tar on disk, not compressed, and where its files are in it.
type tarball struct {
	file    *os.File
	entries map[string]entry
}

// entry is where a file's bytes are, or what it is a link to.
type entry struct {
	offset, size int64
	link         string
	sparse       bool
}

// openTar reads a tar that may be compressed.
func (a *Archive) openTar(ctx context.Context, f *os.File) error {
	compression, _, err := content.Peek(io.NewSectionReader(f, 0, 4))
	if err != nil {
		return err
	}
	if compression != content.None {
		// Look whether it is worth the space before unpacking it.
		plain, err := content.Decompress(io.NopCloser(canceling{ctx, io.NewSectionReader(f, 0, 1<<62)}))
		if err != nil {
			return ErrNoImage
		}
		err = hasMarkers(ctx, plain)
		_ = plain.Close()
		if err != nil {
			return err
		}
		if f, err = a.decompressed(ctx, f); err != nil {
			return err
		}
	} else if err := hasMarkers(ctx, f); err != nil {
		return err
	}
	t := &tarball{file: f, entries: map[string]entry{}}
	if err := t.list(ctx); err != nil {
		return err
	}
	return a.openListed(ctx, t)
}

// openListed reads a tar as what its files say that it is.
func (a *Archive) openListed(ctx context.Context, t *tarball) error {
	_, marker := t.entries[layoutMarker]
	_, index := t.entries[layoutIndex]
	saved, err := t.saved()
	if err != nil {
		return err
	}
	if marker && index {
		if err := a.openLayout(t); err != nil {
			return err
		}
		if plain, err := a.uncompressed(); err != nil || saved == nil || len(a.found) > 0 && !plain {
			if err == nil {
				err = a.nameAsSaved(saved)
			}
			return err
		}
		a.found = nil
	}
	return a.openSaved(ctx, t, saved)
}

// hasMarkers says whether a tar can be an archive of images: ErrNoImage if it
// is no tar or has none of the files that make one.
func hasMarkers(ctx context.Context, r io.Reader) error {
	found := map[string]bool{}
	err := eachEntry(ctx, r, func(name string, _ *tar.Header) error {
		switch name {
		case dockerManifest, layoutMarker, layoutIndex:
			found[name] = true
		}
		return nil
	})
	if err == nil && !found[dockerManifest] && (!found[layoutMarker] || !found[layoutIndex]) {
		return ErrNoImage
	}
	return err
}

// eachEntry calls f with every entry of a tar and its clean name. What is no
// tar at all is ErrNoImage.
func eachEntry(ctx context.Context, r io.Reader, f func(name string, h *tar.Header) error) error {
	in := tar.NewReader(canceling{ctx, r})
	for first := true; ; first = false {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && first:
			return ErrNoImage
		case errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the tar is cut off")
		case err != nil:
			return fmt.Errorf("the tar is damaged: %s", quote.Text(err.Error()))
		}
		if err := f(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), h); err != nil {
			return err
		}
	}
}

// list notes where the files are. Of several with one name the last counts, as
// when a tar is unpacked.
func (t *tarball) list(ctx context.Context) error {
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return eachEntry(ctx, t.file, func(name string, h *tar.Header) error {
		var e entry
		switch h.Typeflag {
		case tar.TypeReg:
			// The tar reader reads headers block by block, and no further.
			at, err := t.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			e = entry{offset: at, size: h.Size, sparse: isSparse(h)}
		case tar.TypeGNUSparse:
			e = entry{sparse: true}
		case tar.TypeSymlink:
			e = entry{link: path.Join("/", path.Dir(name), h.Linkname)} //nolint:gosec // a key of entries, no path of this machine
		case tar.TypeLink:
			e = entry{link: path.Join("/", h.Linkname)} //nolint:gosec // the same
		default:
			return nil
		}
		if t.entries[name] = e; len(t.entries) > maxEntries {
			return fmt.Errorf("the archive has more than %d files", maxEntries)
		}
		return nil
	})
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// find gives a file by its name, following links within the archive.
func (t *tarball) find(name string) (entry, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	for range 10 {
		e, ok := t.entries[clean]
		switch {
		case !ok:
			return entry{}, fmt.Errorf("the archive lacks %s: %w", quote.Text(name), fs.ErrNotExist)
		case e.sparse:
			return entry{}, fmt.Errorf("%s is stored with holes, which is not supported", quote.Text(name))
		case e.link == "":
			return e, nil
		}
		clean = strings.TrimPrefix(e.link, "/")
	}
	return entry{}, fmt.Errorf("too many links from %s on", quote.Text(name))
}

// open opens a file of the archive; any number can be open at once.
func (t *tarball) open(name string) (io.ReadCloser, int64, error) {
	e, err := t.find(name)
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(io.NewSectionReader(t.file, e.offset, e.size)), e.size, nil
}

// readDocument reads a file of JSON.
func readDocument(src source, name string, into any) error {
	r, size, err := src.open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	if size > content.MaxDocument {
		return fmt.Errorf("%s has %d bytes, more than the %d that it may have", quote.Text(name), size, content.MaxDocument)
	}
	raw, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Text(name), err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %s", quote.Text(name), quote.Text(err.Error()))
	}
	return nil
}
