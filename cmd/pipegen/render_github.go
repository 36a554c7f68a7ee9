package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/render"
	"github.com/pipegen/pipegen/templates"
)

// githubDir is where GitHub looks for workflows.
const githubDir = ".github/workflows"

func (a *app) renderGitHubCommand() *cobra.Command {
	var planFile, output string
	var check, summary bool
	cmd := &cobra.Command{
		Use:   "github",
		Short: "Write the GitHub workflows of this configuration",
		Long: `Writes the workflows of this configuration into DIR: one that plans and starts
the images of the plan, and one that it calls for each image. They are checked
in. With --plan it writes what the running workflow asks of its plan: NAME=JSON
lines for $GITHUB_OUTPUT, or with --summary a table for $GITHUB_STEP_SUMMARY.`,
		Example: `  pipegen render github
  pipegen render github --check
  pipegen render github --plan plan.json >> "$GITHUB_OUTPUT"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case planFile != "" && check:
				return failure.Input("--check is about the workflows, which depend on no plan")
			case planFile != "":
				return a.githubRun(planFile, output, summary)
			case summary:
				return failure.Input("--summary needs --plan")
			}
			return a.githubWrite(cmd.Context(), output, check)
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "`FILE` with the plan in JSON; - is stdin")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`DIR` to write (default "+githubDir+"), with --plan a file (default: stdout)")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing: show how DIR differs, and exit with 1 if it does")
	cmd.Flags().BoolVar(&summary, "summary", false, "with --plan: a table in Markdown")
	return cmd
}

// githubWrite writes the workflows, or compares them with those that are there.
func (a *app) githubWrite(ctx context.Context, dir string, check bool) error {
	root, files, err := a.githubWorkflows(ctx)
	if err != nil {
		return a.locateOverlay(err)
	}
	if dir == "" {
		dir = filepath.Join(root, filepath.FromSlash(githubDir))
	}
	if check {
		var all []rendered
		for _, f := range files {
			all = append(all, rendered{filepath.Join(dir, f.Name), f.Data})
		}
		return a.compare("pipegen render github", all...)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the workflows: %w", err)
	}
	for _, f := range files {
		file := filepath.Join(dir, f.Name)
		if err := writeFile(file, f.Data); err != nil {
			return err
		}
		a.note("wrote %s", file)
	}
	return nil
}

// githubRun writes what the running workflow asks of a plan: the outputs that
// choose its jobs, or the table for its summary.
func (a *app) githubRun(planFile, output string, summary bool) error {
	p, err := a.readPlan(planFile)
	if err != nil {
		return err
	}
	data := render.GitHubSummary(p)
	if !summary {
		if data, err = render.GitHubOutputs(p); err != nil {
			return err
		}
	}
	return a.write(output, data)
}

// githubWorkflows gives the workflows of the configuration of the checkout, and
// its root.
func (a *app) githubWorkflows(ctx context.Context) (root string, files []render.GitHubFile, err error) {
	root, cfg, everything, err := a.everything(ctx)
	if err != nil {
		return "", nil, err
	}
	files, err = render.GitHub(everything, render.GitHubOptions{Registry: cfg.Pipegen.Registry})
	return root, files, err
}

// initGitHub writes the workflows, and the user's own files that are not there.
func (a *app) initGitHub(ctx context.Context, overwrite bool) error {
	_, files, err := entryFiles(ctx, "github")
	if err != nil {
		return err
	}
	_, workflows, err := a.githubWorkflows(ctx)
	if err != nil {
		return a.locateOverlay(err)
	}
	for _, f := range workflows {
		files = append(files, templates.File{Path: githubDir + "/" + f.Name, Data: f.Data})
	}
	return a.create(ctx, files, overwrite)
}
