package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
)

// lookups is how many images are looked up at a time.
const lookups = 8

func (a *app) publishedCommand() *cobra.Command {
	var w working
	cmd := &cobra.Command{
		Use:   "published NAME[,NAME...]...",
		Short: "Fetch what this plan published of images, for builds on top of them",
		Long: `Looks in the registry for what this plan published of images and writes
DIR/indexes/NAME.json for each, as pipegen manifest does where it publishes. Jobs
of another pipeline then build on these very digests. An image that the plan has
not published, because its build failed say, is an error.`,
		Example: "  pipegen published base,tools --plan plan.json --metadata-dir .pipegen",
		RunE: func(cmd *cobra.Command, args []string) error {
			var names []string
			for _, arg := range args {
				names = append(names, strings.Split(arg, ",")...)
			}
			if len(names) == 0 {
				return failure.WithHint(failure.Input("pipegen published takes the names of images"), "pipegen published --help")
			}
			p, err := a.load(w)
			if err != nil {
				return err
			}
			return a.lookUp(cmd.Context(), w, p, names)
		},
	}
	w.flags(a, cmd.Flags())
	return cmd
}

// lookUp leaves nothing unless all images are there: jobs take all or none.
func (a *app) lookUp(ctx context.Context, w working, p *plan.Plan, names []string) error {
	found := make([]plan.Published, len(names))
	client := a.registryClient(p.Publish)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookups)
	for i, name := range names {
		images, err := wanted(p, []string{name})
		if err != nil {
			return err
		}
		g.Go(func() (err error) {
			found[i], err = manifest.Lookup(ctx, client, p, images[0])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, pub := range found {
		if err := manifest.WritePublished(w.metadata, pub); err != nil {
			return err
		}
		a.note("image %s is %s@%s", pub.Name, pub.Repository, pub.Digest)
	}
	return nil
}
