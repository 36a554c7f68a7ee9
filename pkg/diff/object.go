package diff

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
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

// parseTree reads a tree object: "MODE name" NUL id, again and again, where
// an id has idLen bytes. Modes are made canonical as git does when it compares.
func parseTree(data []byte, idLen int) ([]treeEntry, error) {
	entries := make([]treeEntry, 0, len(data)/(idLen+16))
	// One conversion for all: names and ids are parts of these two strings.
	text := string(data)
	for at := 0; at < len(text); {
		space := strings.IndexByte(text[at:], ' ')
		if space <= 0 || space > 7 {
			return nil, fmt.Errorf("malformed tree object: no mode at byte %d", at)
		}
		mode, err := strconv.ParseUint(text[at:at+space], 8, 32)
		if err != nil {
			return nil, fmt.Errorf("malformed tree object: mode %q", text[at:at+space])
		}
		at += space + 1
		end := strings.IndexByte(text[at:], 0)
		if end < 0 || len(text)-at-end-1 < idLen {
			return nil, fmt.Errorf("malformed tree object: truncated at byte %d", at)
		}
		name := text[at : at+end]
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 {
			return nil, fmt.Errorf("malformed tree object: name %q", name)
		}
		at += end + 1
		entries = append(entries, treeEntry{name: name, mode: canonical(uint32(mode)), id: hex.EncodeToString(data[at : at+idLen])})
		at += idLen
	}
	return entries, nil
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
	header, _, _ := bytes.Cut(data, []byte("\n\n"))
	for line := range strings.SplitSeq(string(header), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "tree" && c.Tree == "":
			c.Tree = value
		case key == "parent":
			c.Parents = append(c.Parents, value)
		case key == "committer" && c.Committed.IsZero():
			// NAME <MAIL> SECONDS ZONE; the name may hold anything but > here.
			fields := strings.Fields(value[strings.LastIndexByte(value, '>')+1:])
			if len(fields) > 0 {
				if seconds, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
					c.Committed = time.Unix(seconds, 0).UTC()
				}
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
