package templates

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Write writes files below the directory root and gives their paths. Nothing
// is written if anything is in the way: with overwrite false a file that is
// there already, in any case a directory, or a symbolic link that leads out of
// root. These are a failure.ErrInput that lists all of them.
func Write(root string, files []File, overwrite bool) (written []string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", root, err)
	}
	defer r.Close()
	if err := inTheWay(r, files, overwrite); err != nil {
		return nil, err
	}
	temporary := make([]string, 0, len(files))
	defer func() {
		for _, name := range temporary[len(written):] {
			err = errors.Join(err, ignoreMissing(r.Remove(name)))
		}
	}()
	for _, f := range files {
		name := filepath.FromSlash(f.Path)
		if err := r.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, fmt.Errorf("making the directory of %s: %w", f.Path, err)
		}
		beside := filepath.Join(filepath.Dir(name), fmt.Sprintf(".%s.%d.tmp", filepath.Base(name), os.Getpid()))
		temporary = append(temporary, beside)
		if err := r.WriteFile(beside, f.Data, 0o644); err != nil {
			return nil, fmt.Errorf("writing %s: %w", f.Path, err)
		}
	}
	for i, f := range files {
		if err := r.Rename(temporary[i], filepath.FromSlash(f.Path)); err != nil {
			return written, fmt.Errorf("writing %s: %w", f.Path, err)
		}
		written = append(written, f.Path)
	}
	return written, nil
}

// inTheWay gives an error that lists all that keeps files from being written.
func inTheWay(r *os.Root, files []File, overwrite bool) error {
	var there, blocked []string
	for _, f := range files {
		info, err := r.Lstat(filepath.FromSlash(f.Path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// A parent may be a dangling link, which MkdirAll would trip over.
			if p := danglingParent(r, filepath.FromSlash(f.Path)); p != "" {
				blocked = append(blocked, fmt.Sprintf("%s: %s is a symbolic link that leads nowhere", f.Path, p))
			}
		case err != nil:
			blocked = append(blocked, fmt.Sprintf("%s: %s", f.Path, reason(err)))
		case info.IsDir():
			blocked = append(blocked, f.Path+": is a directory")
		case !overwrite:
			there = append(there, f.Path)
		}
	}
	if blocked != nil {
		return failure.Input("cannot write %s", quote.Text(strings.Join(blocked, "; ")))
	}
	if there != nil {
		return failure.WithHint(failure.Input("there already: %s; nothing was written", quote.Text(strings.Join(there, ", "))), "use --overwrite to replace it")
	}
	return nil
}

func danglingParent(r *os.Root, name string) string {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if _, err := r.Lstat(dir); err == nil {
			if _, err := r.Stat(dir); err != nil {
				return filepath.ToSlash(dir)
			}
			return ""
		}
	}
	return ""
}

func reason(err error) string {
	var perr *fs.PathError
	if !errors.As(err, &perr) {
		return err.Error()
	}
	if errors.Is(perr.Err, syscall.ENOTDIR) {
		return "a directory on its way is a file"
	}
	return perr.Err.Error()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
