package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// prepare makes the directories of a build, with the context and what its image
// needs.
func (t *task) prepare(ctx context.Context, w Work) error {
	for _, dir := range []string{w.Root, w.MetadataDir, w.TempDir} {
		if err := archive.RemoveAll(dir); err != nil {
			return Fault(err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return Fault(err)
		}
	}
	// Images may get its mode, which must not depend on the agent's.
	if err := os.Chmod(w.Root, 0o755); err != nil {
		return Fault(err)
	}
	if err := t.writePublished(w); err != nil {
		return err
	}
	if t.Context != nil {
		if err := t.fetch(ctx, w.Root); err != nil {
			return err
		}
	}
	return secretFiles(w)
}

// writePublished leaves what the image needs where the engine looks for it.
func (t *task) writePublished(w Work) error {
	for _, p := range t.Published {
		if !slices.Contains(w.Image.Needs, p.Name) {
			continue // and so no name of a file that somebody else chose
		}
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		file := plan.PublishedFile(w.MetadataDir, p.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return Fault(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return Fault(err)
		}
	}
	for _, need := range w.Image.Needs {
		if !slices.ContainsFunc(t.Published, func(p plan.Published) bool { return p.Name == need }) {
			return Fault(fmt.Errorf("%s is built on %s, which the controller has not published", w.Build.ID, need))
		}
	}
	return nil
}

// fetch downloads the context and unpacks it. One that arrives damaged is
// fetched again.
func (t *task) fetch(ctx context.Context, dir string) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		started := t.o.Now()
		t.log.say("info", "downloading the context, %s", shownBytes(t.Context.Size))
		err := t.unpack(ctx, dir)
		if err == nil {
			t.log.say("info", "the context is there after %s", t.o.Now().Sub(started).Round(10*time.Millisecond))
			return nil
		}
		if ctx.Err() != nil || attempt == attempts || !errors.Is(err, buildcontext.ErrDigest) {
			return err
		}
		t.log.say("warning", "warning: %v; once more", err)
	}
}

func (t *task) unpack(ctx context.Context, dir string) error {
	body := t.client.Patient(downloading).Download(ctx, *t.Context, func(ctx context.Context) (api.SignedURL, error) {
		again, _, err := t.client.Patient(downloading).Claim(ctx, t.Task, t.claim)
		if err == nil && again.Context == nil {
			err = errors.New("the controller has the context no more")
		}
		if err != nil {
			return api.SignedURL{}, err
		}
		return again.Context.SignedURL, nil
	})
	defer body.Close()
	source := &watched{r: body}
	err := buildcontext.Unpack(ctx, source, dir, buildcontext.UnpackOptions{Digest: t.Context.Digest})
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case source.err != nil:
		return Fault(fmt.Errorf("downloading the context: %w", source.err))
	case errors.Is(err, failure.ErrInput) && !errors.Is(err, buildcontext.ErrDigest):
		return err
	}
	return Fault(err)
}

// watched remembers why a stream broke off.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// secretFiles refuses secrets that are files of another machine: those of the
// context are all that a build has.
func secretFiles(w Work) error {
	root, err := os.OpenRoot(w.Root)
	if err != nil {
		return Fault(err)
	}
	defer root.Close()
	check := func(id, file string) error {
		if file == "" {
			return nil
		}
		if _, err := root.Stat(filepath.FromSlash(file)); err != nil {
			return failure.WithHint(failure.Input("secret %s: the file %s is not in the context", quote.Text(id), quote.Text(file)), "take the secret from a variable (env)")
		}
		return nil
	}
	for _, s := range w.Build.Secrets {
		if err := check(s.ID, s.File); err != nil {
			return err
		}
	}
	for _, s := range w.Build.SSH {
		if err := check(s.ID, s.File); err != nil {
			return err
		}
	}
	return nil
}

// isFull says whether a disk was full.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func shownBytes(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
