package diff

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
)

// layout says where the parts of a repository are; see gitrepository-layout(5).
type layout struct {
	root      string // top of the work tree
	gitDir    string // of this work tree: HEAD, index
	commonDir string // of all work trees: objects, refs, config
}

// discover finds the repository that dir is in.
func discover(dir string) (layout, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return layout{}, failure.Input("directory %s does not exist", dir)
	}
	if err != nil {
		return layout{}, fmt.Errorf("looking for a git repository: %w", err)
	}
	for at := abs; ; at = filepath.Dir(at) {
		gitDir, err := gitDirOf(at)
		if err != nil {
			return layout{}, err
		}
		if gitDir != "" {
			return layout{root: at, gitDir: gitDir, commonDir: commonDirOf(gitDir)}, nil
		}
		if isGitDir(at) {
			return layout{}, failure.WithHint(failure.Input("%s is a bare repository or the inside of one", at),
				"pipegen needs a work tree: clone it, or add one with git worktree add")
		}
		if at == filepath.Dir(at) {
			return layout{}, failure.WithHint(failure.Input("%s: %w", abs, ErrNoRepository), "run pipegen in a git checkout, or name one with -C")
		}
	}
}

// gitDirOf gives the git directory of a work tree whose top is dir, or "".
func gitDirOf(dir string) (string, error) {
	dot := filepath.Join(dir, ".git")
	info, err := os.Stat(dot)
	if err != nil {
		return "", nil //nolint:nilerr // no repository here; the search goes on upward
	}
	if info.IsDir() {
		if isGitDir(dot) {
			return dot, nil
		}
		return "", nil
	}
	text, err := os.ReadFile(dot)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", dot, err)
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(text), "\r\n"), "gitdir: ")
	if !ok {
		return "", failure.Input("%s is no git file", dot)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	if !isGitDir(target) {
		return "", failure.WithHint(failure.Input("%s names %q, which is no git directory", dot, target),
			"a linked work tree whose repository moved is mended by git worktree repair")
	}
	return target, nil
}

func isGitDir(dir string) bool {
	if _, err := os.Lstat(filepath.Join(dir, "HEAD")); err != nil { //nolint:gosec // a .git file may name any directory
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, "commondir")); err == nil { //nolint:gosec // as above
		return true
	}
	info, err := os.Stat(filepath.Join(dir, "objects")) //nolint:gosec // as above
	return err == nil && info.IsDir()
}

func commonDirOf(gitDir string) string {
	text, err := os.ReadFile(filepath.Join(gitDir, "commondir"))
	if err != nil {
		return gitDir
	}
	common := strings.TrimRight(string(text), "\r\n")
	if !filepath.IsAbs(common) {
		common = filepath.Join(gitDir, common)
	}
	return filepath.Clean(common)
}

// symref gives the ref that a symbolic ref below dir stands for.
func (l layout) symref(dir, name string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return "", false
	}
	target, ok := strings.CutPrefix(string(text), "ref:")
	if !ok {
		return "", false
	}
	return strings.TrimSpace(target), true
}

// shallow gives the commits whose parents the clone does not hold.
func (l layout) shallow() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(l.commonDir, "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the list of shallow commits: %w", err)
	}
	cut := map[string]bool{}
	for id := range strings.FieldsSeq(string(text)) {
		cut[id] = true
	}
	return cut, nil
}

// isShallow says whether the clone lacks history.
func (l layout) isShallow() bool {
	info, err := os.Stat(filepath.Join(l.commonDir, "shallow"))
	return err == nil && info.Size() > 0
}

// withoutUser drops credentials from a URL; git@host:path has none.
func withoutUser(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw
	}
	if u, err := url.Parse(raw); err == nil {
		if u.Scheme == "ssh" && u.User != nil {
			if _, secret := u.User.Password(); !secret {
				return raw // the user name is part of the address
			}
		}
		u.User = nil
		return u.String()
	}
	host, path, _ := strings.Cut(rest, "/")
	return scheme + "://" + host[strings.LastIndex(host, "@")+1:] + "/" + path
}
