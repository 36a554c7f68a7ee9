// Package glob says which paths a glob means, with one meaning for every list
// of globs in the configuration: doublestar's, relative to the root of the
// repository, with ** for any number of directories.
package glob

import (
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// HasMeta says whether a glob is more than a plain path.
func HasMeta(glob string) bool { return strings.ContainsAny(glob, meta) }

const meta = `*?[{\`

// Valid says whether a text is a glob.
func Valid(glob string) bool { return doublestar.ValidatePattern(glob) }

// Match says whether a glob means a path. One that is not valid means none.
func Match(glob, path string) bool {
	p := compile(glob)
	return p.match(path)
}

// Set is a list of globs that is asked often.
type Set []pattern

// New compiles a list of globs.
func New(globs []string) Set {
	s := make(Set, len(globs))
	for i, g := range globs {
		s[i] = compile(g)
	}
	return s
}

// Match says whether any glob of s means a path.
func (s Set) Match(path string) bool {
	for i := range s {
		if s[i].match(path) {
			return true
		}
	}
	return false
}

// Find gives the indexes of the items that any glob of s means, in their
// order. The items are sorted by path; only those that share the beginning of
// a glob are looked at.
func Find[E any](s Set, sorted []E, path func(*E) string) iter.Seq[int] {
	return func(yield func(int) bool) {
		next := 0
		for _, sp := range spans(s, sorted, path) {
			for i := max(sp.from, next); i < sp.to; i++ {
				if s.Match(path(&sorted[i])) && !yield(i) {
					return
				}
			}
			next = max(next, sp.to)
		}
	}
}

// span is a part of a list: up to, without to.
type span struct{ from, to int }

// spans are where the items are that share the beginning of a glob.
func spans[E any](s Set, sorted []E, path func(*E) string) []span {
	all := make([]span, len(s))
	for i := range s {
		prefix := s[i].prefix
		from := sort.Search(len(sorted), func(i int) bool { return path(&sorted[i]) >= prefix })
		n := sort.Search(len(sorted)-from, func(i int) bool { return !strings.HasPrefix(path(&sorted[from+i]), prefix) })
		all[i] = span{from, from + n}
	}
	slices.SortFunc(all, func(a, b span) int { return a.from - b.from })
	return all
}

// pattern is a glob. Its common shapes are matched without doublestar.
type pattern struct {
	glob string
	// What every path that it means begins with.
	prefix string
	shape  shape
	rest   string // what follows **/ of a name
}

type shape int

const (
	invalid shape = iota
	plain         // a path
	below         // DIR/**
	name          // **/NAME
	other
)

func compile(glob string) pattern {
	at := strings.IndexAny(glob, meta)
	if at < 0 {
		return pattern{glob: glob, prefix: glob, shape: plain}
	}
	// DIR/** means DIR too.
	dir, isDir := strings.CutSuffix(glob[:at], "/")
	p := pattern{glob: glob, prefix: dir, shape: other}
	switch tail := glob[at:]; {
	case tail == "**" && isDir && dir != "" && !strings.HasSuffix(dir, "/"):
		p.shape = below
	case at == 0 && strings.HasPrefix(tail, "**/") && !HasMeta(tail[3:]):
		p.shape, p.rest = name, tail[3:]
	case !Valid(glob):
		p.shape = invalid
	}
	return p
}

func (p *pattern) match(path string) bool {
	switch p.shape {
	case invalid:
		return false
	case plain:
		return path == p.glob
	case below:
		rest, ok := strings.CutPrefix(path, p.prefix)
		return ok && (rest == "" || rest[0] == '/')
	case name:
		before, ok := strings.CutSuffix(path, p.rest)
		return ok && (before == "" || before[len(before)-1] == '/')
	}
	return strings.HasPrefix(path, p.prefix) && doublestar.MatchUnvalidated(p.glob, path)
}
