package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// following is how a job plans an image that is built on others, each of which
// has a job of its own that may have looked at another commit: it is planned at
// the newest of all their commits, and only if the others are published as they
// are there.
type following struct {
	after  []string
	export string

	dir string // of the newest checkout
}

func (f *following) flags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.after, "after", nil, "`IMAGE=DIR`: IMAGE was published last from the checkout DIR. The newest checkout is planned; nothing, if IMAGE has changed since; repeats")
	flags.StringVar(&f.export, "export", "", "`DIR` to copy the checkout to that was planned; empty or new")
}

// follow goes to the newest checkout, and says what to wait for: "" for
// nothing. output and what f names stay the files they were.
func (a *app) follow(ctx context.Context, f *following, p planning, output *string) (waits string, err error) {
	if len(f.after) == 0 && f.export == "" {
		return "", nil
	}
	if p.head != "" {
		return "", failure.Input("--head and --after or --export exclude each other: the newest checkout is planned as it is")
	}
	for _, file := range []*string{&f.export, output} {
		if *file != "" && *file != "-" {
			if *file, err = filepath.Abs(*file); err != nil {
				return "", err
			}
		}
	}
	var names []string
	places := []string{"."}
	for _, pair := range f.after {
		name, dir, ok := strings.Cut(pair, "=")
		if !ok || name == "" || dir == "" {
			return "", failure.WithHint(failure.Input("--after %q: want IMAGE=DIR", pair), "for example --after base=../base")
		}
		names, places = append(names, name), append(places, dir)
	}
	heads, newest, err := newestOf(ctx, places)
	if err != nil {
		return "", err
	}
	if f.dir, err = filepath.Abs(places[newest]); err != nil {
		return "", err
	}
	if err := os.Chdir(f.dir); err != nil {
		return "", err
	}
	if newest > 0 && heads[newest] != heads[0] {
		a.note("the newest checkout is that of %s: %.7s", names[newest-1], heads[newest])
	}
	c, err := a.checkout(ctx, p)
	if err != nil {
		return "", err
	}
	for i, name := range names {
		commit := heads[1+i]
		if commit == heads[newest] {
			continue
		}
		changed, err := c.Since(ctx, commit)
		if err != nil {
			return "", err
		}
		if reasons := changed[name]; len(reasons) > 0 {
			waits = fmt.Sprintf("waits for %s, which changed after it was published at %.7s: %s", name, commit, reasons[0].Detail)
			a.note("%s", waits)
			return waits, nil
		}
	}
	return "", nil
}

// newestOf gives the commit of each checkout, and which of them has all of
// these in its history; the first such.
func newestOf(ctx context.Context, places []string) (heads []string, newest int, err error) {
	repos := make([]*diff.Repo, len(places))
	heads = make([]string, len(places))
	for i, dir := range places {
		if repos[i], err = diff.Open(ctx, dir); err != nil {
			return nil, 0, fmt.Errorf("checkout %s: %w", quote.Text(dir), err)
		}
		defer func() { err = errors.Join(err, repos[i].Close()) }()
		commit, err := repos[i].Head(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("checkout %s: %w", quote.Text(dir), err)
		}
		heads[i] = commit.Hash
	}
	for i := range places {
		older := func(head string) bool {
			if head == heads[i] {
				return true
			}
			ok, err := repos[i].Ancestor(ctx, head, heads[i])
			return err == nil && ok
		}
		if !slices.ContainsFunc(heads, func(head string) bool { return !older(head) }) {
			return heads, i, ctx.Err()
		}
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
	}
	return nil, 0, failure.WithHint(failure.Input("none of the checkouts has the commits of all others in its history: %s", quote.Text(strings.Join(places, ", "))),
		"fetch them whole; after a force push, let the jobs of what this image is built on run again")
}

// finish leaves out what has to wait, and copies the checkout.
func (f *following) finish(p *plan.Plan, waits string) error {
	if waits != "" {
		for i := range p.Images {
			p.Skipped = append(p.Skipped, plan.Skipped{Name: p.Images[i].Name, Reason: waits})
		}
		p.Images = []plan.Image{}
	}
	if f.export == "" {
		return nil
	}
	if err := copyTree(f.dir, f.export); err != nil {
		return fmt.Errorf("copying the checkout to %s: %w", quote.Text(f.export), err)
	}
	return nil
}

// copyTree copies the directories, files and symbolic links below a directory,
// with their modes. What is there already is not replaced.
func copyTree(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	source, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer target.Close()
	return fs.WalkDir(source.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode(); mode.Type() {
		case fs.ModeDir:
			return target.Mkdir(path, mode.Perm()|0o700)
		case fs.ModeSymlink:
			link, err := source.Readlink(path)
			if err != nil {
				return err
			}
			return target.Symlink(link, path)
		case 0:
			return copyFile(source, target, path, mode.Perm())
		}
		return nil // git keeps nothing else
	})
}

func copyFile(source, target *os.Root, path string, mode fs.FileMode) error {
	in, err := source.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := target.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// gather copies the results of images' builds from the metadata directories
// they were left in. What none of them holds is missed by who reads it.
func gather(images []*plan.Image, dirs []string, metadata string) error {
	for _, img := range images {
		for i := range img.Builds {
			for _, dir := range dirs {
				data, err := os.ReadFile(plan.ResultFile(dir, img.Builds[i].ID))
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				file := plan.ResultFile(metadata, img.Builds[i].ID)
				if err == nil {
					err = os.MkdirAll(filepath.Dir(file), 0o755)
				}
				if err == nil {
					err = writeFile(file, data)
				}
				if err != nil {
					return fmt.Errorf("taking the results from %s: %w", quote.Text(dir), err)
				}
				break
			}
		}
	}
	return nil
}
