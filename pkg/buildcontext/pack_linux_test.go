package buildcontext_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/failure"
)

func TestUnreadable(t *testing.T) {
	for _, name := range []string{"d/a", "d", ".dockerignore"} {
		dir := tree(t, map[string]string{"d/a": "1", ".dockerignore": "x"})
		if err := errors.Join(os.Chmod(filepath.Join(dir, name), 0), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
		err := make(chan error)
		go func() {
			if os.Geteuid() == 0 {
				// Root reads everything: be nobody, on a thread that ends with this goroutine.
				runtime.LockOSThread()
				if err := unix.Setfsuid(65534); err != nil {
					t.Error(err)
				}
			}
			_, e := buildcontext.Pack(t.Context(), dir, io.Discard, buildcontext.PackOptions{})
			err <- e
		}()
		if err := <-err; !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "packing "+name+": ") || !strings.Contains(failure.Hint(err), ".dockerignore") {
			t.Errorf("%s: got %v", name, err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
