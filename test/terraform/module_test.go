package terraform

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of README.md")

const root = "../../deploy/terraform"

// TestModules reads the module and its examples: formatted, parsed, and with
// nothing that is referred to and not there, nor declared and not used.
func TestModules(t *testing.T) {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if dir := filepath.Dir(path); err == nil && strings.HasSuffix(path, ".tf") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		return err
	})
	if err != nil || len(dirs) < 4 {
		t.Fatalf("%v, %v", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, err := Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range slices.Concat(m.Check(), m.Arguments(), m.Templates()) {
				t.Error(problem)
			}
		})
	}
}

// TestSettings holds the controller's settings against the schema of
// pipegen.yaml.
func TestSettings(t *testing.T) {
	data, err := os.ReadFile("../../pkg/config/schema/pipegen.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema Schema
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	m, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := m.Object("settings")
	if err != nil {
		t.Fatal(err)
	}
	if unknown := schema.Unknown(schema.Properties["server"], settings, "server."); len(unknown) > 0 {
		t.Errorf("the controller does not know %v", unknown)
	}
	// And it sees what is not known.
	delete(schema.Defs["ServerECS"].Properties, "image_secret")
	delete(schema.Defs["SecretRule"].Properties, "arns")
	if unknown := schema.Unknown(schema.Properties["server"], settings, "server."); !slices.Equal(unknown, []string{"server.ecs.image_secret", "server.secrets.rules.arns"}) {
		t.Errorf("not known: %v", unknown)
	}
}

// TestReadme holds the tables of the documentation against what is declared.
func TestReadme(t *testing.T) {
	const begin, end = "<!-- tables -->\n", "<!-- end of tables -->\n"
	m, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := m.Documentation()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "README.md")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for tables", file)
	}
	want := before + begin + tables + end + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(data) {
		t.Errorf("the tables in %s are not what is declared: go test ./... -update in test/terraform", file)
	}
}

// TestFaults sees that each kind of fault is found.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"reference": {"output \"a\" {\n  description = \"A\"\n  value       = var.b\n}\n", "there is no variable b"},
		"unused":    {"variable \"a\" {\n  description = \"A\"\n  type        = string\n}\n", "var.a is used nowhere"},
		"only in its own validation": {
			"variable \"a\" {\n  description = \"A\"\n  type        = string\n\n  validation {\n    condition     = var.a != \"\"\n    error_message = \"B.\"\n  }\n}\n",
			"var.a is used nowhere",
		},
		"resource": {"output \"a\" {\n  description = \"A\"\n  value       = aws_vpc.main[0].id\n}\n", "there is no resource aws_vpc.main"},
		"bare":     {"output \"a\" {\n  value = 1\n}\n", "the output a has no description"},
		"each":     {"resource \"a\" \"b\" {\n  name = each.key\n}\n", "there is no for_each"},
		"format":   {"output \"a\" {\nvalue = 1\n}\n", "is not formatted"},
		"twice":    {"locals {\n  a = 1\n}\n\nlocals {\n  a = local.a\n}\n", "is declared twice"},
		"syntax":   {"locals {\n", "Unclosed configuration block"},
		"template": {"locals {\n  a = templatefile(\"${path.module}/t/a.tftpl\", { x = local.a })\n}\n", "wants y"},
		"too much": {"locals {\n  a = templatefile(\"${path.module}/t/a.tftpl\", { y = 1, z = local.a })\n}\n", "does not want z"},
		"no file":  {"locals {\n  a = file(\"${path.module}/t/b.tftpl\") == local.a\n}\n", "no such file"},
		"argument": {"module \"a\" {\n  source = \"./t\"\n  y      = 1\n}\n", "there is no variable y"},
		"lacking":  {"module \"a\" {\n  source = \"./t\"\n}\n", "x is not given"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"main.tf": c.text, "t/a.tftpl": "a ${y}\n", "t/main.tf": "variable \"x\" {\n  description = \"X\"\n  type        = string\n}\n",
			} {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var found []string
			if m, err := Read(dir); err != nil {
				found = []string{err.Error()}
			} else {
				found = slices.Concat(m.Check(), m.Arguments(), m.Templates())
			}
			if !slices.ContainsFunc(found, func(problem string) bool { return strings.Contains(problem, c.want) }) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}
