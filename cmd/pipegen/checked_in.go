package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// What GitHub and Concourse run is rendered once and checked in. It follows
// from the configuration alone.

// everything gives the root of the checkout, its configuration, and a plan of
// all images that says what follows from the configuration alone: nothing is
// asked of git, of upstream repositories or of a registry.
func (a *app) everything(ctx context.Context) (root string, cfg *config.Repository, p *plan.Plan, err error) {
	root, fsys, paths, err := a.filesToCheck(ctx)
	if err != nil {
		return "", nil, nil, err
	}
	a.spareCollections()
	cache, save := plan.OpenCache(a.parseCache(), root, time.Now())
	defer save()
	nothing := func(string) string { return "" }
	if cfg, err = config.Load(fsys, paths, config.Options{Getenv: nothing, Cache: cache}); err != nil {
		return "", nil, nil, err
	}
	commit := strings.Repeat("0", 40)
	p, warnings, err := plan.Compute(ctx, plan.Input{
		Config: cfg, FS: fsys, Cache: cache, Selection: plan.Selection{All: true}, Head: diff.Commit{Hash: commit}, Created: time.Unix(0, 0), Getenv: nothing,
		// Dockerfiles name images of the repository by its registry.
		Registry: cmp.Or(strings.TrimSuffix(cfg.Pipegen.Registry, "/"), plan.Registry("", cfg.Pipegen, a.getenv)),
		Resolve: func(context.Context, string, string, *config.UpstreamAuth) (string, error) {
			return commit, nil
		},
	})
	a.warnings(append(cfg.Warnings, warnings...))
	return root, cfg, p, err
}

// rendered is a file as it should be.
type rendered struct {
	file string
	data []byte
}

// compare shows how files differ from what they should be. That they do is an
// error; command puts it right.
func (a *app) compare(command string, files ...rendered) error {
	var drifted []string
	for _, f := range files {
		have, err := os.ReadFile(f.file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reading what is checked in: %w", err)
		}
		if difference := render.TextDiff(f.file, have, f.file+" (as rendered)", f.data); difference != nil {
			drifted = append(drifted, f.file)
			if err := a.write("-", difference); err != nil {
				return err
			}
		}
	}
	if drifted == nil {
		return nil
	}
	return failure.WithHint(fmt.Errorf("not what the configuration yields: %s", strings.Join(drifted, ", ")), "run %s, and commit what it writes", command)
}
