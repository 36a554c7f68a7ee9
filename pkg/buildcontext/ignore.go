package buildcontext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxIgnoreFile bounds a file of patterns, in bytes.
const maxIgnoreFile = 1 << 20

// rules say what of a directory is left out.
type rules struct {
	all []rule
	// What stays, whatever patterns say: Dockerfiles, files of patterns, contexts.
	kept map[string]bool
}

// rule is a file of patterns, for a context directory.
type rule struct {
	dir string
	// Whether it counts only where no context is.
	rest    bool
	matcher *patternmatcher.PatternMatcher // nil: leaves nothing out
	// Beginnings of what patterns with ! may bring back; nil if these may be anywhere.
	brought []string
}

// matched is what each rule says of a directory.
type matched []patternmatcher.MatchInfo

func readRules(root *os.Root, builds []Build) (*rules, error) {
	if len(builds) == 0 {
		builds = []Build{{}}
	}
	r := &rules{kept: map[string]bool{}}
	seen := map[string]bool{}
	for _, b := range builds {
		dir, file := path.Clean(b.Context), b.Dockerfile
		if file == "" {
			file = path.Join(dir, "Dockerfile")
		}
		file = path.Clean(file)
		for _, name := range []string{dir, file} {
			if !filepath.IsLocal(filepath.FromSlash(name)) {
				return nil, failure.Input("packing a context: %s is not below the directory that is packed", quote.Text(name))
			}
		}
		r.kept[dir], r.kept[file] = true, true
		if err := r.add(root, dir, file+".dockerignore", seen); err != nil {
			return nil, err
		}
	}
	if !seen["."] {
		if err := r.read(root, ".", ".dockerignore"); err != nil {
			return nil, err
		}
		r.all[len(r.all)-1].rest = true
	}
	return r, nil
}

// add adds the rule of a build. seen has the context directories and the files
// that were added.
func (r *rules) add(root *os.Root, dir, own string, seen map[string]bool) error {
	seen[dir] = true
	name := own
	switch _, err := root.Stat(own); {
	case errors.Is(err, fs.ErrNotExist):
		name = path.Join(dir, ".dockerignore")
	case err != nil:
		return unreadable(own, err)
	}
	// No path has this byte.
	key := dir + "\x00" + name
	if seen[key] {
		return nil
	}
	seen[key] = true
	return r.read(root, dir, name)
}

func (r *rules) read(root *os.Root, dir, name string) error {
	patterns, err := readPatterns(root, name)
	if err != nil {
		return err
	}
	made := rule{dir: dir}
	if len(patterns) > 0 {
		r.kept[name] = true
		if made.matcher, err = patternmatcher.New(patterns); err != nil {
			return failure.Input("%s: %w", quote.Text(name), err)
		}
		// A pattern is compiled when it is first needed; wrong ones are to be told of now.
		for _, p := range made.matcher.Patterns() {
			one, err := patternmatcher.New([]string{p.String()})
			if err == nil {
				_, err = one.MatchesOrParentMatches("x")
			}
			if err != nil {
				return failure.Input("%s: pattern %s: %w", quote.Text(name), quote.Text(p.String()), err)
			}
		}
		made.brought = beginnings(made.matcher)
	}
	r.all = append(r.all, made)
	return nil
}

// readPatterns gives the patterns in a file, none if there is none.
func readPatterns(root *os.Root, name string) ([]string, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxIgnoreFile {
		return nil, failure.Input("%s is no file of patterns: it has to be a regular file of at most %d MiB", quote.Text(name), maxIgnoreFile>>20)
	}
	patterns, err := ignorefile.ReadAll(io.LimitReader(f, maxIgnoreFile))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", quote.Text(name), err)
	}
	return patterns, nil
}

// beginnings gives the directories below which patterns with ! bring something
// back; one that is "." stands for all.
func beginnings(m *patternmatcher.PatternMatcher) []string {
	var all []string
	for _, p := range m.Patterns() {
		if !p.Exclusion() {
			continue
		}
		plain := filepath.ToSlash(p.String())
		if i := strings.IndexAny(plain, `*?[\`); i >= 0 {
			plain = path.Dir(plain[:i] + "x")
		}
		all = append(all, plain)
	}
	return all
}

// top is what rules say of the directory itself.
func (r *rules) top() matched { return make(matched, len(r.all)) }

// match says whether a path is left out. above is what rules said of its parent.
func (r *rules) match(name string, above matched) (out bool, here matched, err error) {
	here = make(matched, len(r.all))
	var held, keeps, rest bool
	for i, one := range r.all {
		rel, ok := below(name, one.dir)
		if !ok {
			continue
		}
		var says bool
		if one.matcher != nil {
			if says, here[i], err = one.matcher.MatchesUsingParentResults(rel, above[i]); err != nil {
				return false, nil, failure.Input("matching %s: %w", quote.Text(name), err)
			}
		}
		if one.rest {
			rest = says
			continue
		}
		held = true
		keeps = keeps || !says
	}
	if r.kept[name] {
		return false, here, nil
	}
	return held && !keeps || !held && rest, here, nil
}

// mayKeep says whether something below a directory that is left out may be
// kept.
func (r *rules) mayKeep(dir string) bool {
	for name := range r.kept {
		if _, ok := below(name, dir); ok {
			return true
		}
	}
	for _, one := range r.all {
		rel, ok := below(dir, one.dir)
		if ok && slices.ContainsFunc(one.brought, func(b string) bool {
			_, deeper := below(b, rel)
			_, inside := below(rel, b)
			return deeper || inside || b == rel
		}) {
			return true
		}
	}
	return false
}

// below gives name relative to a directory that it is below of.
func below(name, dir string) (string, bool) {
	if dir == "." {
		return name, name != "."
	}
	rel, ok := strings.CutPrefix(name, dir)
	if !ok || len(rel) < 2 || rel[0] != '/' {
		return "", false
	}
	return rel[1:], true
}
