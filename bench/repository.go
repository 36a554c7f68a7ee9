package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// history writes a repository as git-fast-import(1) reads it.
type history func(*stream)

// repository gives the directory of a repository with this history and the
// branch checked out. It is made once for each history and kept.
func repository(ctx context.Context, git, name, branch string, h history) (string, error) {
	steps := [][]string{
		{"init", "-q", "-b", branch}, {"fast-import", "--quiet"}, {"repack", "-adq"}, {"reset", "-q", "--hard", branch},
		{"symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"}, {"config", "remote.origin.url", "file:///nowhere"},
	}
	sum := sha256.New()
	fmt.Fprintln(sum, steps)
	if err := h.write(sum); err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name+"-"+hex.EncodeToString(sum.Sum(nil))[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintf(os.Stderr, "making the repository %s\n", name)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	part, err := os.MkdirTemp(cache, ".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	for _, args := range steps {
		if err := h.git(ctx, git, part, args...); err != nil {
			return "", err
		}
	}
	// The index trusts no file as young as itself; a second later git can tell.
	time.Sleep(time.Second)
	if err := h.git(ctx, git, part, "update-index", "-q", "--refresh", "--force-write-index"); err != nil {
		return "", err
	}
	// Of each kind the newest is kept.
	old, err := filepath.Glob(filepath.Join(cache, name+"-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		os.RemoveAll(dir)
	}
	return dir, os.Rename(part, dir)
}

// git runs git in dir with the history on its standard input.
func (h history) git(ctx context.Context, git, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, git, args...)
	cmd.Dir, cmd.Env = dir, environment(os.Getenv("PATH"), "")
	if args[0] == "fast-import" {
		in, out := io.Pipe()
		cmd.Stdin = in
		go func() { out.CloseWithError(h.write(out)) }()
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
	}
	return nil
}

func (h history) write(w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<16)
	s := &stream{Writer: b}
	h(s)
	s.printf("done\n")
	return errors.Join(s.err, b.Flush())
}

// stream writes the commands of git-fast-import(1).
type stream struct {
	*bufio.Writer
	mark int
	err  error
}

func (s *stream) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(s, format, args...); err != nil {
		s.err = err
	}
}

// commit begins a commit on a branch, on the commit with the mark from (0:
// none), and gives its mark. What is written next are its files.
func (s *stream) commit(ref string, from int) int {
	s.mark++
	message := fmt.Sprintf("commit %d\n", s.mark)
	s.printf("commit %s\nmark :%d\ncommitter Bench <bench@example.com> %d +0000\ndata %d\n%s\n",
		ref, s.mark, 1_700_000_000+s.mark, len(message), message)
	if from > 0 {
		s.printf("from :%d\n", from)
	}
	return s.mark
}

func (s *stream) file(path, text string) {
	s.printf("M 100644 inline %s\ndata %d\n%s\n", path, len(text), text)
}

// ref lets a name point at the commit with this mark.
func (s *stream) ref(name string, mark int) { s.printf("reset %s\nfrom :%d\n\n", name, mark) }

// cacheDir is where repositories are kept between runs.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errors.New("finding the cache directory: set HOME or XDG_CACHE_HOME")
	}
	return filepath.Join(dir, "pipegen", "bench"), nil
}
