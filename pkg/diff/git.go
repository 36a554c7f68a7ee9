package diff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// gitProgram is the backend that has git. What the clone holds it reads itself:
// starting git takes longer than most reading. Git is asked for what is not
// there, since it can fetch that in a partial clone, for what is written in a
// form that is not known here, and for all that has to do with the work tree.
type gitProgram struct {
	layout
	own     *wholeReader // nil where only git can read the repository
	program string
	leading []string // arguments before the command
	env     []string

	local *catFile // reads what is in the clone
	lazy  *catFile // lets git fetch what a partial clone lacks

	once     sync.Once
	settings map[string][]string
	failed   error
}

func openGit(ctx context.Context, l layout, program string) (*gitProgram, error) {
	g := &gitProgram{layout: l, program: program, env: gitEnv(os.Environ()), leading: []string{"-C", l.root}}
	named := trusted(os.Getenv("CI"))
	if named {
		// The checkout of a CI job often belongs to another user than the job
		// runs as. Naming the directory tells git that it was not stumbled upon.
		g.leading = append(g.leading, "--git-dir="+l.gitDir, "--work-tree="+l.root)
	}
	g.local = &catFile{start: func() *exec.Cmd { return g.catFile("GIT_NO_LAZY_FETCH=1") }, explain: g.explain}
	g.lazy = &catFile{start: func() *exec.Cmd { return g.catFile("GIT_NO_LAZY_FETCH=0") }, explain: g.explain}
	if settings := map[string][]string{}; readConfigFile(filepath.Join(l.commonDir, "config"), settings) == nil && readable(settings) == nil {
		g.own = &wholeReader{newReader(l), g.backfill, fetchTime}
		if named || owned(l) {
			return g, nil
		}
	}
	// The repository may be somebody else's: what git says to a question tells
	// whether it may be read. (Reading objects and refs runs no program, whatever
	// is configured; the rest is left to git.)
	if _, _, err := g.local.get(ctx, "HEAD^{commit}"); err != nil && !errors.Is(err, ErrMissing) {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// trusted says whether CI marks this process as a job of a CI system. There
// the checkout is the job's own, whoever owns its files; elsewhere git's check
// of the owner stands, since the configuration of a stranger's repository
// could make git run programs.
func trusted(ci string) bool { return strings.EqualFold(ci, "true") || ci == "1" }

func (g *gitProgram) close() error {
	err := errors.Join(g.local.close(), g.lazy.close())
	if g.own != nil {
		err = errors.Join(err, g.own.objects.close())
	}
	return err
}

// settled says whether what was read here stands. If not, git has to be asked:
// the clone does not hold it, or it could not be read. That an object is damaged
// stands; git does not look as closely.
func (g *gitProgram) settled(ctx context.Context, err error) bool {
	return err == nil || errors.Is(err, errDamaged) || errors.Is(err, errLeftOut) || ctx.Err() != nil
}

func (g *gitProgram) commit(ctx context.Context, rev string) (Commit, error) {
	if g.own != nil {
		if c, err := g.plain(ctx, rev); g.settled(ctx, err) {
			return c, err
		}
	}
	id, data, err := g.local.get(ctx, rev+"^{commit}")
	if errors.Is(err, ErrMissing) {
		// Of a hash that is too short git says so only without the suffix.
		if _, _, err := g.local.get(ctx, rev); errors.Is(err, failure.ErrInput) {
			return Commit{}, err
		}
		return Commit{}, missingRevision(rev)
	}
	if err != nil {
		return Commit{}, fmt.Errorf("resolving %s: %w", quote.Text(rev), err)
	}
	return parseCommit(id, data)
}

func (g *gitProgram) object(ctx context.Context, id string) ([]byte, error) {
	if g.own != nil {
		if data, err := g.own.object(ctx, id); g.settled(ctx, err) {
			return data, err
		}
	}
	return g.ask(ctx, id)
}

func (g *gitProgram) ask(ctx context.Context, id string) ([]byte, error) {
	_, data, err := g.local.get(ctx, id)
	if errors.Is(err, ErrMissing) && g.partial(ctx) {
		_, data, err = g.lazy.get(ctx, id)
	}
	return data, err
}

func (g *gitProgram) readAll(ctx context.Context, ids []string) ([][]byte, error) {
	all := make([][]byte, len(ids))
	if g.own != nil {
		read, err := g.own.readAll(ctx, ids)
		if err == nil {
			all = read
		} else if g.settled(ctx, err) {
			return nil, err
		}
	}
	var left []int
	var names []string
	for i, id := range ids {
		if all[i] == nil {
			left, names = append(left, i), append(names, id)
		}
	}
	asked, err := g.local.getAll(ctx, names)
	for i := 0; err == nil && i < len(asked); i++ {
		if all[left[i]] = asked[i]; asked[i] == nil {
			all[left[i]], err = g.ask(ctx, names[i]) // which fetches it, or says what is wrong
		}
	}
	return all, err
}

// partial says whether git can fetch objects that the clone left out.
func (g *gitProgram) partial(ctx context.Context) bool {
	config, err := g.config(ctx)
	if err != nil {
		return false
	}
	return isPartial(config)
}

func (g *gitProgram) changes(ctx context.Context, base, head string) ([]Change, error) {
	if g.own != nil {
		if changes, err := g.own.changes(ctx, base, head); g.settled(ctx, err) {
			return changes, err
		}
	}
	if base == "" {
		base = emptyTree
		if len(head) == len(emptyTree256) {
			base = emptyTree256
		}
	}
	// git diff-tree would read the whole index first, which takes twice as long
	// as comparing. What configuration could change about git diff is overridden.
	out, err := g.run(ctx, nil, "diff", "--raw", "-z", "--no-renames", "--ignore-submodules=none", "--no-abbrev",
		"--no-ext-diff", "--no-relative", "--no-color", "-O/dev/null", base, head, "--")
	if err != nil {
		return nil, err
	}
	var changes []Change
	err = parseRawDiff(out, func(status byte, path string) error {
		kind, err := kindOf(status)
		changes = append(changes, Change{path, kind})
		return err
	})
	sortChanges(changes)
	return changes, err
}

func (g *gitProgram) entries(ctx context.Context, tree string) ([]Entry, error) {
	if g.own != nil {
		if entries, err := g.own.entries(ctx, tree); g.settled(ctx, err) {
			return entries, err
		}
	}
	out, err := g.run(ctx, nil, "ls-tree", "-r", "-z", "--full-tree", tree, "--")
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if line == "" {
			break
		}
		meta, path, ok := strings.Cut(line, "\t")
		digits, kindAndID, _ := strings.Cut(meta, " ")
		_, id, _ := strings.Cut(kindAndID, " ")
		mode, err := strconv.ParseUint(digits, 8, 32)
		if !ok || err != nil || !isHash(id) {
			return nil, fmt.Errorf("git ls-tree: unexpected output %.80q", line)
		}
		if err := checkPath(path); err != nil {
			return nil, err
		}
		entries = append(entries, Entry{path, octal(canonical(uint32(mode))), id})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	return entries, nil
}

// work asks two processes at once: one what the index holds and what is
// untracked, one which files of the index may differ from the work tree.
func (g *gitProgram) work(ctx context.Context) ([]workFile, error) {
	var listed, differing []byte
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		listed, err = g.run(ctx, nil, "ls-files", "-z", "-t", "-s", "-c", "-o", "--exclude-standard", "--full-name")
		return err
	})
	group.Go(func() (err error) {
		differing, err = g.run(ctx, nil, "diff-files", "-z", "--raw", "--no-renames", "--ignore-submodules=none")
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	status := map[string]byte{}
	if err := parseRawDiff(differing, func(s byte, path string) error {
		if status[path] != 'U' {
			status[path] = s
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return parseListed(string(listed), status)
}

// parseListed reads what git ls-files prints with -z -t -s -c -o: TAG, for
// tracked files MODE, id and stage and a tabulator, and the path, each ended by NUL.
func parseListed(out string, status map[string]byte) ([]workFile, error) {
	var files []workFile
	for rest := out; rest != ""; {
		line, tail, ok := strings.Cut(rest, "\x00")
		rest = tail
		tag, line, blank := strings.Cut(line, " ")
		if !ok || !blank {
			return nil, fmt.Errorf("git ls-files: unexpected output %.80q", line)
		}
		f := workFile{}
		if tag == "?" {
			// A trailing slash marks a repository inside this one.
			f.Path, f.touched = strings.TrimSuffix(line, "/"), true
		} else {
			meta, path, tab := strings.Cut(line, "\t")
			fields := strings.Fields(meta)
			if !tab || len(fields) != 3 {
				return nil, fmt.Errorf("git ls-files: unexpected output %.80q", line)
			}
			s, differs := status[path]
			f.Entry = Entry{path, fields[0], fields[1]}
			f.gone, f.touched, f.sparse = s == 'D', differs || fields[2] != "0", tag == "S"
			f.unmerged = fields[2] != "0"
		}
		if err := checkPath(f.Path); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	slices.SortStableFunc(files, func(a, b workFile) int { return cmp.Compare(a.Path, b.Path) })
	return slices.CompactFunc(files, func(a, b workFile) bool { return a.Path == b.Path }), nil
}

// argBytes bounds the arguments of one process; systems allow at least 128 KB.
const argBytes = 64 << 10

func (g *gitProgram) hashFiles(ctx context.Context, paths []string) ([]string, error) {
	var ids []string
	for len(paths) > 0 {
		n, size := 0, 0
		for n < len(paths) && (n == 0 || size+len(paths[n]) < argBytes) {
			size += len(paths[n]) + 16
			n++
		}
		out, err := g.run(ctx, nil, append([]string{"hash-object", "--"}, paths[:n]...)...)
		if err != nil {
			return nil, err
		}
		ids = append(ids, strings.Fields(string(out))...)
		paths = paths[n:]
	}
	return ids, nil
}

func (g *gitProgram) hashBytes(ctx context.Context, data []byte) (string, error) {
	out, err := g.run(ctx, data, "hash-object", "--stdin")
	return strings.TrimSpace(string(out)), err
}

func (g *gitProgram) relation(ctx context.Context, base, head string) (relation, error) {
	if g.own != nil && !g.own.grafted() {
		if rel, err := g.own.relation(ctx, base, head); g.settled(ctx, err) {
			return rel, err
		}
	}
	out, err := g.run(ctx, nil, "merge-base", "--all", base, head)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 && len(out) == 0 {
		err = nil // no common ancestor
	}
	if err != nil {
		return relation{}, err
	}
	var rel relation
	if common := strings.Fields(string(out)); len(common) > 0 {
		rel.mergeBase, rel.ancestor = common[0], slices.Contains(common, base)
	}
	if rel.ancestor {
		return rel, nil
	}
	shallow, err := g.shallow()
	if err != nil || len(shallow) == 0 {
		return rel, err
	}
	out, err = g.run(ctx, nil, "rev-list", "--left-right", base+"..."+head, "--")
	for line := range strings.FieldsSeq(string(out)) {
		switch id := line[1:]; {
		case !shallow[id]:
		case line[0] == '<':
			rel.baseCut = append(rel.baseCut, id)
		default:
			rel.headCut = append(rel.headCut, id)
		}
	}
	return rel, err
}

func (g *gitProgram) config(ctx context.Context) (map[string][]string, error) {
	g.once.Do(func() {
		out, err := g.run(context.WithoutCancel(ctx), nil, "config", "-z", "--list")
		g.settings, g.failed = parseConfigList(string(out)), err
	})
	return g.settings, g.failed
}

// parseConfigList reads what git config -z --list prints: KEY, a newline and
// the value, each ended by NUL. A key without a value means true.
func parseConfigList(out string) map[string][]string {
	settings := map[string][]string{}
	for line := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		key, value, ok := strings.Cut(line, "\n")
		if !ok {
			value = "true"
		}
		settings[key] = append(settings[key], value)
	}
	return settings
}

// branch asks git which branch is checked out where no file tells.
func (g *gitProgram) branch(ctx context.Context) string {
	out, err := g.run(ctx, nil, "symbolic-ref", "-q", "HEAD")
	if err != nil {
		return "" // detached
	}
	return strings.TrimSpace(string(out))
}
