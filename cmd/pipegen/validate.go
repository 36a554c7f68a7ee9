package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

func (a *app) validateCommand() *cobra.Command {
	var form, output string
	cmd := &cobra.Command{
		Use:   "validate [PATH...]",
		Short: "Check every configuration file and report all faults",
		Long: `Checks pipegen.yaml, rebuild-weekly.txt and every build-config.yaml, and reports
all faults at once with file, line and column. With PATHs only faults in these
files or directories are reported and count. CHECK_README=TRUE makes a project
without README.md a fault. Works outside git too: then every file counts.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "text", "json", "codequality", "github"); err != nil {
				return err
			}
			faults, err := a.check(cmd.Context(), args)
			if err != nil {
				return err
			}
			var data []byte
			switch form {
			case "json":
				data, err = faultsJSON(faults)
			case "codequality":
				data, err = faultsCodeQuality(faults)
			case "github":
				data = faultsGitHub(faults)
			default:
				data = faultsText(faults)
			}
			if err != nil {
				return err
			}
			if err := a.write(output, data); err != nil {
				return err
			}
			if n := countErrors(faults); n > 0 {
				return failure.Input("%d of the configuration", plural(n))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&form, "format", "f", "text", "`FORMAT`: text, json, codequality, which GitLab shows in merge requests, or github, for annotations")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	return cmd
}

type plural int

func (n plural) Format(s fmt.State, _ rune) {
	if n == 1 {
		fmt.Fprint(s, "1 fault")
		return
	}
	fmt.Fprintf(s, "%d faults", int(n))
}

func countErrors(faults config.Faults) int {
	n := 0
	for _, f := range faults {
		if f.Severity == config.Error {
			n++
		}
	}
	return n
}

// check gives all faults of the checkout, those below paths when there are any.
func (a *app) check(ctx context.Context, paths []string) (config.Faults, error) {
	root, fsys, files, err := a.filesToCheck(ctx)
	if err != nil {
		return nil, err
	}
	below, err := relative(root, paths)
	if err != nil {
		return nil, err
	}
	cache, save := plan.OpenCache(a.parseCache(), root, time.Now())
	defer save()
	cfg, err := config.Load(fsys, files, config.Options{CheckReadme: strings.EqualFold(a.getenv("CHECK_README"), "true"), Getenv: a.getenv, Cache: cache})
	var faults config.Faults
	if err != nil && !errors.As(err, &faults) {
		return nil, err
	}
	if cfg != nil {
		faults = append(slices.Clone(faults), cfg.Warnings...)
		overlays, oerr := overlayFaults(cfg, fsys)
		if oerr != nil {
			return nil, oerr
		}
		faults = append(faults, overlays...)
		if err == nil {
			faults = append(faults, plan.Check(cfg, fsys, cache, plan.Registry("", cfg.Pipegen, a.getenv))...)
		}
	}
	faults = slices.DeleteFunc(faults, func(f config.Fault) bool {
		return len(below) > 0 && !slices.ContainsFunc(below, func(p string) bool {
			return p == "." || f.File == p || strings.HasPrefix(f.File, p+"/")
		})
	})
	faults.Sort()
	return slices.Compact(faults), nil
}

// overlayFaults gives what is wrong with overlays, whatever they are laid on.
func overlayFaults(cfg *config.Repository, fsys fs.FS) (config.Faults, error) {
	wrong := render.CheckOverlays(cfg.Pipegen.Overlays)
	if len(wrong) == 0 {
		return nil, nil
	}
	text, err := fs.ReadFile(fsys, "pipegen.yaml")
	if err != nil {
		return nil, fmt.Errorf("reading pipegen.yaml: %w", err)
	}
	faults := make(config.Faults, len(wrong))
	for i, e := range wrong {
		faults[i] = overlayFault(e, text)
	}
	return faults, nil
}

// filesToCheck lists the files of the checkout; outside git those below the
// current directory.
func (a *app) filesToCheck(ctx context.Context) (string, fs.FS, []string, error) {
	repo, err := diff.Open(ctx, ".")
	if err == nil {
		fsys, files, err := plan.WorkTree(ctx, repo)
		return repo.Root(), fsys, files, err
	}
	if !errors.Is(err, diff.ErrNoRepository) {
		return "", nil, nil, err
	}
	dir, err := filepath.Abs(".")
	if err != nil {
		return "", nil, nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", nil, nil, err
	}
	fsys := root.FS()
	var files []string
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			files = append(files, p)
		}
		return ctx.Err()
	})
	slices.Sort(files)
	return dir, fsys, files, err
}

// relative gives paths as seen from the root, with slashes.
func relative(root string, paths []string) ([]string, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		if abs, err = filepath.EvalSymlinks(abs); errors.Is(err, fs.ErrNotExist) {
			return nil, failure.Input("there is no file or directory %s", p)
		} else if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(root, abs)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return nil, failure.Input("%s is not in the checkout %s", p, root)
		}
		out = append(out, path.Clean(filepath.ToSlash(rel)))
	}
	return out, nil
}

func faultsText(faults config.Faults) []byte {
	var b bytes.Buffer
	for _, f := range faults {
		b.WriteString(faultText(f) + "\n")
	}
	return b.Bytes()
}

func faultsJSON(faults config.Faults) ([]byte, error) {
	if faults == nil {
		faults = config.Faults{}
	}
	data, err := json.MarshalIndent(faults, "", "  ")
	return append(data, '\n'), err
}
