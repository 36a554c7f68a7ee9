package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
	"github.com/pipegen/pipegen/templates"
)

func (a *app) initCommand() *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "init gitlab|github|concourse",
		Short: "Write the CI entry file, pipegen.yaml and rebuild-weekly.txt",
		Long: `Writes .gitlab-ci.yml, the workflows of GitHub or the pipeline of Concourse
(ci/pipegen.yml), and pipegen.yaml and rebuild-weekly.txt at the root of the
repository. Files that are there already are never overwritten unasked;
pipegen.yaml and rebuild-weekly.txt, which are your own, not at all.
overlays.gitlab.prepare of pipegen.yaml is laid on .gitlab-ci.yml.`,
		Args: exactArgs(1, "the name of a CI system: gitlab, github or concourse"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := knownSystem(args[0]); err != nil {
				return err
			}
			if args[0] == "github" {
				return a.initGitHub(cmd.Context(), overwrite)
			}
			if args[0] == "concourse" {
				return a.initConcourse(cmd.Context(), overwrite)
			}
			return a.initGitLab(cmd.Context(), overwrite)
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace the CI system's files that are there already")
	return cmd
}

// entryFiles gives what init writes for a CI system, without what is there
// already of the user's own: another CI system may have brought it.
func entryFiles(ctx context.Context, system string) (top string, files []templates.File, err error) {
	if files, err = templates.Init(system); err != nil {
		return "", nil, err
	}
	if top, _, err = root(ctx); err != nil {
		return "", nil, err
	}
	return top, slices.DeleteFunc(files, func(f templates.File) bool {
		_, err := os.Lstat(filepath.Join(top, f.Path))
		return (f.Path == config.PipegenFile || f.Path == config.WeeklyFile) && err == nil
	}), nil
}

// initGitLab writes the parent pipeline, with the overlay for its job from a
// pipegen.yaml that is there already.
func (a *app) initGitLab(ctx context.Context, overwrite bool) error {
	top, files, err := entryFiles(ctx, "gitlab")
	if err != nil {
		return err
	}
	for i := range files {
		if files[i].Path != ".gitlab-ci.yml" {
			continue
		}
		if files[i].Data, err = withOverlay(top, files[i].Data); err != nil {
			return err
		}
	}
	return a.create(ctx, files, overwrite)
}

// withOverlay lays the overlay for prepare on the parent pipeline.
func withOverlay(top string, parent []byte) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(top, "pipegen.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return parent, nil
	}
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(os.DirFS(top), []string{"pipegen.yaml"}, config.Options{})
	if err != nil {
		return nil, err
	}
	data, err := render.GitLabParent(parent, "prepare", cfg.Pipegen.Overlays["gitlab"])
	if wrong, ok := errors.AsType[*render.OverlayError](err); ok {
		return nil, config.Faults{overlayFault(wrong, text)}
	}
	return data, err
}

func (a *app) newCommand() *cobra.Command {
	var upstream, ref, dir string
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write the directory of a new project",
		Long:  "Writes projects/NAME with a build-config.yaml and a README.md, and a Dockerfile\nwhen the image is not built from an upstream repository.",
		Example: `  pipegen new hello
  pipegen new manifest-tool --upstream https://github.com/estesp/manifest-tool --ref v2.2.0`,
		Args: exactArgs(1, "the name of the project"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := templates.New(templates.NewOptions{Name: args[0], Dir: dir, Upstream: upstream, Ref: ref})
			if err != nil {
				return err
			}
			return a.create(cmd.Context(), files, overwrite)
		},
	}
	cmd.Flags().StringVar(&upstream, "upstream", "", "git `URL` of the repository with the Dockerfile")
	cmd.Flags().StringVar(&ref, "ref", "", "tag, branch or commit `REF` of the upstream repository")
	cmd.Flags().StringVar(&dir, "dir", "", "`DIR` of the project, from the root (default: projects/NAME)")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace files that are there already")
	return cmd
}

// create writes files at the root of the checkout, or here outside git, and
// names them.
func (a *app) create(ctx context.Context, files []templates.File, overwrite bool) error {
	top, _, err := root(ctx)
	if err != nil {
		return err
	}
	written, err := templates.Write(top, files, overwrite)
	for _, f := range written {
		a.note("wrote %s", f)
	}
	return err
}

func (a *app) schemaCommand() *cobra.Command {
	var output string
	names := []string{"build-config", "pipegen", "plan"}
	cmd := &cobra.Command{
		Use:       "schema build-config|pipegen|plan",
		Short:     "Print the JSON Schema of a file format",
		ValidArgs: names,
		Args:      exactArgs(1, "the name of a format: build-config, pipegen or plan"),
		RunE: func(_ *cobra.Command, args []string) error {
			data, ok := config.Schema(args[0])
			if args[0] == "plan" {
				data, ok = plan.Schema(), true
			}
			if !ok {
				err := failure.Input("there is no schema %q", args[0])
				if near := config.Nearest(args[0], names); near != "" {
					return failure.WithHint(err, "did you mean %q?", near)
				}
				return failure.WithHint(err, "there are build-config, pipegen and plan")
			}
			return a.write(output, data)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return a.printVersion() },
	}
}

func (a *app) printVersion() error { return a.write("-", []byte("pipegen "+version+"\n")) }

// cacheDir is where clones and tools are kept.
func (a *app) cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", failure.WithHint(failure.Input("there is no cache directory: %w", err), "set XDG_CACHE_HOME or HOME")
	}
	return dir + "/pipegen", nil
}
