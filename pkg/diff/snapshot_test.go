package diff

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// All that is said of the work tree is of one moment, and costs one look.
func TestOneLook(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1", "b", "1")
	c.write("a", "2")
	for name, program := range backends(t) {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			if program != "" {
				script := filepath.Join(t.TempDir(), "git")
				if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$*\" >>'"+log+"'\nexec '"+program+"' \"$@\"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				program = script
			}
			r := opened(t, c.dir, program)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := r.Files(ended, ""); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			for range 2 {
				if files, err := r.Files(t.Context(), ""); err != nil || !slices.Equal(files, []string{"a", "b"}) {
					t.Errorf("files %v, %v", files, err)
				}
				if changes, err := r.Changes(t.Context(), "HEAD", ""); err != nil || text(changes) != "M \"a\"\n" {
					t.Errorf("changes %v, %v", changes, err)
				}
				if changes, err := r.Changes(t.Context(), "", ""); err != nil || text(changes) != "A \"a\"\nA \"b\"\n" {
					t.Errorf("changes %v, %v", changes, err)
				}
				if entries, err := r.Entries(t.Context(), ""); err != nil || len(entries) != 2 || entries[0].Object != hashObject(kindBlob, []byte("2")).String() {
					t.Errorf("entries %v, %v", entries, err)
				}
				if dirty, err := r.Dirty(t.Context()); err != nil || !dirty {
					t.Errorf("dirty %v, %v", dirty, err)
				}
				c.write("a", "3")
				c.write("b", "")
				c.write("c", "3")
			}
			later := opened(t, c.dir, program)
			if files, err := later.Files(t.Context(), ""); err != nil || !slices.Equal(files, []string{"a", "c"}) {
				t.Errorf("later: %v, %v", files, err)
			}
			c.write("a", "2")
			c.write("b", "1")
			c.write("c", "")
			if program == "" {
				return
			}
			out, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{" ls-files ", " diff-files "} {
				if n := strings.Count(string(out), command); n > 3 { // of the one, of the other, and of the cancelled one
					t.Errorf("%d times %s:\n%s", n, command, out)
				}
			}
			if n := strings.Count(string(out), " hash-object "); n != 1 {
				t.Errorf("%d times hash-object:\n%s", n, out)
			}
		})
	}
}
