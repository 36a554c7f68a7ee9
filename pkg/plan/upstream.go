package plan

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Resolver gives the commit of an upstream ref.
type Resolver func(ctx context.Context, repo, ref string, auth *config.UpstreamAuth) (string, error)

// upstreams bounds how many upstream repositories are asked at once.
const upstreams = 8

// upstreamCommits resolves upstream refs, each once.
type upstreamCommits struct {
	ask   Resolver
	mu    sync.Mutex
	known map[upstreamRef]string
}

type upstreamRef struct{ repo, ref string }

// of resolves what the wanted candidates are built from.
func (u *upstreamCommits) of(ctx context.Context, cs []*candidate, wanted map[string]bool) error {
	asked := map[upstreamRef][]*candidate{}
	for _, c := range cs {
		if !wanted[c.name] || !c.upstream() || c.commit != "" {
			continue
		}
		q := upstreamRef{c.project.Config.UpstreamRepo, c.project.Config.UpstreamRef}
		if c.commit = u.known[q]; c.commit == "" {
			asked[q] = append(asked[q], c)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(upstreams)
	for q, waiting := range asked {
		g.Go(func() error {
			commit, err := u.ask(ctx, q.repo, q.ref, waiting[0].project.Config.UpstreamAuth)
			if err != nil && failure.Hint(err) == "" {
				err = failure.WithHint(err, "is the address right, the host reachable, and upstream_auth set if the repository is private?")
			}
			if err != nil {
				return fmt.Errorf("image %s: %w", waiting[0].name, err)
			}
			for _, c := range waiting {
				c.commit = commit
			}
			u.mu.Lock()
			u.known[q] = commit
			u.mu.Unlock()
			return nil
		})
	}
	return g.Wait()
}
