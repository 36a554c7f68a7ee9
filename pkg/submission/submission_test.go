package submission

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

const small = `
global:
  cpu: 1
  kaniko: {destination: "h.example/app:1"}
bake: [{arch: amd64}]
`

// The body of a request knows no files: none are looked for.
func TestFromConfig(t *testing.T) {
	s, err := FromConfig([]byte(small), "request", Options{Name: "svc", Memory: "1G", Now: time.Unix(1, 0), Head: "abc", Committed: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	b := s.Plan.Images[0].Builds[0]
	if b.ID != "svc@amd64" || b.Dockerfile != "Dockerfile" || *b.Resources != (config.Resources{CPU: "1", Memory: "1G"}) || s.ContextDir != "" || s.Plan.Head != "abc" {
		t.Errorf("got %+v of %+v", b, s)
	}
	_, err = FromConfig([]byte("global: {arch: amd64}\nbkae: []\n"), "request", Options{})
	var faults config.Faults
	if !errors.As(err, &faults) || !strings.Contains(err.Error(), `request:2:1: unknown key "bkae"`) || !strings.Contains(err.Error(), `did you mean "bake"?`) {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"", "[]", "a", "\xff", "---\na: b\n---\n", strings.Repeat("#", 2<<20)} {
		if _, err := FromConfig([]byte(text), "request", Options{}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%.20q: got %v", text, err)
		}
	}
}

// Other files give other keys, and so do other builds.
func TestIdentify(t *testing.T) {
	keys := map[string]bool{}
	for _, text := range []string{small, strings.Replace(small, "cpu: 1", "cpu: 2", 1)} {
		s, err := FromConfig([]byte(text), "f", Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, context := range []string{"", "sha256:a", "sha256:b"} {
			if err := s.Identify(context); err != nil {
				t.Fatal(err)
			}
			keys[s.Plan.Images[0].Key] = true
		}
	}
	if len(keys) != 6 {
		t.Errorf("6 contents have %d keys", len(keys))
	}
}

func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, ".env")
	write(t, file, "# a comment\nexport A=1\nB='$A'\nC=\"${A} two\" # more\nD=${SET:-x}\nSET=under\nE=\n")
	got, err := Environment([]string{"SET=over", "PATH=/bin"}, file)
	want := map[string]string{"A": "1", "B": "$A", "C": "1 two", "D": "over", "SET": "over", "E": "", "PATH": "/bin"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := Environment([]string{"A=b=c"}, filepath.Join(dir, "none")); err != nil || !maps.Equal(got, map[string]string{"A": "b=c"}) {
		t.Errorf("without a file: %q, %v", got, err)
	}
	for text, line := range map[string]string{"A=1\nPASS \"s3cret": "line 2", "A='s3cret": "line 1", "s3cret+=x": "line 1"} {
		write(t, file, text)
		_, err := Environment(nil, file)
		if !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), line) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if _, err := Environment(nil, dir); !errors.Is(err, failure.ErrInput) {
		t.Errorf("a directory: got %v", err)
	}
}

// What is packed and what compose files name may be reached by links.
func TestLinkedRepository(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "real", "src", "Dockerfile"), "FROM scratch\n")
	write(t, filepath.Join(dir, "real", "compose.yaml"), "services: {app: {build: ./src, image: h.example/app}}\n")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s, err := Load(t.Context(), Options{Compose: filepath.Join(dir, "real", "compose.yaml"), Repo: filepath.Join(dir, "link")})
	if err != nil {
		t.Fatal(err)
	}
	if b := s.Plan.Images[0].Builds[0]; b.Context != "src" || filepath.Base(s.ContextDir) != "real" {
		t.Errorf("got %s in %s", b.Context, s.ContextDir)
	}
	for _, o := range []Options{
		{Services: []string{"a"}}, {Repo: filepath.Join(dir, "none")}, {Repo: filepath.Join(dir, "real", "compose.yaml")},
		{Compose: filepath.Join(dir, "none.yaml")}, {Compose: dir},
	} {
		if _, err := Load(t.Context(), o); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

// valid checks what comes out of whatever goes in.
func valid(t *testing.T, s *Submission, err error) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, failure.ErrInput) {
			t.Errorf("%v is no fault of the input", err)
		}
		return
	}
	data, err := s.Plan.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Read(bytes.NewReader(data), "plan"); err != nil {
		t.Errorf("the plan is none: %v\n%s", err, data)
	}
}

// seeds adds the files of a name in testdata.
func seeds(f *testing.F, name string) {
	f.Helper()
	archives, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if filepath.Base(file.Name) == name {
				f.Add(file.Data)
			}
		}
	}
}

// TestOddValues puts what nobody expects in the place of every value of a
// file, in turn: two of these, since loading a compose file takes its time.
func TestOddValues(t *testing.T) {
	odd := []string{"null", "{a: {b: c}}", "-1", "${A", "[{}, null]"}
	turn := 0
	for _, name := range []string{"compose-build", "merge"} {
		archive, err := txtar.ParseFile("testdata/load/" + name + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for _, f := range archive.Files {
			write(t, filepath.Join(dir, f.Name), string(f.Data))
		}
		for _, f := range archive.Files {
			if filepath.Ext(f.Name) != ".yaml" {
				continue
			}
			var root yaml.Node
			if err := yaml.Unmarshal(f.Data, &root); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, f.Name)
			var visit func(n *yaml.Node)
			visit = func(n *yaml.Node) {
				for i, child := range n.Content {
					for range 2 {
						value := odd[turn%len(odd)]
						turn++
						var other yaml.Node
						if err := yaml.Unmarshal([]byte(value), &other); err != nil || len(other.Content) == 0 {
							other = yaml.Node{Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: value}}}
						}
						n.Content[i] = other.Content[0]
						data, err := yaml.Marshal(&root)
						if err != nil {
							continue
						}
						write(t, file, string(data))
						o := Options{Compose: file, Repo: dir, Env: map[string]string{"TOKEN": "x"}}
						if filepath.Base(file) == "config.yaml" {
							o.Config, o.Compose = file, ""
						}
						s, err := Load(t.Context(), o)
						valid(t, s, err)
					}
					n.Content[i] = child
					visit(child)
				}
			}
			visit(&root)
			write(t, file, string(f.Data))
		}
	}
}

func FuzzFromConfig(f *testing.F) {
	seeds(f, "config.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := FromConfig(data, "config.yaml", Options{})
		valid(t, s, err)
	})
}

func FuzzCompose(f *testing.F) {
	seeds(f, "compose.yaml")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(dir, "compose.yaml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(t.Context(), Options{Compose: file, Repo: dir})
		valid(t, s, err)
	})
}

func FuzzEnvironment(f *testing.F) {
	f.Add("A=b\nexport C=\"${A:-x}\\n\" # d\nE='f'\nG\n")
	f.Add("A=${")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := readEnvironment(text, map[string]string{"A": "b"})
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%q is more than a line", err)
		}
	})
}
