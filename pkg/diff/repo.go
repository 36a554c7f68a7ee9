// Package diff asks git what changed: which commit to compare with, which
// files differ, and which directories they belong to. It reads the repository
// itself, and where git is installed asks it for the rest: what the clone does
// not hold, what is written in a form that is not known here, and the work
// tree. Without git the answers are the same. An object that the clone lacks is
// an error, never an unchanged file.
package diff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

var (
	// ErrNoRepository is wrapped by Open's error outside a git repository.
	ErrNoRepository = errors.New("not a git repository")
	// ErrMissing is wrapped by errors that mean: the clone does not hold this
	// object. Shallow and partial clones do not hold all.
	ErrMissing = errors.New("not in this clone")
)

// Repo is a git repository with a work tree. Its methods may be called from
// several goroutines.
//
// A Repo looks at the files of the work tree once: Files, Entries, Changes and
// Dirty all speak of how they were when the first of them asked. What FS and
// Contents read is how it is when they do.
type Repo struct {
	layout
	snapshot
	git       string // program; empty without it
	backend   backend
	fetchTime time.Duration // that all fetching for one base may take
}

// backend is what has to be possible with git and without it.
// Trees and commits are full object ids; the empty tree may be given as "".
type backend interface {
	// commit resolves a revision that checkRevision let through.
	commit(ctx context.Context, rev string) (Commit, error)
	// object reads a tree, blob or commit.
	object(ctx context.Context, id string) ([]byte, error)
	// readAll reads many of them, in their order. Nobody may change what is read.
	readAll(ctx context.Context, ids []string) ([][]byte, error)
	// changes compares two trees; the result is sorted by path.
	changes(ctx context.Context, base, head string) ([]Change, error)
	// entries lists the files of a tree, sorted by path.
	entries(ctx context.Context, tree string) ([]Entry, error)
	// work lists what index and work tree hold, sorted by path.
	work(ctx context.Context) ([]workFile, error)
	// hashFiles gives the ids that regular files of the work tree would have as blobs.
	hashFiles(ctx context.Context, paths []string) ([]string, error)
	hashBytes(ctx context.Context, data []byte) (string, error)
	// relation finds how two commits hang together.
	relation(ctx context.Context, base, head string) (relation, error)
	// config gives the values of each key, the last one being in force. Section
	// and variable are in lower case.
	config(ctx context.Context) (map[string][]string, error)
	// branchRefs gives the full names of local branches and of those of remotes.
	branchRefs(ctx context.Context) ([]string, error)
	// fetch gets a commit with what it takes to compare it, deepen that many
	// commits behind ends of a shallow clone's history, and ready what it takes
	// to compare a commit that deepening brought.
	fetch(ctx context.Context, commit string) error
	deepen(ctx context.Context, steps int, ends []string) error
	ready(ctx context.Context, c Commit) error
	close() error
}

// Commit is one commit. Hashes are full, in lower-case hex.
type Commit struct {
	Hash string
	Tree string
	// As recorded: a shallow clone may lack them.
	Parents []string
	// Committer time, UTC.
	Committed time.Time
}

// Open finds the repository that dir belongs to, upward from dir; linked
// work trees and submodules are repositories of their own. Outside of one the
// error is ErrNoRepository; that and a bare repository are failure.ErrInput.
func Open(ctx context.Context, dir string) (*Repo, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		program = ""
	}
	return open(ctx, dir, program)
}

// open is Open with the git program to use, "" for none.
func open(ctx context.Context, dir, program string) (*Repo, error) {
	l, err := discover(dir)
	if err != nil {
		return nil, err
	}
	r := &Repo{layout: l, snapshot: newSnapshot(), git: program, fetchTime: fetchTime}
	if program == "" {
		r.backend, err = openStore(l)
	} else {
		r.backend, err = openGit(ctx, l, program)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Close ends what the repository keeps open for reading. Nothing is lost
// without it, and the Repo may be used afterwards.
func (r *Repo) Close() error { return r.backend.close() }

// Root is the top directory of the work tree, absolute and without symbolic
// links.
func (r *Repo) Root() string { return r.root }

// Head is the commit that is checked out. A repository without any commit is
// failure.ErrInput.
func (r *Repo) Head(ctx context.Context) (Commit, error) {
	c, err := r.backend.commit(ctx, "HEAD")
	if errors.Is(err, ErrMissing) {
		if branch, ok := r.symref(r.gitDir, "HEAD"); ok {
			if _, err := r.backend.commit(ctx, branch); errors.Is(err, ErrMissing) {
				return Commit{}, failure.WithHint(failure.Input("%s has no commit yet", r.root), "commit something first")
			}
		}
	}
	return c, err
}

// Commit resolves a revision as git does: a full or short hash, branch, tag,
// HEAD~1, origin/main. (Without the git program: these, with ~ and ^, but no
// @{…} or :/text.) What cannot be found is failure.ErrInput and ErrMissing;
// nothing is fetched for it. A revision that starts with a dash is refused.
func (r *Repo) Commit(ctx context.Context, rev string) (Commit, error) {
	if err := checkRevision(rev); err != nil {
		return Commit{}, err
	}
	c, err := r.backend.commit(ctx, rev)
	if errors.Is(err, ErrMissing) && r.Shallow() {
		err = failure.WithHint(err, "this clone is shallow: git fetch --unshallow fetches its whole history")
	}
	return c, err
}

func checkRevision(rev string) error {
	if rev == "" || strings.HasPrefix(rev, "-") || strings.ContainsAny(rev, "\n\x00") {
		return failure.Input("%q is no revision", rev)
	}
	return nil
}

// missingRevision is the error for a revision that does not resolve.
func missingRevision(rev string) error {
	return failure.Input("revision %s is %w", quote.Text(rev), ErrMissing)
}

// Files lists the files of a revision, sorted, as slash paths from the root;
// submodules are listed as if they were files. With rev "" it is the work
// tree: files that git tracks and that are there, and those that are neither
// tracked nor ignored.
func (r *Repo) Files(ctx context.Context, rev string) ([]string, error) {
	if rev != "" {
		entries, err := r.Entries(ctx, rev)
		paths := make([]string, len(entries))
		for i, e := range entries {
			paths[i] = e.Path
		}
		return paths, err
	}
	files, err := r.work(ctx)
	if err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(files))
	for _, f := range files {
		if !f.gone && !f.sparse {
			paths = append(paths, f.Path)
		}
	}
	return paths, nil
}

// FS gives the files of a revision to read; ctx bounds all that is read from
// it. It implements fs.ReadFileFS, fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS.
// Symbolic links are followed within the tree and refused out of it. With rev
// "" it is the work tree, ignored files included.
func (r *Repo) FS(ctx context.Context, rev string) (fs.FS, error) {
	if rev == "" {
		root, err := os.OpenRoot(r.root)
		if err != nil {
			return nil, fmt.Errorf("opening the work tree: %w", err)
		}
		return root.FS(), nil
	}
	c, err := r.Commit(ctx, rev)
	if err != nil {
		return nil, err
	}
	return newTreeFS(ctx, newTrees(r.backend), c), nil
}

// Ancestor says whether older is an ancestor of newer, or the same commit. In a
// shallow clone that has too little history to tell, the error is ErrMissing.
func (r *Repo) Ancestor(ctx context.Context, older, newer string) (bool, error) {
	a, err := r.Commit(ctx, older)
	if err != nil {
		return false, err
	}
	b, err := r.Commit(ctx, newer)
	if err != nil {
		return false, err
	}
	if a.Hash == b.Hash || slices.Contains(b.Parents, a.Hash) {
		return true, nil
	}
	rel, err := r.backend.relation(ctx, a.Hash, b.Hash)
	if err == nil && !rel.ancestor && len(rel.headCut) > 0 {
		err = fmt.Errorf("history between %s and %s is %w", short(a.Hash), short(b.Hash), ErrMissing)
	}
	return rel.ancestor, err
}

// Shallow says whether the clone lacks history.
func (r *Repo) Shallow() bool {
	return r.isShallow()
}

// RemoteURL is the URL of the remote origin without credentials, or "".
func (r *Repo) RemoteURL() string {
	config, err := r.backend.config(context.Background())
	urls := config["remote.origin.url"]
	if err != nil || len(urls) == 0 {
		return ""
	}
	return withoutUser(urls[0])
}

// Branch is the branch that is checked out, or "" for a detached head.
func (r *Repo) Branch() string {
	target, _ := r.symref(r.gitDir, "HEAD")
	if g, ok := r.backend.(*gitProgram); ok && target == "refs/heads/.invalid" {
		target = g.branch(context.Background()) // refs are kept in a reftable
	}
	branch, _ := strings.CutPrefix(target, "refs/heads/")
	return branch
}

// short is a commit as people are shown it.
func short(hash string) string { return hash[:min(len(hash), 7)] }
