package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pipegen/pipegen/internal/uploadpack"
)

// Bounds of fetching: history is deepened in steps that double, to some 6,000
// commits in all, and all fetching for a base ends after fetchTime.
const (
	firstDeepening = 50
	lastDeepening  = 3200
	fetchTime      = 3 * time.Minute
)

// timeLimit is a context for all that is fetched for one purpose.
func timeLimit(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("the remote took longer than %s", d))
}

// fetch gets one commit from the remote, in a shallow clone without its
// history. The refs of the clone and what they lead to stay as they were.
func (r *Repo) fetch(ctx context.Context, commit string) error {
	return because(ctx, r.backend.fetch(ctx, commit))
}

// deepen gets that many more commits of the history behind ends, at which the
// clone's history ends: unlike the head the remote knows them for certain. When
// there is no more to get, or the bound is reached, that is an error.
func (r *Repo) deepen(ctx context.Context, steps int, ends []string) error {
	if steps > lastDeepening {
		return fmt.Errorf("%d more commits did not show it", 2*lastDeepening-firstDeepening)
	}
	return because(ctx, r.backend.deepen(ctx, steps, ends))
}

// because makes the end of ctx the reason of an error that came with it.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

var errNoHistory = errors.New("the remote has no more history")

func (g *gitProgram) fetch(ctx context.Context, commit string) error {
	shallow, err := g.shallow()
	if err != nil {
		return err
	}
	var options []string
	if len(shallow) > 0 {
		options = append(options, "--depth=1")
	}
	err = g.fetchByName(ctx, []string{commit}, options...)
	if unadvertised(err) {
		return g.fetchBranches(ctx, func() bool {
			_, err := g.commit(ctx, commit)
			return err == nil
		})
	}
	return err
}

func (g *gitProgram) deepen(ctx context.Context, steps int, ends []string) error {
	before, err := g.shallowFile()
	if err != nil {
		return err
	}
	err = g.fetchByName(ctx, ends, "--deepen="+strconv.Itoa(steps))
	if unadvertised(err) {
		return g.fetchBranches(ctx, func() bool {
			shallow, err := g.shallow()
			return err == nil && slices.ContainsFunc(ends, func(id string) bool { return !shallow[id] })
		})
	}
	if err != nil {
		return err
	}
	after, err := g.shallowFile()
	if err == nil && bytes.Equal(before, after) {
		err = errNoHistory
	}
	return err
}

// shallowFile is the list of commits at which history ends, as git keeps it.
func (g *gitProgram) shallowFile() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(g.commonDir, "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the list of shallow commits: %w", err)
	}
	return text, nil
}

// unadvertised says whether a server gives out nothing but its refs.
func unadvertised(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Server does not allow request for unadvertised object")
}

// fetchBranches gets what the remote's branches lead to, deeper and deeper,
// until done.
func (g *gitProgram) fetchBranches(ctx context.Context, done func() bool) error {
	names, err := g.branches(ctx)
	if err != nil {
		return err
	}
	for steps := firstDeepening; steps <= lastDeepening; steps *= 2 {
		before, err := g.shallowFile()
		if err != nil {
			return err
		}
		var options []string
		if len(before) > 0 {
			options = append(options, "--deepen="+strconv.Itoa(steps))
		}
		if err := g.fetchByName(ctx, names, options...); err != nil || done() {
			return err
		}
		if after, err := g.shallowFile(); err != nil || bytes.Equal(before, after) {
			return errors.Join(err, errNotOnBranches)
		}
	}
	return errNotOnBranches
}

var errNotOnBranches = errors.New("the server gives out branches alone, and they do not lead to it")

// branches gives the remote's branches that this clone has something of, with
// the default one.
func (g *gitProgram) branches(ctx context.Context) ([]string, error) {
	remote, err := g.remote(ctx)
	if err != nil {
		return nil, err
	}
	tracked, err := g.run(ctx, nil, "for-each-ref", "--format=%(refname)", "refs/remotes/"+remote)
	if err != nil {
		return nil, err
	}
	listed, err := g.runRemote(ctx, nil, "ls-remote", "--quiet", "--", remote, "HEAD", "refs/heads/*")
	if err != nil {
		return nil, err
	}
	var there []uploadpack.Ref
	for line := range strings.SplitSeq(strings.TrimSpace(string(listed)), "\n") {
		if hash, name, ok := strings.Cut(line, "\t"); ok {
			there = append(there, uploadpack.Ref{Name: name, Hash: hash})
		}
	}
	head, err := g.commit(ctx, "HEAD")
	if err != nil {
		return nil, err
	}
	return branchesOf(there, remote, strings.Fields(string(tracked)), head.Hash), nil
}

// branchesOf chooses from a remote's refs the default branch, those that the
// clone tracks, and those that are at the head.
func branchesOf(there []uploadpack.Ref, remote string, tracked []string, head string) []string {
	known := map[string]bool{"HEAD": true}
	for _, name := range tracked {
		known["refs/heads/"+strings.TrimPrefix(name, "refs/remotes/"+remote+"/")] = true
	}
	var names []string
	for _, r := range there {
		if known[r.Name] || r.Hash == head {
			names = append(names, r.Name)
		}
	}
	return names
}

func (g *gitProgram) remote(ctx context.Context) (string, error) {
	config, err := g.config(ctx)
	if err != nil {
		return "", err
	}
	remote := remoteOf(config)
	if remote == "" {
		return "", errNoRemote
	}
	return remote, nil
}

// fetchByName fetches commits or refs of the remote; no ref of the clone is moved.
func (g *gitProgram) fetchByName(ctx context.Context, names []string, options ...string) error {
	remote, err := g.remote(ctx)
	if err != nil {
		return err
	}
	_, err = g.runRemote(ctx, nil, slices.Concat(quietFetch, []string{"--refmap="}, options, []string{"--", remote}, names)...)
	// The running readers know the old ends of history only.
	return errors.Join(err, g.close())
}

// backfill fetches objects that a partial clone left out as git itself does,
// but all at once; see git's promisor-remote.c.
func (g *gitProgram) backfill(ctx context.Context, ids []string) error {
	if !g.partial(ctx) {
		return errWhole
	}
	remote, err := g.remote(ctx)
	if err != nil {
		return err
	}
	args := slices.Concat([]string{"-c", "fetch.negotiationAlgorithm=noop"}, quietFetch, []string{"--filter=" + noFiles, "--stdin", "--", remote})
	_, err = g.runRemote(ctx, []byte(strings.Join(ids, "\n")+"\n"), args...)
	return errors.Join(err, g.close())
}

// quietFetch is git fetch with nothing but fetching: no housekeeping, and no
// file or ref that others look at.
var quietFetch = []string{
	"-c", "gc.auto=0", "-c", "maintenance.auto=false",
	"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
}

func (g *gitProgram) ready(context.Context, Commit) error { return nil } // deepening brings the files with the commits
