package diff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// reader reads a repository from its files: all that the backend without git
// does, and what the backend with git can do without starting it.
type reader struct {
	layout
	refs    *refs
	objects *objects
	// beyond, if there is one, corrects where history ends by what was fetched
	// without the clone knowing.
	beyond func(context.Context, map[oid]bool) (map[oid]bool, error)
}

func newReader(l layout) *reader {
	return &reader{layout: l, refs: &refs{layout: l}, objects: newObjects(l.commonDir)}
}

// understood are the extensions of a repository that reading it need not heed;
// see git's Documentation/technical/repository-version.txt.
var understood = map[string]string{
	"noop": "", "noop-v1": "", "preciousobjects": "", "partialclone": "", "worktreeconfig": "", "relativeworktrees": "",
	"objectformat": "sha1", "refstorage": "files",
}

// readable says whether a repository with these settings can be read here. They
// have to be those of the repository itself.
func readable(settings map[string][]string) error {
	for key, values := range settings {
		extension, ok := strings.CutPrefix(key, "extensions.")
		value := strings.ToLower(values[len(values)-1])
		if want, known := understood[extension]; ok && (!known || want != "" && want != value) {
			return fmt.Errorf("the extension %s=%s", extension, quote.Text(value))
		}
	}
	if versions := settings["core.repositoryformatversion"]; len(versions) > 0 {
		if v := versions[len(versions)-1]; v != "0" && v != "1" {
			return fmt.Errorf("the format version %s", quote.Text(v))
		}
	}
	return nil
}

// commit resolves a revision: a name that named knows, followed by any of ~N,
// ^N, ^{commit} and ^{}; see gitrevisions(7).
func (r *reader) commit(ctx context.Context, rev string, named func(context.Context, string) (oid, error)) (Commit, error) {
	name, steps := rev, ""
	if at := strings.IndexAny(rev, "~^"); at >= 0 {
		name, steps = rev[:at], rev[at:]
	}
	if name == "@" {
		name = "HEAD"
	}
	id, err := named(ctx, name)
	if err != nil {
		return Commit{}, err
	}
	c, err := r.peel(ctx, id)
	for err == nil && steps != "" {
		c, steps, err = r.step(ctx, c, steps)
	}
	return c, err
}

// peel reads the commit that a commit or a tag stands for.
func (r *reader) peel(ctx context.Context, id oid) (Commit, error) {
	for range 16 {
		k, data, err := r.objects.read(ctx, id)
		if err != nil {
			return Commit{}, err
		}
		switch k {
		case kindCommit:
			return parseCommit(id.String(), data)
		case kindTag:
			target, ok := tagged(data)
			if !ok {
				return Commit{}, fmt.Errorf("tag %s is malformed", short(id.String()))
			}
			id = target
		default:
			return Commit{}, fmt.Errorf("%s is a %s, so as a commit it is %w", id, k, ErrMissing)
		}
	}
	return Commit{}, fmt.Errorf("tag %s leads on and on", short(id.String()))
}

// tagged gives what a tag object stands for.
func tagged(tag []byte) (oid, bool) {
	for key, value := range headers(tag) {
		if string(key) == "object" {
			return parseID(value)
		}
		break
	}
	return oid{}, false
}

// step takes one step from c: the parent or ancestor that steps begins with.
func (r *reader) step(ctx context.Context, c Commit, steps string) (Commit, string, error) {
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
	cut, err := r.cut(ctx)
	if err != nil {
		return c, rest, err
	}
	parent, times := n, 1
	if op == '~' {
		parent, times = 1, n
	} else if n == 0 {
		times = 0
	}
	for range times {
		id, _ := parseID(c.Hash)
		if cut[id] || parent < 1 || parent > len(c.Parents) {
			return c, rest, fmt.Errorf("parent %d of %s is %w", parent, short(c.Hash), ErrMissing)
		}
		id, _ = parseID(c.Parents[parent-1])
		if c, err = r.peel(ctx, id); err != nil {
			return c, rest, err
		}
	}
	return c, rest, nil
}

// cut gives the commits whose parents the clone does not hold.
func (r *reader) cut(ctx context.Context) (map[oid]bool, error) {
	list, err := r.shallow()
	if err != nil {
		return nil, err
	}
	cut := make(map[oid]bool, len(list))
	for text := range list {
		if id, ok := parseID(text); ok {
			cut[id] = true
		}
	}
	if r.beyond != nil {
		return r.beyond(ctx, cut)
	}
	return cut, nil
}

// grafted says whether a file of old changes the parents of commits; see
// gitrepository-layout(5), info/grafts.
func (r *reader) grafted() bool {
	_, err := os.Stat(filepath.Join(r.commonDir, "info", "grafts"))
	return err == nil
}

func (r *reader) object(ctx context.Context, id string) ([]byte, error) {
	parsed, ok := parseID(id)
	if !ok {
		return nil, fmt.Errorf("object %s is %w", quote.Text(id), ErrMissing)
	}
	_, data, err := r.objects.read(ctx, parsed)
	return data, err
}

// readAll leaves nil what is missing.
func (r *reader) readAll(ctx context.Context, ids []string) ([][]byte, error) {
	parsed := make([]oid, len(ids))
	for i, id := range ids {
		parsed[i], _ = parseID(id) // the zero id is in no repository
	}
	return r.objects.readAll(ctx, parsed)
}

// changes compares two trees; the result is sorted by path.
func (r *reader) changes(ctx context.Context, base, head string) ([]Change, error) {
	was, err := treeID(base)
	if err != nil {
		return nil, err
	}
	is, err := treeID(head)
	if err != nil {
		return nil, err
	}
	changes, err := r.objects.changes(ctx, was, is)
	sortChanges(changes)
	return changes, err
}

// entries lists the files of a tree, sorted by path.
func (r *reader) entries(ctx context.Context, tree string) ([]Entry, error) {
	id, err := treeID(tree)
	if err != nil {
		return nil, err
	}
	return r.objects.entries(ctx, id)
}

// treeID reads the id of a tree; "" is the empty one.
func treeID(text string) (oid, error) {
	id, ok := parseID(text)
	if !ok && text != "" {
		return oid{}, fmt.Errorf("tree %s is %w", quote.Text(text), ErrMissing)
	}
	return id, nil
}

// relation finds how two commits hang together.
func (r *reader) relation(ctx context.Context, base, head string) (relation, error) {
	from, fromOK := parseID(base)
	to, toOK := parseID(head)
	if !fromOK || !toOK {
		return relation{}, fmt.Errorf("commits %s and %s are %w", quote.Text(base), quote.Text(head), ErrMissing)
	}
	cut, err := r.cut(ctx)
	if err != nil {
		return relation{}, err
	}
	h := ancestry{objects: r.objects}
	if len(cut) == 0 {
		// git writes no graph of a shallow clone, and heeds none.
		h.graph = openGraph(r.objects)
	}
	rel, err := relate(ctx, h.links, cut, from, to)
	return rel, errors.Join(err, h.close())
}
