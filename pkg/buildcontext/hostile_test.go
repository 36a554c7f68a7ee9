package buildcontext_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Each is refused whole, and nothing of it stays.
func TestHostileArchives(t *testing.T) {
	deep := strings.Repeat("d/", 300) + "x"
	for _, c := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"absolute", []entry{file("/etc/cron.d/x", "1")}, "absolute"},
		{"above", []entry{file("../x", "1")}, "leads out"},
		{"above after all", []entry{file("a/../../x", "1")}, "leads out"},
		{"above, but not out", []entry{file("a/../x", "1")}, "contains .."},
		{"empty name", []entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: ""}}}, "the name is empty"},
		{"deep", []entry{file(deep, "")}, "too long"},
		{"long", []entry{file(strings.Repeat("x", 300), "")}, "too long"},
		{"very long", []entry{file(strings.Repeat(strings.Repeat("x", 200)+"/", 50)+"x", "")}, "too long"},
		{"through a link out", []entry{symlink("l", ".."), file("l/x", "1")}, "below what is no directory"},
		{"through an absolute link", []entry{symlink("l", "/tmp"), file("l/x", "1")}, "below what is no directory"},
		{"through a link inside", []entry{dir("d"), symlink("l", "d"), file("l/x", "1")}, "below what is no directory"},
		{"through two links", []entry{dir("d"), symlink("d/l", ".."), symlink("m", "d/l/.."), file("m/x", "1")}, "below what is no directory"},
		{"directory through a link", []entry{symlink("l", ".."), dir("l/d")}, "below what is no directory"},
		{"directory upon a link", []entry{symlink("l", ".."), dir("l/"), file("l/x", "1")}, "below what is no directory"},
		{"link through a link", []entry{symlink("l", ".."), symlink("l/m", "x")}, "below what is no directory"},
		{"file upon a link", []entry{symlink("l", "../outside"), file("l", "1")}, "two entries of this name"},
		{"file upon a file", []entry{file("a", "1"), file("./a", "2")}, "two entries of this name"},
		{"link upon a file", []entry{file("a", "1"), symlink("a", "b")}, "two entries of this name"},
		{"file upon a directory", []entry{dir("a"), file("a", "1")}, "two entries of this name"},
		{"directory upon a file", []entry{file("a", "1"), dir("a")}, "below what is no directory"},
		{"below a file", []entry{file("a", "1"), file("a/b", "1")}, "below what is no directory"},
		{"hard link out", []entry{hardlink("a", "../outside")}, "leads out"},
		{"absolute hard link", []entry{hardlink("a", "/etc/passwd")}, "absolute"},
		{"hard link to nothing", []entry{hardlink("a", "b")}, "no file of the archive"},
		{"hard link to itself", []entry{hardlink("a", "a")}, "no file of the archive"},
		{"hard link to what comes later", []entry{hardlink("a", "b"), file("b", "1")}, "no file of the archive"},
		{"hard link to a directory", []entry{dir("d"), hardlink("a", "d")}, "no file of the archive"},
		{"hard link to a link", []entry{symlink("l", "../outside"), hardlink("a", "l")}, "no file of the archive"},
		{"hard link through a link", []entry{symlink("l", ".."), hardlink("a", "l/outside")}, "no file of the archive"},
		{"hard link upon a file", []entry{file("a", "1"), file("b", "1"), hardlink("b", "a")}, "two entries of this name"},
		{"link to nowhere", []entry{{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "l"}}}, "leads nowhere"},
		{"link to a long name", []entry{symlink("l", strings.Repeat("x", 5000))}, "leads nowhere"},
		{"character device", []entry{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}}, "device"},
		{"block device", []entry{{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}}}, "device"},
		{"named pipe", []entry{{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}}}, "named pipe"},
		{"unknown type", []entry{{Header: tar.Header{Typeflag: 'Z', Name: "x"}}}, `type 'Z'`},
		{"root that is a file", []entry{file(".", "1")}, "root of the context"},
		{"root that is a link", []entry{symlink("./", "/tmp")}, "root of the context"},
		{"control characters", []entry{file("../\x1b[2J\n", "1")}, `\x1b[2J\n`},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := gzipped(tarOf(t, append([]entry{file("before", "1")}, c.entries...)...))
			tmp := t.TempDir()
			if err := os.WriteFile(filepath.Join(tmp, "outside"), []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(tmp, "context")
			err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), to, buildcontext.UnpackOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, failure.ErrInput) {
				t.Errorf("got %v, want input error with %q", err, c.want)
			}
			same(t, found2(t, tmp), "outside precious")
		})
	}
}

// found2 lists names and contents, whatever the times.
func found2(t testing.TB, root string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, _ := os.ReadFile(filepath.Join(root, e.Name()))
		all = append(all, e.Name()+" "+string(data))
	}
	return all
}

func TestCase(t *testing.T) {
	_, got, err := unpack(t, gzipped(tarOf(t, file("a", "1"), file("A", "2"))), buildcontext.UnpackOptions{})
	if err == nil {
		same(t, got, "-rw-r--r-- A 2", "-rw-r--r-- a 1")
	} else if !strings.Contains(err.Error(), "differ in case alone") {
		t.Error(err)
	}
}

func TestLimits(t *testing.T) {
	small := buildcontext.UnpackOptions{MaxBytes: 64 << 10, MaxFiles: 10}
	many := func(n int) (all []entry) {
		for i := range n {
			all = append(all, file(fmt.Sprint(i), ""))
		}
		return all
	}
	again := func(n int) (all []entry) {
		for range n {
			all = append(all, dir("d"))
		}
		return all
	}
	global := func(n int) (all []entry) {
		for range n {
			all = append(all, entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"a": "b"}}})
		}
		return all
	}
	zeros := make([]byte, 10<<20)
	for _, c := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"as many as allowed", gzipped(tarOf(t, many(10)...)), ""},
		{"one file too many", gzipped(tarOf(t, many(11)...)), "more files than allowed"},
		{"the same one again and again", gzipped(tarOf(t, again(11)...)), "more files than allowed"},
		{"as many directories as allowed", gzipped(tarOf(t, file(strings.Repeat("d/", 10)+"x", ""))), ""},
		{"one directory too many", gzipped(tarOf(t, file(strings.Repeat("d/", 11)+"x", ""))), "more files than allowed"},
		{"headers that are no files", gzipped(tarOf(t, global(11)...)), "more files than allowed"},
		{"gzip bomb", gzipped(tarOf(t, file("a", string(zeros)))), "larger than allowed"},
		{"zstd bomb", zstandard(tarOf(t, file("a", string(zeros)))), "larger than allowed"},
		{"bomb after the end", gzipped(append(tarOf(t, file("a", "1")), zeros...)), "larger than allowed"},
		{"bomb instead of an archive", gzipped(zeros), "larger than allowed"},
		{"holes", gzipped(sparse(1 << 40)), "larger than allowed"},
		{"large window", zstandard(zeros[:9<<20], zstd.WithWindowSize(512<<20), zstd.WithSingleSegment(false)), ""},
		{"skippable frames", bytes.Repeat([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, 20_000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := unpack(t, c.archive, small)
			switch {
			case strings.HasPrefix(c.name, "as many"):
				if err != nil {
					t.Error(err)
				}
			case err == nil || !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want input error with %q", err, c.want)
			}
		})
	}
	if _, _, err := unpack(t, gzipped(tarOf(t, many(11)...)), small); failure.Hint(err) == "" {
		t.Errorf("no hint: %v", err)
	}
}

// An archive of ten million entries, made while it is read, ends at the limit.
func TestTenMillionEntries(t *testing.T) {
	r, w := io.Pipe()
	defer func() { _ = r.Close() }()
	written := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Error(err)
			return
		}
		out, d := tar.NewWriter(z), dir("d")
		for ; written < 10_000_000; written++ {
			if out.WriteHeader(&d.Header) != nil {
				return
			}
		}
	}()
	err := buildcontext.Unpack(t.Context(), r, filepath.Join(t.TempDir(), "context"), buildcontext.UnpackOptions{MaxFiles: 10_000})
	if err == nil || !strings.Contains(err.Error(), "more files than allowed") {
		t.Errorf("got %v", err)
	}
	_ = r.Close()
	if <-done; written > 5_000_000 {
		t.Errorf("%d entries were read", written)
	}
}
