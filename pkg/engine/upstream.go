package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// upstream gives a directory with the files of an upstream repository at the
// plan's commit, from the cache below dir. It must not be written to. Builds
// that want the same at once share one clone.
func upstream(ctx context.Context, s *plan.Source, dir string, getenv func(string) string, say func(string)) (string, error) {
	if !fullSHA.MatchString(s.Commit) {
		return "", failure.Input("upstream %s: the plan's commit %q is none", shown(s.Repo), s.Commit)
	}
	sum := sha256.Sum256([]byte(s.Repo))
	base := filepath.Join(dir, "upstream", hex.EncodeToString(sum[:16]))
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", fmt.Errorf("making the cache of upstream repositories: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(base, s.Commit+".lock"))
	if err != nil {
		return "", fmt.Errorf("locking the cache of upstream repositories: %w", err)
	}
	defer unlock()

	entry := filepath.Join(base, s.Commit)
	tree := filepath.Join(entry, "tree")
	if want, err := os.ReadFile(filepath.Join(entry, "seal")); err == nil {
		if got, err := seal(tree); err == nil && got == string(want) {
			say(fmt.Sprintf("upstream %s at %.12s, from the cache", shown(s.Repo), s.Commit))
			return tree, nil
		}
		say(fmt.Sprintf("upstream %s at %.12s: the cache is damaged", shown(s.Repo), s.Commit))
	}
	if err := os.RemoveAll(entry); err != nil {
		return "", fmt.Errorf("clearing the cache of upstream repositories: %w", err)
	}
	temp, err := os.MkdirTemp(base, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	if err := os.Mkdir(filepath.Join(temp, "tree"), 0o755); err != nil {
		return "", err
	}
	if err := cloneTo(ctx, s, filepath.Join(temp, "tree"), getenv, say); err != nil {
		return "", err
	}
	sum2, err := seal(filepath.Join(temp, "tree"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(temp, "seal"), []byte(sum2), 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(temp, entry); err != nil {
		return "", err
	}
	return tree, nil
}

// cloneTo writes the files of an upstream repository at the plan's commit to
// dir, which must be empty.
func cloneTo(ctx context.Context, s *plan.Source, dir string, getenv func(string) string, say func(string)) error {
	say(fmt.Sprintf("upstream %s at %.12s (%s)", shown(s.Repo), s.Commit, s.Ref))
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	scratch, err := os.MkdirTemp(filepath.Dir(dir), ".objects-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	c := &cloner{auth: s.Auth, getenv: getenv, scratch: scratch, say: say}
	return c.clone(ctx, s.Repo, s.Ref, plumbing.NewHash(s.Commit), root, 0)
}

// seal gives a sum over the names, modes, sizes and times of a tree: cheap to
// compare, and different once anything was changed, cut short or removed.
func seal(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		size, when := fi.Size(), fi.ModTime().UnixNano()
		if fi.IsDir() {
			size, when = 0, 0 // of the file system's making
		}
		b := append([]byte(rel), 0)
		b = binary.BigEndian.AppendUint32(b, uint32(fi.Mode()))
		b = binary.BigEndian.AppendUint64(b, uint64(size))
		b = binary.BigEndian.AppendUint64(b, uint64(when))
		_, err = h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// lock waits for the only right to path, which is made if need be.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// copyTree copies a directory with modes, times and symbolic links, without
// .git and the directories of skip. Anything else than files, directories and
// links is failure.ErrInput: a build could only wait for it.
func copyTree(ctx context.Context, from, to string, skip ...string) error {
	type directory struct {
		path string
		info fs.FileInfo
	}
	var dirs []directory // last, since writing into them needs and changes them
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, s := range skip {
			if path == s && path != from && d.IsDir() {
				return fs.SkipDir
			}
		}
		if strings.EqualFold(d.Name(), ".git") && path != from {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		switch fi.Mode().Type() {
		case fs.ModeDir:
			dirs = append(dirs, directory{dest, fi})
			if err := os.Mkdir(dest, 0o700); err != nil && !(rel == "." && errors.Is(err, fs.ErrExist)) {
				return err
			}
			return nil
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest) //nolint:gosec // nobody else writes there
		case 0:
			return copyFile(path, dest, fi)
		}
		return failure.Input("%s is neither a file nor a directory nor a link (%s)", rel, fi.Mode().Type())
	})
	if err != nil {
		return fmt.Errorf("copying the context: %w", err)
	}
	for _, d := range slices.Backward(dirs) {
		if err := errors.Join(os.Chmod(d.path, d.info.Mode().Perm()), os.Chtimes(d.path, d.info.ModTime(), d.info.ModTime())); err != nil {
			return fmt.Errorf("copying the context: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string, fi fs.FileInfo) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Chmod(fi.Mode().Perm()), out.Close(), os.Chtimes(to, fi.ModTime(), fi.ModTime()))
}
