package diff

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	formatconfig "github.com/go-git/go-git/v5/plumbing/format/config"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// store is the backend without git: it reads objects through go-git's storage
// and compares trees, histories and the work tree itself. (go-git's own
// comparison of trees takes a missing object for an unchanged one.) It never
// fetches.
type store struct {
	layout
	settings map[string][]string
	turn     sync.Mutex // go-git's storage is for one goroutine
	objects  *filesystem.Storage
	cut      map[string]bool // commits whose parents are not in the clone
}

// understood are the extensions of a repository that reading it need not heed;
// see git's Documentation/technical/repository-version.txt.
var understood = []string{"noop", "preciousobjects", "partialclone", "worktreeconfig", "relativeworktrees"}

func openStore(l layout) (*store, error) {
	settings, err := readConfig(l)
	if err != nil {
		return nil, err
	}
	for key, values := range settings {
		extension, ok := strings.CutPrefix(key, "extensions.")
		value := strings.ToLower(values[len(values)-1])
		switch {
		case !ok, slices.Contains(understood, extension):
		case extension == "objectformat" && value == "sha1", extension == "refstorage" && value == "files":
		default:
			return nil, failure.WithHint(failure.Input("%s has the extension %s=%s, which only git itself can read", l.root, extension, quote.Text(value)),
				"install git")
		}
	}
	if lastBool(settings, "core.bare", false) && l.gitDir == l.commonDir {
		return nil, failure.WithHint(failure.Input("%s is a bare repository", l.root), "pipegen needs a work tree")
	}
	cut, err := l.shallow()
	if err != nil {
		return nil, err
	}
	return &store{layout: l, settings: settings, cut: cut, objects: openStorage(l)}, nil
}

func openStorage(l layout) *filesystem.Storage {
	dir := dotgit.NewRepositoryFilesystem(osfs.New(l.gitDir, osfs.WithBoundOS()), osfs.New(l.commonDir, osfs.WithBoundOS()))
	return filesystem.NewStorageWithOptions(dir, cache.NewObjectLRUDefault(), filesystem.Options{
		KeepDescriptors: true, AlternatesFS: osfs.New("/", osfs.WithBoundOS()),
	})
}

func (s *store) close() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	err := s.objects.Close()
	s.objects = openStorage(s.layout)
	return err
}

func (s *store) object(ctx context.Context, id string) ([]byte, error) {
	_, data, err := s.read(ctx, id)
	return data, err
}

func (s *store) readAll(ctx context.Context, ids []string) ([][]byte, error) {
	all := make([][]byte, len(ids))
	for i, id := range ids {
		var err error
		if all[i], err = s.object(ctx, id); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *store) read(ctx context.Context, id string) (plumbing.ObjectType, []byte, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	o, err := s.objects.EncodedObject(plumbing.AnyObject, plumbing.NewHash(id))
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return 0, nil, fmt.Errorf("object %s is %w", id, ErrMissing)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading object %s: %w", id, err)
	}
	reader, err := o.Reader()
	if err != nil {
		return 0, nil, fmt.Errorf("reading object %s: %w", id, err)
	}
	data := make([]byte, o.Size())
	_, err = io.ReadFull(reader, data)
	if err = errors.Join(err, reader.Close()); err != nil {
		return 0, nil, fmt.Errorf("reading object %s: %w", id, err)
	}
	return o.Type(), data, nil
}

// peeled reads the commit that a commit or a tag stands for.
func (s *store) peeled(ctx context.Context, id string) (Commit, error) {
	for range 16 {
		kind, data, err := s.read(ctx, id)
		if err != nil {
			return Commit{}, err
		}
		switch kind {
		case plumbing.CommitObject:
			return parseCommit(id, data)
		case plumbing.TagObject:
			line, _, _ := strings.Cut(string(data), "\n")
			target, ok := strings.CutPrefix(line, "object ")
			if !ok || !isHash(target) {
				return Commit{}, fmt.Errorf("tag %s is malformed", short(id))
			}
			id = target
		default:
			return Commit{}, fmt.Errorf("%s is a %s, so as a commit it is %w", id, kind, ErrMissing)
		}
	}
	return Commit{}, fmt.Errorf("tag %s leads on and on", short(id))
}

func (s *store) relation(ctx context.Context, base, head string) (relation, error) {
	return relate(ctx, s.peeled, s.cut, base, head)
}

func (s *store) changes(ctx context.Context, base, head string) ([]Change, error) {
	var changes []Change
	err := descend(ctx, s, "", base, head, func(path string, kind Kind) {
		changes = append(changes, Change{path, kind})
	})
	sortChanges(changes)
	return changes, err
}

func (s *store) entries(ctx context.Context, tree string) ([]Entry, error) {
	entries, err := s.list(ctx, nil, "", tree)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, err
}

func (s *store) list(ctx context.Context, into []Entry, prefix, tree string) ([]Entry, error) {
	children, err := readTree(ctx, s, tree)
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		if !c.isDir() {
			into = append(into, Entry{prefix + c.name, octal(c.mode), c.id})
		} else if into, err = s.list(ctx, into, prefix+c.name+"/", c.id); err != nil {
			return nil, err
		}
	}
	return into, nil
}

func (s *store) config(context.Context) (map[string][]string, error) { return s.settings, nil }

func (s *store) hashFiles(ctx context.Context, paths []string) ([]string, error) {
	ids := make([]string, len(paths))
	for i, p := range paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if ids[i], err = hashFile(filepath.Join(s.root, filepath.FromSlash(p))); err != nil {
			return nil, fmt.Errorf("hashing %s: %w", quote.Text(p), err)
		}
	}
	return ids, nil
}

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := plumbing.NewHasher(plumbing.BlobObject, info.Size())
	if _, err := io.CopyN(h, f, info.Size()); err != nil {
		return "", err
	}
	return h.Sum().String(), nil
}

func (s *store) hashBytes(_ context.Context, data []byte) (string, error) {
	return plumbing.ComputeHash(plumbing.BlobObject, data).String(), nil
}

// readConfig reads the files that git-config(1), FILES, names. Files that they
// include are not read.
func readConfig(l layout) (map[string][]string, error) {
	var names []string
	if os.Getenv("GIT_CONFIG_NOSYSTEM") == "" {
		names = append(names, cmp.Or(os.Getenv("GIT_CONFIG_SYSTEM"), "/etc/gitconfig"))
	}
	if global, ok := os.LookupEnv("GIT_CONFIG_GLOBAL"); ok {
		names = append(names, global)
	} else if home, err := os.UserHomeDir(); err == nil {
		names = append(names, filepath.Join(cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "git", "config"), filepath.Join(home, ".gitconfig"))
	}
	settings := map[string][]string{}
	for _, name := range append(names, filepath.Join(l.commonDir, "config")) {
		if err := readConfigFile(name, settings); err != nil {
			return nil, err
		}
	}
	if lastBool(settings, "extensions.worktreeconfig", false) {
		if err := readConfigFile(filepath.Join(l.gitDir, "config.worktree"), settings); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

func readConfigFile(name string, into map[string][]string) error {
	f, err := os.Open(name) //nolint:gosec // the file that git would read
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || name == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading git's configuration: %w", err)
	}
	defer f.Close()
	parsed := formatconfig.New()
	if err := formatconfig.NewDecoder(bufio.NewReader(f)).Decode(parsed); err != nil {
		return failure.Input("git's configuration %s: %w", name, err)
	}
	add := func(prefix string, options formatconfig.Options) {
		for _, o := range options {
			key := prefix + "." + strings.ToLower(o.Key)
			into[key] = append(into[key], o.Value)
		}
	}
	for _, section := range parsed.Sections {
		at := strings.ToLower(section.Name)
		add(at, section.Options)
		for _, sub := range section.Subsections {
			add(at+"."+sub.Name, sub.Options)
		}
	}
	return nil
}
