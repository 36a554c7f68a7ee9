//go:build unix

package plan

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pipegen/pipegen/pkg/diff"
)

// Nobody writes to the pipe, and nobody waits for that.
func TestNamedPipeIsNotRead(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "Dockerfile"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	w := workFiles{root.FS(), dir, []diff.Entry{{Path: "Dockerfile", Mode: "100644"}}}
	if _, err := fs.ReadFile(w, "Dockerfile"); err == nil {
		t.Error("a named pipe is read")
	}
}
