package submission

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

var update = flag.Bool("update", false, "renew the golden parts of testdata")

// asked are the options of a test, in its file "options".
type asked struct {
	Config, Compose, Arch, Engine, CPU, Memory, Name, Repo string
	Services                                               []string
	Env                                                    map[string]string
}

// golden parts of an archive are what comes out: the plan and what goes with
// it, the warnings, or the faults.
var golden = []string{"plan.json", "with.json", "warnings", "faults"}

// TestLoad loads what is in each archive of testdata/load.
func TestLoad(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(filepath.Join(here, "testdata", "load", "*.txtar"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := outcomes(t, archive)
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return slices.Contains(golden, f.Name) })
				for _, name := range golden {
					if got[name] != "" {
						archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
					}
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := map[string]string{}
			for _, f := range archive.Files {
				want[f.Name] = string(f.Data)
			}
			for _, name := range golden {
				if got[name] != want[name] {
					t.Errorf("%s:\n%s\nwant\n%s", name, got[name], want[name])
				}
			}
		})
	}
}

// outcomes loads an archive, and gives its golden parts.
func outcomes(t *testing.T, archive *txtar.Archive) map[string]string {
	t.Helper()
	dir := t.TempDir()
	var o asked
	for _, f := range archive.Files {
		switch {
		case slices.Contains(golden, f.Name):
		case f.Name == "options":
			dec := json.NewDecoder(bytes.NewReader(f.Data))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&o); err != nil {
				t.Fatal(err)
			}
		default:
			write(t, filepath.Join(dir, f.Name), string(f.Data))
		}
	}
	t.Chdir(dir)
	env, err := Environment(nil, ".env")
	if err != nil {
		return map[string]string{"faults": err.Error() + "\n"}
	}
	maps.Copy(env, o.Env)
	if o.Arch == "" {
		o.Arch = "amd64"
	}
	s, err := Load(t.Context(), Options{
		Config: o.Config, Compose: o.Compose, Arch: o.Arch, Engine: o.Engine, CPU: o.CPU, Memory: o.Memory, Name: o.Name, Repo: o.Repo,
		Services: o.Services, Env: env, Now: time.Date(2026, 11, 21, 1, 2, 3, 4, time.UTC),
	})
	if err != nil {
		if !errors.Is(err, failure.ErrInput) {
			t.Errorf("%v is no fault of the input", err)
		}
		text := err.Error()
		if hint := failure.Hint(err); hint != "" {
			text += "\n  hint: " + hint
		}
		return map[string]string{"faults": text + "\n"}
	}
	out := map[string]string{}
	data, err := s.Plan.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Read(bytes.NewReader(data), "plan"); err != nil {
		t.Errorf("the plan is none: %v", err)
	}
	out["plan.json"] = string(data)
	if len(s.Credentials) > 0 || len(s.Secrets) > 0 || s.Runner != "" {
		with, err := json.MarshalIndent(map[string]any{"credentials": s.Credentials, "secrets": s.Secrets, "runner": s.Runner}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		out["with.json"] = string(with) + "\n"
	}
	if len(s.Warnings) > 0 {
		out["warnings"] = s.Warnings.Error() + "\n"
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
