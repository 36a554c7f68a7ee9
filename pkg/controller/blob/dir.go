package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// parts is where a directory store writes what is not whole yet. No key leads
// there.
const parts = ".parts"

// directory keeps blobs as files.
type directory struct{ path string }

// Dir gives a store in a directory, which is made when it is first needed. Its
// files are readable to the caller's user alone. Several processes may use it
// at once.
func Dir(path string) Store { return directory{path} }

func (d directory) file(key string) string { return filepath.Join(d.path, filepath.FromSlash(key)) }

// Put writes beside, brings it to the disk, and renames.
func (d directory) Put(ctx context.Context, key string, r io.Reader, size int64) (err error) {
	if err := checkKey(key); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s to %s: %w", quote.Text(key), quote.Text(d.path), bare(err))
		}
	}()
	if err := d.mkdir(parts); err != nil {
		return err
	}
	f, err := os.CreateTemp(d.file(parts), "part-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	in := io.Reader(reading{ctx, r})
	if size >= 0 {
		in = io.LimitReader(in, size+1)
	}
	n, err := io.Copy(f, in)
	if err != nil {
		return err
	}
	if size >= 0 && n != size {
		return wrongSize(n, size)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := d.mkdir(path.Dir(key)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.file(key)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(d.file(key)))
}

// mkdir makes a directory of the store, so that it outlives a crash.
func (d directory) mkdir(name string) error {
	dir := d.file(name)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	at := d.path
	for part := range strings.SplitSeq(name, "/") {
		err := os.Mkdir(filepath.Join(at, part), 0o700)
		if err == nil {
			err = syncDir(at)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		at = filepath.Join(at, part)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not every file system can do this, and none has another way.
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func (d directory) Get(_ context.Context, key string, offset int64) (io.ReadCloser, Info, error) {
	if err := checkKey(key); err != nil {
		return nil, Info{}, err
	}
	f, err := os.Open(d.file(key))
	if err != nil {
		return nil, Info{}, d.fail("reading", key, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, Info{}, d.fail("reading", key, err)
	}
	return f, described(key, info), nil
}

func (d directory) Stat(_ context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	info, err := os.Stat(d.file(key))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, d.fail("looking for", key, err)
	}
	return described(key, info), nil
}

func described(key string, info fs.FileInfo) Info {
	return Info{Key: key, Size: info.Size(), Modified: info.ModTime()}
}

func (d directory) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if info, err := os.Stat(d.file(key)); err == nil && info.IsDir() {
		return nil
	}
	if err := os.Remove(d.file(key)); err != nil && !missing(err) {
		return d.fail("deleting", key, err)
	}
	return nil
}

func (d directory) List(ctx context.Context, prefix string, each func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	from := d.path
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		from = d.file(prefix[:i])
	}
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if missing(err) {
			return nil
		}
		if err != nil {
			return d.fail("listing", prefix, err)
		}
		rel, err := filepath.Rel(d.path, name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		if e.IsDir() {
			if key == parts {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasPrefix(key, prefix) || !e.Type().IsRegular() || checkKey(key) != nil {
			return nil
		}
		info, err := e.Info()
		if missing(err) {
			return nil
		}
		if err != nil {
			return d.fail("listing", prefix, err)
		}
		return each(described(key, info))
	})
}

func (directory) Upload(context.Context, string, int64) (*Upload, error) { return nil, ErrNotSigned }

func (directory) Complete(context.Context, string, string, []string) error { return ErrNotSigned }

func (directory) SignGet(context.Context, string, time.Duration) (api.SignedURL, error) {
	return api.SignedURL{}, ErrNotSigned
}

// Sweep does not know what was to become of a part, and removes all old ones.
func (d directory) Sweep(ctx context.Context, _ string, before time.Time) error {
	entries, err := os.ReadDir(d.file(parts))
	if err != nil && !missing(err) {
		return d.fail("reading", parts, err)
	}
	for _, e := range entries {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if info, err := e.Info(); err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(filepath.Join(d.file(parts), e.Name())); err != nil && !missing(err) {
			return d.fail("removing a part in", parts, err)
		}
	}
	return nil
}

// Check writes and removes a file.
func (d directory) Check(context.Context) error {
	err := d.mkdir(parts)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(d.file(parts), "check-"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EROFS):
		return failure.Input("blobs cannot be kept in %s: %w", quote.Text(d.path), bare(err))
	case err != nil:
		return fmt.Errorf("blobs cannot be kept in %s: %w", quote.Text(d.path), bare(err))
	}
	return nil
}

func (d directory) fail(doing, key string, err error) error {
	if missing(err) {
		return fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return fmt.Errorf("%s %s in %s: %w", doing, quote.Text(key), quote.Text(d.path), bare(err))
}

// missing says whether there is no such file, nor can be: a part of its key
// may be that of another blob.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// bare gives a system's error without its path.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}
