package diff

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Damaged files are errors that name them, never other objects and never the
// end of the process.
func TestDamagedPack(t *testing.T) {
	c := randomRepo(t)
	c.git("repack", "-q", "-a", "-d", "-f")
	pack := c.packs()[0]
	index := strings.TrimSuffix(pack, ".pack") + ".idx"
	base, head := c.git("rev-parse", "large0"), c.git("rev-parse", "large11")
	want := c.git("diff", "--name-only", base, head)
	original := map[string][]byte{}
	for _, name := range []string{pack, index} {
		data, err := os.ReadFile(name)
		if err = errors.Join(err, os.Chmod(name, 0o644)); err != nil {
			t.Fatal(err)
		}
		original[name] = data
	}
	// In the file, not in its place: what is mapped changes with it.
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look := func(t *testing.T, r *Repo) error {
		changes, err := r.Changes(t.Context(), base, head)
		var paths []string
		for _, c := range changes {
			paths = append(paths, c.Path)
		}
		if got := strings.Join(paths, "\n"); err == nil && got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		return err
	}
	random := rand.New(rand.NewPCG(1, 1))
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for _, name := range []string{pack, index} {
			data := original[name]
			failed := 0
			for n := range 120 {
				wrong := bytes.Clone(data)
				for range 1 + n/20 {
					wrong[random.IntN(len(wrong))] ^= byte(1 << random.IntN(8))
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				put(name, wrong)
				if err := look(t, r); err != nil {
					failed++
				}
				put(name, data)
			}
			if failed == 0 {
				t.Errorf("%s: no fault was seen", filepath.Base(name))
			}
			for _, size := range []int{0, 1, 11, 12, 31, 100, len(data) / 2, len(data) - 1} {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				put(name, data[:size])
				if err := look(t, r); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), filepath.Base(name)) {
					t.Errorf("%s with %d bytes: %v", filepath.Base(name), size, err)
				}
				put(name, data)
			}
		}
		// Truncated while it is mapped, which is a fault of the memory.
		if err := errors.Join(r.Close(), look(t, r)); err != nil {
			t.Fatal(err)
		}
		put(pack, original[pack][:4096])
		if _, err := r.Entries(t.Context(), "c15"); err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("truncated meanwhile: %v", err)
		}
		put(pack, original[pack])
	})
}

// An index may lead to another object than it says.
func TestWrongObject(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a", "1")
	head := c.commit("a", "2")
	c.git("repack", "-q", "-a", "-d")
	name := strings.TrimSuffix(c.packs()[0], ".pack") + ".idx"
	data, err := os.ReadFile(name)
	if err = errors.Join(err, os.Chmod(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	x, err := parseIndex(data)
	if err != nil {
		t.Fatal(err)
	}
	var at [2][]byte
	for i, rev := range []string{base, head} {
		id, _ := parseID(c.git("rev-parse", rev+"^{tree}"))
		at[i] = x.offsets[4*x.find(id):][:4]
	}
	first := [4]byte(at[0])
	copy(at[0], at[1])
	copy(at[1], first[:])
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), base, head); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "another hash") {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestDamagedLooseObject(t *testing.T) {
	c := newRepo(t)
	base := c.commit("a", "1")
	head := c.commit("a", "2")
	id, _ := parseID(c.git("rev-parse", base+"^{tree}"))
	name := loosePath(filepath.Join(c.dir, ".git", "objects"), id)
	data, err := os.ReadFile(name)
	if err = errors.Join(err, os.Chmod(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	otherID, _ := parseID(c.git("rev-parse", head+"^{tree}"))
	other, err := os.ReadFile(loosePath(filepath.Join(c.dir, ".git", "objects"), otherID))
	if err != nil {
		t.Fatal(err)
	}
	for what, wrong := range map[string][]byte{"empty": {}, "cut off": data[:len(data)-3], "another object": other, "no stream": []byte("tree 0\x00")} {
		if err := os.WriteFile(name, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		both(t, c.dir, func(t *testing.T, r *Repo) {
			if got, err := r.Changes(t.Context(), base, head); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("%s: got %v, %v", what, got, err)
			}
		})
	}
	// Another copy will do.
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.git("repack", "-q", "-a")
	if err := os.WriteFile(name, data[:5], 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), base, head); err != nil || text(got) != "M \"a\"\n" {
			t.Errorf("with another copy: %v, %v", got, err)
		}
	})
}

// A file that becomes shorter while it is mapped faults.
func TestGuard(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := openMapped(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	err = guard(func() error {
		_, err := io.Discard.Write(bytes.Repeat(m.data, 2))
		return err
	})
	if !errors.Is(err, errDamaged) {
		t.Errorf("got %v", err)
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
	// Other faults are not hidden.
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	_ = guard(func() error { panic("other") })
}
