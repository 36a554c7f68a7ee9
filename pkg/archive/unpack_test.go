package archive_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/archive"
)

// listing tells a tree as lines: kind, path, and what is in it.
func listing(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		switch {
		case d.IsDir():
			lines = append(lines, "d "+name)
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			lines = append(lines, "l "+name+" "+to)
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			lines = append(lines, "f "+name+" "+string(data))
			return err
		default:
			lines = append(lines, "? "+name+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestUnpack(t *testing.T) {
	tests := map[string]struct {
		layers [][]entry
		want   []string
	}{
		"files": {[][]entry{{dir("etc/", 0o755), file("etc/a", "1"), symlink("b", "etc/a"), hardlink("c", "etc/a")}},
			[]string{"l b etc/a", "f c 1", "d etc", "f etc/a 1"}},
		"names": {[][]entry{{file("/abs/a", "1"), file("./dot/b", "2"), file("x/../c", "3"), dir("./", 0o755)}},
			[]string{"d abs", "f abs/a 1", "f c 3", "d dot", "f dot/b 2"}},
		"whiteout": {[][]entry{{file("d/a", "1"), file("d/b", "1"), file("e/f", "1")}, {file("d/.wh.a", ""), file(".wh.e", "")}},
			[]string{"d d", "f d/b 1"}},
		"whiteout after what replaces it": {[][]entry{{file("d/a", "1"), file("d/b", "1")}, {file("d", "2"), file(".wh.d", "")}},
			[]string{"f d 2"}},
		"whiteout of nothing": {[][]entry{{file("a", "1")}, {file(".wh.x", ""), file("y/.wh.z", ""), file("a/.wh.z", ""), file("y/.wh..wh..opq", "")}},
			[]string{"f a 1"}},
		"whiteout in the lowest layer": {[][]entry{{file("a", "1"), file(".wh.a", "")}}, []string{"f a 1"}},
		"opaque": {[][]entry{{file("d/a", "1"), file("d/e/b", "1"), file("f", "1")}, {dir("d/", 0o755), file("d/.wh..wh..opq", ""), file("d/c", "2")}},
			[]string{"d d", "f d/c 2", "f f 1"}},
		"opaque after its files": {[][]entry{{file("d/a", "1"), file("d/e/b", "1")}, {file("d/e/c", "2"), file("d/z", "2"), file("d/.wh..wh..opq", "")}},
			[]string{"d d", "d d/e", "f d/e/c 2", "f d/z 2"}},
		"opaque root":  {[][]entry{{file("a", "1"), dir("d/", 0o755)}, {file(".wh..wh..opq", ""), file("b", "2")}}, []string{"f b 2"}},
		"AUFS's files": {[][]entry{{file("a", "1")}, {file(".wh..wh.aufs", ""), dir(".wh..wh.plnk/", 0o700), file("b", "2")}}, []string{"f a 1", "f b 2"}},
		"replaced": {[][]entry{
			{file("file", "1"), dir("dir/", 0o755), file("dir/x", "1"), symlink("link", "file"), symlink("dirlink", "dir")},
			{dir("file/", 0o755), file("dir", "2"), file("link", "2"), dir("dirlink/", 0o755), file("dirlink/y", "2")}},
			[]string{"f dir 2", "d dirlink", "f dirlink/y 2", "d file", "f link 2"}},
		"a directory stays":        {[][]entry{{dir("d/", 0o755), file("d/x", "1")}, {dir("d/", 0o700), file("d/y", "2")}}, []string{"d d", "f d/x 1", "f d/y 2"}},
		"a link's parent":          {[][]entry{{dir("usr/lib/", 0o755), symlink("lib", "usr/lib")}, {file("lib/x", "2")}}, []string{"d lib", "f lib/x 2", "d usr", "d usr/lib"}},
		"hard link to lower layer": {[][]entry{{file("d/a", "1")}, {hardlink("e/b", "d/a"), hardlink("d/a", "d/a"), hardlink("/c", "/d/a")}}, []string{"f c 1", "d d", "f d/a 1", "d e", "f e/b 1"}},
		"hard link to a link":      {[][]entry{{symlink("a", "/etc/passwd"), hardlink("b", "a")}}, []string{"l a /etc/passwd", "l b /etc/passwd"}},
		"the same twice":           {[][]entry{{file("a", "1"), file("a", "2"), symlink("b", "x"), symlink("b", "y")}}, []string{"f a 2", "l b y"}},
		"zeros":                    {[][]entry{{file("z", strings.Repeat("\x00", 300<<10)), file("y", "x"+strings.Repeat("\x00", 300<<10)+"x"), file("e", "")}}, []string{"f e ", "f y x" + strings.Repeat("\x00", 300<<10) + "x", "f z " + strings.Repeat("\x00", 300<<10)}},
		"no layers":                {nil, nil},
		"global header": {[][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}, file("a", "1")}},
			[]string{"f a 1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			say := func(line string) { t.Errorf("said: %s", line) }
			if err := archive.Unpack(t.Context(), filepath.Join(tmp, "root"), unpackable(t, tt.layers...), say); err != nil {
				t.Fatal(err)
			}
			if got := listing(t, filepath.Join(tmp, "root")); !slices.Equal(got, tt.want) {
				t.Errorf("got\n%.2000s\nwant\n%.2000s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			onlyThere(t, tmp, "root")
		})
	}
}

// TestUnpackMetadata looks at modes, times and what else depends on who runs.
func TestUnpackMetadata(t *testing.T) {
	setuid := file("bin/su", "x")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o4755, 1000, 1001
	null := entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}}
	pipe := entry{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600, ModTime: someTime}}
	attribute := file("attr", "x")
	attribute.PAXRecords = map[string]string{"SCHILY.xattr.user.pipegen": "yes", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	link := symlink("link", "bin/su")
	img := unpackable(t,
		[]entry{dir("./", 0o711), dir("bin/", 0o555), setuid, dir("locked/", 0o500), dir("locked/in/", 0o000), dir("gone/", 0o500), null, pipe, attribute, link},
		[]entry{file("locked/in/x", "2"), file("bin/other", "3"), file(".wh.gone", "")})
	for _, asRoot := range []bool{true, false} {
		t.Run(fmt.Sprintf("root %t", asRoot), func(t *testing.T) {
			if asRoot && os.Geteuid() != 0 {
				return // the other half is what this user gets
			}
			tmp := t.TempDir()
			root := filepath.Join(tmp, "root")
			var said []string
			if err := archive.UnpackAs(t.Context(), root, img, func(l string) { said = append(said, l) }, asRoot); err != nil {
				t.Fatal(err)
			}
			modes := map[string]fs.FileMode{
				".": fs.ModeDir | 0o711, "bin": fs.ModeDir | 0o555, "bin/su": 0o755, "locked": fs.ModeDir | 0o500, "locked/in": fs.ModeDir,
				"pipe": fs.ModeNamedPipe | 0o600, "attr": 0o644, "dev": fs.ModeDir | 0o755,
			}
			if asRoot {
				modes["bin/su"] |= fs.ModeSetuid
				modes["dev/null"] = fs.ModeDevice | fs.ModeCharDevice | 0o666
			} else {
				modes["."] |= 0o700
			}
			for name, want := range modes {
				info, err := os.Lstat(filepath.Join(root, name))
				if err != nil || info.Mode() != want {
					t.Errorf("%s: %v instead of %v, %v", name, info.Mode(), want, err)
				}
			}
			for _, name := range []string{".", "bin", "bin/su", "locked", "locked/in", "pipe", "link"} {
				if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.ModTime().Equal(someTime) {
					t.Errorf("%s has the time %v, %v", name, info.ModTime(), err)
				}
			}
			info, err := os.Stat(filepath.Join(root, "bin/su"))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); asRoot && (st.Uid != 1000 || st.Gid != 1001) || !asRoot && int(st.Uid) != os.Geteuid() {
				t.Errorf("owner %d:%d", st.Uid, st.Gid)
			}
			if text := strings.Join(said, "\n"); !asRoot && (!strings.Contains(text, "left out dev/null: only root") || len(said) != 1) {
				t.Errorf("said %q", said)
			}
		})
	}
}

func TestUnpackHostile(t *testing.T) {
	long := strings.Repeat("d/", 600) + "f"
	odd := func(h tar.Header) entry { return entry{Header: h} }
	tests := map[string][][]entry{
		"dot dot":                   {{file("../evil", "1")}},
		"dot dot inside":            {{file("a/../../evil", "1")}},
		"absolute dot dot":          {{file("/../evil", "1")}},
		"dot dot itself":            {{dir("..", 0o777)}},
		"hard link out":             {{hardlink("a", "../outside")}},
		"hard link to nothing":      {{hardlink("a", "etc/passwd")}},
		"hard link through a link":  {{symlink("l", ".."), hardlink("a", "l/outside")}},
		"hard link through abs":     {{symlink("l", "/"), hardlink("a", "l/etc/passwd")}},
		"hard link through inner":   {{file("d/x", "1"), symlink("l", "d"), hardlink("a", "l/x")}},
		"hard link to directory":    {{dir("d/", 0o755), hardlink("a", "d")}},
		"hard link to the root":     {{hardlink("a", ".")}},
		"whiteout of the parent":    {{file("d/a", "1")}, {file("d/.wh...", "")}},
		"whiteout of the directory": {{file("d/a", "1")}, {file("d/.wh..", "")}},
		"whiteout of no name":       {{file("d/a", "1")}, {file("d/.wh.", "")}},
		"whiteout outside":          {{file("d/a", "1")}, {file("../.wh.outside", "")}},
		"opaque outside":            {{file("d/a", "1")}, {file("../.wh..wh..opq", "")}},
		"deep":                      {{file(long, "1")}},
		"long":                      {{file(strings.Repeat("x", 5000), "1")}},
		"owner":                     {{odd(tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: 1<<32 - 1, Format: tar.FormatPAX})}},
	}
	for name, layers := range tests {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			write(t, filepath.Join(tmp, "outside"), []byte("precious"))
			err := archive.UnpackAs(t.Context(), filepath.Join(tmp, "root"), unpackable(t, layers...), nil, true)
			if err == nil || strings.Contains(err.Error(), ".tmp-") || len(err.Error()) > 1000 {
				t.Errorf("got %v", err)
			}
			onlyThere(t, tmp, "outside")
			if string(read(t, filepath.Join(tmp, "outside"))) != "precious" {
				t.Error("a file outside was written")
			}
		})
	}
}

// Links may point anywhere; nothing is written or removed through them.
func TestUnpackThroughLinks(t *testing.T) {
	tmp := t.TempDir()
	outside := filepath.Join(tmp, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(outside, "precious"), []byte("1"))
	img := unpackable(t,
		[]entry{symlink("abs", outside), symlink("rel", "../outside"), symlink("file", filepath.Join(outside, "precious")), symlink("deep", "../outside"), symlink("mode", outside)},
		[]entry{file("abs/.wh.precious", ""), file("rel/.wh..wh..opq", ""), file("abs/x", "2"), file("rel/x", "2"), file("file", "2"), dir("deep/a/b/", 0o755), dir("mode/", 0o777)})
	if err := archive.Unpack(t.Context(), filepath.Join(tmp, "root"), img, nil); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, outside); !slices.Equal(got, []string{"f precious 1"}) {
		t.Errorf("outside: %q", got)
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("outside: %v, %v", info.Mode(), err)
	}
	want := []string{"d abs", "f abs/x 2", "d deep", "d deep/a", "d deep/a/b", "f file 2", "d mode", "d rel", "f rel/x 2"}
	if got := listing(t, filepath.Join(tmp, "root")); !slices.Equal(got, want) {
		t.Errorf("root: %q", got)
	}
}

func TestUnpackReplaces(t *testing.T) {
	tmp := t.TempDir()
	root := filepath.Join(tmp, "root")
	for _, data := range []string{"1", "2"} {
		if err := archive.UnpackAs(t.Context(), root, unpackable(t, []entry{dir("d/", 0o500), file("d/"+data, data)}), nil, false); err != nil {
			t.Fatal(err)
		}
		if got := listing(t, root); !slices.Equal(got, []string{"d d", "f d/" + data + " " + data}) {
			t.Errorf("%q", got)
		}
		onlyThere(t, tmp, "root")
	}
	wrong := imageOf(t, true, lying{layerOf(t, tarOf(t, file("a", "1")), types.OCILayer)})
	if err := archive.Unpack(t.Context(), root, wrong, nil); err == nil || !strings.Contains(err.Error(), "diff ID") {
		t.Errorf("a layer with another diff ID: %v", err)
	}
	if got := listing(t, root); len(got) != 2 {
		t.Errorf("a failure changed what was there: %q", got)
	}
	onlyThere(t, tmp, "root")
}

func TestUnpackNotes(t *testing.T) {
	var devices []entry
	for n := range 25 {
		devices = append(devices, entry{Header: tar.Header{Name: fmt.Sprintf("dev\n%d", n), Typeflag: tar.TypeBlock}})
	}
	var said []string
	if err := archive.UnpackAs(t.Context(), filepath.Join(t.TempDir(), "root"), unpackable(t, devices), func(l string) { said = append(said, l) }, false); err != nil {
		t.Fatal(err)
	}
	if len(said) != 11 || said[10] != "15 more devices and pipes" || strings.Contains(strings.Join(said, ""), "\n") {
		t.Errorf("said %q", said)
	}
}

func TestCancelled(t *testing.T) {
	why := errors.New("enough")
	img := func(cancel context.CancelCauseFunc) (i imageLayers) {
		for n := range 2 {
			i = append(i, &generated{size: 8 << 20, seed: byte(n), after: 5 << 20, then: func() { cancel(why) }})
		}
		return i
	}
	writers := map[string]func(ctx context.Context, path string, img imageLayers) error{
		"docker": func(ctx context.Context, path string, img imageLayers) error {
			return archive.WriteDockerTar(ctx, path, img.image(t), "")
		},
		"tar": func(ctx context.Context, path string, img imageLayers) error {
			return archive.WriteOCITar(ctx, path, img.image(t), nil, "")
		},
		"layout": func(ctx context.Context, path string, img imageLayers) error {
			return archive.WriteLayout(ctx, path, img.image(t), nil, "")
		},
		"unpack": func(ctx context.Context, path string, img imageLayers) error {
			return archive.Unpack(ctx, path, img.image(t), nil)
		},
	}
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			ctx, cancel := context.WithCancelCause(t.Context())
			if err := write(ctx, filepath.Join(tmp, "x"), img(cancel)); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			onlyThere(t, tmp)
		})
	}
	t.Run("open", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "app.tar")
		if err := archive.WriteOCITar(t.Context(), path, unpackable(t, []entry{file("a", "1")}), nil, ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if _, err := archive.Open(ctx, path); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}
