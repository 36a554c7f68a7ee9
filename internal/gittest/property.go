package gittest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Selection is what was found to have changed in a checkout.
type Selection struct {
	// Commit that was compared with; empty: everything is selected, for the
	// reason Why.
	Base, Why string
	// Directories of the changed projects, sorted.
	Dirs []string
}

// Finder finds what changed in the checkout in dir: in a job of a CI system
// with these variables, as NAME=VALUE, or from the base that is given.
type Finder func(t *testing.T, dir string, variables []string, base string) (Selection, error)

// Property says how long to look for a history in which finders are wrong.
type Property struct {
	// First seed; the histories have this one and those that follow.
	Seed uint64
	Time time.Duration
	// Finders by name.
	Finders map[string]Finder
}

// FromEnvironment takes the time from PIPEGEN_PROPERTY_TIME (such as 60s) and
// the seed from PIPEGEN_PROPERTY_SEED, if they are set.
func (p Property) FromEnvironment(t *testing.T) Property {
	t.Helper()
	var err error
	if text := os.Getenv("PIPEGEN_PROPERTY_TIME"); text != "" {
		if p.Time, err = time.ParseDuration(text); err != nil {
			t.Fatalf("PIPEGEN_PROPERTY_TIME: %v", err)
		}
	}
	p.Seed = uint64(time.Now().UnixNano())
	if text := os.Getenv("PIPEGEN_PROPERTY_SEED"); text != "" {
		if p.Seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PIPEGEN_PROPERTY_SEED: %v", err)
		}
	}
	return p
}

// Check compares random commits of random histories in clones of every kind,
// each fetched from a directory or over HTTP, and expects of every finder just
// the projects that git names in the complete repository. Everything may be
// selected only where no commit can be compared with.
func (p Property) Check(t *testing.T) {
	t.Helper()
	root := t.TempDir()
	server := Serve(t, root)
	var histories, comparisons, everything atomic.Int64
	end := time.Now().Add(p.Time)
	var next atomic.Uint64
	t.Run("clones", func(t *testing.T) {
		for range 2 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for first := true; (first || time.Now().Before(end)) && !t.Failed(); first = false {
					seed := p.Seed + next.Add(1) - 1
					dir := filepath.Join(root, strconv.FormatUint(seed, 10))
					s := subject{Property: p, t: t, seed: seed, dir: dir, server: server, rand: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // to be repeated
					s.check()
					histories.Add(1)
					comparisons.Add(s.comparisons)
					everything.Add(s.everything)
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
	t.Logf("seed %d: %d histories, %d comparisons, of which %d had nothing to compare with", p.Seed, histories.Load(), comparisons.Load(), everything.Load())
}

// subject is one history that is looked at.
type subject struct {
	Property
	t                       *testing.T
	seed                    uint64
	dir                     string
	server                  *Server
	rand                    *rand.Rand
	comparisons, everything int64

	history *History
	origin  *Repository
	ids     []string
}

// kinds of clones, as options of git clone.
var kinds = [][]string{
	{}, {"--single-branch"}, {"--depth=1"}, {"--depth=3"}, {"--depth=6"},
	{"--filter=blob:none"}, {"--filter=tree:0"}, {"--filter=tree:2"},
	{"--filter=blob:none", "--depth=1"}, {"--filter=tree:0", "--depth=1"}, {"--filter=tree:0", "--depth=4"}, {"--filter=tree:1", "--single-branch"},
}

func (s *subject) check() {
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		s.t.Fatal(err)
	}
	s.history = Random(s.rand, 16)
	s.origin = At(s.t, filepath.Join(s.dir, "origin.git"))
	At(s.t, s.dir).Git("-c", "init.defaultBranch=c0", "init", "-q", "--bare", s.origin.Dir)
	config, err := os.OpenFile(filepath.Join(s.origin.Dir, "config"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = config.WriteString("[uploadpack]\n\tallowFilter\n")
		err = errors.Join(err, config.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.origin.Import(s.history.Stream())
	for i := range s.history.Trees {
		s.ids = append(s.ids, fmt.Sprintf("c%d", i))
	}
	s.ids = strings.Fields(s.origin.Git(append([]string{"rev-parse"}, s.ids...)...))
	for range 2 {
		kind := kinds[s.rand.IntN(len(kinds))]
		head := s.rand.IntN(len(s.ids))
		address := (&url.URL{Scheme: "file", Path: s.origin.Dir}).String()
		if s.rand.IntN(2) == 0 {
			address = s.server.URL + "/" + strings.TrimPrefix(filepath.ToSlash(s.origin.Dir), filepath.ToSlash(filepath.Dir(s.dir))+"/")
		}
		clone := At(s.t, filepath.Join(s.dir, fmt.Sprintf("clone%d", s.rand.Uint32())))
		At(s.t, s.dir).Git(append(append([]string{"clone", "-q", "--no-tags", "--branch", fmt.Sprintf("c%d", head)}, kind...), "--", address, clone.Dir)...)
		for range 3 {
			s.compare(clone, fmt.Sprintf("git clone --branch c%d %s %s", head, strings.Join(kind, " "), address), s.rand.IntN(len(s.ids)), head)
		}
	}
}

// compare asks all finders about one pair of commits.
func (s *subject) compare(clone *Repository, how string, base, head int) {
	var variables []string
	flag := ""
	var bases []string // that may be compared with
	event := []string{"flag", "push", "merge request"}[s.rand.IntN(3)]
	switch event {
	case "flag":
		flag, bases = s.ids[base], []string{s.ids[base]}
		variables = []string{"CI=true", "GITLAB_CI=true", "CI_PIPELINE_SOURCE=web"}
	case "push":
		variables = []string{"CI=true", "GITLAB_CI=true", "CI_PIPELINE_SOURCE=push", "CI_COMMIT_BEFORE_SHA=" + s.ids[base]}
		if base != head && s.ancestors(head)[base] {
			bases = []string{s.ids[base]}
		}
	default:
		variables = []string{"CI=true", "GITLAB_CI=true", "CI_PIPELINE_SOURCE=merge_request_event", "CI_MERGE_REQUEST_DIFF_BASE_SHA=" + s.ids[base]}
		out, _ := s.origin.Try("merge-base", "--all", s.ids[base], s.ids[head]) // fails if there is none
		bases = strings.Fields(out)
	}
	for name, find := range s.Finders {
		s.comparisons++
		copied := filepath.Join(s.dir, fmt.Sprintf("copy%d", s.rand.Uint32()))
		if err := os.Mkdir(copied, 0o750); err != nil {
			s.t.Fatal(err)
		}
		if err := copyTree(clone.Dir, copied); err != nil {
			s.t.Fatal(err)
		}
		got, err := find(s.t, copied, variables, flag)
		complain := func(format string, args ...any) {
			s.t.Errorf("%s\n%s of %s (c%d) at %s (c%d), found by %s\n%s\nPIPEGEN_PROPERTY_SEED=%d repeats it", fmt.Sprintf(format, args...),
				event, s.ids[base], base, s.ids[head], head, name, how, s.seed)
		}
		switch {
		case err != nil:
			complain("failed: %v", err)
		case got.Base == "" && len(bases) > 0:
			complain("everything was selected: %s", got.Why)
		case got.Base == "":
			s.everything++
			if got.Why == "" || strings.Contains(got.Why, "not in this clone") {
				complain("everything was selected for the wrong reason: %s", got.Why)
			}
		case !slices.Contains(bases, got.Base):
			complain("compared with %s, want one of %q", got.Base, bases)
		default:
			// JSON has no other bytes than those of UTF-8.
			if want := s.changed(got.Base, head); !slices.EqualFunc(got.Dirs, want, func(a, b string) bool { return string([]rune(a)) == string([]rune(b)) }) {
				complain("selected %q, want %q", got.Dirs, want)
			}
		}
		if err := os.RemoveAll(copied); err != nil {
			s.t.Error(err)
		}
	}
}

// ancestors gives the commits that a commit leads to.
func (s *subject) ancestors(commit int) map[int]bool {
	found := map[int]bool{}
	for open := s.history.Parents[commit]; len(open) > 0; {
		next := open[0]
		open = open[1:]
		if !found[next] {
			found[next] = true
			open = append(slices.Clip(open), s.history.Parents[next]...)
		}
	}
	return found
}

// changed gives the projects of head that git names a changed path of: each
// path belongs to the deepest one above it.
func (s *subject) changed(base string, head int) []string {
	dirs := map[string]bool{}
	for name := range s.history.Trees[head] {
		if path.Base(name) == BuildFile {
			dirs[path.Dir(name)] = true
		}
	}
	found := []string{}
	for name := range strings.SplitSeq(s.origin.Git("diff", "--no-renames", "--name-only", "-z", base, s.ids[head]), "\x00") {
		for dir := name; name != ""; dir = path.Dir(dir) {
			if dirs[dir] {
				found = append(found, dir)
			}
			if dirs[dir] || dir == "." {
				break
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
