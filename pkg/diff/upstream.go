package diff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/pipegen/pipegen/internal/uploadpack"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxFetched bounds what is fetched without git, in bytes of packs.
const maxFetched = 1 << 30

// What to leave out of a pack; see --filter in git-rev-list(1).
const (
	commitsOnly = "tree:0"
	noFiles     = "blob:none"
)

// upstream fetches from the remote without git. What it gets is kept beside the
// clone and lost with this process; the clone stays as it is.
type upstream struct {
	reader   *reader
	settings map[string][]string
	getenv   func(string) string

	turn   sync.Mutex         // one fetch at a time
	remote *uploadpack.Remote // once it was asked
	beside bool               // the remote is a directory, which is read as it is
	left   int64              // bytes that may be fetched yet

	mu   sync.Mutex
	used bool         // whether something may have been fetched
	ends map[oid]bool // commits whose parents were not
}

// newUpstream is the upstream of the repository that r reads.
func newUpstream(r *reader, settings map[string][]string, getenv func(string) string) *upstream {
	return &upstream{reader: r, settings: settings, getenv: getenv, left: maxFetched, ends: map[oid]bool{}}
}

func (s *store) fetch(ctx context.Context, commit string) error { return s.up.fetch(ctx, commit) }

func (s *store) deepen(ctx context.Context, steps int, ends []string) error {
	return s.up.deepen(ctx, steps, ends)
}

func (s *store) ready(ctx context.Context, c Commit) error { return s.up.ready(ctx, c) }

// fetch gets a commit with its trees, into a shallow clone without its history.
func (u *upstream) fetch(ctx context.Context, commit string) error {
	has := func() bool { return u.has(ctx, commit) }
	return u.fetching(ctx, has, func() error {
		req := uploadpack.Request{Wants: []string{commit}, Filter: noFiles}
		if u.reader.isShallow() {
			req.Depth = 1
		}
		return u.get(ctx, u.known(ctx, req), has)
	})
}

// deepen gets the history behind ends. Where the server can leave the rest out,
// it is the commits alone.
func (u *upstream) deepen(ctx context.Context, steps int, ends []string) error {
	farther := func() bool {
		cut, err := u.reader.cut(ctx)
		return err == nil && slices.ContainsFunc(ends, func(text string) bool {
			id, _ := parseID(text)
			return !cut[id]
		})
	}
	err := u.fetching(ctx, farther, func() error {
		req := uploadpack.Request{Wants: ends, Depth: steps + 1, Filter: commitsOnly}
		if !u.remote.Filters() {
			req = u.known(ctx, req)
		}
		return u.get(ctx, req, farther)
	})
	if errors.Is(err, errNotSent) {
		return errNoHistory
	}
	return err
}

// ready makes sure that the trees of a commit are there: of some commits
// nothing but themselves was fetched. What a partial clone lacks comes when it
// is asked for.
func (u *upstream) ready(ctx context.Context, c Commit) error {
	has := func() bool { return u.has(ctx, c.Tree) }
	if has() || u.partial() {
		return nil
	}
	return u.fetching(ctx, has, func() error {
		return u.get(ctx, u.known(ctx, uploadpack.Request{Wants: []string{c.Hash}, Depth: 1, Filter: noFiles}), has)
	})
}

// backfill gets objects that a partial clone left out, or that were not fetched
// with their commit, and with trees all trees below them.
func (u *upstream) backfill(ctx context.Context, ids []string) error {
	if used, _ := u.state(); !used && !u.partial() {
		return errWhole
	}
	has := func() bool {
		return !slices.ContainsFunc(ids, func(id string) bool { return !u.has(ctx, id) })
	}
	return u.fetching(ctx, has, func() error {
		return u.getPack(ctx, uploadpack.Request{Wants: ids, Filter: noFiles})
	})
}

var errNotSent = errors.New("the remote does not send it")

func (u *upstream) has(ctx context.Context, id string) bool {
	_, err := u.reader.object(ctx, id)
	return err == nil
}

// partial says whether objects were left out when the clone was made.
func (u *upstream) partial() bool { return isPartial(u.settings) }

// fetching runs get with the remote at hand, unless there is nothing to do.
func (u *upstream) fetching(ctx context.Context, done func() bool, get func() error) error {
	u.turn.Lock()
	defer u.turn.Unlock()
	if done() {
		return nil // somebody else got it
	}
	if u.remote == nil && !u.beside {
		if err := u.dial(ctx); err != nil {
			return err
		}
	}
	if u.remote != nil {
		if err := get(); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !done() {
		return errNotSent
	}
	return nil
}

func (u *upstream) dial(ctx context.Context) error {
	at, err := addressOf(u.settings, u.reader.root, u.getenv)
	if err != nil {
		return err
	}
	if at.dir == "" {
		transport, err := at.transport()
		if err != nil {
			return err
		}
		u.remote, err = uploadpack.Dial(ctx, transport, at.url, at.header)
		return err
	}
	l := layout{root: at.dir, gitDir: at.dir, commonDir: at.dir}
	if dot, err := gitDirOf(at.dir); err == nil && dot != "" {
		l.gitDir, l.commonDir = dot, commonDirOf(dot)
	} else if !isGitDir(at.dir) {
		return fmt.Errorf("%s is no git repository", quote.Text(at.dir))
	}
	ends, err := newReader(l).cut(ctx)
	if err != nil {
		return err
	}
	u.beside = true
	u.endAt(slices.Collect(maps.Keys(ends)))
	return u.reader.objects.borrow(filepath.Join(l.commonDir, "objects"))
}

func (u *upstream) endAt(ids []oid) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used = true
	for _, id := range ids {
		u.ends[id] = true
	}
}

func (u *upstream) state() (used bool, ends map[oid]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.used, maps.Clone(u.ends)
}

// get fetches. From a server that gives out nothing but its branches it gets
// them, deeper and deeper, until done.
func (u *upstream) get(ctx context.Context, req uploadpack.Request, done func() bool) error {
	err := u.getPack(ctx, req)
	if !errors.Is(err, uploadpack.ErrUnadvertised) {
		return err
	}
	refs, err := u.remote.Refs(ctx, "HEAD", "refs/heads/")
	if err != nil {
		return err
	}
	names, err := u.branches(ctx, refs)
	if err != nil {
		return err
	}
	deeper := uploadpack.Request{Filter: noFiles}
	for _, r := range refs {
		if slices.Contains(names, r.Name) && !slices.Contains(deeper.Wants, r.Hash) {
			deeper.Wants = append(deeper.Wants, r.Hash)
		}
	}
	for deeper.Depth = firstDeepening; len(deeper.Wants) > 0 && deeper.Depth <= lastDeepening; deeper.Depth *= 2 {
		if err := u.getPack(ctx, deeper); err != nil || done() {
			return err
		}
	}
	return errNotOnBranches
}

func (u *upstream) branches(ctx context.Context, refs []uploadpack.Ref) ([]string, error) {
	remote := remoteOf(u.settings)
	tracked, err := u.reader.refs.below("refs/remotes/" + remote + "/")
	if err != nil {
		return nil, err
	}
	head, _, err := u.reader.refs.find("HEAD")
	if err != nil {
		return nil, err
	}
	return branchesOf(refs, remote, tracked, head.String()), ctx.Err()
}

// known tells the remote what the clone has, so that it is not sent again. Of
// a partial clone that cannot be said.
func (u *upstream) known(ctx context.Context, req uploadpack.Request) uploadpack.Request {
	if u.partial() {
		return req
	}
	list, err := u.reader.shallow()
	if err != nil {
		return req
	}
	req.Shallow = slices.Sorted(maps.Keys(list))
	id, there, err := u.reader.refs.find("HEAD")
	// The remote need not know the newest commits.
	for range 64 {
		if err != nil || !there {
			break
		}
		var c Commit
		if c, err = u.reader.peel(ctx, id); err != nil {
			break
		}
		req.Haves = append(req.Haves, c.Hash)
		if list[c.Hash] || len(c.Parents) == 0 {
			break
		}
		id, there = parseID(c.Parents[0])
	}
	return req
}

// getPack fetches one pack. What it holds is there for all to read if it is
// whole: an object's id is computed from its content, whatever the remote says.
func (u *upstream) getPack(ctx context.Context, req uploadpack.Request) error {
	dir, err := os.MkdirTemp("", "pipegen-fetched-")
	if err != nil {
		return fmt.Errorf("making room for what is fetched: %w", err)
	}
	// Once it is open the pack needs no name, so that nothing is left of it
	// whatever ends this process.
	defer os.RemoveAll(dir)
	body, err := os.Create(filepath.Join(dir, "pack-fetched.pack"))
	if err != nil {
		return fmt.Errorf("making room for what is fetched: %w", err)
	}
	defer body.Close()
	ends, err := u.remote.Fetch(ctx, req, &bounded{body, &u.left})
	if err != nil {
		return err
	}
	p, err := indexed(body)
	if err != nil {
		return err
	}
	var ids []oid
	for _, text := range ends {
		if id, ok := parseID(text); ok {
			ids = append(ids, id)
		}
	}
	u.endAt(ids)
	return u.reader.objects.add(p)
}

// indexed reads a pack from its beginning, makes its index, and opens both.
func indexed(body *os.File) (*pack, error) {
	damage := func(err error) (*pack, error) { return nil, fmt.Errorf("the remote sent a damaged pack: %w", err) }
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return damage(err)
	}
	writer := &idxfile.Writer{}
	parser, err := packfile.NewParser(packfile.NewScanner(body), writer)
	if err != nil {
		return damage(err)
	}
	if _, err := parser.Parse(); err != nil {
		return damage(err)
	}
	index, err := writer.Index()
	if err != nil {
		return damage(err)
	}
	f, err := os.Create(body.Name()[:len(body.Name())-len(".pack")] + ".idx")
	if err != nil {
		return nil, fmt.Errorf("indexing what was fetched: %w", err)
	}
	_, err = idxfile.NewEncoder(f).Encode(index)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("indexing what was fetched: %w", err)
	}
	p, err := openPack(f.Name())
	if err != nil {
		return damage(err)
	}
	if _, err := p.data(); err != nil {
		return damage(errors.Join(err, p.close()))
	}
	return p, nil
}

// bounded takes no more than left bytes.
type bounded struct {
	w    io.Writer
	left *int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if *b.left -= int64(len(p)); *b.left < 0 {
		return 0, fmt.Errorf("the remote sends more than %d MB", maxFetched>>20)
	}
	return b.w.Write(p)
}

// beyond drops from the ends of the clone's history those whose parents were fetched.
func (u *upstream) beyond(ctx context.Context, cut map[oid]bool) (map[oid]bool, error) {
	used, ends := u.state()
	if !used {
		return cut, nil
	}
	maps.Copy(cut, ends)
	for id := range cut {
		c, err := u.reader.peel(ctx, id)
		for _, p := range c.Parents {
			if err == nil {
				_, err = u.reader.object(ctx, p)
			}
		}
		if err == nil {
			delete(cut, id)
		} else if !errors.Is(err, ErrMissing) {
			return nil, err
		}
	}
	return cut, nil
}
