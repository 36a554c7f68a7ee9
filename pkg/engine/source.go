package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxDockerfile bounds what is read of a Dockerfile.
const maxDockerfile = 1 << 20

// fetchSource gets the source to where scripts, and make, may write to it. The
// checkout itself is used where it is there for this one build.
func (b *building) fetchSource(ctx context.Context) error {
	j := b.Job
	shared := (j.Shared || j.Sandbox != nil) && (!j.Unpacked || j.Image.Source != nil)
	writes := j.Build.PreScript != "" || j.Build.PostScript != "" || j.Build.Engine == "make"
	mine := filepath.Join(b.work, "source")
	switch {
	case j.Image.Source != nil && !shared:
		if err := os.Mkdir(mine, 0o755); err != nil {
			return err
		}
		if err := cloneTo(ctx, j.Image.Source, mine, j.Getenv, b.log.say); err != nil {
			return err
		}
		b.source = mine
	case j.Image.Source != nil:
		dir, err := upstream(ctx, j.Image.Source, j.CacheDir, j.Getenv, b.log.say)
		if err != nil {
			return err
		}
		b.source = dir
	default:
		b.source = j.Root
	}
	if writes && shared {
		// Builds of other platforms use the same files, and a checkout stays clean.
		if err := copyTree(ctx, b.source, mine, j.MetadataDir, j.CacheDir); err != nil {
			return err
		}
		b.source = mine
	}
	if err := b.checkContext(); err != nil {
		return err
	}
	if !b.Mounted {
		b.Context = b.contextDir()
	}
	return nil
}

// contextDir is the context on this machine.
func (b *building) contextDir() string {
	return filepath.Join(b.source, filepath.FromSlash(b.Job.Build.Context))
}

// checkContext refuses a context that is no directory of the source.
func (b *building) checkContext() error {
	name := b.Job.Build.Context
	root, err := filepath.EvalSymlinks(b.source)
	if err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(b.contextDir())
	if errors.Is(err, fs.ErrNotExist) {
		return failure.Input("context %s: there is no such directory", quote.Text(name))
	}
	if err != nil {
		return fmt.Errorf("context %s: %w", quote.Text(name), err)
	}
	if dir != root && !strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/") {
		return failure.Input("context %s: leads out of the repository", quote.Text(name))
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("context %s: %w", quote.Text(name), err)
	}
	if !fi.IsDir() {
		return failure.Input("context %s: is no directory", quote.Text(name))
	}
	return nil
}

// readSource reads a file of the source; links may not lead out of it.
func (b *building) readSource(name string) ([]byte, error) {
	root, err := os.OpenRoot(b.source)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, failure.Input("%s: %w", quote.Text(name), pathless(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err != nil {
		return nil, failure.Input("%s: %w", quote.Text(name), pathless(err))
	}
	if len(text) > maxDockerfile {
		return nil, failure.Input("%s: longer than %d KiB", quote.Text(name), maxDockerfile>>10)
	}
	return text, nil
}

// pathless gives what happened to a path without the path.
func pathless(err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		return at.Err
	}
	return err
}
