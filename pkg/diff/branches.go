package diff

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
)

// BranchesWith gives the names of the branches, local ones and those of remotes
// without the remote's name, that hold a commit, sorted. One of which a shallow
// clone cannot tell is among them.
func (r *Repo) BranchesWith(ctx context.Context, c Commit) ([]string, error) {
	refs, err := r.backend.branchRefs(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, ref := range refs {
		name, local := strings.CutPrefix(ref, "refs/heads/")
		if !local {
			_, name, _ = strings.Cut(strings.TrimPrefix(ref, "refs/remotes/"), "/")
		}
		if name == "" || names[name] || !local && name == "HEAD" {
			continue
		}
		holds, err := r.Ancestor(ctx, c.Hash, ref)
		if err != nil && !errors.Is(err, ErrMissing) {
			return nil, err
		}
		if holds || err != nil {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

func (g *gitProgram) branchRefs(ctx context.Context) ([]string, error) {
	out, err := g.run(ctx, nil, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes")
	return strings.Fields(string(out)), err
}

func (s *store) branchRefs(context.Context) ([]string, error) {
	local, err := s.refs.below("refs/heads/")
	if err != nil {
		return nil, err
	}
	remote, err := s.refs.below("refs/remotes/")
	return slices.Concat(local, remote), err
}
