package diff

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Modes of tree entries, as git writes them.
const (
	modeFile    = 0o100644
	modeProgram = 0o100755
	modeLink    = 0o120000
	modeDir     = 0o040000
	modeGitlink = 0o160000
)

// Ids of the empty tree, which git knows without storing it.
const (
	emptyTree    = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	emptyTree256 = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
)

// treeEntry is one line of a tree object.
type treeEntry struct {
	name string
	mode uint32
	id   string // lower-case hex
}

func (e treeEntry) isDir() bool { return e.mode == modeDir }

// octal gives a canonical mode as git writes it in six digits.
func octal(mode uint32) string {
	switch mode {
	case modeFile:
		return "100644"
	case modeProgram:
		return "100755"
	case modeLink:
		return "120000"
	case modeDir:
		return "040000"
	}
	return "160000"
}

// parseTree reads a tree object, where an id has idLen bytes.
func parseTree(data []byte, idLen int) ([]treeEntry, error) {
	entries := make([]treeEntry, 0, len(data)/(idLen+16))
	// One conversion for all: the names are parts of this string.
	text := string(data)
	for at := 0; at < len(data); {
		e, err := parseTreeEntry(data, at, idLen)
		if err != nil {
			return nil, err
		}
		entries = append(entries, treeEntry{name: text[e.name : e.id-1], mode: e.mode, id: hex.EncodeToString(data[e.id:e.end])})
		at = e.end
	}
	return entries, nil
}

// rawEntry says where the parts of an entry are in a tree object: it begins
// with its mode, its name ends at the NUL before its id.
type rawEntry struct {
	at, name, id, end int
	mode              uint32
}

// parseTreeEntry reads one entry: "MODE name" NUL id. Modes are made canonical
// as git does when it compares. A name that no directory can hold is an error.
func parseTreeEntry(tree []byte, at, idLen int) (rawEntry, error) {
	e := rawEntry{at: at}
	mode := uint32(0)
	for e.name = at; ; e.name++ {
		if e.name == len(tree) || e.name-at > 7 {
			return e, fmt.Errorf("malformed tree object: no mode at byte %d", at)
		}
		c := tree[e.name]
		if c == ' ' && e.name > at {
			break
		}
		if c < '0' || c > '7' {
			return e, fmt.Errorf("malformed tree object: no mode at byte %d", at)
		}
		mode = mode<<3 | uint32(c-'0')
	}
	e.mode = canonical(mode)
	e.name++
	length := bytes.IndexByte(tree[e.name:], 0)
	e.id = e.name + length + 1
	e.end = e.id + idLen
	if length < 0 || e.end > len(tree) {
		return e, fmt.Errorf("malformed tree object: truncated at byte %d", at)
	}
	name := tree[e.name : e.id-1]
	if length == 0 || name[0] == '.' && (length == 1 || length == 2 && name[1] == '.') || bytes.IndexByte(name, '/') >= 0 {
		return e, fmt.Errorf("malformed tree object: name %q", name)
	}
	return e, nil
}

// canonical is git's canon_mode: of a regular file's mode only the owner's
// execute bit counts.
func canonical(mode uint32) uint32 {
	switch mode & 0o170000 {
	case 0o100000:
		if mode&0o100 != 0 {
			return modeProgram
		}
		return modeFile
	case modeLink, modeDir:
		return mode & 0o170000
	}
	return modeGitlink
}

// parseCommit reads a commit object.
func parseCommit(id string, data []byte) (Commit, error) {
	c := Commit{Hash: id}
	for key, value := range headers(data) {
		switch {
		case string(key) == "tree" && c.Tree == "":
			c.Tree = string(value)
		case string(key) == "parent":
			c.Parents = append(c.Parents, string(value))
		case string(key) == "committer" && c.Committed.IsZero():
			if seconds, ok := secondsOf(value); ok {
				c.Committed = time.Unix(seconds, 0).UTC()
			}
		}
	}
	for _, hash := range append(slices.Clip(c.Parents), c.Tree) {
		if !isHash(hash) || len(hash) != len(id) {
			return Commit{}, fmt.Errorf("commit %s is malformed", short(id))
		}
	}
	return c, nil
}

// headers gives the lines that a commit or a tag begins with, as key and value.
func headers(data []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for len(data) > 0 {
			line, rest, _ := bytes.Cut(data, []byte{'\n'})
			if key, value, _ := bytes.Cut(line, []byte{' '}); len(line) == 0 || !yield(key, value) {
				return
			}
			data = rest
		}
	}
}

// secondsOf reads the time of a committer: NAME <MAIL> SECONDS ZONE, where the
// name may hold anything but > here.
func secondsOf(committer []byte) (int64, bool) {
	digits := bytes.TrimLeft(committer[bytes.LastIndexByte(committer, '>')+1:], " ")
	if end := bytes.IndexByte(digits, ' '); end >= 0 {
		digits = digits[:end]
	}
	seconds, err := strconv.ParseInt(string(digits), 10, 64)
	return seconds, err == nil
}

// isHash says whether s is a full object id: 40 or 64 digits of lower-case hex.
func isHash(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// trees reads tree objects, each once.
type trees struct {
	backend backend
	mu      sync.Mutex
	read    map[string]map[string]treeEntry
	order   map[string][]treeEntry
}

func newTrees(b backend) *trees {
	return &trees{backend: b, read: map[string]map[string]treeEntry{}, order: map[string][]treeEntry{}}
}

// list gives the entries of a tree by name, and in the tree's own order.
func (t *trees) list(ctx context.Context, id string) (map[string]treeEntry, []treeEntry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if byName, ok := t.read[id]; ok {
		return byName, t.order[id], nil
	}
	entries, err := readTree(ctx, t.backend, id)
	if err != nil {
		return nil, nil, err
	}
	byName := make(map[string]treeEntry, len(entries))
	for _, e := range entries {
		byName[e.name] = e
	}
	t.read[id], t.order[id] = byName, entries
	return byName, entries, nil
}

// lookup finds a path below a tree. Links are not followed.
func (t *trees) lookup(ctx context.Context, root, path string) (treeEntry, bool, error) {
	at := treeEntry{name: ".", mode: modeDir, id: root}
	if path == "." {
		return at, true, nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		if !at.isDir() {
			return treeEntry{}, false, nil
		}
		byName, _, err := t.list(ctx, at.id)
		if err != nil {
			return treeEntry{}, false, err
		}
		next, ok := byName[segment]
		if !ok {
			return treeEntry{}, false, nil
		}
		at = next
	}
	return at, true, nil
}

func readTree(ctx context.Context, b backend, id string) ([]treeEntry, error) {
	if id == "" || id == emptyTree || id == emptyTree256 {
		return nil, nil
	}
	data, err := b.object(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading tree %s: %w", short(id), err)
	}
	entries, err := parseTree(data, len(id)/2)
	if err != nil {
		return nil, fmt.Errorf("reading tree %s: %w", quote.Text(id), err)
	}
	return entries, nil
}
