package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pipegen/pipegen/pkg/failure"
)

// tree makes a checkout from names and contents.
func tree(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// paths gives the files of a checkout as git lists them.
func paths(fsys fstest.MapFS) []string { return slices.Sorted(maps.Keys(fsys)) }

// load reads a checkout and gives its faults, of both severities, as
// "file:line:column rule". It sees that a cache changes nothing.
func load(t *testing.T, fsys fs.FS, files []string, o Options) (*Repository, []string) {
	t.Helper()
	repo, err := Load(fsys, files, o)
	sameWithCache(t, fsys, files, o)
	var all Faults
	if err != nil && !errors.As(err, &all) {
		t.Fatalf("the error is %T", err)
	}
	all = append(slices.Clone(all), repo.Warnings...)
	all.Sort()
	short := make([]string, len(all))
	for i, f := range all {
		short[i] = fmt.Sprintf("%s:%d:%d %s", f.File, f.Line, f.Column, f.Rule)
	}
	return repo, short
}

func TestDiscovery(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []string // directories
		fault []string
	}{
		{"every directory with a file", map[string]string{
			"a-b/build-config.yaml": "index: true", "a/build-config.yaml": "index: true", "a/c/build-config.yaml": "index: true", "x/other.yaml": "",
		}, []string{"a", "a-b", "a/c"}, nil},
		{"the root", map[string]string{"build-config.yaml": "name: all"}, []string{"."}, nil},
		{"the root without a name", map[string]string{"build-config.yaml": "index: true"}, []string{"."}, []string{"build-config.yaml:1:1 missing-key"}},
		{"by globs", map[string]string{
			"pipegen.yaml":               "projects: ['images/*']\n",
			"images/a/build-config.yaml": "index: true", "images/a/b/build-config.yaml": "index: true", "other/build-config.yaml": "index: true",
		}, []string{"images/a"}, nil},
		{"by name", map[string]string{
			"pipegen.yaml":               "projects:\n- images/a\n- images/b\n- images/aa\n- 'x/*'\n- a/../b\n",
			"images/a/build-config.yaml": "index: true", "images/b/Dockerfile": "",
		}, []string{"images/a"}, []string{
			"pipegen.yaml:3:3 missing-config", "pipegen.yaml:4:3 missing-config", "pipegen.yaml:5:3 no-match", "pipegen.yaml:6:3 bad-glob",
		}},
		{"nearly right names", map[string]string{"a/build-config.yml": "", "pipegen.yml": ""}, nil, []string{"a/build-config.yml:0:0 misnamed-file", "pipegen.yml:0:0 misnamed-file"}},
		{"a directory of that name", map[string]string{"a/build-config.yaml/x": ""}, []string{"a"}, []string{"a/build-config.yaml:0:0 unreadable"}},
		{"pipegen.yaml is a directory", map[string]string{"pipegen.yaml/x": ""}, nil, []string{"pipegen.yaml:0:0 unreadable"}},
		{"pipegen.yaml with comments only", map[string]string{"pipegen.yaml": "# registry: x\n"}, nil, nil},
		{"blanks and unicode", map[string]string{"mit Leerzeichen/ä/build-config.yaml": "name: x"}, []string{"mit Leerzeichen/ä"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fsys := tree(tt.files)
			for file := range tt.files {
				if dir, ok := strings.CutSuffix(file, "build-config.yaml"); ok {
					fsys[dir+"Dockerfile"] = &fstest.MapFile{}
				}
			}
			repo, faults := load(t, fsys, paths(fsys), Options{})
			var dirs []string
			for _, p := range repo.Projects {
				dirs = append(dirs, p.Dir)
			}
			if !slices.Equal(dirs, tt.want) {
				t.Errorf("projects %q, want %q", dirs, tt.want)
			}
			if !slices.Equal(faults, tt.fault) {
				t.Errorf("faults %q, want %q", faults, tt.fault)
			}
		})
	}
}

func TestOnlyTheListedFilesAreRead(t *testing.T) {
	fsys := tree(map[string]string{"a/build-config.yaml": "x: 1", "pipegen.yaml": "x: 1", "rebuild-weekly.txt": "nothing"})
	repo, faults := load(t, fsys, nil, Options{})
	if len(repo.Projects) != 0 || len(faults) != 0 {
		t.Errorf("projects %v, faults %q", repo.Projects, faults)
	}
}

func TestRemovedFileIsNoProject(t *testing.T) {
	repo, faults := load(t, fstest.MapFS{}, []string{"a/build-config.yaml", "pipegen.yaml", "rebuild-weekly.txt"}, Options{})
	if len(repo.Projects) != 0 || len(faults) != 0 {
		t.Errorf("projects %v, faults %q", repo.Projects, faults)
	}
}

func TestDefaultsOfPipegen(t *testing.T) {
	repo, err := Load(tree(map[string]string{"pipegen.yaml": "registry: $REGISTRY/x\n"}), []string{"pipegen.yaml"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := repo.Pipegen
	if p.Registry != "$REGISTRY/x" || p.Layout != "tag" || !slices.Equal(p.Ignore, []string{"**/README.md"}) || p.Publish.MediaType != "oci" || !*p.Publish.Keys {
		t.Errorf("%+v", p)
	}
	repo, err = Load(tree(map[string]string{"pipegen.yaml": "layout: git\nignore: []\npublish: {keys: false}\n"}), []string{"pipegen.yaml"}, Options{
		Getenv: func(name string) string { return map[string]string{"PIPEGEN_LAYOUT": "repository"}[name] },
	})
	if err != nil {
		t.Fatal(err)
	}
	if p := repo.Pipegen; p.Layout != "repository" || len(p.Ignore) != 0 || *p.Publish.Keys {
		t.Errorf("%+v", p)
	}
	_, faults := load(t, fstest.MapFS{}, nil, Options{Getenv: func(string) string { return "tags" }})
	if !slices.Equal(faults, []string{"PIPEGEN_LAYOUT:0:0 unknown-value"}) {
		t.Errorf("faults %q", faults)
	}
}

func TestErrorIsWrongInput(t *testing.T) {
	_, err := Load(tree(map[string]string{"pipegen.yaml": "layot: tag\n"}), []string{"pipegen.yaml"}, Options{})
	if !errors.Is(err, failure.ErrInput) {
		t.Errorf("%v is no wrong input", err)
	}
	const want = "pipegen.yaml:1:1: unknown key \"layot\"\n  hint: did you mean \"layout\"?"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestReadme(t *testing.T) {
	fsys := tree(map[string]string{
		"a/build-config.yaml": "index: true", "a/Dockerfile": "", "a/README.md": "",
		"b/build-config.yaml": "index: true", "b/Dockerfile": "", "b/readme.md": "",
	})
	if _, faults := load(t, fsys, paths(fsys), Options{}); len(faults) != 0 {
		t.Errorf("without the option: %q", faults)
	}
	if _, faults := load(t, fsys, paths(fsys), Options{CheckReadme: true}); !slices.Equal(faults, []string{"b/build-config.yaml:1:1 missing-readme"}) {
		t.Errorf("with the option: %q", faults)
	}
}

// TestFilesOnDisk has what only a real file system has: links, pipes, and a
// root that keeps everything inside.
func TestFilesOnDisk(t *testing.T) {
	outside := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "secret.yaml"), "index: true\n")
	dir := t.TempDir()
	t.Chdir(dir)
	write("elsewhere/Dockerfile", "")
	write("elsewhere/build-config.yaml.in", "index: true\n")

	link(filepath.Join(outside, "secret.yaml"), "config-out/build-config.yaml")
	link("../elsewhere/build-config.yaml.in", "config-in/build-config.yaml")
	write("config-in/Dockerfile", "")
	link("nowhere", "config-dangling/build-config.yaml")
	link("build-config.yaml", "config-loop/build-config.yaml")

	for _, name := range []string{"out", "absolute", "sibling", "inside", "through", "loop", "dangling"} {
		write(name+"/build-config.yaml", "index: true\n")
	}
	link("../../"+filepath.Base(outside)+"/secret.yaml", "out/Dockerfile")
	link(filepath.Join(dir, "absolute/build-config.yaml"), "absolute/Dockerfile")
	link("../elsewhere/Dockerfile", "sibling/Dockerfile")
	link("docker/../docker/Dockerfile.real", "inside/Dockerfile")
	write("inside/docker/Dockerfile.real", "")
	write("through/build-config.yaml", "dockerfile_path: d/Dockerfile\ncontext_path: d\n")
	link("../elsewhere", "through/d")
	link("Dockerfile", "loop/Dockerfile")
	link("nowhere", "dangling/Dockerfile")
	if err := os.Mkdir("directory", 0o750); err != nil {
		t.Fatal(err)
	}
	write("directory/build-config.yaml", "index: true\n")
	write("directory/Dockerfile/x", "")

	var files []string
	if err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			files = append(files, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, faults := load(t, root.FS(), files, Options{})
	want := []string{
		"absolute/build-config.yaml:1:1 outside",
		"config-dangling/build-config.yaml:0:0 unreadable",
		"config-loop/build-config.yaml:0:0 unreadable",
		"config-out/build-config.yaml:0:0 unreadable",
		"dangling/build-config.yaml:1:1 missing-dockerfile",
		"directory/build-config.yaml:1:1 missing-dockerfile",
		"loop/build-config.yaml:1:1 missing-dockerfile",
		"out/build-config.yaml:1:1 outside",
		"sibling/build-config.yaml:1:1 outside",
		"through/build-config.yaml:1:18 outside",
		"through/build-config.yaml:2:15 outside",
	}
	if !slices.Equal(faults, want) {
		t.Errorf("faults\n%s\nwant\n%s", strings.Join(faults, "\n"), strings.Join(want, "\n"))
	}
}

func TestNamedPipeIsRefused(t *testing.T) {
	fsys := fstest.MapFS{"a/build-config.yaml": {Mode: fs.ModeNamedPipe}}
	if _, faults := load(t, fsys, paths(fsys), Options{}); !slices.Equal(faults, []string{"a/build-config.yaml:0:0 unreadable"}) {
		t.Errorf("faults %q", faults)
	}
}

func TestLinkToTheProjectItself(t *testing.T) {
	fsys := tree(map[string]string{"app/build-config.yaml": "context_path: src/here\ndockerfile_path: src/here/Dockerfile\n", "app/Dockerfile": ""})
	fsys["app/src/here"] = &fstest.MapFile{Data: []byte(".."), Mode: fs.ModeSymlink}
	if _, faults := load(t, fsys, paths(fsys), Options{}); len(faults) != 0 {
		t.Errorf("faults %q", faults)
	}
	fsys["app/src/here"] = &fstest.MapFile{Data: []byte("../.."), Mode: fs.ModeSymlink}
	if _, faults := load(t, fsys, paths(fsys), Options{}); !slices.Equal(faults, []string{"app/build-config.yaml:1:15 outside", "app/build-config.yaml:2:18 outside"}) {
		t.Errorf("faults %q", faults)
	}
}

func TestFilesByThemselves(t *testing.T) {
	fsys := tree(map[string]string{
		"pipegen.yaml":          "projects: [nowhere]\nlayout: git\n",
		"app/build-config.yaml": "platforms: [x]\n", "other/build-config.yaml": "name: x\n", "bad/build-config.yaml": "name: [",
	})
	p, err := LoadPipegen(fsys)
	if err != nil || p.Layout != "git" || !slices.Equal(p.Projects, []string{"nowhere"}) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := LoadPipegen(fstest.MapFS{}); err != nil || p.Layout != "tag" {
		t.Errorf("no file: %+v, %v", p, err)
	}
	if _, err := LoadPipegen(tree(map[string]string{"pipegen.yaml": "layout: x\n"})); !errors.Is(err, failure.ErrInput) {
		t.Errorf("a fault: %v", err)
	}
	for dir, want := range map[string]string{"app": "app", "other": "x", "bad": ""} {
		text, err := fs.ReadFile(fsys, dir+"/"+BuildFile)
		if err != nil {
			t.Fatal(err)
		}
		name, err := ProjectName(dir, text)
		if name != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", dir, name, err)
		}
	}
}

// The name is found however it is written, without every file being parsed.
func TestProjectName(t *testing.T) {
	for text, want := range map[string]string{
		"name: x\n":                       "x",
		"{name: x}\n":                     "x",
		"\"name\": x\n":                   "x",
		"'name' : x\n":                    "x",
		"\"n\\u0061me\": x\n":             "x",
		"? name\n: x\n":                   "x",
		"  name: x\n":                     "x",
		"build_args: [hostname]\nname: x": "x",
		"build_args: {hostname: a, name_of: b, username-x: c}\n": "app",
		"env: {namename: a}\nname: x\n":                          "x",
		"targets: [{name: a, target: b}]\n":                      "app",
		"{}":                                                     "app",
	} {
		if got, err := ProjectName("dir/app", []byte(text)); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if hasWord([]byte("hostname username names name_ rename"), "name") {
		t.Error("part of a word was taken for it")
	}
}
