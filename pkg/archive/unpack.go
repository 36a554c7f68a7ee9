package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Whiteouts of the OCI image specification (layer.md): a file that hides one
// of a lower layer, one that hides all in its directory, and the prefix of
// AUFS's own files, which are nobody's.
const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh."
)

// Limits of a path in a layer; more is no use to any system, and would cost
// a file descriptor for each directory.
const (
	maxPath       = 4096
	maxComponents = 512
)

// Unpack writes the flattened file system of an image to dir. A directory that
// is there already is replaced whole.
//
// Layers are applied one upon the other, whiteouts of each before its
// files. Symbolic links are written as text and never followed: an entry
// whose parent is a symbolic link in a lower layer gets a directory in its
// place, as on overlay file systems. Absolute names count from dir; names and
// hard links that lead out of it are errors.
//
// Modes and times are kept, extended attributes where the system lets. Run as
// root, owners, setuid and setgid bits and device nodes are too; run as another
// user, everything belongs to that user and devices are left out. say takes
// a line about what was left out, safe for a log; it may be nil.
func Unpack(ctx context.Context, dir string, img v1.Image, say func(line string)) error {
	return unpack(ctx, dir, img, say, os.Geteuid() == 0)
}

func unpack(ctx context.Context, dir string, img v1.Image, say func(line string), asRoot bool) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	if !m.Config.MediaType.IsConfig() {
		return fmt.Errorf("unpacking to %s: no image with a file system: its config is a %q", quote.Text(dir), quote.Text(string(m.Config.MediaType)))
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("unpacking to %s: the config has %d diff IDs for %d layers", quote.Text(dir), len(config.RootFS.DiffIDs), len(layers))
	}
	return replaceDir(dir, func(tmp string) error {
		t, err := newTree(tmp, asRoot, say)
		if err != nil {
			return err
		}
		defer t.close()
		for n, l := range layers {
			if err := t.layer(ctx, l, config.RootFS.DiffIDs[n], n == 0, filepath.Dir(tmp)); err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				digest, _ := l.Digest()
				return fmt.Errorf("layer %s: %w", digest, err)
			}
		}
		return t.finish()
	})
}

// layer applies a layer. Whiteouts hide only what lower layers have, wherever
// they stand, so that a layer above others is read twice: once from its
// source, which may be a registry, and then from disk.
func (t *tree) layer(ctx context.Context, l v1.Layer, diffID v1.Hash, lowest bool, dir string) error {
	source, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer source.Close()
	plain := newHashing(canceling{ctx, source})
	if lowest {
		if err := eachOf(ctx, plain, t.write); err != nil {
			return err
		}
		return checkDiffID(plain, diffID)
	}
	s, err := newSpool(dir)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := eachOf(ctx, io.TeeReader(plain, s), t.hide); err != nil {
		return err
	}
	if err := checkDiffID(plain, diffID); err != nil {
		return err
	}
	return eachOf(ctx, s.section().open(), t.write)
}

// eachOf calls f with each entry of a layer, and reads what follows them.
func eachOf(ctx context.Context, r io.Reader, f func(name string, h *tar.Header, data io.Reader) error) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("reading its tar: %w", err)
		}
		name, err := inside(h.Name)
		if err == nil {
			err = f(name, h, canceling{ctx, in}) // also in holes, which nothing is read for
		}
		if err != nil {
			return fmt.Errorf("entry %s: %w", quote.Text(shorten(h.Name)), err)
		}
	}
}

func checkDiffID(plain *hashing, want v1.Hash) error {
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	if got := plain.digest(); got != want {
		return fmt.Errorf("its diff ID is %s instead of %s", got, want)
	}
	return nil
}

// inside gives the clean path of a name in a layer, relative to its root.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case len(clean) > maxPath || strings.Count(clean, "/") >= maxComponents:
		return "", errors.New("the path is too long")
	case strings.ContainsRune(name, 0):
		return "", errors.New("the path contains a NUL")
	case !filepath.IsLocal(filepath.FromSlash(clean)):
		return "", errors.New("the path leads out of the image")
	}
	return clean, nil
}

// shorten keeps a hostile name from filling a log.
func shorten(name string) string {
	const longest = 200
	if len(name) <= longest {
		return name
	}
	return strings.ToValidUTF8(name[:longest], "") + "…"
}

// hide removes what a whiteout hides.
func (t *tree) hide(name string, _ *tar.Header, _ io.Reader) error {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	switch {
	case base == whiteoutOpaque:
		return t.clear(dir)
	case strings.HasPrefix(base, whiteoutAUFS) || !strings.HasPrefix(base, whiteout):
		return nil
	}
	hidden, err := inside(path.Join(dir, strings.TrimPrefix(base, whiteout)))
	if err != nil || path.Dir(hidden) != dir || hidden == "." {
		return errors.New("the whiteout names no file in its directory")
	}
	return t.remove(hidden)
}

// write writes one entry.
func (t *tree) write(name string, h *tar.Header, data io.Reader) error {
	if strings.HasPrefix(path.Base(name), whiteout) {
		return nil
	}
	if name == "." {
		if h.Typeflag == tar.TypeDir {
			t.top = h
		}
		return nil
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	d, err := t.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return t.directory(d, name, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return t.file(d, base, h, data)
	case tar.TypeLink:
		return t.link(d, name, h.Linkname)
	case tar.TypeSymlink:
		if err := d.free(base); err != nil {
			return err
		}
		if err := d.root.Symlink(h.Linkname, base); err != nil {
			return bare(err)
		}
		return t.own(d, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return t.node(d, name, h)
	}
	t.note("entries of unknown type", fmt.Sprintf("left out %s: entries of type %q are not known", quote.Text(name), h.Typeflag))
	return nil
}
