package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

func (a *app) pruneCommand() *cobra.Command {
	var q asking
	var rules []string
	var yes bool
	var form string
	cmd := &cobra.Command{
		Use:   "prune [NAME...]",
		Short: "Remove tags that nothing needs any more",
		Long: `Finds the tags of single builds whose index is published and holds them, and,
with --keep, the key tags of publications that no rule keeps; without NAMEs, of
all images. It shows them, and removes them with --yes. Only tags are
removed, never a manifest: what an index holds stays, as do moving tags, the
tags of date and commit, and everything of other images.`,
		Example: "  pipegen prune\n  pipegen prune app --keep 20 --keep 30d --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "text", "json"); err != nil {
				return err
			}
			keep, err := manifest.ParseKeep(rules)
			if err != nil {
				return err
			}
			known, client, err := a.known(cmd.Context(), q, args)
			if err != nil {
				return err
			}
			return a.prune(cmd.Context(), client, known, keep, form, yes)
		},
	}
	q.flags(cmd.Flags())
	cmd.Flags().StringSliceVar(&rules, "keep", nil, "`N|AGE`: keep key tags of the N newest publications of an image, or of those younger than AGE (30d, 6w, 720h); repeats; without it all are kept")
	cmd.Flags().BoolVar(&yes, "yes", false, "remove them")
	cmd.Flags().StringVarP(&form, "format", "f", "text", "`FORMAT`: text or json")
	return cmd
}

// prune looks at one image after the other, and removes what may go of each.
// One that fails stops no other.
func (a *app) prune(ctx context.Context, client *registry.Client, known []plan.Known, keep manifest.Keep, form string, yes bool) error {
	found := []manifest.Removal{}
	var failed []error
	removed := 0
	tags := map[string][]string{} // by repository, which images may share
	for _, k := range known {
		inv, err := survey(ctx, client, k, tags)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("image %s: %w", k.Name, err))
			continue
		}
		list := inv.Prunable(keep, time.Now())
		found = append(found, list...)
		if form == "text" {
			if err := a.write("-", removalsText(list)); err != nil {
				return err
			}
		}
		if !yes || len(list) == 0 {
			continue
		}
		err = manifest.Remove(ctx, client, list, func(r manifest.Removal, err error) {
			if err != nil {
				a.warn(fmt.Sprintf("tag %s stays: %v", r.Tag, err))
				return
			}
			removed++
		})
		if ctx.Err() != nil {
			a.note("tags removed before: %d", removed)
			return context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("image %s: %w", k.Name, err))
		}
	}
	if form == "json" {
		if err := a.writeJSON(found); err != nil {
			return err
		}
	}
	switch {
	case yes:
		a.note("tags removed: %d", removed)
	case len(found) > 0:
		a.note("tags that may go: %d; nothing was removed: --yes does it", len(found))
	default:
		a.note("nothing to remove")
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

// survey looks at all that is published for an image, and keeps the list of
// its repository's tags.
func survey(ctx context.Context, client *registry.Client, k plan.Known, tags map[string][]string) (*manifest.Inventory, error) {
	list, ok := tags[k.Repository]
	if !ok {
		var err error
		if list, err = client.List(ctx, k.Repository); err != nil && !errors.Is(err, registry.ErrNotFound) {
			return nil, err
		}
		tags[k.Repository] = list
	}
	return manifest.SurveyOf(ctx, client, k, list, manifest.Scope{Builds: true})
}

func removalsText(list []manifest.Removal) []byte {
	var b bytes.Buffer
	for _, r := range list {
		fmt.Fprintf(&b, "%s:%s: %s\n", quote.Text(r.Repository), quote.Text(r.Tag), quote.Text(r.Why))
	}
	return b.Bytes()
}
