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
	"strings"

	formatconfig "github.com/go-git/go-git/v5/plumbing/format/config"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// store is the backend without git: it reads objects and refs, and compares
// trees, histories and the work tree itself. What the clone lacks comes from
// upstream.
type store struct {
	wholeReader
	up       *upstream
	settings map[string][]string
}

func openStore(l layout) (*store, error) {
	settings, err := readConfig(l)
	if err != nil {
		return nil, err
	}
	if err := readable(settings); err != nil {
		return nil, failure.WithHint(failure.Input("%s has %w, which only git itself can read", l.root, err), "install git")
	}
	if lastBool(settings, "core.bare", false) && l.gitDir == l.commonDir {
		return nil, failure.WithHint(failure.Input("%s is a bare repository", l.root), "pipegen needs a work tree")
	}
	up := newUpstream(newReader(l), settings, os.Getenv)
	up.reader.beyond = up.beyond
	return &store{wholeReader{up.reader, up.backfill, fetchTime}, up, settings}, nil
}

func (s *store) close() error { return s.objects.close() }

func (s *store) readAll(ctx context.Context, ids []string) ([][]byte, error) {
	all, err := s.wholeReader.readAll(ctx, ids)
	for i := 0; err == nil && i < len(all); i++ {
		if all[i] == nil {
			_, err = s.object(ctx, ids[i]) // which says what is missing
		}
	}
	return all, err
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
	h := newHasher()
	h.begin(kindBlob, info.Size())
	if _, err := io.CopyN(h, f, info.Size()); err != nil {
		return "", err
	}
	return h.id().String(), nil
}

func (s *store) hashBytes(_ context.Context, data []byte) (string, error) {
	return hashObject(kindBlob, data).String(), nil
}

// readConfig reads the files that git-config(1), FILES, names, those that they
// include, and what the environment adds.
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
		if err := readIncluding(l, name, settings, 0); err != nil {
			return nil, err
		}
	}
	if lastBool(settings, "extensions.worktreeconfig", false) {
		if err := readIncluding(l, filepath.Join(l.gitDir, "config.worktree"), settings, 0); err != nil {
			return nil, err
		}
	}
	return settings, readConfigEnvironment(os.Getenv, settings)
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
