package diff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// commit resolves what gitrevisions(7) calls <sha1> and <refname>, followed by
// any of ~N, ^N, ^{commit} and ^{}.
func (s *store) commit(ctx context.Context, rev string) (Commit, error) {
	if name, _, _ := strings.Cut(rev, "^"); strings.ContainsAny(name, ":[*?\\ ") || strings.Contains(name, "@{") {
		return Commit{}, failure.WithHint(failure.Input("revision %s cannot be read without git: %w", quote.Text(rev), ErrMissing), "write a hash, branch or tag, or install git")
	}
	c, err := s.reader.commit(ctx, rev, s.named)
	if errors.Is(err, ErrMissing) {
		return Commit{}, missingRevision(rev)
	}
	if err != nil {
		return Commit{}, fmt.Errorf("resolving %s: %w", quote.Text(rev), err)
	}
	return c, nil
}

// named finds a full hash, a ref or a short hash, in this order.
func (s *store) named(ctx context.Context, name string) (oid, error) {
	if id, ok := parseID(strings.ToLower(name)); ok {
		return id, nil
	}
	if id, ok, err := s.refs.find(name); ok || err != nil {
		return id, err
	}
	return s.abbreviated(ctx, strings.ToLower(name))
}

// abbreviated finds the one commit whose hash starts with these digits.
func (s *store) abbreviated(ctx context.Context, digits string) (oid, error) {
	if len(digits) < 4 || len(digits) > 2*idSize || strings.Trim(digits, "0123456789abcdef") != "" {
		return oid{}, fmt.Errorf("%s is %w", quote.Text(digits), ErrMissing)
	}
	ids, err := s.objects.withPrefix(digits)
	if err != nil {
		return oid{}, err
	}
	var found oid
	commit := ""
	for _, id := range ids {
		c, err := s.peel(ctx, id)
		if errors.Is(err, ErrMissing) {
			continue // a tree or a blob
		}
		if err != nil {
			return oid{}, err
		}
		if commit != "" && commit != c.Hash {
			return oid{}, failure.WithHint(failure.Input("%s is ambiguous", digits), "write more digits of the hash")
		}
		found, commit = id, c.Hash
	}
	if commit == "" {
		return oid{}, fmt.Errorf("%s is %w", digits, ErrMissing)
	}
	return found, nil
}

// plain resolves what git is certain to resolve the same way: a full hash,
// HEAD, and names of branches, tags and remote branches, with steps. The error
// is ErrMissing for all else.
func (g *gitProgram) plain(ctx context.Context, rev string) (Commit, error) {
	elsewhere := fmt.Errorf("%s is %w", quote.Text(rev), ErrMissing)
	if strings.ContainsAny(rev, "~^") && g.own.grafted() {
		return Commit{}, elsewhere
	}
	return g.own.commit(ctx, rev, func(_ context.Context, name string) (oid, error) {
		if id, ok := parseID(strings.ToLower(name)); ok {
			return id, nil
		}
		if name != "HEAD" && !strings.HasPrefix(name, "refs/") {
			// Of other files beside refs/, and of the refs of other work trees, git
			// knows more.
			beside := func(dir string) bool {
				_, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
				return err == nil
			}
			if beside(g.gitDir) || beside(g.commonDir) || strings.HasPrefix(name, "main-worktree/") || strings.HasPrefix(name, "worktrees/") {
				return oid{}, elsewhere
			}
		}
		id, ok, err := g.own.refs.find(name)
		if err == nil && !ok {
			err = elsewhere
		}
		return id, err
	})
}
