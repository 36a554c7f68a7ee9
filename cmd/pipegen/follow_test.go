package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A checkout is copied as git left it.
func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new", "source")
	for path, mode := range map[string]os.FileMode{"run.sh": 0o755, "dir/text": 0o644, "dir/.git/objects/ab": 0o444} {
		full := filepath.Join(from, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(path), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(full, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, link := range map[string]string{"here": "dir/text", "nowhere": "gone", "away": "/etc/hosts", "up": "../../x"} {
		if err := os.Symlink(link, filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{"run.sh": 0o755, "dir/text": 0o644, "dir/.git/objects/ab": 0o444} {
		info, err := os.Lstat(filepath.Join(to, path))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v (%v), want %v", path, info, err, mode)
		}
		if data, err := os.ReadFile(filepath.Join(to, path)); string(data) != path {
			t.Errorf("%s holds %q (%v)", path, data, err)
		}
	}
	for name, want := range map[string]string{"here": "dir/text", "nowhere": "gone", "away": "/etc/hosts", "up": "../../x"} {
		if link, err := os.Readlink(filepath.Join(to, name)); link != want {
			t.Errorf("%s leads to %q (%v), want %q", name, link, err, want)
		}
	}
	if err := copyTree(from, to); err == nil {
		t.Error("a second copy replaced the first")
	}
}
