package awstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"sync"
)

// Call is a permission that a role made use of.
type Call struct {
	Role     string              `json:"role"`
	Action   string              `json:"action"`
	Resource string              `json:"resource"`
	Context  map[string][]string `json:"context,omitempty"`
	// The grants that allow it; none: it was refused, unless its role may do all.
	Grants  []Grant `json:"grants,omitempty"`
	Refused bool    `json:"refused,omitempty"`
}

// id is what is different in each resource of a kind.
var id = regexp.MustCompile(`[0-9a-hjkmnp-tv-z-]{12,}`)

// recorder keeps distinct calls, and appends them to a file.
type recorder struct {
	mu    sync.Mutex
	path  string
	seen  map[string]bool
	calls []Call
}

func (r *recorder) add(c Call) {
	line, err := json.Marshal(c)
	if err != nil {
		return
	}
	// One of those that differ in ids alone is enough.
	kind := fmt.Sprint(c.Role, c.Action, id.ReplaceAllString(c.Resource, "ID"), slices.Sorted(maps.Keys(c.Context)), c.Refused)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[kind] {
		return
	}
	r.seen[kind] = true
	r.calls = append(r.calls, c)
	if r.path == "" {
		return
	}
	// Several processes append to it, each line in one write.
	f, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.Write(append(line, '\n'))
	_ = f.Close()
}

func (r *recorder) all() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// ReadCalls reads what proxies recorded in a file.
func ReadCalls(path string) ([]Call, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []Call
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c Call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, c)
	}
	return out, lines.Err()
}

// Compare holds calls against the policies of each role. It gives the calls
// that were refused, and the grants of which no call made use.
func Compare(policies map[string][]Policy, calls []Call) (missing []Call, unused []Grant) {
	used := map[Grant]bool{}
	for _, c := range calls {
		if c.Refused {
			missing = append(missing, c)
		}
		for _, g := range c.Grants {
			used[g] = true
		}
	}
	for _, role := range slices.Sorted(maps.Keys(policies)) {
		unused = append(unused, slices.DeleteFunc(Grants(policies[role]), func(g Grant) bool { return used[g] })...)
	}
	return missing, unused
}
