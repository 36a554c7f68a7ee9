package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// read reads a blob from an offset.
func read(t testing.TB, s blob.Store, key string, offset int64) string {
	t.Helper()
	r, _, err := s.Get(t.Context(), key, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// files lists all files below a directory.
func files(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all = append(all, strings.TrimPrefix(path, dir+"/"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "blobs")
	s := blob.Dir(dir)
	if _, err := s.Stat(t.Context(), "logs/a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("before there is anything: %v", err)
	}
	if err := s.List(t.Context(), "", func(blob.Info) error { return errors.New("something") }); err != nil {
		t.Errorf("listing before there is anything: %v", err)
	}
	if err := s.Sweep(t.Context(), "", time.Now()); err != nil {
		t.Errorf("sweeping before there is anything: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, text := range map[string]string{"logs/a": "first", "logs/b": "", "contexts/sha256/c": "third"} {
		for _, size := range []int64{-1, int64(len(text))} {
			if err := s.Put(t.Context(), key, strings.NewReader(text), size); err != nil {
				t.Fatal(err)
			}
		}
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Size != int64(len(text)) || info.Key != key || time.Since(info.Modified) > time.Hour {
			t.Errorf("%s: %+v, %v", key, info, err)
		}
		if got := read(t, s, key, 0); got != text {
			t.Errorf("%s is %q", key, got)
		}
	}
	for offset, want := range map[int64]string{2: "rst", 5: "", 6: ""} {
		if got := read(t, s, "logs/a", offset); got != want {
			t.Errorf("%q from %d", got, offset)
		}
	}
	for prefix, want := range map[string]string{
		"": "contexts/sha256/c 5 logs/a 5 logs/b 0", "logs/": "logs/a 5 logs/b 0", "logs/a": "logs/a 5", "l": "logs/a 5 logs/b 0", "logs/x/": "", "contexts/sha": "contexts/sha256/c 5",
	} {
		var got []string
		if err := s.List(t.Context(), prefix, func(i blob.Info) error { got = append(got, fmt.Sprint(i.Key, " ", i.Size)); return nil }); err != nil {
			t.Fatal(err)
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("prefix %q lists %q, want %q", prefix, got, want)
		}
	}
	// A key that is a directory, and one below a blob, are no blobs.
	for _, key := range []string{"logs", "logs/a/b"} {
		if _, _, err := s.Get(t.Context(), key, 0); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("reading %s: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("deleting %s: %v", key, err)
		}
	}
	if err := errors.Join(s.Delete(t.Context(), "logs/a"), s.Delete(t.Context(), "logs/a")); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"contexts/sha256/c", "logs/b"}) {
		t.Errorf("the directory has %q", got)
	}
	info, err := os.Stat(filepath.Join(dir, "logs", "b"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read %s, %v", info.Mode(), err)
	}
	_, err = s.Upload(t.Context(), "a", 1)
	_, serr := s.SignGet(t.Context(), "a", time.Minute)
	for _, err := range []error{err, serr, s.Complete(t.Context(), "a", "b", nil)} {
		if !errors.Is(err, blob.ErrNotSigned) {
			t.Error(err)
		}
	}
}

func TestKeys(t *testing.T) {
	for name, s := range map[string]blob.Store{"directory": blob.Dir(t.TempDir()), "S3": bucketAt(t, "127.0.0.1:1", nil)} {
		for _, key := range []string{
			"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", ".parts/x", "a/.b", "a\\b", "a b", "a\x00b", "a\nb", "ä", "a:b", "\xff",
			strings.Repeat("a", 256), strings.Repeat("a/", 300) + "a",
		} {
			_, serr := s.Stat(t.Context(), key)
			_, _, gerr := s.Get(t.Context(), key, 0)
			for what, err := range map[string]error{
				"Put": s.Put(t.Context(), key, strings.NewReader(""), 0), "Stat": serr, "Get": gerr, "Delete": s.Delete(t.Context(), key),
			} {
				if !errors.Is(err, failure.ErrInput) {
					t.Errorf("%s: %s of %q: %v", name, what, key, err)
				}
			}
		}
		for _, prefix := range []string{"../", "/", "a/../", ".parts/"} {
			if err := s.List(t.Context(), prefix, func(blob.Info) error { return nil }); !errors.Is(err, failure.ErrInput) {
				t.Errorf("%s: listing %q: %v", name, prefix, err)
			}
		}
	}
	s := blob.Dir(t.TempDir())
	for _, key := range []string{"repos/1700000000-0a1b2c3d/repo.tar.gz", "contexts/sha256/" + strings.Repeat("a", 64), "a=b+c@d_e-f.g"} {
		if err := s.Put(t.Context(), key, strings.NewReader("1"), 1); err != nil {
			t.Error(err)
		}
	}
}

// What ends in the middle leaves what was there before, and nothing else.
func TestWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	s := blob.Dir(dir)
	if err := s.Put(t.Context(), "a", strings.NewReader("before"), -1); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, c := range map[string]struct {
		r    io.Reader
		size int64
		want string
	}{
		"less":      {strings.NewReader("123"), 4, "3 bytes instead of 4"},
		"more":      {strings.NewReader("12345"), 4, "more than 4 bytes"},
		"breaks":    {io.MultiReader(strings.NewReader("123"), reader(func([]byte) (int, error) { return 0, broken })), -1, "broken"},
		"is killed": {reader(func(p []byte) (int, error) { cancel(errors.New("stopped")); return copy(p, "123"), nil }), -1, "stopped"},
	} {
		use := t.Context()
		if name == "is killed" {
			use = ctx
		}
		if err := s.Put(use, "a", c.r, c.size); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := read(t, s, "a", 0); got != "before" {
			t.Errorf("%s: the blob is %q", name, got)
		}
		if got := files(t, dir); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s leaves %q", name, got)
		}
	}
	// A process that is killed leaves a part, which Sweep removes when it is old.
	part := filepath.Join(dir, ".parts", "part-1")
	if err := os.WriteFile(part, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.List(t.Context(), "", func(i blob.Info) error {
		if i.Key != "a" {
			t.Errorf("listed %s", i.Key)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before time.Time
		there  bool
	}{{time.Now().Add(-time.Hour), true}, {time.Now().Add(time.Hour), false}} {
		if err := s.Sweep(t.Context(), "", c.before); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(part); (err == nil) != c.there {
			t.Errorf("swept before %s: %v", c.before, err)
		}
	}
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// Readers see one blob or the other, never a part.
func TestAtOnce(t *testing.T) {
	dir := t.TempDir()
	texts := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 50_000), ""}
	if err := blob.Dir(dir).Put(t.Context(), "x/y", strings.NewReader(texts[0]), -1); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 8 {
		s := blob.Dir(dir)
		wg.Go(func() {
			for i := range 20 {
				if n%2 == 0 {
					if err := s.Put(t.Context(), "x/y", strings.NewReader(texts[(n+i)%3]), -1); err != nil {
						t.Error(err)
					}
					if err := s.Put(t.Context(), fmt.Sprint("new/", i, "/z"), strings.NewReader("1"), -1); err != nil {
						t.Error(err)
					}
					continue
				}
				r, info, err := s.Get(t.Context(), "x/y", 0)
				if err != nil {
					t.Error(err)
					continue
				}
				data, err := io.ReadAll(r)
				_ = r.Close()
				if err != nil || !slices.Contains(texts, string(data)) || info.Size != int64(len(data)) {
					t.Errorf("read %d of %d bytes, %v", len(data), info.Size, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDirCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := blob.Dir(filepath.Join(file, "blobs"))
	if err := s.Check(t.Context()); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), file) {
		t.Errorf("checking: %v", err)
	}
	if err := s.Put(t.Context(), "a", bytes.NewReader(nil), 0); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("putting: %v", err)
	}
}
