package plan

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/diff"
)

// What a short way gives is what the file system itself gives.
func TestWorkFiles(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a", "file"), "text")
	put(t, filepath.Join(dir, "a", "empty"), "")
	put(t, filepath.Join(dir, "a", "long"), strings.Repeat("x", 100_000))
	put(t, filepath.Join(dir, "a", "unlisted"), "not in the list")
	for link, to := range map[string]string{"within": "file", "outside": "/etc/passwd", "nowhere": "missing"} {
		if err := os.Symlink(to, filepath.Join(dir, "a", link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var entries []diff.Entry
	for name := range strings.FieldsSeq("directory empty file gone long nowhere outside within") {
		mode := "100644" // git may still think so of a file that was replaced
		entries = append(entries, diff.Entry{Path: "a/" + name, Mode: mode, Object: "x"})
	}
	if err := os.Mkdir(filepath.Join(dir, "a", "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := workFiles{root.FS(), dir, entries}
	for name := range strings.FieldsSeq("a/file a/empty a/long a/unlisted a/within a/outside a/nowhere a/gone a/directory a missing ../x") {
		got, gotErr := fs.ReadFile(w, name)
		want, wantErr := fs.ReadFile(root.FS(), name)
		if string(got) != string(want) || (gotErr == nil) != (wantErr == nil) || errors.Is(gotErr, fs.ErrNotExist) != errors.Is(wantErr, fs.ErrNotExist) {
			t.Errorf("%s: got %d bytes, %v; want %d, %v", name, len(got), gotErr, len(want), wantErr)
		}
	}
	if hash, regular := w.Blob("a/file"); hash != "" || !regular {
		t.Errorf("a file of the work tree has the hash %q, %t", hash, regular)
	}
	if _, regular := w.Blob("a/unlisted"); regular {
		t.Error("a file that is not listed is known")
	}
}

func TestCommitFiles(t *testing.T) {
	c := commitFiles{nil, []diff.Entry{{Path: "file", Mode: "100644", Object: "1"}, {Path: "link", Mode: "120000", Object: "2"}, {Path: "program", Mode: "100755", Object: "3"}, {Path: "sub", Mode: "160000", Object: "4"}}}
	for name, want := range map[string]string{"file": "1", "program": "3", "link": "", "sub": "", "missing": ""} {
		if got, regular := c.Blob(name); got != want || regular != (want != "") {
			t.Errorf("%s: got %q, %t", name, got, regular)
		}
	}
}
