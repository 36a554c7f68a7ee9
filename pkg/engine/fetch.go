package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"

	pipegen "github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// maxNesting is how deep submodules may nest.
const maxNesting = 10

// cloner writes the files of one commit of an upstream repository.
type cloner struct {
	auth   *pipegen.UpstreamAuth
	host   string // that auth is meant for
	getenv func(string) string
	// Directory for objects; gone afterwards.
	scratch string
	say     func(line string)
}

// clone writes the files of a commit, those of submodules included, to dir,
// which must exist and be empty. ref is where the commit was found; it may be
// empty.
func (c *cloner) clone(ctx context.Context, repo, ref string, commit plumbing.Hash, dir *os.Root, depth int) error {
	auth := c.auth
	r, err := openRemote(repo, nil, c.getenv)
	if err != nil {
		return err
	}
	if origin := r.endpoint.Protocol + "://" + r.endpoint.Host + fmt.Sprint(":", r.endpoint.Port); depth == 0 {
		c.host = origin
	} else if c.host != origin {
		auth = nil // a submodule may be anywhere
	}
	if r, err = openRemote(repo, auth, c.getenv); err != nil {
		return err
	}
	objects, err := os.MkdirTemp(c.scratch, "objects-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(objects)
	store := filesystem.NewStorage(osfs.New(objects), cache.NewObjectLRUDefault())
	if err := r.fetch(ctx, store, ref, commit); err != nil {
		return err
	}
	found, err := object.GetCommit(store, commit)
	if err != nil {
		return fmt.Errorf("upstream %s: reading commit %s: %w", shown(repo), commit, err)
	}
	tree, err := found.Tree()
	if err != nil {
		return fmt.Errorf("upstream %s: reading commit %s: %w", shown(repo), commit, err)
	}
	w := &worktree{ctx: ctx, root: dir, time: found.Committer.When}
	if err := w.tree(tree, "."); err != nil {
		return fmt.Errorf("upstream %s at %.12s: %w", shown(repo), commit, err)
	}
	if err := store.Close(); err != nil {
		return err
	}
	return c.submodules(ctx, repo, dir, w.links, depth)
}

// submodules clones what .gitmodules names. As with git, a link that it does
// not name stays an empty directory.
func (c *cloner) submodules(ctx context.Context, parent string, dir *os.Root, links map[string]plumbing.Hash, depth int) error {
	if len(links) == 0 {
		return nil
	}
	b, err := dir.ReadFile(".gitmodules")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	modules := config.NewModules()
	if err := modules.Unmarshal(b); err != nil {
		return failure.Input("upstream %s: .gitmodules: %w", shown(parent), err)
	}
	for _, m := range modules.Submodules {
		commit, ok := links[path.Clean(m.Path)]
		if !ok {
			continue
		}
		url, err := submoduleURL(parent, m.URL)
		if err != nil {
			return err
		}
		if depth == maxNesting {
			return failure.Input("upstream %s: submodules nest deeper than %d", shown(parent), maxNesting)
		}
		c.say(fmt.Sprintf("submodule %s: %s at %.12s", m.Path, shown(url), commit))
		sub, err := dir.OpenRoot(path.Clean(m.Path))
		if err != nil {
			return err
		}
		err = c.clone(ctx, url, m.Branch, commit, sub, depth+1)
		if err = errors.Join(err, sub.Close()); err != nil {
			return fmt.Errorf("submodule %s: %w", m.Path, err)
		}
	}
	return nil
}

// submoduleURL resolves what .gitmodules says against the repository it is in
// (gitmodules(5): only ./ and ../ are relative). A file of this machine may
// not be named from outside of it.
func submoduleURL(parent, url string) (string, error) {
	if strings.HasPrefix(url, "./") || strings.HasPrefix(url, "../") {
		base := strings.TrimRight(parent, "/")
		for {
			if rest, ok := strings.CutPrefix(url, "./"); ok {
				url = rest
			} else if rest, ok := strings.CutPrefix(url, "../"); ok {
				url = rest
				i := strings.LastIndexAny(base, "/:")
				if i < 0 || strings.HasSuffix(base[:i], ":/") {
					return "", failure.Input("upstream %s: the submodule's URL leaves the server", shown(parent))
				}
				base = base[:i]
			} else {
				return base + "/" + url, nil
			}
		}
	}
	ep, err := transport.NewEndpoint(url)
	if err != nil {
		return "", failure.Input("upstream %s: submodule %s: not a git URL", shown(parent), shown(url))
	}
	if own, err := transport.NewEndpoint(parent); ep.Protocol == "file" && (err != nil || own.Protocol != "file") {
		return "", failure.Input("upstream %s: submodule %s is a path of this machine", shown(parent), shown(url))
	}
	return url, nil
}

// fetch gets a commit with its files, and as little else as the server allows:
// the tip of a reference alone, else the commit by its name, else everything.
func (r *remote) fetch(ctx context.Context, store *filesystem.Storage, ref string, commit plumbing.Hash) error {
	return r.retry(ctx, func() error {
		s, ar, err := r.session(ctx)
		if err != nil {
			return err
		}
		defer s.Close()
		shallow := ar.Capabilities.Supports(capability.Shallow)
		want, isTip := tip(ar, ref, commit)
		if !isTip && (ar.Capabilities.Supports(capability.AllowReachableSHA1InWant) || ar.Capabilities.Supports("allow-any-sha1-in-want")) {
			want = commit
		}
		if !want.IsZero() {
			err = r.pull(ctx, s, ar, store, []plumbing.Hash{want}, shallow)
			if err == nil && store.HasEncodedObject(commit) == nil {
				return nil
			}
			if ctx.Err() != nil || err != nil && (isTip || transient(err)) {
				return err
			}
			var again transport.UploadPackSession
			if again, ar, err = r.session(ctx); err != nil {
				return err
			}
			defer again.Close()
			s = again
		}
		if err := r.pull(ctx, s, ar, store, allTips(ar), false); err != nil {
			return err
		}
		if store.HasEncodedObject(commit) != nil {
			return failure.WithHint(failure.Input("upstream %s no longer has commit %s", shown(r.url), commit),
				"%s was moved since the plan was made: plan again", firstOf(ref, "its branch"))
		}
		return nil
	})
}

// tip gives the object to ask for if the commit is what a reference holds: the
// tag object where it is annotated, since servers give out only what they
// advertise. ref goes first.
func tip(ar *packp.AdvRefs, ref string, commit plumbing.Hash) (plumbing.Hash, bool) {
	names := make([]string, 0, len(ar.References))
	for name := range ar.References {
		names = append(names, name)
	}
	slices.Sort(names)
	names = slices.Concat([]string{ref, "refs/tags/" + ref, "refs/heads/" + ref}, names)
	for _, name := range names {
		h, ok := ar.References[name]
		if ok && (h == commit || ar.Peeled[name] == commit) {
			return h, true
		}
	}
	if ar.Head != nil && *ar.Head == commit {
		return commit, true
	}
	return plumbing.ZeroHash, false
}

func allTips(ar *packp.AdvRefs) []plumbing.Hash {
	var out []plumbing.Hash
	for name, h := range ar.References {
		if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b plumbing.Hash) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

func (r *remote) pull(ctx context.Context, s transport.UploadPackSession, ar *packp.AdvRefs, store *filesystem.Storage, wants []plumbing.Hash, shallow bool) (err error) {
	req := packp.NewUploadPackRequestFromCapabilities(ar.Capabilities)
	req.Wants = wants
	if shallow {
		req.Depth = packp.DepthCommits(1)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if ar.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	resp, err := s.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer func() {
		if e := resp.Close(); err == nil {
			err = e
		}
	}()
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	return packfile.UpdateObjectStorage(store, pack)
}

// worktree writes a tree's files below root. Nothing is written through a
// symbolic link, since every name is made anew.
type worktree struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call
	root  *os.Root
	time  time.Time
	links map[string]plumbing.Hash // submodules
}

func (w *worktree) tree(t *object.Tree, dir string) error {
	for _, e := range t.Entries {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if bad(e.Name) {
			return failure.Input("%q is no name for a file", e.Name)
		}
		if err := w.entry(t, e, path.Join(dir, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// bad names a file that git would not check out (verify_path in its
// read-cache.c).
func bad(name string) bool {
	return name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git") || strings.ContainsAny(name, "/\x00")
}

func (w *worktree) entry(t *object.Tree, e object.TreeEntry, name string) error {
	switch e.Mode {
	case filemode.Dir, filemode.Submodule:
		if err := w.root.Mkdir(name, 0o755); err != nil {
			return err
		}
		if e.Mode == filemode.Submodule {
			if w.links == nil {
				w.links = map[string]plumbing.Hash{}
			}
			w.links[name] = e.Hash
			return w.root.Chmod(name, 0o755)
		}
		sub, err := t.Tree(e.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := w.tree(sub, name); err != nil {
			return err
		}
		return errors.Join(w.root.Chmod(name, 0o755), w.root.Chtimes(name, w.time, w.time))
	case filemode.Symlink, filemode.Regular, filemode.Deprecated, filemode.Executable:
		f, err := t.TreeEntryFile(&e)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if e.Mode == filemode.Symlink {
			target, err := f.Contents()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return w.root.Symlink(target, name)
		}
		return w.file(f, name, e.Mode == filemode.Executable)
	}
	return failure.Input("%s: unknown kind of file (mode %s)", name, e.Mode)
}

func (w *worktree) file(f *object.File, name string, executable bool) error {
	perm := os.FileMode(0o644)
	if executable {
		perm = 0o755
	}
	in, err := f.Reader()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer in.Close()
	out, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(perm), out.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.root.Chtimes(name, w.time, w.time)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
