package diff

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// readLoose reads an object that is a file of its own; see gitformat-loose(5).
// The error is fs.ErrNotExist if there is none.
func readLoose(dir string, id oid) (kind, []byte, error) {
	name := loosePath(dir, id)
	if info, err := os.Stat(name); err != nil {
		return 0, nil, err
	} else if info.Size() > maxObject {
		return 0, nil, errTooLarge
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, nil, err
	}
	k, data, err := parseLoose(data)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, data, nil
}

func loosePath(dir string, id oid) string {
	digits := id.String()
	return filepath.Join(dir, digits[:2], digits[2:])
}

// parseLoose reads what is left of "KIND SIZE" NUL content when decompressed.
func parseLoose(data []byte) (kind, []byte, error) {
	// The longest is "commit ", the digits of the largest size, and NUL.
	var begin [32]byte
	n, err := inflateSome(begin[:], data)
	if err != nil {
		return 0, nil, err
	}
	head, _, ok := bytes.Cut(begin[:n], []byte{0})
	name, digits, _ := strings.Cut(string(head), " ")
	k := kind(max(slices.Index(kindNames[:], name), 0)) //nolint:gosec // there are four
	size, err := strconv.ParseUint(digits, 10, 62)
	if !ok || k < kindCommit || err != nil {
		return 0, nil, damaged("it does not begin as an object")
	}
	skip := len(head) + 1
	out, err := inflate(data, int64(size)+int64(skip))
	if err != nil {
		return 0, nil, err
	}
	return k, out[skip:], nil
}

// looseWithPrefix gives the ids of such files that begin with these digits, two
// at least.
func looseWithPrefix(dir, digits string) ([]oid, error) {
	entries, err := os.ReadDir(filepath.Join(dir, digits[:2]))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var found []oid
	for _, e := range entries {
		if id, ok := parseID(digits[:2] + e.Name()); ok && strings.HasPrefix(e.Name(), digits[2:]) {
			found = append(found, id)
		}
	}
	return found, nil
}

// alternates gives the object directories that this one borrows from; see
// gitrepository-layout(5), objects/info/alternates.
func alternates(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "info", "alternates"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range bytes.Lines(text) {
		other := strings.TrimSuffix(string(line), "\n")
		if other == "" || strings.HasPrefix(other, "#") {
			continue
		}
		if strings.HasPrefix(other, `"`) {
			plain, err := strconv.Unquote(other)
			if err != nil {
				continue // as git does
			}
			other = plain
		}
		if !filepath.IsAbs(other) {
			other = filepath.Join(dir, other)
		}
		dirs = append(dirs, filepath.Clean(other))
	}
	return dirs, nil
}
