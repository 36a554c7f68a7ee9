package diff

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pattern is a line of a .gitignore file; see gitignore(5).
type pattern struct {
	base     string // directory of the file, "" or a path
	glob     string
	negated  bool
	dirOnly  bool
	anchored bool // matches from base on, not at any depth
}

// ignorePatterns reads what holds for the whole work tree: the user's and the
// repository's own lists, the latter having the last word.
func (s *store) ignorePatterns() ([]pattern, error) {
	var user string
	home, _ := os.UserHomeDir()
	if values := s.settings["core.excludesfile"]; len(values) > 0 {
		user = values[len(values)-1]
		if rest, ok := strings.CutPrefix(user, "~/"); ok {
			user = filepath.Join(home, rest)
		}
	} else if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		user = filepath.Join(config, "git", "ignore")
	} else {
		user = filepath.Join(home, ".config", "git", "ignore")
	}
	var all []pattern
	for _, name := range []string{user, filepath.Join(s.commonDir, "info", "exclude")} {
		some, err := readIgnore(name, "")
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func readIgnore(name, base string) ([]pattern, error) {
	text, err := os.ReadFile(name) //nolint:gosec // the file that git would read
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading ignore patterns: %w", err)
	}
	return parseIgnore(string(text), base), nil
}

func parseIgnore(text, base string) []pattern {
	var all []pattern
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		line = trimBlanks(line)
		p := pattern{base: base}
		line, p.negated = strings.CutPrefix(line, "!")
		line, p.dirOnly = strings.CutSuffix(line, "/")
		p.anchored = strings.Contains(line, "/")
		p.glob = strings.TrimPrefix(line, "/")
		if p.glob != "" {
			all = append(all, p)
		}
	}
	return all
}

// trimBlanks drops trailing blanks, except one that a backslash protects.
func trimBlanks(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case ' ':
			continue
		case '\\':
			if i+1 < len(line) {
				i++
			}
		}
		end = i + 1
	}
	return line[:end]
}

// isIgnored says whether the last of patterns that matches a path ignores it.
// Whether one of its directories is ignored the caller knows.
func isIgnored(patterns []pattern, path string, dir bool) bool {
	for _, p := range slices.Backward(patterns) {
		if p.matches(path, dir) {
			return !p.negated
		}
	}
	return false
}

func (p pattern) matches(path string, dir bool) bool {
	if p.dirOnly && !dir {
		return false
	}
	if p.base != "" {
		rest, ok := strings.CutPrefix(path, p.base+"/")
		if !ok {
			return false
		}
		path = rest
	}
	if !p.anchored {
		path = path[strings.LastIndexByte(path, '/')+1:]
	}
	return wildmatch(p.glob, path)
}

// wildmatch matches a glob as git does for paths (its wildmatch.c with
// WM_PATHNAME): * and ? stop at slashes, ** between slashes does not.
func wildmatch(glob, path string) bool {
	m := matcher{glob: glob, path: path, failed: map[[2]int]bool{}}
	return m.at(0, 0)
}

type matcher struct {
	glob, path string
	failed     map[[2]int]bool // so that no pair of positions is tried twice
}

func (m *matcher) at(g, p int) bool {
	key := [2]int{g, p}
	if m.failed[key] {
		return false
	}
	ok := m.try(g, p)
	if !ok {
		m.failed[key] = true
	}
	return ok
}

func (m *matcher) try(g, p int) bool {
	for ; g < len(m.glob); g++ {
		c := m.glob[g]
		if c == '*' {
			return m.star(g, p)
		}
		if p == len(m.path) {
			return false
		}
		switch c {
		case '?':
			if m.path[p] == '/' {
				return false
			}
		case '[':
			end, ok := class(m.glob[g:], m.path[p])
			if !ok {
				return false
			}
			g += end
		case '\\':
			g++
			if g == len(m.glob) || m.glob[g] != m.path[p] {
				return false
			}
		default:
			if c != m.path[p] {
				return false
			}
		}
		p++
	}
	return p == len(m.path)
}

// star matches the stars at g.
func (m *matcher) star(g, p int) bool {
	end := g
	for end < len(m.glob) && m.glob[end] == '*' {
		end++
	}
	rest := m.glob[end:]
	crosses := end-g > 1 && (g == 0 || m.glob[g-1] == '/') && (rest == "" || rest[0] == '/' || strings.HasPrefix(rest, `\/`))
	if crosses && rest != "" && rest[0] == '/' && m.at(end+1, p) {
		return true // **/ matches no directory at all as well
	}
	for ; ; p++ {
		if m.at(end, p) {
			return true
		}
		if p == len(m.path) || m.path[p] == '/' && !crosses {
			return false
		}
	}
}

// class matches one byte with the bracket expression that glob begins with and
// gives the index of its closing bracket. One that is not closed matches nothing.
func class(glob string, b byte) (end int, ok bool) {
	i := 1
	negated := i < len(glob) && (glob[i] == '!' || glob[i] == '^')
	if negated {
		i++
	}
	matched := false
	var low byte // start of a range, if what comes next is a dash
	for first := true; ; first = false {
		if i >= len(glob) {
			return 0, false
		}
		c := glob[i]
		switch {
		case c == ']' && !first:
			return i, matched != negated && b != '/'
		case c == '-' && low != 0 && i+1 < len(glob) && glob[i+1] != ']':
			i++
			if glob[i] == '\\' {
				i++
			}
			if i >= len(glob) {
				return 0, false
			}
			matched = matched || low <= b && b <= glob[i]
			low = 0
		case strings.HasPrefix(glob[i:], "[:"):
			name, _, closed := strings.Cut(glob[i+2:], "]")
			if !closed {
				return 0, false
			}
			if !strings.HasSuffix(name, ":") {
				matched, low = matched || b == '[', '['
				break
			}
			in, known := posix[strings.TrimSuffix(name, ":")]
			if !known {
				return 0, false
			}
			matched, low = matched || in(b), 0
			i += len("[:") + len(name)
		default:
			if c == '\\' {
				i++
				if i >= len(glob) {
					return 0, false
				}
				c = glob[i]
			}
			matched, low = matched || c == b, c
		}
		i++
	}
}

func lower(b byte) bool { return 'a' <= b && b <= 'z' }
func upper(b byte) bool { return 'A' <= b && b <= 'Z' }
func digit(b byte) bool { return '0' <= b && b <= '9' }
func graph(b byte) bool { return '!' <= b && b <= '~' }

var posix = map[string]func(byte) bool{
	"alnum":  func(b byte) bool { return lower(b) || upper(b) || digit(b) },
	"alpha":  func(b byte) bool { return lower(b) || upper(b) },
	"blank":  func(b byte) bool { return b == ' ' || b == '\t' },
	"cntrl":  func(b byte) bool { return b < ' ' || b == 0x7f },
	"digit":  digit,
	"graph":  graph,
	"lower":  lower,
	"print":  func(b byte) bool { return graph(b) || b == ' ' },
	"punct":  func(b byte) bool { return graph(b) && !lower(b) && !upper(b) && !digit(b) },
	"space":  func(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' },
	"upper":  upper,
	"xdigit": func(b byte) bool { return digit(b) || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F' },
}
