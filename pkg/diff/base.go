package diff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Base is what the head is compared with. Where nothing can be, Usable is
// false and everything has to be selected: a base is never guessed.
type Base struct {
	// Full hash; empty when not usable.
	Commit string
	Usable bool
	// One line that says where the base comes from.
	How string
	// When not usable: what was wrong.
	Why string
	// Whether uncommitted changes count too.
	WorkTree bool
}

// Base chooses what to compare head with. In this order:
//
//   - flag, the revision that --base gives. It need not be an ancestor of head.
//     If it does not resolve the error is failure.ErrInput.
//   - In CI what the CI system gives. It has to be an ancestor of head; for
//     merge requests and merge groups a common ancestor serves as well.
//   - The merge-base with the default branch of the remote, or without a remote
//     with the local default branch. On that branch itself it is the head if
//     there are uncommitted changes, else the head's first parent.
//
// What a shallow clone lacks is fetched from the remote, by git where it is
// installed, within a few minutes and some thousand commits. Outside CI
// uncommitted changes count if head is what is checked out.
func (r *Repo) Base(ctx context.Context, ci CI, flag string, head Commit) (Base, error) {
	here := false
	if ci.System == "" {
		c, err := r.backend.commit(ctx, "HEAD")
		if err != nil && !errors.Is(err, ErrMissing) {
			return Base{}, err
		}
		here = err == nil && c.Hash == head.Hash
	}
	var base Base
	var err error
	switch {
	case flag != "":
		base, err = r.asked(ctx, flag)
	case ci.System != "":
		base, err = r.given(ctx, ci, head)
	default:
		base, err = r.local(ctx, head, here)
	}
	if err == nil && base.Usable {
		base, err = r.comparable(ctx, base)
	}
	if err != nil {
		return Base{}, err
	}
	base.WorkTree = here
	return base, nil
}

// comparable sees to it that the files of a base can be listed.
func (r *Repo) comparable(ctx context.Context, base Base) (Base, error) {
	c, err := r.backend.commit(ctx, base.Commit)
	if err != nil {
		return Base{}, err
	}
	limited, cancel := timeLimit(ctx, r.fetchTime)
	defer cancel()
	if err := because(limited, r.backend.ready(limited, c)); err != nil {
		return unusable(base.How, "the files of %s are not in this clone%s: %v", short(c.Hash), r.shallowNote(), err), ctx.Err()
	}
	return base, nil
}

func usable(commit, how string) Base { return Base{Commit: commit, Usable: true, How: how} }

func unusable(how, format string, args ...any) Base {
	return Base{How: how, Why: fmt.Sprintf(format, args...)}
}

// asked is the base that the user named.
func (r *Repo) asked(ctx context.Context, rev string) (Base, error) {
	c, err := r.Commit(ctx, rev)
	if errors.Is(err, ErrMissing) && isHash(rev) {
		limited, cancel := timeLimit(ctx, r.fetchTime)
		defer cancel()
		if fetchErr := r.fetch(limited, rev); fetchErr == nil {
			c, err = r.Commit(ctx, rev)
		} else if ctx.Err() != nil {
			return Base{}, ctx.Err()
		} else {
			err = fmt.Errorf("%w, and fetching it failed: %w", err, fetchErr)
		}
	}
	if errors.Is(err, ErrMissing) || errors.Is(err, failure.ErrInput) {
		return Base{}, failure.Input("--base: %w", err)
	}
	return usable(c.Hash, "--base "+quote.Text(rev)), err
}

// given is the base that the CI system names.
func (r *Repo) given(ctx context.Context, ci CI, head Commit) (Base, error) {
	from := cmp.Or(ci.baseFrom, ci.System)
	switch {
	case ci.Base == "":
		return unusable(ci.System, "%s", ci.noBase()), nil
	case zeros(ci.Base) && ci.Event == EventPush:
		return unusable(from, "%s is all zeros: first push of the branch", from), nil
	case zeros(ci.Base):
		return unusable(from, "%s is all zeros", from), nil
	case !isHash(ci.Base):
		return unusable(from, "%s is no commit hash: %s", from, quote.Text(ci.Base)), nil
	case ci.Base == head.Hash && ci.Event == EventPush:
		return unusable(from, "%s is the commit that is built", from), nil
	}
	return r.connect(ctx, from, ci.Base, head, ci.Event != EventPush)
}

// noBase says why a CI job has nothing to compare with.
func (ci CI) noBase() string {
	switch ci.System {
	case "concourse":
		return "Concourse names no commit to compare with: give --base"
	case "other":
		return "this CI system is not known, so what it built before is not either: give --base"
	}
	switch ci.Event {
	case EventPush:
		return "the push names no commit from before"
	case EventMergeRequest, EventMergeGroup:
		return "the event names no commit to merge into"
	}
	return "a pipeline of the kind " + ci.Event + " has no commit to compare with"
}

// connect makes a base of a commit that has to be an ancestor of head; with
// forked, their best common ancestor is taken instead if it is not.
func (r *Repo) connect(ctx context.Context, from, base string, head Commit, forked bool) (Base, error) {
	limited, cancel := timeLimit(ctx, r.fetchTime)
	defer cancel()
	if _, err := r.backend.commit(ctx, base); errors.Is(err, ErrMissing) {
		if !r.Shallow() && !forked {
			return unusable(from, "%s is not an ancestor of the head (force push): this clone has the head's whole history without it", short(base)), nil
		}
		if err := r.fetch(limited, base); err != nil {
			return unusable(from, "%s is not in this clone%s: %v", short(base), r.shallowNote(), err), ctx.Err()
		}
		if _, err := r.backend.commit(ctx, base); err != nil {
			return unusable(from, "%s could not be fetched: %v", short(base), err), ctx.Err()
		}
	} else if err != nil {
		return Base{}, err
	}
	// The commit itself names its parents, in a shallow clone as well.
	if base == head.Hash || slices.Contains(head.Parents, base) {
		return usable(base, from), nil
	}
	for steps := firstDeepening; ; steps *= 2 {
		rel, err := r.backend.relation(ctx, base, head.Hash)
		if errors.Is(err, ErrMissing) {
			return unusable(from, "history between %s and the head is not in this clone: %v", short(base), err), nil
		}
		if err != nil {
			return Base{}, err
		}
		if rel.ancestor {
			return usable(base, from), nil
		}
		ends := rel.headCut
		if forked {
			ends = append(ends, rel.baseCut...)
		}
		if len(ends) == 0 {
			switch {
			case forked && rel.mergeBase != "":
				return usable(rel.mergeBase, "merge-base with "+from), nil
			case forked:
				return unusable(from, "%s and the head have no common ancestor", short(base)), nil
			}
			return unusable(from, "%s is not an ancestor of the head (force push)", short(base)), nil
		}
		if err := r.deepen(limited, steps, ends); err != nil {
			return unusable(from, "this clone is too shallow to tell how %s leads to the head: %v", short(base), err), ctx.Err()
		}
	}
}

func (r *Repo) shallowNote() string {
	if r.Shallow() {
		return " (shallow)"
	}
	return ""
}

// local is the base outside CI.
func (r *Repo) local(ctx context.Context, head Commit, here bool) (Base, error) {
	config, err := r.backend.config(ctx)
	if err != nil {
		return Base{}, err
	}
	note := ""
	if remote := remoteOf(config); remote != "" {
		name, tip, err := r.remoteDefault(ctx, remote)
		if err != nil {
			return Base{}, err
		}
		if tip != "" {
			return r.mergeBase(ctx, name, tip, head)
		}
		note = fmt.Sprintf(" (%s has no default branch here)", quote.Text(remote))
	}
	name, tip, err := r.localDefault(ctx, config)
	if err != nil {
		return Base{}, err
	}
	if on := r.Branch(); tip != "" && (on != name || !here) {
		base, err := r.mergeBase(ctx, name, tip, head)
		// A detached head in the history of the default branch is as good as on it.
		if err != nil || on != "" && here || base.Commit != head.Hash {
			base.How += note
			return base, err
		}
	}
	return r.onDefault(ctx, head, here, note)
}

// onDefault is the base on the default branch, when nothing else is to be
// compared with.
func (r *Repo) onDefault(ctx context.Context, head Commit, here bool, note string) (Base, error) {
	if here {
		dirty, err := r.Dirty(ctx)
		if err != nil {
			return Base{}, err
		}
		if dirty {
			return usable(head.Hash, "HEAD, with uncommitted changes"+note), nil
		}
	}
	how := "first parent of the head" + note
	if len(head.Parents) == 0 {
		return unusable(how, "%s is the first commit", short(head.Hash)), nil
	}
	if _, err := r.backend.commit(ctx, head.Parents[0]); errors.Is(err, ErrMissing) {
		limited, cancel := timeLimit(ctx, r.fetchTime)
		defer cancel()
		if err := r.fetch(limited, head.Parents[0]); err != nil {
			return unusable(how, "%s is not in this clone%s: %v", short(head.Parents[0]), r.shallowNote(), err), ctx.Err()
		}
	} else if err != nil {
		return Base{}, err
	}
	return usable(head.Parents[0], how), nil
}

// mergeBase is the best common ancestor of a branch and head.
func (r *Repo) mergeBase(ctx context.Context, name, tip string, head Commit) (Base, error) {
	base, err := r.connect(ctx, name, tip, head, true)
	base.How = "merge-base with " + quote.Text(name)
	return base, err
}

// remoteOf is origin, or else the only remote there is, or "".
func remoteOf(config map[string][]string) string {
	var remotes []string
	for key := range config {
		name, ok := strings.CutPrefix(key, "remote.")
		if name, url := strings.CutSuffix(name, ".url"); ok && url {
			if name == "origin" {
				return name
			}
			remotes = append(remotes, name)
		}
	}
	if len(remotes) == 1 {
		return remotes[0]
	}
	return ""
}

// remoteDefault finds the tip of the remote's default branch as it was at the
// last fetch; "" if there is none.
func (r *Repo) remoteDefault(ctx context.Context, remote string) (name, tip string, err error) {
	prefix := "refs/remotes/" + remote + "/"
	candidates := []string{prefix + "main", prefix + "master"}
	if target, ok := r.symref(r.commonDir, path.Join("refs/remotes", remote, "HEAD")); ok && strings.HasPrefix(target, prefix) {
		candidates = slices.Insert(candidates, 0, target)
	}
	return r.firstOf(ctx, "refs/remotes/", candidates)
}

// localDefault finds the tip of the local default branch; "" if there is none.
func (r *Repo) localDefault(ctx context.Context, config map[string][]string) (name, tip string, err error) {
	candidates := []string{"refs/heads/main", "refs/heads/master"}
	if names := config["init.defaultbranch"]; len(names) > 0 {
		candidates = slices.Insert(candidates, 0, "refs/heads/"+names[len(names)-1])
	}
	return r.firstOf(ctx, "refs/heads/", candidates)
}

// firstOf gives the first ref that there is, without prefix, and its commit.
func (r *Repo) firstOf(ctx context.Context, prefix string, refs []string) (name, tip string, err error) {
	for _, ref := range refs {
		c, err := r.Commit(ctx, ref)
		if err == nil {
			return strings.TrimPrefix(ref, prefix), c.Hash, nil
		}
		if !errors.Is(err, failure.ErrInput) {
			return "", "", err
		}
	}
	return "", "", nil
}
