package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
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
var systems = []string{"gitlab", "github", "concourse"}

func knownSystem(name string) error {
	if slices.Contains(systems, name) {
		return nil
	}
	err := failure.Input("%q is no CI system that pipegen writes for", name)
	if near := config.Nearest(name, systems); near != "" {
		return failure.WithHint(err, "did you mean %q?", near)
	}
	return failure.WithHint(err, "it writes for %s", strings.Join(systems, ", "))
}

func (a *app) renderCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "render SYSTEM",
		Short: "Write the pipelines of a CI system",
		// The flags are those of the systems; what matters first is whether there is such a one.
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(1, "the name of a CI system: "+strings.Join(systems, ", "))(cmd, args); err != nil {
				return err
			}
			return knownSystem(args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.renderGitLabCommand(), a.renderGitHubCommand(), a.renderConcourseCommand())
	return cmd
}

func (a *app) renderGitLabCommand() *cobra.Command {
	var o render.GitLabOptions
	var planFile, output, dirs string
	cmd := &cobra.Command{
		Use:   "gitlab",
		Short: "Write the GitLab child pipeline of a plan",
		Long: `Writes the GitLab child pipeline of a plan: a job for each image and platform,
and one for each image that joins them under its tags. A plan that is more than
GitLab takes as one pipeline is written as several, beside FILE (child-001.yml
and so on for child.yml), which FILE starts in turn. -v says how many.`,
		Example: "  pipegen plan -f json -o plan.json\n  pipegen render gitlab --plan plan.json -o child.yml",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.spareCollections()
			p, err := a.readPlan(planFile)
			if err != nil {
				return err
			}
			o.PlanFile, o.ChildFile = artifact(planFile, "plan.json"), artifact(output, "child.yml")
			if o.MaxJobs == 0 {
				if o.MaxJobs, err = a.maxJobs(); err != nil {
					return err
				}
			}
			pipelines, err := render.GitLab(p, o)
			if err != nil {
				return a.locateOverlay(err)
			}
			if err := checkArchive(p, planFile, pipelines); err != nil {
				return err
			}
			if err := a.writeGitLab(p, pipelines, output, dirs); err != nil {
				return err
			}
			if a.verbose {
				a.note("%s", pipelines)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "plan.json", "`FILE` with the plan in JSON; - is stdin")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	cmd.Flags().StringVar(&dirs, "dirs", "", "`FILE` to write too: the planned project directories, one a line")
	cmd.Flags().StringVar(&o.MetadataDir, "metadata-dir", ".pipegen", "`DIR` for results in the jobs")
	cmd.Flags().StringVar(&o.PrepareJob, "prepare-job", "prepare", "`NAME` of the job of the parent that has these files as artifacts")
	cmd.Flags().IntVar(&o.MaxJobs, "max-jobs", 0, "`N` jobs that one pipeline may have (default: $PIPEGEN_MAX_JOBS, else as many as fit)")
	return cmd
}

func (a *app) maxJobs() (int, error) {
	s := a.getenv("PIPEGEN_MAX_JOBS")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, failure.Input("$PIPEGEN_MAX_JOBS is %q: want a number of jobs", s)
	}
	return n, nil
}

// artifact is what jobs call a file: its path, unless it is out of the
// checkout or none at all.
func artifact(file, otherwise string) string {
	clean := filepath.ToSlash(filepath.Clean(file))
	switch {
	case file == "-" || file == "":
		return otherwise
	case filepath.IsAbs(file) || strings.HasPrefix(clean, "../"):
		return path.Base(clean)
	}
	return clean
}

// checkArchive refuses what GitLab would not read out of artifacts.
func checkArchive(p *plan.Plan, planFile string, pipelines *render.GitLabPipelines) error {
	if len(pipelines.Chunks) == 0 {
		return nil
	}
	var data []byte
	var err error
	if planFile == "-" {
		data, err = p.Bytes()
	} else {
		data, err = os.ReadFile(planFile)
	}
	if err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	files := [][]byte{data, pipelines.Child}
	for _, c := range pipelines.Chunks {
		files = append(files, c.Data)
	}
	return render.CheckGitLabArchive(files...)
}

// writeGitLab writes the child last: it names the others.
func (a *app) writeGitLab(p *plan.Plan, pipelines *render.GitLabPipelines, output, dirs string) error {
	if len(pipelines.Chunks) > 0 && (output == "-" || output == "") {
		return failure.WithHint(failure.Input("the plan is %d pipelines, which do not fit on stdout", len(pipelines.Chunks)+1), "name a file: -o child.yml; the others are written beside it")
	}
	if dirs != "" {
		if err := writeFile(dirs, render.GitLabDirs(p)); err != nil {
			return err
		}
	}
	for _, c := range pipelines.Chunks {
		if err := writeFile(filepath.Join(filepath.Dir(output), path.Base(c.File)), c.Data); err != nil {
			return err
		}
	}
	return a.write(output, pipelines.Child)
}

// locateOverlay gives an error in an overlay the place in pipegen.yaml, if
// that is at hand.
func (a *app) locateOverlay(err error) error {
	wrong, ok := errors.AsType[*render.OverlayError](err)
	if !ok {
		return err
	}
	text, rerr := os.ReadFile("pipegen.yaml")
	if rerr != nil {
		return err
	}
	if fault := overlayFault(wrong, text); fault.Line > 0 {
		return config.Faults{fault}
	}
	return err
}

// overlayFault is an error in an overlay as a fault of pipegen.yaml.
func overlayFault(e *render.OverlayError, text []byte) config.Fault {
	f := config.Fault{
		File: "pipegen.yaml", Severity: config.Error, Rule: "bad-overlay",
		Message: e.Where() + ": " + e.Err.Error(), Hint: failure.Hint(e.Err),
	}
	f.Line, f.Column = e.Locate(text)
	return f
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
			pipelines, err := render.GitLab(made, render.GitLabOptions{})
			if err != nil {
				return a.locateOverlay(err)
			}
			fmt.Fprintf(&b, "\n# GitLab child pipeline\n\n%s", pipelines.Child)
			for _, c := range pipelines.Chunks {
				fmt.Fprintf(&b, "\n# %s\n\n%s", c.File, c.Data)
			}
			b.WriteString("\n# Commands\n")
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
		runner := render.ControllerRunner(img)
		if runner != "" {
			fmt.Fprintf(b, "pipegen run %s --runner %s\n", quote.Shell(img.Name), runner)
		}
		for j := range img.Builds {
			argv, err := engine.Argv(cmd.Context(), engine.Job{Plan: p, Image: img, Build: &img.Builds[j], Root: root, Getenv: a.getenv})
			if err != nil {
				return err
			}
			if runner == "" {
				fmt.Fprintf(b, "pipegen build %s\n", quote.Shell(img.Builds[j].ID))
			}
			fmt.Fprintf(b, "  %s\n", quote.Command(argv))
		}
		if runner == "" {
			fmt.Fprintf(b, "pipegen manifest %s\n", quote.Shell(img.Name))
		}
		for _, t := range img.Tags {
			fmt.Fprintf(b, "  %s\n", quote.Text(strings.TrimPrefix(img.Repository+":"+t, ":")))
		}
		for _, to := range p.Copies(img) {
			for _, t := range to.Tags {
				fmt.Fprintf(b, "  also %s\n", quote.Text(to.Repository+":"+t))
			}
		}
	}
	return nil
}
