package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Bounds of fetching: history is deepened in steps that double, to some 6,000
// commits in all.
const (
	firstDeepening = 50
	lastDeepening  = 3200
	fetchTime      = 3 * time.Minute
)

var (
	errNoGit    = errors.New("fetching it needs git, which is not installed")
	errNoRemote = errors.New("there is no remote to fetch it from")
)

// fetch gets one commit from the remote. In a shallow clone it comes without
// its history; the rest of the clone stays as it was.
func (r *Repo) fetch(ctx context.Context, commit string) error {
	if r.Shallow() {
		return r.fetchCommits(ctx, []string{commit}, "--depth=1")
	}
	return r.fetchCommits(ctx, []string{commit})
}

// deepen gets that many more commits of the history behind ends, which are ends
// of a shallow clone: unlike the head the remote knows them for certain. When
// there is no more to get, or the bound is reached, that is an error.
func (r *Repo) deepen(ctx context.Context, steps int, ends []string) error {
	if steps > lastDeepening {
		return fmt.Errorf("%d more commits did not show it", 2*lastDeepening-firstDeepening)
	}
	list := filepath.Join(r.commonDir, "shallow")
	before, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("reading the list of shallow commits: %w", err)
	}
	if err := r.fetchCommits(ctx, ends, "--deepen="+strconv.Itoa(steps)); err != nil {
		return err
	}
	after, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the clone is complete now
	}
	if err == nil && bytes.Equal(before, after) {
		err = errors.New("the remote has no more history")
	}
	return err
}

func (r *Repo) fetchCommits(ctx context.Context, commits []string, options ...string) error {
	g, ok := r.backend.(*gitProgram)
	if !ok {
		return errNoGit
	}
	config, err := g.config(ctx)
	if err != nil {
		return err
	}
	remote := remoteOf(config)
	if remote == "" {
		return errNoRemote
	}
	// The commits are named by hash, so that neither other branches are fetched
	// nor any ref is moved.
	args := []string{
		"-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30",
		"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
	}
	args = append(append(append(args, options...), "--", remote), commits...)
	_, err = g.run(ctx, nil, args...)
	// The running reader knows the old ends of history only.
	return errors.Join(err, g.close())
}
