package templates_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/templates"
)

func TestInit(t *testing.T) {
	files, err := templates.Init("gitlab")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	written, err := templates.Write(root, files, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{".gitlab-ci.yml", "pipegen.yaml", "rebuild-weekly.txt"}; !slices.Equal(written, want) {
		t.Errorf("wrote %q, want %q", written, want)
	}
	slices.Sort(written)
	repo, err := config.Load(os.DirFS(root), written, config.Options{})
	if err != nil || len(repo.Warnings) > 0 {
		t.Errorf("what init writes has faults: %v %v", err, repo.Warnings)
	}
	if _, err := templates.Init("gitlba"); !errors.Is(err, failure.ErrInput) {
		t.Errorf("unknown system: got %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		o     templates.NewOptions
		files []string
	}{
		{templates.NewOptions{Name: "hello"}, []string{"projects/hello/Dockerfile", "projects/hello/README.md", "projects/hello/build-config.yaml"}},
		{templates.NewOptions{Name: "yes", Dir: "images/with blank: x"}, []string{"images/with blank: x/Dockerfile", "images/with blank: x/README.md", "images/with blank: x/build-config.yaml"}},
		{templates.NewOptions{Name: "tool", Upstream: "https://git.example/tool.git?a=b#c", Ref: "1.0"}, []string{"projects/tool/README.md", "projects/tool/build-config.yaml"}},
		{templates.NewOptions{Name: "tool", Upstream: "git@git.example:tool.git", Ref: "0123456"}, []string{"projects/tool/README.md", "projects/tool/build-config.yaml"}},
	} {
		files, err := templates.New(c.o)
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
			continue
		}
		root := t.TempDir()
		written, err := templates.Write(root, files, false)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(written)
		if !slices.Equal(written, c.files) {
			t.Errorf("%+v: wrote %q, want %q", c.o, written, c.files)
		}
		repo, err := config.Load(os.DirFS(root), written, config.Options{CheckReadme: true})
		if err != nil || len(repo.Projects) != 1 {
			t.Errorf("%+v: what new writes has faults: %v", c.o, err)
			continue
		}
		got := repo.Projects[0].Config
		if got.Name != c.o.Name || got.UpstreamRepo != c.o.Upstream || got.UpstreamRef != c.o.Ref {
			t.Errorf("%+v came back as %q, %q, %q", c.o, got.Name, got.UpstreamRepo, got.UpstreamRef)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	const url = "https://git.example/tool.git"
	for _, o := range []templates.NewOptions{
		{}, {Name: "$(id)"}, {Name: "a/b"}, {Name: ".."}, {Name: "-x"}, {Name: "A"}, {Name: "a b"}, {Name: "a\nb"}, {Name: "a\u202eb"}, {Name: "a--b"}, {Name: strings.Repeat("a", 91)},
		{Name: "a", Dir: "../a"}, {Name: "a", Dir: "/a"}, {Name: "a", Dir: ".git/a"}, {Name: "a", Dir: `a\b`}, {Name: "a", Dir: "a\x00b"},
		{Name: "a", Upstream: url}, {Name: "a", Ref: "v1"},
		{Name: "a", Upstream: "ext::sh -c id", Ref: "v1"}, {Name: "a", Upstream: "https://user:secret@git.example/tool.git", Ref: "v1"},
		{Name: "a", Upstream: "--upload-pack=id", Ref: "v1"}, {Name: "a", Upstream: url + "\nname: b", Ref: "v1"},
		{Name: "a", Upstream: url, Ref: "--upload-pack=id"}, {Name: "a", Upstream: url, Ref: "a b"}, {Name: "a", Upstream: url, Ref: "a\nb"},
	} {
		files, err := templates.New(o)
		if !errors.Is(err, failure.ErrInput) || files != nil {
			t.Errorf("%+v: got %v", o, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestWrite(t *testing.T) {
	files := []templates.File{{"a/b/one", []byte("new")}, {"two", []byte("new")}}
	write := func(t *testing.T, root, name, data string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, to, from string) {
		t.Helper()
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name      string
		prepare   func(t *testing.T, root string)
		overwrite bool
		want      string // of the error; empty: none
	}{
		{"empty", func(*testing.T, string) {}, false, ""},
		{"there", func(t *testing.T, root string) { write(t, root, "two", "old") }, false, "there already: two"},
		{"overwrite", func(t *testing.T, root string) { write(t, root, "two", "old") }, true, ""},
		{"directory", func(t *testing.T, root string) {
			if err := os.Mkdir(filepath.Join(root, "two"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, "two: is a directory"},
		{"parent is a file", func(t *testing.T, root string) { write(t, root, "a", "old") }, true, "a/b/one: a directory on its way is a file"},
		{"link out", func(t *testing.T, root string) { link(t, t.TempDir(), filepath.Join(root, "a")) }, true, "a/b/one: path escapes"},
		{"link out, relative", func(t *testing.T, root string) { link(t, "..", filepath.Join(root, "a")) }, true, "a/b/one: path escapes"},
		{"link to nowhere", func(t *testing.T, root string) { link(t, "nowhere", filepath.Join(root, "a")) }, true, "a/b/one: a is a symbolic link that leads nowhere"},
		{"file is a link", func(t *testing.T, root string) { link(t, filepath.Join(t.TempDir(), "x"), filepath.Join(root, "two")) }, false, "there already: two"},
		{"link within", func(t *testing.T, root string) {
			if err := os.Mkdir(filepath.Join(root, "real"), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, "real", filepath.Join(root, "a"))
		}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			c.prepare(t, root)
			before := tree(t, root)
			written, err := templates.Write(root, files, c.overwrite)
			if c.want != "" {
				if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || written != nil {
					t.Errorf("got %v, want an error with %q", err, c.want)
				}
				if after := tree(t, root); !slices.Equal(before, after) {
					t.Errorf("there was %q and now is %q", before, after)
				}
				return
			}
			if err != nil || !slices.Equal(written, []string{"a/b/one", "two"}) {
				t.Fatalf("wrote %q: %v", written, err)
			}
			for _, f := range files {
				if got, err := os.ReadFile(filepath.Join(root, f.Path)); err != nil || string(got) != "new" {
					t.Errorf("%s holds %q (%v)", f.Path, got, err)
				}
			}
			if leftover, _ := filepath.Glob(filepath.Join(root, ".*")); len(leftover) > 0 {
				t.Errorf("left over: %q", leftover)
			}
		})
	}
}

// tree lists what is below a directory.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		all = append(all, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
