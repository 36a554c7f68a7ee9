package buildcontext

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// ErrDigest is wrapped by errors of Unpack when the archive is not the one
// that was announced: what brought it failed, and another attempt may help.
var ErrDigest = errors.New("the context's archive has another digest")

// Limits of archives.
const (
	// DefaultMaxBytes and DefaultMaxFiles hold where options have 0.
	DefaultMaxBytes = 32 << 30
	DefaultMaxFiles = 1_000_000

	maxPath       = 4096
	maxName       = 255
	maxComponents = 256
)

// UnpackOptions bound an archive.
type UnpackOptions struct {
	// sha256:HEX that the archive must have; empty: any.
	Digest string
	// Most bytes of the decompressed archive, and of all files with their holes;
	// 0: DefaultMaxBytes. The archive itself may not be larger either.
	MaxBytes int64
	// Most entries, and most directories; 0: DefaultMaxFiles.
	MaxFiles int64
}

// Unpack unpacks a tar that is compressed with zstd or gzip to dir, which has to
// be empty or not there; its parent has to be. What is unpacked appears in dir
// when the archive was read to its end and has the digest. After an error
// dir is as it was.
//
// Symbolic links are written as they are, wherever they lead, and are never
// followed here: who reads what is in dir has to follow them with care, as
// os.Root does. Hard links must name a regular file that the archive has already
// brought. Absolute names, names with .., names below what is no directory, two
// entries of one name (directories may come again), and anything but
// files, directories and links are errors.
//
// Of modes the permissions are kept; directories can always be read and written
// by their owner. Everything belongs to the caller and has one fixed time.
//
// Wrong archives give errors that wrap failure.ErrInput, unless they have not
// the digest: then it is ErrDigest. Errors of r and of the system come as they are.
func Unpack(ctx context.Context, r io.Reader, dir string, o UnpackOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpacking the context to %s: %w", quote.Text(dir), err)
		}
	}()
	made, err := emptyDir(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && made {
			_ = os.Remove(dir)
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return bare(err)
	}
	defer root.Close()
	// dir itself may be a mount point, which cannot be renamed onto.
	part := ".unpacking-" + rand.Text()
	if err := root.Mkdir(part, 0o700); err != nil {
		return bare(err)
	}
	defer func() {
		if err != nil {
			_ = root.RemoveAll(part)
		}
	}()
	inner, err := root.OpenRoot(part)
	if err != nil {
		return bare(err)
	}
	defer inner.Close()
	if err := unpackInto(ctx, r, inner, o); err != nil {
		return err
	}
	return moveUp(root, inner, part)
}

// emptyDir makes sure of an empty directory, and says whether it had to be made.
func emptyDir(dir string) (made bool, err error) {
	if err := os.Mkdir(dir, 0o755); err == nil || !errors.Is(err, fs.ErrExist) {
		return err == nil, bare(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return false, bare(err)
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); err == nil {
		return false, errors.New("the directory is not empty")
	}
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return false, bare(err)
}

// moveUp moves all that is in a directory of root to root.
func moveUp(root, inner *os.Root, part string) (err error) {
	all, err := names(inner)
	if err != nil {
		return bare(err)
	}
	moved := 0
	defer func() {
		if err != nil {
			for _, name := range all[:moved] {
				_ = root.RemoveAll(name)
			}
		}
	}()
	for _, name := range all {
		if err := root.Rename(path.Join(part, name), name); err != nil {
			return bare(err)
		}
		moved++
	}
	return bare(root.Remove(part))
}

func unpackInto(ctx context.Context, r io.Reader, root *os.Root, o UnpackOptions) error {
	maxBytes := cmp.Or(o.MaxBytes, DefaultMaxBytes)
	in := &source{ctx: ctx, r: r, hash: sha256.New(), left: maxBytes}
	err := readArchive(in, root, maxBytes, cmp.Or(o.MaxFiles, DefaultMaxFiles))
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if in.err != nil {
		return fmt.Errorf("reading the archive: %w", in.err)
	}
	if o.Digest != "" && (err == nil || errors.Is(err, failure.ErrInput)) {
		// A damaged archive is no fault of who packed it, if it is not that one.
		_, _ = io.Copy(io.Discard, in)
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if in.err != nil {
			return fmt.Errorf("reading the archive: %w", in.err)
		}
		if got := "sha256:" + hex.EncodeToString(in.hash.Sum(nil)); got != o.Digest {
			return fmt.Errorf("%w: %s instead of %s", ErrDigest, got, quote.Text(o.Digest))
		}
	}
	return err
}

// source is the archive as it comes: hashed, bounded, and ended with the context.
type source struct {
	ctx  context.Context //nolint:containedctx // of one call of Unpack
	r    io.Reader
	hash hash.Hash
	left int64
	err  error // of r, or the bound
}

var errTooLarge = failure.WithHint(failure.Input("the archive is larger than allowed"), "leave out by .dockerignore what the build does not need")

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.err = context.Cause(s.ctx); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.left -= int64(n)
	s.hash.Write(p[:n])
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		s.err = err
	case s.left < 0:
		s.err, err = errTooLarge, errTooLarge
	}
	return n, err
}

// readArchive writes what is in the archive to root, and reads it to its end.
func readArchive(in io.Reader, root *os.Root, maxBytes, maxFiles int64) error {
	decompressed, err := decompress(in)
	if err != nil {
		return err
	}
	defer decompressed.Close()
	plain := &tarStream{r: decompressed, left: maxBytes}
	if err := writeTree(plain, root, maxBytes, maxFiles); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return damaged(err)
	}
	// The end of an archive are two blocks of zeros (POSIX pax, ustar format);
	// archive/tar does without.
	if plain.zeros < 1024 {
		return failure.Input("the archive is truncated, or goes on after its end")
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// tarStream bounds the decompressed bytes, and counts the zeros at their end.
type tarStream struct {
	r     io.Reader
	left  int64
	zeros int64
}

func (s *tarStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, errTooLarge
	}
	if tail := int64(n - len(bytes.TrimRight(p[:n], "\x00"))); tail == int64(n) {
		s.zeros += tail
	} else {
		s.zeros = tail
	}
	return n, err
}

// damaged is what is wrong with an archive that cannot be read.
func damaged(err error) error {
	if errors.Is(err, failure.ErrInput) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return failure.Input("the archive is truncated: %w", err)
	}
	return failure.Input("the archive is damaged: %w", err)
}

// entries writes all entries.
func (t *tree) entries(in *tar.Reader) error {
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if err := count(&t.entriesLeft); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := inside(h.Name)
		if err == nil {
			err = t.entry(name, h, in)
		}
		if err != nil {
			return fmt.Errorf("entry %s: %w", quote.Text(shorten(h.Name)), err)
		}
	}
}

// inside gives the clean path of a name in an archive, relative to its root.
func inside(name string) (string, error) {
	plain := strings.TrimRight(name, "/")
	clean := path.Clean(plain)
	switch {
	case name == "":
		return "", failure.Input("the name is empty")
	case strings.HasPrefix(name, "/"):
		return "", failure.Input("the name is absolute")
	case strings.ContainsRune(name, 0):
		return "", failure.Input("the name contains a NUL")
	case len(clean) > maxPath || strings.Count(clean, "/") >= maxComponents:
		return "", failure.Input("the name is too long")
	case !filepath.IsLocal(filepath.FromSlash(clean)):
		return "", failure.Input("the name leads out of the context")
	}
	for part := range strings.SplitSeq(plain, "/") {
		if part == ".." {
			return "", failure.Input("the name contains ..")
		}
		if len(part) > maxName {
			return "", failure.Input("the name is too long")
		}
	}
	return clean, nil
}

// shorten keeps a hostile name from filling a log.
func shorten(name string) string {
	const longest = 200
	if len(name) <= longest {
		return name
	}
	return name[:longest] + "…"
}
