package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// asking holds the flags of commands that look at what is published.
type asking struct {
	registry string
	insecure []string
}

func (q *asking) flags(flags *pflag.FlagSet) {
	flags.StringVar(&q.registry, "registry", "", "`REGISTRY`, in layout tag with the repository (default: $PIPEGEN_REGISTRY, pipegen.yaml, $ECR_REGISTRY)")
	flags.StringSliceVar(&q.insecure, "insecure-registry", nil, insecureUsage)
}

// known gives the images of these names, all if there are none, and a client
// for the registry that they are in.
func (a *app) known(ctx context.Context, q asking, names []string) ([]plan.Known, *registry.Client, error) {
	dir, fsys, files, err := a.filesToCheck(ctx)
	if err != nil {
		return nil, nil, err
	}
	cache, save := plan.OpenCache(a.parseCache(), dir, time.Now())
	defer save()
	cfg, err := config.Load(fsys, files, config.Options{Getenv: a.getenv, Cache: cache})
	if err != nil {
		return nil, nil, err
	}
	known, err := plan.KnownImages(cfg, plan.Registry(q.registry, cfg.Pipegen, a.getenv), names)
	if err != nil {
		return nil, nil, err
	}
	return known, a.registryClient(cfg.Pipegen.Publish, q.insecure...), nil
}

func (a *app) tagsCommand() *cobra.Command {
	var q asking
	var scope manifest.Scope
	var form string
	cmd := &cobra.Command{
		Use:   "tags NAME",
		Short: "Show what is published for an image",
		Long: `Asks the registry for the tags of an image and shows what each holds: digest,
commit, time of the plan, content key and platforms, the newest publication
first. Tags of other images in the same repository are left out, and those of
single builds unless --builds asks for them.`,
		Example: "  pipegen tags app\n  pipegen tags app --newest 10 -f json",
		Args:    exactArgs(1, "the name of an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "table", "json"); err != nil {
				return err
			}
			if scope.Newest < 0 {
				return failure.Input("--newest %d: want a number of publications, or 0 for all", scope.Newest)
			}
			known, client, err := a.known(cmd.Context(), q, args)
			if err != nil {
				return err
			}
			inv, err := manifest.Survey(cmd.Context(), client, known[0], scope)
			if err != nil {
				return err
			}
			if inv.Left > 0 {
				a.note("tags of %s that are not shown: %d", inv.Name, inv.Left)
			}
			if form == "json" {
				return a.writeJSON(inv.Tags)
			}
			return a.write("-", tagsTable(inv.Tags))
		},
	}
	q.flags(cmd.Flags())
	cmd.Flags().IntVar(&scope.Newest, "newest", 0, "only the `N` newest publications by the date in their tags; 0: all")
	cmd.Flags().BoolVar(&scope.Builds, "builds", false, "show the tags of single builds too")
	cmd.Flags().StringVarP(&form, "format", "f", "table", "`FORMAT`: table or json")
	return cmd
}

func (a *app) writeJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return a.write("-", b.Bytes())
}

// tagsTable shows tags for people, digests and keys abridged.
func tagsTable(tags []manifest.Tag) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(tags) > 0 {
		fmt.Fprintln(w, "TAG\tDIGEST\tCOMMIT\tPUBLISHED\tKEY\tPLATFORMS")
	}
	for _, t := range tags {
		published := ""
		if !t.Created.IsZero() {
			published = t.Created.UTC().Format("2006-01-02 15:04")
		}
		platforms := strings.Join(t.Platforms, " ")
		if t.Problem != "" {
			platforms = "(" + t.Problem + ")"
		}
		row := []string{t.Name, abridged(strings.TrimPrefix(t.Digest, "sha256:"), 12), abridged(t.Commit, 7), published, abridged(t.Key, 12), platforms}
		for i := range row {
			row[i] = orElse(quote.Text(row[i]), "-")
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a buffer takes everything
	return b.Bytes()
}

func abridged(s string, length int) string { return s[:min(len(s), length)] }
