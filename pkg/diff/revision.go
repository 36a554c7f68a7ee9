package diff

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// commit resolves what gitrevisions(7) calls <sha1> and <refname>, followed by
// any of ~N, ^N, ^{commit} and ^{}.
func (s *store) commit(ctx context.Context, rev string) (Commit, error) {
	name, steps := rev, ""
	if at := strings.IndexAny(rev, "~^"); at >= 0 {
		name, steps = rev[:at], rev[at:]
	}
	if name == "@" {
		name = "HEAD"
	}
	if strings.ContainsAny(name, ":[*?\\ ") || strings.Contains(name, "@{") {
		return Commit{}, failure.WithHint(failure.Input("revision %s cannot be read without git: %w", quote.Text(rev), ErrMissing), "write a hash, branch or tag, or install git")
	}
	c, err := s.named(ctx, name)
	for err == nil && steps != "" {
		c, steps, err = s.step(ctx, c, steps)
	}
	if errors.Is(err, ErrMissing) {
		return Commit{}, missingRevision(rev)
	}
	if err != nil {
		return Commit{}, fmt.Errorf("resolving %s: %w", quote.Text(rev), err)
	}
	return c, nil
}

// step takes one step from c: the parent or ancestor that steps begins with.
func (s *store) step(ctx context.Context, c Commit, steps string) (Commit, string, error) {
	for _, peel := range []string{"^{commit}", "^{}"} {
		if rest, ok := strings.CutPrefix(steps, peel); ok {
			return c, rest, nil
		}
	}
	op := steps[0]
	rest := strings.TrimLeft(steps[1:], "0123456789")
	n := 1
	if digits := steps[1 : len(steps)-len(rest)]; digits != "" {
		var err error
		if n, err = strconv.Atoi(digits); err != nil {
			return c, rest, failure.Input("%s is no step in history", quote.Text(steps))
		}
	}
	if rest != "" && rest[0] != '~' && rest[0] != '^' {
		return c, rest, failure.WithHint(failure.Input("%s cannot be read without git", quote.Text(steps)), "install git")
	}
	parent, times := n, 1
	if op == '~' {
		parent, times = 1, n
	} else if n == 0 {
		times = 0
	}
	for range times {
		if s.cut[c.Hash] || parent < 1 || parent > len(c.Parents) {
			return c, rest, fmt.Errorf("parent %d of %s is %w", parent, short(c.Hash), ErrMissing)
		}
		var err error
		if c, err = s.peeled(ctx, c.Parents[parent-1]); err != nil {
			return c, rest, err
		}
	}
	return c, rest, nil
}

// named finds a full hash, a ref or a short hash, in this order.
func (s *store) named(ctx context.Context, name string) (Commit, error) {
	if hash := strings.ToLower(name); len(hash) == 40 && isHash(hash) {
		return s.peeled(ctx, hash)
	}
	if id, err := s.ref(name); err != nil {
		return Commit{}, err
	} else if id != "" {
		return s.peeled(ctx, id)
	}
	return s.abbreviated(ctx, strings.ToLower(name))
}

// ref gives what the first ref stands for that git would take name for, or "".
func (s *store) ref(name string) (string, error) {
	if name == "" || name != path.Clean(name) || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "..") {
		return "", nil
	}
	for _, full := range []string{name, "refs/" + name, "refs/tags/" + name, "refs/heads/" + name, "refs/remotes/" + name, "refs/remotes/" + name + "/HEAD"} {
		if !strings.HasPrefix(full, "refs/") && strings.Trim(full, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
			continue // beside refs/ there are other files
		}
		s.turn.Lock()
		ref, err := storer.ResolveReference(s.objects, plumbing.ReferenceName(full))
		s.turn.Unlock()
		if err == nil && !ref.Hash().IsZero() {
			return ref.Hash().String(), nil
		}
		if err != nil && !errors.Is(err, plumbing.ErrReferenceNotFound) {
			return "", fmt.Errorf("reading %s: %w", full, err)
		}
	}
	return "", nil
}

// abbreviated finds the one commit whose hash starts with these digits.
func (s *store) abbreviated(ctx context.Context, digits string) (Commit, error) {
	if len(digits) < 4 || len(digits) > 40 || strings.Trim(digits, "0123456789abcdef") != "" {
		return Commit{}, fmt.Errorf("%s is %w", quote.Text(digits), ErrMissing)
	}
	prefix, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return Commit{}, err
	}
	s.turn.Lock()
	ids, err := s.objects.HashesWithPrefix(prefix)
	s.turn.Unlock()
	if err != nil {
		return Commit{}, err
	}
	var found Commit
	for _, id := range ids {
		if !strings.HasPrefix(id.String(), digits) {
			continue
		}
		c, err := s.peeled(ctx, id.String())
		if errors.Is(err, ErrMissing) {
			continue // a tree or a blob
		}
		if err != nil {
			return Commit{}, err
		}
		if found.Hash != "" && found.Hash != c.Hash {
			return Commit{}, failure.WithHint(failure.Input("%s is ambiguous", digits), "write more digits of the hash")
		}
		found = c
	}
	if found.Hash == "" {
		return found, fmt.Errorf("%s is %w", digits, ErrMissing)
	}
	return found, nil
}
