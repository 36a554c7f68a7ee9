package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/templates"
)

func (a *app) initCommand() *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "init gitlab",
		Short: "Write the CI entry file, pipegen.yaml and rebuild-weekly.txt",
		Long:  "Writes .gitlab-ci.yml, pipegen.yaml and rebuild-weekly.txt at the root of the\nrepository. Files that are there already are never overwritten unasked.",
		Args:  exactArgs(1, "the name of a CI system: gitlab"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := knownSystem(args[0]); err != nil {
				return err
			}
			files, err := templates.Init(args[0])
			if err != nil {
				return err
			}
			return a.create(cmd.Context(), files, overwrite)
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace files that are there already")
	return cmd
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
	root := "."
	if repo, err := diff.Open(ctx, "."); err == nil {
		root = repo.Root()
	} else if !errors.Is(err, diff.ErrNoRepository) {
		return err
	}
	written, err := templates.Write(root, files, overwrite)
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
		RunE: func(*cobra.Command, []string) error {
			return a.write("-", []byte("pipegen "+version+"\n"))
		},
	}
}

// cacheDir is where clones and tools are kept.
func (a *app) cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", failure.WithHint(failure.Input("there is no cache directory: %w", err), "set XDG_CACHE_HOME or HOME")
	}
	return dir + "/pipegen", nil
}
