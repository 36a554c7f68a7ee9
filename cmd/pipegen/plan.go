package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// planning holds the flags of every command that looks at a checkout.
type planning struct {
	base, head, date, registry string
	selects                    []string
	insecure                   []string
	alone                      bool
}

func (p *planning) compareFlags(flags *pflag.FlagSet) {
	flags.StringVar(&p.base, "base", "", "compare with `REV` (default: what CI gives, else the merge-base with the remote's default branch)")
	flags.StringVar(&p.head, "head", "", "look at `REV` (default: what is checked out)")
}

func (p *planning) flags(flags *pflag.FlagSet) {
	p.compareFlags(flags)
	flags.StringArrayVar(&p.selects, "select", nil, "`WHAT` to build: changed, missing, stale, weekly, all or names; repeats, takes lists (default: weekly for schedules, changed,missing on the default branch in CI, else changed)")
	flags.StringVar(&p.date, "date", "", "`TIME` of the plan, RFC 3339 or YYYY-MM-DD (default: the pipeline's, else now)")
	flags.StringVar(&p.registry, "registry", "", "`REGISTRY`, in layout tag with the repository (default: $PIPEGEN_REGISTRY, pipegen.yaml, $ECR_REGISTRY)")
}

func (p *planning) insecureFlag(flags *pflag.FlagSet) {
	flags.StringSliceVar(&p.insecure, "insecure-registry", nil, insecureUsage)
}

// checkout finds the checkout, its head and its base, and says which base.
func (a *app) checkout(ctx context.Context, p planning) (*plan.Checkout, error) {
	a.spareCollections()
	return plan.Open(ctx, plan.Request{
		Dir: ".", Base: p.base, Head: p.head, Registry: p.registry, Date: p.date,
		Getenv: a.getenv, ReadFile: os.ReadFile, Now: time.Now, ParseCache: a.parseCache(),
		Resolve: func(ctx context.Context, repo, ref string, auth *config.UpstreamAuth) (string, error) {
			return engine.ResolveRef(ctx, repo, ref, auth, a.getenv)
		},
		Client: func(publish config.Publish) *registry.Client {
			return a.registryClient(publish, p.insecure...)
		},
	})
}

// makePlan makes the plan that the flags ask for.
func (a *app) makePlan(ctx context.Context, p planning, names []string) (*plan.Plan, *plan.Checkout, error) {
	c, err := a.checkout(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	sel := plan.ParseSelection(p.selects, names)
	sel.Alone = p.alone
	made, warnings, err := c.Plan(ctx, sel)
	a.warnings(warnings)
	if err != nil {
		return nil, c, err
	}
	switch {
	case !sel.Or(c.CI, false).Changed:
	case c.Base.Usable:
		a.note("base %.7s: %s", c.Base.Commit, c.Base.How)
	default:
		a.note("no base, so everything counts as changed: %s", c.Base.Why)
	}
	if c.Dirty && c.CI.System != "" {
		a.warn("the work tree differs from the commit: images get no tags")
	}
	return made, c, nil
}

func (a *app) planCommand() *cobra.Command {
	var p planning
	var order following
	var form, output string
	var exit bool
	cmd := &cobra.Command{
		Use:   "plan [NAME...]",
		Short: "Show what is to be built for this commit, and why",
		Example: `  pipegen plan
  pipegen plan --select all -f json -o plan.json
  pipegen plan app worker`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "table", "json", "dot", "mermaid"); err != nil {
				return err
			}
			waits, err := a.follow(cmd.Context(), &order, p, &output)
			if err != nil {
				return err
			}
			made, _, err := a.makePlan(cmd.Context(), p, args)
			if err != nil {
				return err
			}
			if err := order.finish(made, waits); err != nil {
				return err
			}
			write := map[string]func(io.Writer) error{"table": made.WriteTable, "json": made.Write, "dot": made.WriteDOT, "mermaid": made.WriteMermaid}[form]
			if err := a.writeWith(output, write); err != nil {
				return err
			}
			if form != "table" && output != "" && output != "-" && !a.quiet && a.logFormat != "json" {
				var table bytes.Buffer
				if err := made.WriteTable(&table); err != nil {
					return err
				}
				fmt.Fprint(a.stderr, table.String())
			}
			if exit && len(made.Images) > 0 {
				return errSomething
			}
			return nil
		},
	}
	p.flags(cmd.Flags())
	p.insecureFlag(cmd.Flags())
	order.flags(cmd.Flags())
	cmd.Flags().BoolVar(&p.alone, "no-dependents", false, "leave out what is built on the selected images")
	cmd.Flags().StringVarP(&form, "format", "f", "table", "`FORMAT`: table, json, dot (Graphviz) or mermaid")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write; in other formats the table then goes to stderr")
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 4 when there is something to build")
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	var p planning
	var form, output string
	var exit bool
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show which projects changed between base and head",
		Long: `Shows the projects with a change in their own directory. What else is built
because of that (dependents, watched files) is a matter of pipegen plan.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := format(form, "names", "dirs", "json"); err != nil {
				return err
			}
			c, err := a.checkout(cmd.Context(), p)
			if err != nil {
				return err
			}
			d, err := c.Diff(cmd.Context())
			if err != nil {
				return err
			}
			if d.Base == "" {
				a.note("no base, so everything counts as changed: %s", d.How)
			}
			data, err := differenceText(d, form)
			if err != nil {
				return err
			}
			if err := a.write(output, data); err != nil {
				return err
			}
			for _, dir := range d.Deleted {
				a.note("deleted: %s", dir)
			}
			if exit && len(d.Projects) > 0 {
				return errSomething
			}
			return nil
		},
	}
	p.compareFlags(cmd.Flags())
	cmd.Flags().StringVarP(&form, "format", "f", "names", "`FORMAT`: names, dirs or json")
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`FILE` to write")
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 4 when something changed")
	return cmd
}

func differenceText(d *plan.Difference, form string) ([]byte, error) {
	var b bytes.Buffer
	if form == "json" {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err := enc.Encode(d)
		return b.Bytes(), err
	}
	for _, p := range d.Projects {
		line := p.Name
		if form == "dirs" {
			line = p.Dir
		}
		b.WriteString(quote.Text(line) + "\n")
	}
	return b.Bytes(), nil
}

// readPlan reads the file that --plan names; "-" is stdin.
func (a *app) readPlan(file string) (*plan.Plan, error) {
	if file == "-" {
		return plan.Read(os.Stdin, "from stdin")
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.WithHint(failure.Input("there is no plan %s", file), "make one with: pipegen plan -f json -o %s", file)
	}
	if err != nil {
		return nil, failure.Input("reading the plan: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, failure.Input("the plan %s is a directory", file)
	}
	return plan.Read(f, file)
}
