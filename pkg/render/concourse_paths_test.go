package render_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
)

// resourceOf gives what the git resource of the first project is told.
func resourceOf(t testing.TB, settings, build string) ccGit {
	t.Helper()
	data, err := checkout{"pipegen.yaml": settings}.with(project("p", build, "FROM scratch\n")).concourse(t)
	if err != nil {
		t.Fatal(err)
	}
	return ccParse(t, data).Resources[1].git
}

func TestConcoursePaths(t *testing.T) {
	for _, c := range []struct {
		glob  string
		watch []string // beside the directory of the project; nil: everything
		same  []string // as an entry of ignore; nil: left out
	}{
		{"go.mod", []string{"go.mod"}, []string{"go.mo[d]"}},
		{"libs/**", []string{"libs"}, []string{"lib[s]", "libs/*"}},
		{"_libs/**", []string{"_libs"}, []string{"[_]lib[s]", "[_]libs/*"}},
		{"**/go.mod", []string{"*/go.mod", "go.mod"}, []string{"*/go.mod", "go.mo[d]"}},
		{"**/*.go", []string{"*.go"}, []string{"*.go"}},
		{"a/**/*.go", []string{"a/*.go"}, []string{"a/*.go"}},
		{"a/**/b/**", []string{"a/*/b", "a/*/b/*", "a/b"}, []string{"a/*/b", "a/*/b/*", "a/[b]", "a/b/*"}},
		{"*.go", []string{"*.go"}, nil},
		{"a/*/c", []string{"a/*/c"}, nil},
		{"a/*/**", []string{"a/*", "a/*/*"}, nil},
		{"**/*x/y", []string{"*x/y"}, nil},
		{"{cmd,pkg/{a,b}}/**", []string{"cmd", "pkg/a", "pkg/b"}, []string{"cm[d]", "cmd/*", "pkg/[a]", "pkg/[b]", "pkg/a/*", "pkg/b/*"}},
		{"a?c", []string{"a?*c"}, nil},
		{"v[0-9]", []string{"v[0-9]"}, nil},
		{"v[^0-9]", []string{"v?*"}, nil},
		{"a b;$(id)/**", []string{"a?b???id?", "a?b???id?/*"}, nil},
		{"((x))", []string{"??x??"}, nil},
		{`\*`, []string{"?"}, nil},
		{"é", []string{"??"}, nil},
		{"**", nil, []string{"*"}},
		{strings.Repeat("{a,b}", 9), nil, nil},
		{"x/" + strings.Repeat("{a,b}", 9), []string{"x", "x/*"}, nil},
	} {
		watched := resourceOf(t, "ignore: []\n", "watch: ["+strconv.Quote(c.glob)+"]\n")
		want := append(slices.Clone(c.watch), "p")
		slices.Sort(want)
		if c.watch == nil {
			want = nil
		}
		if strings.HasPrefix(c.glob, "x/{") {
			want = []string{"p", "x"}
		}
		if !slices.Equal(watched.Paths, want) {
			t.Errorf("watch %q: paths %q, want %q", c.glob, watched.Paths, want)
		}
		ignored := resourceOf(t, "ignore: ["+strconv.Quote(c.glob)+"]\n", "name: p\n")
		if !slices.Equal(ignored.IgnorePaths, c.same) {
			t.Errorf("ignore %q: %q, want %q", c.glob, ignored.IgnorePaths, c.same)
		}
	}
	if got := resourceOf(t, "ignore: []\ndefaults: {timeout: 2h}\nrebuild_all: [ci/**]\n", "name: p\n"); !slices.Equal(got.Paths, []string{"ci", "p", "pipegen.yaml"}) {
		t.Errorf("what concerns everything: %q", got.Paths)
	}
}

// Whatever pipegen counts as a change of a project triggers its job: random
// configurations are rendered, and git is asked which files match, by the same
// shell's eval as the git resource's.
func TestConcourseNeverMissesAChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	names := []string{"a", "b", "ab", "p", "q", "x.go", "y.go", "README.md", "go.mod", "with blank", "é", "_n", "-d", ".h", "a[b", "x*y", "(c)", "$d", "a'b", "~", "=", "{e,f}", ";"}
	parts := append([]string{"**", "**", "*", "*.go", "a*", "?", "?b", "[a-c]", "[^a]", "[!é]", "{a,b}", "{x,y}.go", "{a,b/*}", `\*`, `x\*y`, "*b*", "**b", "a**"}, names...)
	repository := t.TempDir()
	git := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		cmd.Dir, cmd.Env = repository, append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	files := map[string]bool{}
	for len(files) < 400 {
		var p []string
		for range 1 + random.IntN(4) {
			p = append(p, pick(names))
		}
		name := path.Join(p...)
		full := filepath.Join(repository, name)
		if os.MkdirAll(filepath.Dir(full), 0o755) != nil || os.WriteFile(full, nil, 0o644) != nil {
			continue // a file stands where a directory would, or the reverse
		}
		files[name] = true
	}
	git("add", "-A")
	git("commit", "-qm", "all")

	glob := func() string {
		var p []string
		for range 1 + random.IntN(4) {
			p = append(p, pick(parts))
		}
		return strings.Join(p, "/")
	}
	tried, matches := 0, 0
	for tried < 60 {
		var lists [3][]string
		for i := range lists {
			for range random.IntN(3) {
				lists[i] = append(lists[i], glob())
			}
		}
		watch, all, ignore := lists[0], lists[1], lists[2]
		dirs := []string{"p", "p/q"}
		if random.IntN(3) == 0 {
			dirs = []string{pick([]string{"with blank", "é", "(c)", "$d", "-d/a"}), "b"}
		}
		in := checkout{
			"pipegen.yaml": fmt.Sprintf("registry: r.example/x\nignore: %s\nrebuild_all: %s\n", flowOf(ignore), flowOf(all)),
		}.with(project(dirs[0], "name: one\nwatch: "+flowOf(watch)+"\n", "FROM scratch\n")).with(project(dirs[1], "name: two\n", "FROM scratch\n"))
		fsys := fstest.MapFS{}
		var paths []string
		for name, text := range in {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
			paths = append(paths, name)
		}
		slices.Sort(paths)
		if _, err := config.Load(fsys, paths, config.Options{}); err != nil {
			continue // a glob that is none
		}
		tried++
		data, err := in.concourse(t)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ccParse(t, data).Resources[1:] {
			triggers := asked(t, repository, r.git)
			for name := range files {
				if slices.ContainsFunc(ignore, func(g string) bool { return doublestar.MatchUnvalidated(g, name) }) {
					continue
				}
				dir, build := dirs[0], watch
				if r.Name == "two" {
					dir, build = dirs[1], nil
				}
				by, _ := diff.Attribute([]diff.Change{{Path: name}}, dirs)
				concerns := len(by[dir]) > 0 || slices.ContainsFunc(slices.Concat(build, all), func(g string) bool { return doublestar.MatchUnvalidated(g, name) })
				if concerns {
					matches++
				}
				if concerns && !triggers[name] {
					t.Fatalf("a change of %q does not trigger %s\nconfiguration: %q\nresource: %q, but for %q", name, r.Name, in, r.git.Paths, r.git.IgnorePaths)
				}
			}
		}
	}
	if matches < 1000 {
		t.Errorf("only %d changes concerned a project", matches)
	}
}

func flowOf(globs []string) string {
	quoted := make([]string, len(globs))
	for i, g := range globs {
		quoted[i] = strconv.Quote(g)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// asked gives the files of the last commit that the git resource would see.
func asked(t *testing.T, repository string, source ccGit) map[string]bool {
	t.Helper()
	var specs []string
	specs = append(specs, source.Paths...)
	if source.Paths == nil {
		specs = []string{"."}
	}
	for _, ignored := range source.IgnorePaths {
		specs = append(specs, ":!"+ignored)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `set -f; eval "git diff-tree --root --no-commit-id --name-only -z -r HEAD -- $1"`, "sh", strings.Join(specs, " "))
	cmd.Dir = repository
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v", specs, err)
	}
	all := map[string]bool{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		all[name] = true
	}
	return all
}
