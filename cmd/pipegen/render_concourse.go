package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/render"
	"github.com/pipegen/pipegen/templates"
)

func (a *app) renderConcourseCommand() *cobra.Command {
	var output string
	var check bool
	cmd := &cobra.Command{
		Use:   "concourse",
		Short: "Write the Concourse pipeline of this configuration",
		Long: `Writes the Concourse pipeline of this configuration: a git resource for each
project, a job for each image, and one that sets the pipeline anew when its file
in the repository changes. That file is checked in, as ` + render.ConcourseFile + ` or
where -o says.`,
		Example: "  pipegen render concourse -o " + render.ConcourseFile + "\n  pipegen render concourse --check",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, data, err := a.concoursePipeline(cmd.Context(), output)
			if err != nil {
				return a.locateOverlay(err)
			}
			if !check {
				return a.writeConcourse(output, data)
			}
			if output == "" || output == "-" {
				output = filepath.Join(root, filepath.FromSlash(render.ConcourseFile))
			}
			return a.compare("pipegen render concourse -o "+quote.Shell(output), rendered{output, data})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing: show how FILE (default "+render.ConcourseFile+") differs, and exit with 1 if it does")
	return cmd
}

func (a *app) writeConcourse(file string, data []byte) error {
	if file != "" && file != "-" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("writing the pipeline: %w", err)
		}
	}
	return a.write(file, data)
}

// concoursePipeline gives the pipeline of the configuration of the checkout, and
// its root. file is where the pipeline is kept; one out of the checkout, or
// none, means the usual place.
func (a *app) concoursePipeline(ctx context.Context, file string) (root string, data []byte, err error) {
	root, cfg, everything, err := a.everything(ctx)
	if err != nil {
		return "", nil, err
	}
	var o render.ConcourseOptions
	if file != "" && file != "-" {
		o.File = within(root, file)
	}
	data, err = render.Concourse(everything, cfg, o)
	return root, data, err
}

// within gives the path of a file from the root of the checkout, with slashes,
// or "" for one that is not in it. The file need not be there.
func within(root, file string) string {
	here, err := filepath.Abs(".")
	if err == nil {
		here, err = filepath.EvalSymlinks(here)
	}
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(here, file)
	}
	rel, rerr := filepath.Rel(root, file)
	if err != nil || rerr != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return filepath.ToSlash(rel)
}

// initConcourse writes the pipeline, and the user's own files that are not there.
func (a *app) initConcourse(ctx context.Context, overwrite bool) error {
	_, files, err := entryFiles(ctx, "concourse")
	if err != nil {
		return err
	}
	_, pipeline, err := a.concoursePipeline(ctx, "")
	if err != nil {
		return a.locateOverlay(err)
	}
	return a.create(ctx, append(files, templates.File{Path: render.ConcourseFile, Data: pipeline}), overwrite)
}
