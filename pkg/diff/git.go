package diff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// gitProgram is the backend that runs git: the fastest, and at home in
// shallow and partial clones.
type gitProgram struct {
	layout
	program string
	leading []string // arguments before the command
	env     []string

	local *catFile // reads what is in the clone
	lazy  *catFile // lets git fetch what a partial clone lacks

	once     sync.Once
	settings map[string][]string
	failed   error
}

// inherited variables would point git at another repository than the one that
// was found; see git rev-parse --local-env-vars. Configuration that comes by
// environment is kept: CI systems pass credentials that way.
var inherited = []string{
	"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
	"GIT_PREFIX", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_NAMESPACE", "GIT_CONFIG",
	"GIT_INTERNAL_SUPER_PREFIX", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
}

func gitEnv(environ []string) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(inherited, name)
	})
	return append(env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never", "GIT_NO_REPLACE_OBJECTS=1")
}

func openGit(ctx context.Context, l layout, program string) (*gitProgram, error) {
	g := &gitProgram{layout: l, program: program, env: gitEnv(os.Environ()), leading: []string{"-C", l.root}}
	if trusted(os.Getenv("CI")) {
		// The checkout of a CI job often belongs to another user than the job
		// runs as. Naming the directory tells git that it was not stumbled upon.
		g.leading = append(g.leading, "--git-dir="+l.gitDir, "--work-tree="+l.root)
	}
	g.local = &catFile{start: func() *exec.Cmd { return g.catFile("GIT_NO_LAZY_FETCH=1") }, explain: g.explain}
	g.lazy = &catFile{start: func() *exec.Cmd { return g.catFile("GIT_NO_LAZY_FETCH=0") }, explain: g.explain}
	// The process that all reading goes through tells whether git takes this repository.
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

func (g *gitProgram) close() error { return errors.Join(g.local.close(), g.lazy.close()) }

// patience is how long a git process may take to end when told to.
const patience = time.Second

func (g *gitProgram) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, g.program, append(slices.Clone(g.leading), args...)...) //nolint:gosec // git itself, arguments as they are, no shell
	cmd.Env = g.env
	// Interrupted, git ends the processes it started and removes its lock files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	return cmd
}

func (g *gitProgram) catFile(env string) *exec.Cmd {
	cmd := g.command(context.Background(), "cat-file", "--batch")
	cmd.Env = append(slices.Clone(g.env), env)
	return cmd
}

// run gives what git prints. Its exit code can be asked of the error with
// errors.As and *exec.ExitError.
func (g *gitProgram) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := g.command(ctx, args...)
	var complaint excerpt
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("git %s: %w", commandName(args), ctx.Err())
	}
	if err != nil {
		return out, fmt.Errorf("git %s: %w", commandName(args), g.explain(err, complaint.String()))
	}
	return out, nil
}

// commandName is the first argument that is no configuration.
func commandName(args []string) string {
	for len(args) > 2 && args[0] == "-c" {
		args = args[2:]
	}
	return args[0]
}

// explained is a failure of git with the line that says why.
type explained struct {
	line string
	err  error
}

func (e explained) Error() string { return e.line }
func (e explained) Unwrap() error { return e.err }

// explain makes an error of what git said. With LC_ALL=C its messages are
// stable enough to tell three cases apart; all others are passed on.
func (g *gitProgram) explain(err error, complaint string) error {
	line := quote.Text(quote.URL(telling(complaint)))
	if line == "" {
		line = err.Error()
	}
	err = explained{line, err}
	switch {
	case strings.Contains(complaint, "dubious ownership"):
		return failure.WithHint(failure.Input("%s belongs to another user, so git refuses it: %w", g.root, err),
			"if you trust it: git config --global --add safe.directory %s", quote.Shell(g.root))
	case strings.Contains(complaint, "must be run in a work tree"):
		return failure.WithHint(failure.Input("%s is a bare repository: %w", g.root, err), "pipegen needs a work tree")
	case slices.ContainsFunc([]string{"unable to read", "Could not read", "bad object", "could not fetch", "missing object", "promisor remote"},
		func(s string) bool { return strings.Contains(complaint, s) }):
		return fmt.Errorf("%w: an object is %w", err, ErrMissing)
	}
	return err
}

// telling is the line of git's complaint that says why it failed.
func telling(complaint string) string {
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	for _, prefix := range []string{"fatal: ", "error: "} {
		for _, line := range lines {
			if text, ok := strings.CutPrefix(line, prefix); ok {
				return text
			}
		}
	}
	return lines[0]
}

// excerpt keeps the beginning of what is written to it.
type excerpt struct{ bytes.Buffer }

func (e *excerpt) Write(p []byte) (int, error) {
	e.Buffer.Write(p[:min(len(p), max(0, 8<<10-e.Len()))])
	return len(p), nil
}

func (g *gitProgram) commit(ctx context.Context, rev string) (Commit, error) {
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
	_, data, err := g.local.get(ctx, id)
	if errors.Is(err, ErrMissing) && g.partial(ctx) {
		_, data, err = g.lazy.get(ctx, id)
	}
	return data, err
}

// partial says whether git can fetch objects that the clone left out.
func (g *gitProgram) partial(ctx context.Context) bool {
	config, err := g.config(ctx)
	if err != nil {
		return false
	}
	for key := range config {
		if key == "extensions.partialclone" || strings.HasPrefix(key, "remote.") && strings.HasSuffix(key, ".promisor") {
			return true
		}
	}
	return false
}

func (g *gitProgram) changes(ctx context.Context, base, head string) ([]Change, error) {
	if base == "" {
		base = emptyTree
		if len(head) == len(emptyTree256) {
			base = emptyTree256
		}
	}
	out, err := g.run(ctx, nil, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--ignore-submodules=none", base, head, "--")
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
		fields := strings.Fields(meta)
		if !ok || len(fields) != 3 {
			return nil, fmt.Errorf("git ls-tree: unexpected output %.80q", line)
		}
		if err := checkPath(path); err != nil {
			return nil, err
		}
		mode, err := strconv.ParseUint(fields[0], 8, 32)
		if err != nil {
			return nil, fmt.Errorf("git ls-tree: unexpected output %.80q", line)
		}
		entries = append(entries, Entry{path, octal(canonical(uint32(mode))), fields[2]})
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
		if shallow[line[1:]] {
			rel.baseCut = rel.baseCut || line[0] == '<'
			rel.headCut = rel.headCut || line[0] == '>'
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
