package diff

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Change is one path that differs between base and head.
type Change struct {
	// Path from the root, with slashes, byte for byte as git has it.
	Path string
	Kind Kind
}

// Kind says how a path differs.
type Kind string

// The kinds of change. A change of type or mode, of a link's text or of a
// submodule's commit is a modification; a rename is a deletion and an
// addition.
const (
	Added    Kind = "added"
	Modified Kind = "modified"
	Deleted  Kind = "deleted"
)

// Changes compares two revisions, sorted by path. With head "" it compares
// with the work tree: uncommitted changes count, files that are neither
// tracked nor ignored included. With base "" everything is added. What git
// itself fetches to complete a partial clone is fetched; an object that stays
// missing is ErrMissing.
func (r *Repo) Changes(ctx context.Context, base, head string) ([]Change, error) {
	var from string
	if base != "" {
		c, err := r.Commit(ctx, base)
		if err != nil {
			return nil, err
		}
		from = c.Tree
	}
	if head == "" {
		return r.workChanges(ctx, from, false)
	}
	c, err := r.Commit(ctx, head)
	if err != nil {
		return nil, err
	}
	if from == c.Tree {
		return nil, nil
	}
	changes, err := r.backend.changes(ctx, from, c.Tree)
	if err != nil {
		return nil, fmt.Errorf("comparing %s with %s: %w", quote.Text(nameTree(base)), quote.Text(head), err)
	}
	return changes, nil
}

func nameTree(rev string) string { return cmp.Or(rev, "nothing") }

// Attribute gives each change to the deepest of dirs that holds it; "." holds
// all. A change of a directory's own path (it became a file, it is a
// submodule) belongs to that directory. rest has the changes that no dir holds.
// The order of changes is kept.
func Attribute(changes []Change, dirs []string) (byDir map[string][]Change, rest []Change) {
	known := make(map[string]bool, len(dirs))
	for _, d := range dirs {
		known[d] = true
	}
	byDir = map[string][]Change{}
	// Changes of one directory come one after the other.
	last, owner := "/", ""
	for _, c := range changes {
		dir := parent(c.Path)
		if dir != last {
			last, owner = dir, holder(known, dir)
		}
		switch {
		case known[c.Path]:
			byDir[c.Path] = append(byDir[c.Path], c)
		case owner != "":
			byDir[owner] = append(byDir[owner], c)
		default:
			rest = append(rest, c)
		}
	}
	return byDir, rest
}

// holder is the deepest of the known directories that holds dir, or is it.
func holder(known map[string]bool, dir string) string {
	for ; dir != ""; dir = parent(dir) {
		if known[dir] {
			return dir
		}
	}
	if known["."] {
		return "."
	}
	return ""
}

func sortChanges(changes []Change) {
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
}

// parseRawDiff reads what git diff and diff-files print with --raw -z
// --no-renames: ":MODE MODE ID ID STATUS" NUL path NUL, again and again. Each
// path is passed on with its status letter.
func parseRawDiff(out []byte, each func(status byte, path string) error) error {
	rest := string(out)
	for rest != "" {
		head, tail, ok := strings.Cut(rest, "\x00")
		path, tail, ended := strings.Cut(tail, "\x00")
		fields := strings.Split(head, " ")
		if !ok || !ended || len(fields) != 5 || !strings.HasPrefix(head, ":") || len(fields[4]) != 1 {
			return fmt.Errorf("git diff: unexpected output %.80q", head)
		}
		if err := checkPath(path); err != nil {
			return err
		}
		if err := each(fields[4][0], path); err != nil {
			return err
		}
		rest = tail
	}
	return nil
}

// kindOf maps the status letters of git-diff-tree(1) that can come without
// detection of renames.
func kindOf(status byte) (Kind, error) {
	switch status {
	case 'A':
		return Added, nil
	case 'D':
		return Deleted, nil
	case 'M', 'T', 'U':
		return Modified, nil
	}
	return "", fmt.Errorf("git diff: unexpected status %q", status)
}

// checkPath refuses paths that no work tree can hold: a tree object can name
// anything.
func checkPath(p string) error {
	for segment := range strings.SplitSeq(p, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.IndexByte(segment, 0) >= 0 {
			return fmt.Errorf("malformed path %q in a git tree", p)
		}
	}
	return nil
}
