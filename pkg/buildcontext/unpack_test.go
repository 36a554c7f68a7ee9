package buildcontext_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/failure"
)

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// entry is one of an archive, with what is in it.
type entry struct {
	tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, text}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}}
}

func hardlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}}
}

// tarOf writes entries as they are, however wrong.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, e := range entries {
		if err := out.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data)
	_ = z.Close()
	return b.Bytes()
}

func zstandard(data []byte, o ...zstd.EOption) []byte {
	z, err := zstd.NewWriter(nil, o...)
	if err != nil {
		panic(err)
	}
	return z.EncodeAll(data, nil)
}

// unpack unpacks to a new directory and gives what is there.
func unpack(t testing.TB, archive []byte, o buildcontext.UnpackOptions) (string, []string, error) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "context")
	err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), to, o)
	if err != nil {
		if _, serr := os.Lstat(to); !errors.Is(serr, fs.ErrNotExist) {
			t.Errorf("after %v something is left", err)
		}
		if strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("an error that is not fit for a log: %q", err)
		}
		return to, nil, err
	}
	return to, found(t, to), nil
}

// found lists what is below a directory: mode, name and what is in it or where
// it leads.
func found(t testing.TB, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if want := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); !info.ModTime().Equal(want) {
			t.Errorf("%s is of %s", path, info.ModTime())
		}
		line := fmt.Sprintf("%s %s", info.Mode(), strings.TrimPrefix(path, root+"/"))
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(data) < 100 {
				line += " " + string(data)
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	from := tree(t, map[string]string{
		"a": "1", "d/e/f": "2", "empty/": "", "link": "->/etc", "d/up": "->../a", "\xff": "3", strings.Repeat("n", 200) + "/" + strings.Repeat("m", 200): "4",
	})
	if err := os.Chmod(filepath.Join(from, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	large(t, filepath.Join(from, "d"))
	archive, p := pack(t, from, buildcontext.PackOptions{})
	to, _, err := unpack(t, archive, buildcontext.UnpackOptions{Digest: p.Digest})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := pack(t, to, buildcontext.PackOptions{})
	if !bytes.Equal(archive, again) {
		t.Errorf("what was unpacked is not what was packed:\n%s", strings.Join(found(t, to), "\n"))
	}
}

func TestUnpack(t *testing.T) {
	entries := tarOf(t,
		entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "commit"}}},
		dir("./"), dir("./d"), file("./d/a", "1"), hardlink("d/b", "d/a"), hardlink("h", "./d/b"),
		symlink("d/l", "../../outside"), symlink("abs", "/etc"), file("made/up/x", ""),
		entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "mode", Mode: 0o6775, Uid: 1234, Gid: 1234, ModTime: time.Now(), PAXRecords: map[string]string{"SCHILY.xattr.user.x": "1"}}},
		entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o500}}, entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "none"}}, file("d/last", "2"),
	)
	want := []string{
		"Lrwxrwxrwx abs -> /etc", "drwx------ d", "-rw-r--r-- d/a 1", "-rw-r--r-- d/b 1", "Lrwxrwxrwx d/l -> ../../outside", "-rw-r--r-- d/last 2",
		"-rw-r--r-- h 1", "drwxr-xr-x made", "drwxr-xr-x made/up", "-rw-r--r-- made/up/x ", "-rwxrwxr-x mode ", "---------- none ",
	}
	for name, archive := range map[string][]byte{"gzip": gzipped(entries), "zstd": zstandard(entries)} {
		t.Run(name, func(t *testing.T) {
			_, got, err := unpack(t, archive, buildcontext.UnpackOptions{Digest: digestOf(archive)})
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want...)
		})
	}
}

// sparse gives a tar with a file of this size in GNU's sparse format, which has
// one byte.
func sparse(size int64) []byte {
	h := make([]byte, 512)
	copy(h, "s")
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], "00000001000\x00") // 512 bytes follow
	copy(h[136:], "00000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	number := func(at int, n int64) {
		h[at] = 0x80
		for i := range 8 {
			h[at+11-i] = byte(n >> (8 * i))
		}
	}
	number(386, size-512)
	number(398, 512)
	number(483, size)
	sum := 8 * int(' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return slices.Concat(h, bytes.Repeat([]byte("x"), 512), make([]byte, 1024))
}

// Large files with holes take no more room than what is in them.
func TestHoles(t *testing.T) {
	const size = 100 << 20
	from := t.TempDir()
	path := filepath.Join(from, "holes")
	if err := os.WriteFile(path, []byte("begin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	packed, _ := pack(t, from, buildcontext.PackOptions{})
	if len(packed) > 100_000 {
		t.Errorf("the archive has %d bytes", len(packed))
	}
	for name, archive := range map[string][]byte{"holes": packed, "s": gzipped(sparse(size))} {
		to, _, err := unpack(t, archive, buildcontext.UnpackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil || info.Size() != size {
			t.Fatalf("%v, %d bytes", err, info.Size())
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Blocks*512 > 10<<20 {
			t.Errorf("%s takes %d bytes", name, s.Blocks*512)
		}
		f, err := os.Open(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, 5)
		if _, err := f.ReadAt(got, map[string]int64{"s": size - 5}[name]); err != nil || string(got) != map[string]string{"holes": "begin", "s": "xxxxx"}[name] {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestDamagedArchives(t *testing.T) {
	plain := tarOf(t, file("a", strings.Repeat("abc", 10_000)), file("b", "1"))
	good := zstandard(plain)
	frames := append(zstandard(plain[:512]), zstandard(plain[512:])...)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, archive := range map[string][]byte{
		"empty": nil, "short": {0x1f}, "plain tar": plain, "text": []byte("<html>not found"), "gzip of text": gzipped([]byte("text")),
		"truncated zstd": good[:len(good)-10], "truncated gzip": gzipped(plain)[:100], "truncated between frames": zstandard(plain[:512]),
		"flipped bit": flipped, "without an end": gzipped(plain[:len(plain)-1024]), "half an end": gzipped(plain[:len(plain)-512]),
		"goes on after the end": gzipped(append(bytes.Clone(plain), "more"...)), "goes on after zstd": append(bytes.Clone(good), "more"...),
		"cut in a header": gzipped(plain[:300]), "cut in a file": gzipped(plain[:1000]),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, archive, buildcontext.UnpackOptions{})
			if !errors.Is(err, failure.ErrInput) {
				t.Errorf("got %v, want an input error", err)
			}
			// What came is not what was sent: that is no fault of the sender.
			_, _, err = unpack(t, archive, buildcontext.UnpackOptions{Digest: digestOf(good)})
			if !errors.Is(err, buildcontext.ErrDigest) || errors.Is(err, failure.ErrInput) {
				t.Errorf("got %v, want ErrDigest", err)
			}
			_, _, err = unpack(t, archive, buildcontext.UnpackOptions{Digest: digestOf(archive)})
			if !errors.Is(err, failure.ErrInput) || errors.Is(err, buildcontext.ErrDigest) {
				t.Errorf("with its digest: got %v, want an input error", err)
			}
		})
	}
	if _, _, err := unpack(t, frames, buildcontext.UnpackOptions{Digest: digestOf(frames)}); err != nil {
		t.Errorf("two frames: %v", err)
	}
	if _, _, err := unpack(t, good, buildcontext.UnpackOptions{Digest: digestOf(frames)}); !errors.Is(err, buildcontext.ErrDigest) {
		t.Errorf("another archive: %v", err)
	}
	broken := errors.New("connection reset")
	to := filepath.Join(t.TempDir(), "context")
	err := buildcontext.Unpack(t.Context(), io.MultiReader(bytes.NewReader(good[:50]), iotest.ErrReader(broken)), to, buildcontext.UnpackOptions{Digest: digestOf(good)})
	if !errors.Is(err, broken) || errors.Is(err, failure.ErrInput) || errors.Is(err, buildcontext.ErrDigest) {
		t.Errorf("with a broken connection: %v", err)
	}
}

func TestWhere(t *testing.T) {
	archive := gzipped(tarOf(t, file("a", "1"), file("d/b", "2")))
	empty := t.TempDir()
	if err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), empty, buildcontext.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, found(t, empty), "-rw-r--r-- a 1", "drwxr-xr-x d", "-rw-r--r-- d/b 2")
	if err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), empty, buildcontext.UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("to what is not empty: %v", err)
	}
	same(t, found(t, empty), "-rw-r--r-- a 1", "drwxr-xr-x d", "-rw-r--r-- d/b 2")
	err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), filepath.Join(empty, "a"), buildcontext.UnpackOptions{})
	if err == nil {
		t.Error("to a file")
	}
	if err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive), filepath.Join(empty, "no", "where"), buildcontext.UnpackOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("to nowhere: %v", err)
	}
	other := t.TempDir()
	if err := buildcontext.Unpack(t.Context(), bytes.NewReader(archive[:20]), other, buildcontext.UnpackOptions{}); err == nil {
		t.Error("a truncated archive")
	}
	if left := found(t, other); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

func TestUnpackStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	archive, p := pack(t, func() string { d := t.TempDir(); large(t, d); return d }(), buildcontext.PackOptions{})
	r := &after{r: bytes.NewReader(archive), n: len(archive) / 2, then: func() { cancel(enough) }}
	to := filepath.Join(t.TempDir(), "context")
	if err := buildcontext.Unpack(ctx, r, to, buildcontext.UnpackOptions{Digest: p.Digest}); !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("something is left")
	}
}

// after does something when half is read.
type after struct {
	r    io.Reader
	n    int
	then func()
}

func (a *after) Read(p []byte) (int, error) {
	if a.n <= 0 {
		a.then()
	}
	n, err := a.r.Read(p)
	a.n -= n
	return n, err
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, dir("d/"), file("d/a", "1"), symlink("l", "/etc"), hardlink("h", "d/a")))
	f.Add(tarOf(f, symlink("x", ".."), file("x/out", "1")))
	f.Add(tarOf(f, dir("./"), hardlink("a", "a"), file("a", "")))
	f.Add(sparse(1 << 20))
	f.Add(tarOf(f, file(strings.Repeat("long/", 100)+"x", "1"), dir("../d"), file("\xff\n", "")))
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		tmp := t.TempDir()
		if err := os.WriteFile(filepath.Join(tmp, "outside"), []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(tmp, "context")
		o := buildcontext.UnpackOptions{MaxBytes: 2 << 20, MaxFiles: 1000}
		err := buildcontext.Unpack(t.Context(), bytes.NewReader(z.EncodeAll(plain, nil)), to, o)
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("an error that is not fit for a log: %q", err)
		}
		want := []string{"outside precious"}
		if err == nil {
			want = []string{"context ", "outside precious"}
		}
		same(t, found2(t, tmp), want...)
		if err != nil {
			return
		}
		if err := buildcontext.Unpack(t.Context(), bytes.NewReader(zstandard(plain)), to, o); err == nil && len(found2(t, to)) > 0 {
			t.Error("unpacked to what was there")
		}
	})
}
