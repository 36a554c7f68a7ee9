package archive

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pipegen/pipegen/pkg/quote"
)

// replaceFile writes a file beside path, and renames it to path when it is
// whole.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", quote.Text(path), err)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// replaceDir has a directory written beside path, and gives it the name when
// it is whole. What had the name before is removed afterwards.
func replaceDir(path string, write func(dir string) error) (err error) {
	path = filepath.Clean(path)
	tmp, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if rerr := RemoveAll(tmp); err == nil {
			err = rerr
		}
		if err != nil {
			err = fmt.Errorf("writing %s: %w", quote.Text(path), err)
		}
	}()
	if err := write(tmp); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		return os.Rename(tmp, path)
	}
	return exchange(tmp, path)
}

// exchangeInSteps is exchange where the system cannot do it at once.
func exchangeInSteps(tmp, path string) error {
	aside, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".old-*")
	if err != nil {
		return err
	}
	old := filepath.Join(aside, "old")
	if err := os.Rename(path, old); err != nil {
		_ = os.Remove(aside)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Rename(old, path)
		_ = os.Remove(aside)
		return err
	}
	return RemoveAll(aside)
}

// RemoveAll removes a tree, also with directories that their owner may not
// change. What is not there is removed already.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	root, rerr := os.OpenRoot(dir)
	if rerr != nil {
		return err
	}
	defer root.Close()
	unlock(root)
	return os.RemoveAll(dir)
}

// unlock lets the owner change all directories below.
func unlock(root *os.Root) {
	_ = root.Chmod(".", 0o700)
	d, err := root.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			if e.Type()&fs.ModeType != fs.ModeDir {
				continue
			}
			_ = root.Chmod(e.Name(), 0o700)
			if sub, err := root.OpenRoot(e.Name()); err == nil {
				unlock(sub)
				_ = sub.Close()
			}
		}
		if err != nil {
			return
		}
	}
}
