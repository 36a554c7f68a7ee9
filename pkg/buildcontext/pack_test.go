package buildcontext_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/failure"
)

// tree writes files by their path. A path that ends with a slash is a
// directory, a text that begins with -> a symbolic link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		target, link := strings.CutPrefix(text, "->")
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t testing.TB, dir string, o buildcontext.PackOptions) ([]byte, buildcontext.Packed) {
	t.Helper()
	var b bytes.Buffer
	p, err := buildcontext.Pack(t.Context(), dir, &b, o)
	if err != nil {
		t.Fatal(err)
	}
	if p.Size != int64(b.Len()) || p.Digest != digestOf(b.Bytes()) {
		t.Errorf("%+v describes an archive of %d bytes, %s", p, b.Len(), digestOf(b.Bytes()))
	}
	return b.Bytes(), p
}

// listing gives the entries of an archive: mode, name and what is in them or
// where they lead.
func listing(t testing.TB, archive []byte) []string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var all []string
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)) || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s tells when or by whom it was written: %+v", h.Name, h)
		}
		line := fmt.Sprintf("%o %s", h.Mode, h.Name)
		switch {
		case h.Linkname != "":
			line += " -> " + h.Linkname
		case len(data) > 0:
			line += " " + string(data)
		}
		all = append(all, line)
	}
}

// same compares listings line by line.
func same(t testing.TB, got []string, want ...string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestPack(t *testing.T) {
	long := strings.Repeat("long/", 60) + "name"
	dir := tree(t, map[string]string{
		"b": "1", "a/z": "2", "a-b": "3", "a.b": "", "empty/": "", "ro": "4", "run": "5", "secret": "6", "suid": "7", "0/unreadable-to-others": "8",
		"link": "->a/z", "out": "->/etc/passwd", "dangling": "->../nowhere", "dir-link": "->a", "\xff\xfe\n": "9", "é": "10",
		".git/HEAD": "no", "sub/.git": "gitdir: no", ".env": "no", "a/.env": "no", ".env.local": "no", ".env.test.local": "no", ".env.example": "yes", ".environment": "yes",
		long: "11",
	})
	for name, mode := range map[string]fs.FileMode{
		"ro": 0o440, "run": 0o700, "secret": 0o600, "suid": 0o4755 &^ 0o4000, "a": 0o700, "0/unreadable-to-others": 0o640, "empty": 0o777 | fs.ModeSticky,
	} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "suid"), 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	archive, p := pack(t, dir, buildcontext.PackOptions{})
	want := []string{
		"644 .env.example yes", "644 .environment yes", "755 0/", "644 0/unreadable-to-others 8",
		"755 a/", "644 a/z 2", "644 a-b 3", "644 a.b", "644 b 1", "777 dangling -> ../nowhere", "777 dir-link -> a", "755 empty/", "644 hard 1", "777 link -> a/z",
	}
	// Sorted by bytes, a directory's name without a slash.
	for i := 1; i <= 60; i++ {
		want = append(want, "755 "+strings.Repeat("long/", i))
	}
	want = append(want, "644 "+long+" 11", "777 out -> /etc/passwd", "444 ro 4", "755 run 5", "644 secret 6", "755 sub/", "755 suid 7", "644 é 10", "644 \xff\xfe\n 9")
	same(t, listing(t, archive), want...)
	if p.Files != 15 || p.Bytes != 20 {
		t.Errorf("%d files, %d bytes", p.Files, p.Bytes)
	}
}

// large writes what fills several blocks, some of it random.
func large(t testing.TB, dir string) {
	t.Helper()
	r := rand.NewChaCha8([32]byte{1})
	for i := range 40 {
		data := make([]byte, 300_000)
		_, _ = r.Read(data[:100_000])
		copy(data[200_000:], strings.Repeat(fmt.Sprint("text ", i), 10_000))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameBytes(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	large(t, one)
	// Another machine: written in another order, with another umask, later.
	names, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, e := range names {
		data, err := os.ReadFile(filepath.Join(one, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(two, e.Name()), data, 0o600)
		}
		if err == nil {
			err = os.Chtimes(filepath.Join(two, e.Name()), time.Unix(1, 0), time.Unix(1, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first, _ := pack(t, one, buildcontext.PackOptions{Workers: 1})
	for _, workers := range []int{0, 2, 7} {
		for _, dir := range []string{one, two} {
			if again, _ := pack(t, dir, buildcontext.PackOptions{Workers: workers}); !bytes.Equal(first, again) {
				t.Errorf("%d workers give other bytes than one", workers)
			}
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if again, _ := pack(t, one, buildcontext.PackOptions{}); !bytes.Equal(first, again) {
		t.Error("one processor gives other bytes")
	}
	if err := os.Chmod(filepath.Join(two, "7"), 0o700); err != nil {
		t.Fatal(err)
	}
	if again, _ := pack(t, two, buildcontext.PackOptions{}); bytes.Equal(first, again) {
		t.Error("a file that can be executed gives the same bytes")
	}
}

// What one version of pipegen packs, the next should pack alike: else every
// context is sent again.
func TestKnownDigest(t *testing.T) {
	dir := tree(t, map[string]string{"Dockerfile": "FROM scratch\n", "src/main.go": "package main\n", "link": "->src"})
	const want = "sha256:fc0ad359da5c6676f9cedbf8d9d939fefb91e3d2f72c3eb2420680978ba0c1ce"
	if _, p := pack(t, dir, buildcontext.PackOptions{}); p.Digest != want {
		t.Errorf("digest %s, want %s", p.Digest, want)
	}
}

func TestIgnore(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  string // names; each holds its own
		ignore map[string]string
		builds []buildcontext.Build
		want   string
	}{
		{"none", "a b/c", nil, nil, "a b/ b/c"},
		{"patterns", "a b/c b/d x.log y/z.log", map[string]string{".dockerignore": "# comment\n*.log\n**/*.log\nb/d\n/a\n"}, nil, ".dockerignore b/ b/c y/"},
		{"itself and the Dockerfile stay", "Dockerfile a", map[string]string{".dockerignore": "*"}, nil, ".dockerignore Dockerfile"},
		{"directory", "d/a d/e/f x", map[string]string{".dockerignore": "d"}, nil, ".dockerignore x"},
		{"brought back", "d/a d/e/f d/e/g x/y", map[string]string{".dockerignore": "*\n!d/e/f\n"}, nil, ".dockerignore d/ d/e/ d/e/f"},
		{"brought back anywhere", "d/a.go d/e/f.go d/e/g x/y", map[string]string{".dockerignore": "**\n!**/*.go\n"}, nil, ".dockerignore d/ d/a.go d/e/ d/e/f.go"},
		{"directory brought back", "d/a d/e/f d/e/g/h", map[string]string{".dockerignore": "d\n!d/e\n"}, nil, ".dockerignore d/ d/e/ d/e/f d/e/g/ d/e/g/h"},
		{"order counts", "d/a d/b", map[string]string{".dockerignore": "!d/a\nd\n"}, nil, ".dockerignore"},
		{"never", ".git/HEAD .env a", map[string]string{".dockerignore": "!.git\n!.env\n!**\n"}, nil, ".dockerignore a"},
		{
			"own file of a Dockerfile", "a b", map[string]string{".dockerignore": "a", "docker/x.Dockerfile.dockerignore": "b"},
			[]buildcontext.Build{{Dockerfile: "docker/x.Dockerfile"}}, ".dockerignore a docker/ docker/x.Dockerfile.dockerignore",
		},
		{
			"contexts below", "top one/a one/m/x two/a two/m/x",
			map[string]string{".dockerignore": "one\ntop\n**/m", "two/.dockerignore": "a"},
			[]buildcontext.Build{{Context: "one"}, {Context: "./two/"}}, ".dockerignore one/ one/a one/m/ one/m/x two/ two/.dockerignore two/m/ two/m/x",
		},
		{
			"of several contexts one keeps", "one/a one/b c",
			map[string]string{".dockerignore": "one/a\nc", "one/.dockerignore": "b"},
			[]buildcontext.Build{{}, {Context: "one"}}, ".dockerignore one/ one/.dockerignore one/a one/b",
		},
		{
			"two builds, one context", "a b c", map[string]string{"x.dockerignore": "a\nb", "y.dockerignore": "b\nc"},
			[]buildcontext.Build{{Dockerfile: "x"}, {Dockerfile: "y"}}, "a c x.dockerignore y.dockerignore",
		},
		{"names like others", "on/a one/a one-x/a", map[string]string{".dockerignore": "on*"}, []buildcontext.Build{{Context: "one"}, {}}, ".dockerignore one/ one/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{}
			for name := range strings.FieldsSeq(c.files) {
				files[name] = name
			}
			maps.Copy(files, c.ignore)
			archive, _ := pack(t, tree(t, files), buildcontext.PackOptions{Builds: c.builds})
			var got []string
			for _, line := range listing(t, archive) {
				got = append(got, strings.Fields(line)[1])
			}
			same(t, got, strings.Fields(c.want)...)
		})
	}
}

func TestWrongPacking(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		build buildcontext.Build
		want  string
	}{
		{"pattern", map[string]string{".dockerignore": "a\n[b\n"}, buildcontext.Build{}, ".dockerignore: syntax error in pattern"},
		{"lone exclamation mark", map[string]string{".dockerignore": "!"}, buildcontext.Build{}, ".dockerignore: illegal exclusion"},
		{"patterns in a directory", map[string]string{".dockerignore/a": ""}, buildcontext.Build{}, "no file of patterns"},
		{"too many patterns", map[string]string{".dockerignore": strings.Repeat("#\n", 1<<20)}, buildcontext.Build{}, "no file of patterns"},
		{"context outside", nil, buildcontext.Build{Context: "../x"}, "not below"},
		{"Dockerfile outside", nil, buildcontext.Build{Dockerfile: "/etc/passwd"}, "not below"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := buildcontext.Pack(t.Context(), tree(t, c.files), io.Discard, buildcontext.PackOptions{Builds: []buildcontext.Build{c.build}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, failure.ErrInput) {
				t.Errorf("got %v, want input error with %q", err, c.want)
			}
		})
	}
	if _, err := buildcontext.Pack(t.Context(), filepath.Join(t.TempDir(), "none"), io.Discard, buildcontext.PackOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("packing what is not there: %v", err)
	}
}

// slow is a writer that does something after the first bytes.
type slow struct {
	io.Writer
	then func()
}

func (s *slow) Write(p []byte) (int, error) {
	if s.then != nil {
		s.then()
		s.then = nil
	}
	return s.Writer.Write(p)
}

func TestChanging(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"grows":   appendTo,
		"shrinks": func(f string) error { return os.Truncate(f, 60_000_000) },
		"is written": func(f string) error {
			at := time.Now().Add(time.Second)
			return os.Chtimes(f, at, at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "large")
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, 80_000_000); err != nil {
				t.Fatal(err)
			}
			var failed error
			w := &slow{io.Discard, func() { failed = change(file) }}
			_, err := buildcontext.Pack(t.Context(), dir, w, buildcontext.PackOptions{Workers: 1})
			if failed != nil {
				t.Fatal(failed)
			}
			if err == nil || !strings.Contains(err.Error(), "packing large: it changed") || failure.Hint(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func appendTo(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("more")
	return errors.Join(err, f.Close())
}

func TestSpecialFiles(t *testing.T) {
	dir := tree(t, map[string]string{"a": "1"})
	l, err := net.Listen("unix", filepath.Join(dir, "socket\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	var said []string
	archive, _ := pack(t, dir, buildcontext.PackOptions{Warn: func(line string) { said = append(said, line) }})
	same(t, listing(t, archive), "644 a 1")
	same(t, said, "left out pipe: it is a named pipe", `left out socket\n: it is a socket`)
}

func TestPackStops(t *testing.T) {
	dir := t.TempDir()
	large(t, dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := buildcontext.Pack(ctx, dir, &slow{io.Discard, func() { cancel(enough) }}, buildcontext.PackOptions{Workers: 1})
	if !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("disk full")
	if _, err := buildcontext.Pack(t.Context(), dir, failing{full}, buildcontext.PackOptions{}); !errors.Is(err, full) {
		t.Errorf("with a full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestPackFile(t *testing.T) {
	dir := tree(t, map[string]string{"a": "1"})
	var progress []int64
	// The archive is in the directory itself, and not in the archive.
	name, p, err := buildcontext.PackFile(t.Context(), dir, dir, buildcontext.PackOptions{Progress: func(n int64) { progress = append(progress, n) }})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil || digestOf(data) != p.Digest || filepath.Dir(name) != dir {
		t.Fatalf("%s: %v, %+v", name, err, p)
	}
	same(t, listing(t, data), "644 a 1")
	if len(progress) != 1 || progress[0] != 1 {
		t.Errorf("progress %v", progress)
	}
	tmp := t.TempDir()
	if name, _, err := buildcontext.PackFile(t.Context(), filepath.Join(dir, "none"), tmp, buildcontext.PackOptions{}); err == nil || name != "" {
		t.Errorf("packed what is not there to %s", name)
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}
