package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/render"
)

// publications is how many images are published side by side.
const publications = 16

func (a *app) manifestCommand() *cobra.Command {
	var w working
	var all, rollback, ifPlanned bool
	var results []string
	var form string
	cmd := &cobra.Command{
		Use:   "manifest NAME|--all",
		Short: "Join the builds of an image into an index and publish its tags",
		Long: `Joins what the builds of an image pushed, by their digests, and puts the image's
tags on it. It prints what was published. With --all it publishes every image
of the plan, side by side within the budget of --registry-rps: one that fails
costs no other its tags, and the last line of the errors says which failed.

It is safe to repeat: what is done already is left alone. Exit code 3: a tag
that the registry does not let be moved holds another digest.`,
		Example: "  pipegen manifest app --plan plan.json --metadata-dir .pipegen\n  pipegen manifest --all --plan plan.json --registry-rps 20",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "text", "json", "markdown"); err != nil {
				return err
			}
			if all == (len(args) == 1) || len(args) > 1 {
				return failure.Input("pipegen manifest takes the name of one image, or --all")
			}
			p, err := a.load(w)
			if err != nil {
				return err
			}
			images, err := wanted(p, args)
			if err != nil && ifPlanned {
				a.note("the plan does not have %s: nothing to publish", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			if err := gather(images, results, w.metadata); err != nil {
				return err
			}
			client := a.registryClient(p.Publish)
			published, err := a.publishAll(cmd.Context(), client, p, images, w.metadata, rollback)
			if werr := a.writePublished(form, published); err == nil {
				err = werr
			}
			return err
		},
	}
	w.flags(a, cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "every image of the plan; images fail independently")
	cmd.Flags().BoolVar(&rollback, "allow-rollback", false, "move tags even if they hold a later commit")
	cmd.Flags().BoolVar(&ifPlanned, "if-planned", false, "do nothing, and succeed, if the plan does not have this image")
	cmd.Flags().StringArrayVar(&results, "results", nil, "metadata `DIR` of builds elsewhere, whose results to take; repeats")
	cmd.Flags().StringVarP(&form, "format", "f", "text", "`FORMAT`: text, json or markdown")
	return cmd
}

func wanted(p *plan.Plan, names []string) ([]*plan.Image, error) {
	var out []*plan.Image
	if len(names) == 0 {
		for i := range p.Images {
			out = append(out, &p.Images[i])
		}
		return out, nil
	}
	var known []string
	for i := range p.Images {
		known = append(known, p.Images[i].Name)
		if p.Images[i].Name == names[0] {
			return []*plan.Image{&p.Images[i]}, nil
		}
	}
	err := failure.Input("the plan has no image %q", names[0])
	if near := config.Nearest(names[0], known); near != "" {
		return nil, failure.WithHint(err, "did you mean %q?", near)
	}
	return nil, err
}

// publishAll publishes images side by side; one that fails stops no other. Of
// several, each error is reported, and the one returned says which they were.
// What was published is in the order of the plan.
func (a *app) publishAll(ctx context.Context, client *registry.Client, p *plan.Plan, images []*plan.Image, metadata string, rollback bool) ([]plan.Published, error) {
	publish, err := a.publisher(ctx, client, p, metadata, rollback)
	if err != nil {
		return nil, err
	}
	all, errs := make([]plan.Published, len(images)), make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(publications)
	for i, img := range images {
		g.Go(func() error {
			if errs[i] = context.Cause(ctx); errs[i] != nil {
				return nil
			}
			var results []plan.Result
			if results, errs[i] = manifest.ReadResults(metadata, p, img); errs[i] == nil {
				all[i], errs[i] = publish(ctx, img, results)
			}
			return nil
		})
	}
	_ = g.Wait() // errs has them all
	var published []plan.Published
	var failed unpublished
	for i, img := range images {
		if errs[i] == nil {
			published = append(published, all[i])
			continue
		}
		failed.names, failed.errs = append(failed.names, img.Name), append(failed.errs, errs[i])
	}
	switch {
	case len(failed.errs) == 0:
		return published, nil
	case ctx.Err() != nil:
		return published, context.Cause(ctx)
	case len(images) == 1:
		return published, errs[0]
	}
	for _, err := range failed.errs {
		a.report(err)
	}
	failed.of = len(images)
	return published, failure.WithHint(failed, "") // those of its parts are shown
}

// unpublished says which images of several were not published.
type unpublished struct {
	names []string
	errs  []error
	of    int
}

func (e unpublished) Error() string {
	return fmt.Sprintf("%d of %d images not published: %s", len(e.names), e.of, strings.Join(e.names, ", "))
}

func (e unpublished) Unwrap() []error { return e.errs }

// publisher publishes an image and leaves the result in the metadata
// directory. Where a checkout is at hand it tells which commit is the later. The
// error is of what signs.
func (a *app) publisher(ctx context.Context, client *registry.Client, p *plan.Plan, metadata string, rollback bool) (func(context.Context, *plan.Image, []plan.Result) (plan.Published, error), error) {
	o := manifest.Options{AllowRollback: rollback, Warn: a.warn}
	dir, repo, err := root(ctx)
	if err == nil && repo != nil {
		o.Ancestor = remembering(repo.Ancestor)
	}
	if o.Attend, err = a.attend(ctx, client, p, dir); err != nil {
		return nil, err
	}
	return func(ctx context.Context, img *plan.Image, results []plan.Result) (plan.Published, error) {
		pub, err := manifest.Publish(ctx, client, p, img, results, o)
		if err != nil {
			return pub, err
		}
		return pub, manifest.WritePublished(metadata, pub)
	}, nil
}

// remembering asks once for each pair of commits: the tags of a plan's images
// mostly hold publications of the same one.
func remembering(ancestor func(ctx context.Context, old, new string) (bool, error)) func(ctx context.Context, old, new string) (bool, error) {
	type answer struct {
		yes bool
		err error
	}
	var mu sync.Mutex
	answers := map[[2]string]answer{}
	return func(ctx context.Context, old, new string) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		pair := [2]string{old, new}
		a, ok := answers[pair]
		if !ok {
			a.yes, a.err = ancestor(ctx, old, new)
			if ctx.Err() == nil {
				answers[pair] = a
			}
		}
		return a.yes, a.err
	}
}

func (a *app) writePublished(form string, published []plan.Published) error {
	var b bytes.Buffer
	if form == "json" {
		if published == nil {
			published = []plan.Published{}
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(published); err != nil {
			return err
		}
		return a.write("-", b.Bytes())
	}
	if form == "markdown" {
		return a.write("-", render.PublishedMarkdown(published))
	}
	writePublishedText(&b, published)
	return a.write("-", b.Bytes())
}

func writePublishedText(b *bytes.Buffer, published []plan.Published) {
	for _, pub := range published {
		if pub.Digest == "" {
			fmt.Fprintf(b, "%s: nothing to publish\n", pub.Name)
			continue
		}
		fmt.Fprintf(b, "%s %s@%s\n", pub.Name, quote.Text(pub.Repository), pub.Digest)
		for _, t := range pub.Tags {
			fmt.Fprintf(b, "  tag %s\n", t)
		}
		for _, k := range pub.Kept {
			fmt.Fprintf(b, "  left %s: %s\n", k.Tag, quote.Text(k.Reason))
		}
		for _, to := range pub.Also {
			fmt.Fprintf(b, "  also %s\n", quote.Text(to.Repository))
			for _, t := range to.Tags {
				fmt.Fprintf(b, "    tag %s\n", t)
			}
			for _, k := range to.Kept {
				fmt.Fprintf(b, "    left %s: %s\n", k.Tag, quote.Text(k.Reason))
			}
		}
		for _, c := range pub.Children {
			fmt.Fprintf(b, "  %s %s\n", c.Digest, quote.Text(c.Platform))
		}
		writePublishedText(b, pub.Parts)
	}
}
