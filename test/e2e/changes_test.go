//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
)

// TestChanges compares what pipegen finds to have changed, with git installed
// and without, with what git itself says, in clones of every kind of random
// histories, for PIPEGEN_PROPERTY_TIME.
func TestChanges(t *testing.T) {
	program := filepath.Join(t.TempDir(), "pipegen")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/pipegen").CombinedOutput(); err != nil {
		t.Fatalf("building pipegen: %v\n%s", err, out)
	}
	find := func(path ...string) gittest.Finder {
		return func(t *testing.T, dir string, variables []string, base string) (gittest.Selection, error) {
			args := []string{"diff", "-f", "json"}
			if base != "" {
				args = append(args, "--base", base)
			}
			cmd := exec.CommandContext(t.Context(), program, args...)
			cmd.Dir, cmd.Env = dir, slices.Concat(gittest.Environ(), variables, path)
			var complaint strings.Builder
			cmd.Stderr = &complaint
			out, err := cmd.Output()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				err = errors.New(complaint.String())
				if exit.ExitCode() == 2 {
					// With everything selected all configuration is read, and some names are refused.
					return gittest.Selection{Why: complaint.String()}, nil
				}
			}
			if err != nil {
				return gittest.Selection{}, err
			}
			var got struct {
				Base, How string
				Projects  []struct{ Dir string }
			}
			if err := json.Unmarshal(out, &got); err != nil || got.Base == "" {
				return gittest.Selection{Why: got.How}, err
			}
			found := gittest.Selection{Base: got.Base, Dirs: []string{}}
			for _, p := range got.Projects {
				found.Dirs = append(found.Dirs, p.Dir)
			}
			slices.Sort(found.Dirs)
			return found, nil
		}
	}
	gittest.Property{Time: time.Minute, Finders: map[string]gittest.Finder{
		"pipegen with git":    find(),
		"pipegen without git": find("PATH=/nonexistent"),
	}}.FromEnvironment(t).Check(t)
}
