// Package buildcontext packs the directories that images are built from into
// archives that depend on nothing but what is in them, and unpacks archives
// that nobody vouches for.
package buildcontext

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// packedTime is the time of everything in a context, packed and unpacked: the
// earliest that zip, and what is made of it, can express.
var packedTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// PackOptions say what is packed and how. None but Builds and Skip changes the bytes.
type PackOptions struct {
	// What is built from the directory; decides which files named .dockerignore
	// count. None: one build of the directory itself.
	Builds []Build
	// Says of a path relative to the directory, with slashes, whether it is left
	// out with all below it; may be nil.
	Skip func(name string) bool
	// How many blocks are compressed at once; 0: one for each processor, at most
	// 4. Each takes 8 MB.
	Workers int
	// Is told how many bytes of files have been read; may be nil.
	Progress func(bytes int64)
	// Takes a line, safe for a log, about each thing that is left out since no
	// archive can hold it; may be nil.
	Warn func(line string)
}

// Build is what a build takes from a directory that is packed: paths relative
// to it, with slashes.
type Build struct {
	// Context directory; empty: the directory itself.
	Context string
	// Empty: Dockerfile in the context directory.
	Dockerfile string
}

// Packed describes an archive.
type Packed struct {
	// sha256:HEX of the archive.
	Digest string
	// Bytes of the archive.
	Size int64
	// Regular files in it, and the bytes of them all.
	Files, Bytes int64
}

// Pack writes the directory to w as a tar that is compressed with zstd. Two
// trees with the same names, contents and permissions of their owner give the
// same archive by the same version of pipegen, wherever and with however many
// workers they are packed:
//
//   - Entries are sorted by name in each directory. All have the same time, and
//     the owner 0.
//   - Of a file's mode the owner's bits are kept, and group and others get those
//     for reading and executing: 0644, 0755, and 0444 or 0555 for what not even
//     the owner may write. Directories are 0755. Set-user-ID, set-group-ID,
//     sticky bits and extended attributes are left out.
//   - Symbolic links stay links with the text they have, wherever they lead. A
//     file with several names is packed under each. Holes are packed as zeros.
//   - Names are bytes, in UTF-8 or not.
//
// What builds leave out by a .dockerignore is left out, by the rules of moby's
// patternmatcher: in each context directory the file beside the Dockerfile that
// is named as it is and ends in .dockerignore, or else .dockerignore. A file in
// the context of several builds is left out if all of them leave it out; one in
// none, by the .dockerignore of the directory itself. Dockerfiles and the files of
// patterns stay, whatever these say. Never packed, and not to be brought back by a pattern, is
// what is named .git, .env, .env.local or .env.*.local, at any depth.
// Sockets, named pipes and devices are left out with a warning.
//
// Files that cannot be read, and files that change while they are read, are
// errors. Wrong patterns are errors that wrap failure.ErrInput.
// If w is a file in the directory, it is left out.
func Pack(ctx context.Context, dir string, w io.Writer, o PackOptions) (Packed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Packed{}, fmt.Errorf("packing %s: %w", quote.Text(dir), bare(err))
	}
	defer root.Close()
	ignored, err := readRules(root, o.Builds)
	if err != nil {
		return Packed{}, err
	}
	sum := &summed{w: w, hash: sha256.New()}
	out := newCompressor(ctx, sum, o.Workers)
	p := &packer{ctx: ctx, tar: tar.NewWriter(out), rules: ignored, o: o, buf: make([]byte, 256<<10)}
	if f, ok := w.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if p.output, err = f.Stat(); err != nil {
			p.output = nil
		}
	}
	err = p.dir(root, ".", ignored.top())
	if err == nil {
		err = p.tar.Close()
	}
	if err = out.close(err); err != nil {
		return Packed{}, err
	}
	if o.Progress != nil {
		o.Progress(p.packed.Bytes)
	}
	p.packed.Digest, p.packed.Size = "sha256:"+hex.EncodeToString(sum.hash.Sum(nil)), sum.n
	return p.packed, nil
}

// PackFile packs the directory into a new file in tmpDir, or the system's
// directory for such files if that is empty. The caller removes it; after an
// error there is none.
func PackFile(ctx context.Context, dir, tmpDir string, o PackOptions) (name string, p Packed, err error) {
	f, err := os.CreateTemp(tmpDir, "context-*.tar.zst")
	if err != nil {
		return "", Packed{}, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(f.Name())
			name, p = "", Packed{}
		}
	}()
	p, err = Pack(ctx, dir, f, o)
	return f.Name(), p, err
}

// packer writes a directory's entries.
type packer struct {
	ctx    context.Context //nolint:containedctx // of one call of Pack
	tar    *tar.Writer
	rules  *rules
	o      PackOptions
	output fs.FileInfo // the archive, where it is a file
	// Directories on the way to here that are not written: they are left out
	// unless something below is not.
	pending  []string
	packed   Packed
	reported int64
	buf      []byte
}

// dir writes what is in a directory.
func (p *packer) dir(root *os.Root, name string, above matched) error {
	entries, err := names(root)
	if err != nil {
		return unreadable(name, err)
	}
	for _, base := range entries {
		if cause := context.Cause(p.ctx); cause != nil {
			return cause
		}
		full := path.Join(name, base)
		if neverPacked(base) || p.o.Skip != nil && p.o.Skip(full) {
			continue
		}
		info, err := root.Lstat(base)
		if errors.Is(err, fs.ErrNotExist) {
			return changed(full)
		}
		if err != nil {
			return unreadable(full, err)
		}
		out, here, err := p.rules.match(full, above)
		if err != nil {
			return err
		}
		if info.IsDir() {
			err = p.enter(root, base, full, info, out, here)
		} else if !out {
			err = p.entry(root, base, full, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enter writes a directory with what is in it. One that is left out is
// entered where patterns may keep something in it.
func (p *packer) enter(root *os.Root, base, full string, info fs.FileInfo, out bool, here matched) error {
	if out && !p.rules.mayKeep(full) {
		return nil
	}
	sub, err := root.OpenRoot(base)
	if err != nil {
		return unreadable(full, err)
	}
	defer sub.Close()
	if now, err := sub.Stat("."); err != nil || !os.SameFile(info, now) {
		return changed(full)
	}
	before := len(p.pending)
	p.pending = append(p.pending, full)
	if !out {
		if err := p.flush(); err != nil {
			return err
		}
	}
	err = p.dir(sub, full, here)
	p.pending = p.pending[:min(before, len(p.pending))]
	return err
}

// flush writes the directories that lead to here.
func (p *packer) flush() error {
	for _, dir := range p.pending {
		if err := p.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	p.pending = p.pending[:0]
	return nil
}

func (p *packer) header(h *tar.Header) error {
	h.ModTime = packedTime
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("packing %s: %w", quote.Text(h.Name), err)
	}
	return nil
}

func (p *packer) entry(root *os.Root, base, full string, info fs.FileInfo) error {
	if p.output != nil && os.SameFile(p.output, info) {
		return nil
	}
	switch kind := info.Mode().Type(); kind {
	case 0:
		if err := p.flush(); err != nil {
			return err
		}
		return p.file(root, base, full, info)
	case fs.ModeSymlink:
		target, err := root.Readlink(base)
		if err != nil {
			return unreadable(full, err)
		}
		if err := p.flush(); err != nil {
			return err
		}
		return p.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: full, Linkname: filepath.ToSlash(target), Mode: 0o777})
	default:
		if p.o.Warn != nil {
			p.o.Warn(fmt.Sprintf("left out %s: it is %s", quote.Text(full), kindName(kind)))
		}
		return nil
	}
}

func (p *packer) file(root *os.Root, base, full string, info fs.FileInfo) error {
	f, err := root.Open(base)
	if errors.Is(err, fs.ErrNotExist) {
		return changed(full)
	}
	if err != nil {
		return unreadable(full, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return unreadable(full, err)
	}
	if !os.SameFile(info, before) || !before.Mode().IsRegular() {
		return changed(full)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: full, Size: before.Size(), Mode: fileMode(before.Mode())}
	if err := p.header(h); err != nil {
		return err
	}
	for left := h.Size; left > 0; {
		if cause := context.Cause(p.ctx); cause != nil {
			return cause
		}
		n, err := f.Read(p.buf[:min(left, int64(len(p.buf)))])
		if n == 0 && errors.Is(err, io.EOF) {
			return changed(full)
		}
		if n == 0 && err != nil {
			return unreadable(full, err)
		}
		left -= int64(n)
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return err
		}
		p.read(int64(n))
	}
	after, err := f.Stat()
	if err != nil {
		return unreadable(full, err)
	}
	if after.Size() != h.Size || !after.ModTime().Equal(before.ModTime()) {
		return changed(full)
	}
	p.packed.Files++
	return nil
}

// read counts what was read, and reports it at times.
func (p *packer) read(n int64) {
	const step = 1 << 20
	p.packed.Bytes += n
	if p.o.Progress != nil && p.packed.Bytes-p.reported >= step {
		p.reported = p.packed.Bytes
		p.o.Progress(p.reported)
	}
}

// fileMode is what is kept of a file's mode.
func fileMode(m fs.FileMode) int64 {
	owner := int64(m.Perm())&0o700 | 0o400
	return owner | (owner&0o500)>>3 | (owner&0o500)>>6
}

func kindName(kind fs.FileMode) string {
	switch {
	case kind&fs.ModeSocket != 0:
		return "a socket"
	case kind&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case kind&fs.ModeDevice != 0:
		return "a device"
	}
	return "no file that an archive can hold"
}

// neverPacked says whether a name is that of what is nobody else's: the
// history, and environments with credentials in them.
func neverPacked(base string) bool {
	return base == ".git" || base == ".env" || base == ".env.local" ||
		strings.HasPrefix(base, ".env.") && strings.HasSuffix(base, ".local")
}

func unreadable(name string, err error) error {
	err = fmt.Errorf("packing %s: %w", quote.Text(name), bare(err))
	if errors.Is(err, fs.ErrPermission) {
		return failure.WithHint(err, "make it readable, or leave it out by .dockerignore")
	}
	return err
}

func changed(name string) error {
	return failure.WithHint(fmt.Errorf("packing %s: it changed while it was read", quote.Text(name)),
		"try again when nothing writes to it, or leave it out by .dockerignore")
}

// bare gives a system's error without the path, which would be relative to
// some directory, or that of a temporary one.
func bare(err error) error {
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
