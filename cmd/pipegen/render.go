package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/render"
)

// systems that this version renders for.
var systems = []string{"gitlab"}

func knownSystem(name string) error {
	if slices.Contains(systems, name) {
		return nil
	}
	err := failure.Input("%q is no CI system that pipegen writes for", name)
	if near := config.Nearest(name, systems); near != "" {
		return failure.WithHint(err, "did you mean %q?", near)
	}
	return failure.WithHint(err, "it writes for gitlab")
}

func (a *app) renderCommand() *cobra.Command {
	var planFile, metadata, output, dirs string
	cmd := &cobra.Command{
		Use:     "render gitlab",
		Short:   "Write the CI pipeline of a plan",
		Long:    "Writes the GitLab child pipeline of a plan: a job for each image and platform,\nand one for each image that joins them under its tags.",
		Example: "  pipegen plan -f json -o plan.json\n  pipegen render gitlab --plan plan.json -o child.yml",
		Args:    exactArgs(1, "the name of a CI system: gitlab"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := knownSystem(args[0]); err != nil {
				return err
			}
			p, err := a.readPlan(planFile)
			if err != nil {
				return err
			}
			data, err := render.GitLab(p, render.GitLabOptions{PlanFile: "plan.json", MetadataDir: metadata})
			if err != nil {
				return err
			}
			if dirs != "" {
				if err := writeFile(dirs, render.GitLabDirs(p)); err != nil {
					return err
				}
			}
			return a.write(output, data)
		},
	}
	cmd.Flags().StringVar(&dirs, "dirs", "", "`FILE` to write too: the planned project directories, one a line")
	cmd.Flags().StringVar(&planFile, "plan", "plan.json", "`FILE` with the plan in JSON; - is stdin")
	cmd.Flags().StringVar(&metadata, "metadata-dir", ".pipegen", "`DIR` for results in the jobs")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	return cmd
}

func (a *app) dryRunCommand() *cobra.Command {
	var p planning
	cmd := &cobra.Command{
		Use:   "dry-run [NAME...]",
		Short: "Show the plan, the pipeline and every command, and do nothing",
		RunE: func(cmd *cobra.Command, args []string) error {
			made, c, err := a.makePlan(cmd.Context(), p, args)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			b.WriteString("# Plan\n\n")
			if err := made.WriteTable(&b); err != nil {
				return err
			}
			child, err := render.GitLab(made, render.GitLabOptions{})
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n# GitLab child pipeline\n\n%s\n# Commands\n", child)
			if err := a.commands(cmd, &b, made, c.Repo.Root()); err != nil {
				return err
			}
			return a.write("-", b.Bytes())
		},
	}
	p.flags(cmd.Flags())
	p.insecureFlag(cmd.Flags())
	return cmd
}

// commands shows what each build runs, and how its image is published.
func (a *app) commands(cmd *cobra.Command, b *bytes.Buffer, p *plan.Plan, root string) error {
	if len(p.Images) == 0 {
		b.WriteString("\nnothing to build\n")
	}
	for i := range p.Images {
		img := &p.Images[i]
		fmt.Fprintf(b, "\n## %s\n\n", img.Name)
		for j := range img.Builds {
			argv, err := engine.Argv(cmd.Context(), engine.Job{Plan: p, Image: img, Build: &img.Builds[j], Root: root, Getenv: a.getenv})
			if err != nil {
				return err
			}
			fmt.Fprintf(b, "pipegen build %s\n", quote.Shell(img.Builds[j].ID))
			fmt.Fprintf(b, "  %s\n", quote.Command(argv))
		}
		fmt.Fprintf(b, "pipegen manifest %s\n", quote.Shell(img.Name))
		for _, t := range img.Tags {
			fmt.Fprintf(b, "  %s\n", quote.Text(strings.TrimPrefix(img.Repository+":"+t, ":")))
		}
	}
	return nil
}
