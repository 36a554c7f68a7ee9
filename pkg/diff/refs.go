package diff

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// refs reads the refs of a repository from their files: loose, packed and
// symbolic ones; see gitrepository-layout(5).
type refs struct {
	layout

	mu     sync.Mutex
	packed string // content of the file packed-refs
	seen   fs.FileInfo
}

// find gives the id of the ref that git would take a name for, and false if
// there is none; see gitrevisions(7), <refname>.
func (r *refs) find(name string) (oid, bool, error) {
	if !plainRef(name) {
		return oid{}, false, nil
	}
	for _, full := range []string{name, "refs/" + name, "refs/tags/" + name, "refs/heads/" + name, "refs/remotes/" + name, "refs/remotes/" + name + "/HEAD"} {
		if !strings.HasPrefix(full, "refs/") && strings.Trim(full, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
			continue // beside refs/ there are other files
		}
		if id, ok, err := r.read(full); ok || err != nil {
			return id, ok, err
		}
	}
	return oid{}, false, nil
}

// plainRef says whether a name can be one of a ref and has nothing that means
// something else; see git-check-ref-format(1).
func plainRef(name string) bool {
	return name != "" && name == path.Clean(name) && name[0] != '/' && name[0] != '.' && name[0] != '-' &&
		!strings.ContainsAny(name, " ~^:?*[\\\x7f") && !strings.Contains(name, "..") && !strings.Contains(name, "@{") && !strings.Contains(name, "/.") &&
		!strings.HasSuffix(name, ".lock") && !strings.Contains(name, ".lock/") && strings.IndexFunc(name, func(c rune) bool { return c < ' ' }) < 0
}

// read gives the id that a ref stands for, and false if there is no such ref.
func (r *refs) read(full string) (oid, bool, error) {
	at := full
	for range 6 { // git follows as many
		text, err := os.ReadFile(filepath.Join(r.dirOf(at), filepath.FromSlash(at)))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) {
			return r.readPacked(at)
		}
		if err != nil {
			return oid{}, false, fmt.Errorf("reading %s: %w", full, err)
		}
		target, symbolic := strings.CutPrefix(string(text), "ref:")
		if !symbolic {
			// FETCH_HEAD has more after the id.
			if len(text) > 2*idSize && strings.IndexByte(" \t\n\r", text[2*idSize]) >= 0 {
				text = text[:2*idSize]
			}
			id, ok := parseID(string(text))
			if !ok || id == (oid{}) {
				return oid{}, false, fmt.Errorf("reading %s: %s holds no object id", full, at)
			}
			return id, true, nil
		}
		if at = strings.TrimSpace(target); !strings.HasPrefix(at, "refs/") || !plainRef(at) {
			return oid{}, false, fmt.Errorf("reading %s: it stands for %q", full, at)
		}
	}
	return oid{}, false, fmt.Errorf("reading %s: it leads on and on", full)
}

// dirOf is where the file of a ref is: some belong to one work tree only.
func (r *refs) dirOf(full string) string {
	if ofWorkTree(full) {
		return r.gitDir
	}
	return r.commonDir
}

func ofWorkTree(full string) bool {
	return !strings.HasPrefix(full, "refs/") || strings.HasPrefix(full, "refs/bisect/") ||
		strings.HasPrefix(full, "refs/worktree/") || strings.HasPrefix(full, "refs/rewritten/")
}

// readPacked looks into the file packed-refs: lines of an id, a blank and a
// ref. The file is replaced, never changed.
func (r *refs) readPacked(full string) (oid, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := filepath.Join(r.commonDir, "packed-refs")
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		r.packed, r.seen = "", nil
		return oid{}, false, nil
	}
	if err == nil && !sameFile(info, r.seen) {
		var text []byte
		if text, err = os.ReadFile(name); err == nil {
			r.packed, r.seen = "\n"+string(text)+"\n", info
		}
	}
	if err != nil {
		return oid{}, false, fmt.Errorf("reading %s: %w", full, err)
	}
	end := strings.Index(r.packed, " "+full+"\n")
	if end < 0 {
		return oid{}, false, nil
	}
	line := r.packed[strings.LastIndexByte(r.packed[:end], '\n')+1 : end]
	id, ok := parseID(line)
	if !ok {
		return oid{}, false, fmt.Errorf("reading %s: packed-refs has no object id for it", full)
	}
	return id, true, nil
}

// below gives the full names of the refs whose names begin with prefix, which
// ends with a slash, in order.
func (r *refs) below(prefix string) ([]string, error) {
	names := map[string]bool{}
	top := filepath.Join(r.commonDir, filepath.FromSlash(prefix))
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rest, err := filepath.Rel(top, name)
		if full := prefix + filepath.ToSlash(rest); plainRef(full) {
			names[full] = true
		}
		return err
	})
	if err == nil {
		_, _, err = r.readPacked(prefix)
	}
	if err != nil {
		return nil, fmt.Errorf("listing refs: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.SplitSeq(r.packed, "\n") {
		if _, full, ok := strings.Cut(line, " "); ok && strings.HasPrefix(full, prefix) && plainRef(full) {
			names[full] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

func sameFile(a, b fs.FileInfo) bool {
	return b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
