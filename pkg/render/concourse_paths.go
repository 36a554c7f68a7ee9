package render

import (
	"slices"
	"strings"
)

// Concourse's git resource hands its paths and ignore_paths to git as
// pathspecs (its assets/check), through a shell's eval. Without magic a
// pathspec is a path, with all that is below it, or a pattern in which * and ?
// match slashes too (gitglossary(7)); :(glob) would mean what doublestar does,
// but the shell does not let its parentheses pass. So what the configuration
// says is written as pathspecs that match it and perhaps more, never less, and
// that hold nothing which a shell expands: a needless trigger costs a job, a
// missed one a stale image.

// maxPathspecs bounds what one glob expands to.
const maxPathspecs = 32

// plainInShell says whether a byte means itself in a pathspec and in a shell,
// wherever it stands but at the beginning (see excluding).
func plainInShell(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._/+,@%=-", c) >= 0
}

// literal writes a path as a pathspec: any byte stands for one that is not
// plain.
func literal(p string) (spec string, exact bool) {
	b := []byte(p)
	exact = true
	for i, c := range b {
		if !plainInShell(c) {
			b[i], exact = '?', false
		}
	}
	return string(b), exact
}

// pathspecsBelow gives pathspecs of a directory and all that is below it; none
// for the root of the repository, which holds everything.
func pathspecsBelow(dir string) []string {
	if dir == "." {
		return nil
	}
	spec, exact := literal(dir)
	if !exact {
		return []string{spec, spec + "/*"} // a pattern does not match what is below
	}
	return []string{spec}
}

// pathspecsOf gives pathspecs that match at least what the doublestar globs
// do, sorted. A nil result means that everything matches.
func pathspecsOf(globs []string) []string {
	specs := []string{}
	for _, glob := range globs {
		alternatives, ok := braces(glob)
		if !ok {
			alternatives = []string{fixedPrefix(glob) + "**"}
		}
		for _, alternative := range alternatives {
			more, _ := pathspecs(alternative)
			if slices.Contains(more, "*") {
				return nil
			}
			specs = append(specs, more...)
		}
	}
	slices.Sort(specs)
	specs = slices.Compact(specs)
	return slices.DeleteFunc(slices.Clone(specs), func(spec string) bool {
		above, below := strings.CutSuffix(spec, "/*")
		return below && !strings.ContainsAny(above, "*?[") && slices.Contains(specs, above)
	})
}

// ignoredPathspecs gives pathspecs for ignore_paths that match no more than
// the doublestar globs do. Globs that cannot be written so are left out: what
// they ignore triggers a job.
func ignoredPathspecs(globs []string) []string {
	var specs []string
	for _, glob := range globs {
		alternatives, _ := braces(glob)
		for _, alternative := range alternatives {
			if same, exact := pathspecs(alternative); exact {
				for _, spec := range same {
					specs = append(specs, excluding(spec))
				}
			}
		}
	}
	slices.Sort(specs)
	return slices.Compact(specs)
}

// excluding makes a pathspec fit to stand behind the :! that excludes it. A
// punctuation mark there would be taken for more magic, and a path without
// wildcards for a directory as well as for the file that a glob means.
func excluding(spec string) string {
	last := len(spec) - 1
	if !strings.ContainsAny(spec, "*?[") {
		spec = spec[:last] + "[" + spec[last:] + "]"
	}
	if strings.IndexByte("_+,@%=-", spec[0]) >= 0 {
		spec = "[" + spec[:1] + "]" + spec[1:]
	}
	return spec
}

// braces expands the alternatives of a glob, as far as they stay few.
func braces(glob string) (alternatives []string, ok bool) {
	open, class := -1, false
	for i := 0; i < len(glob) && open < 0; i++ {
		switch c := glob[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '{':
			open = i
		}
	}
	if open < 0 {
		return []string{glob}, true
	}
	parts, rest, ok := alternation(glob[open+1:])
	if !ok {
		return nil, false
	}
	for _, part := range parts {
		more, ok := braces(glob[:open] + part + rest)
		if alternatives = append(alternatives, more...); !ok || len(alternatives) > maxPathspecs {
			return nil, false
		}
	}
	return alternatives, true
}

// alternation splits what follows an opening brace at its commas.
func alternation(s string) (parts []string, rest string, ok bool) {
	depth, start, class := 0, 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '{':
			depth++
		case c == ',' && depth == 0:
			parts, start = append(parts, s[start:i]), i+1
		case c == '}' && depth == 0:
			return append(parts, s[start:i]), s[i+1:], true
		case c == '}':
			depth--
		}
	}
	return nil, "", false
}

// fixedPrefix is the directory above all that a glob can match, with a slash,
// or "".
func fixedPrefix(glob string) string {
	if i := strings.IndexAny(glob, `*?[{\`); i >= 0 {
		glob = glob[:i]
	}
	return glob[:strings.LastIndexByte(glob, '/')+1]
}

// mayMatchBelow says whether a glob can match a file below dir.
func mayMatchBelow(glob, dir string) bool {
	if !strings.ContainsAny(glob, `*?[{\`) {
		return isBelow(glob, dir)
	}
	fixed := strings.TrimSuffix(fixedPrefix(glob), "/")
	return fixed == "" || isBelow(fixed, dir) || isBelow(dir, fixed)
}

func isBelow(p, dir string) bool { return p == dir || dir == "." || strings.HasPrefix(p, dir+"/") }

// pathspecs writes a doublestar glob without braces as pathspecs that match
// at least the same, and says whether they match exactly the same.
func pathspecs(glob string) (specs []string, exact bool) {
	specs, exact = []string{""}, true
	put := func(s string) {
		for i := range specs {
			if strings.HasSuffix(specs[i], "*") {
				specs[i] += strings.TrimLeft(s, "*")
			} else {
				specs[i] += s
			}
		}
	}
	for i := 0; i < len(glob); {
		atStart := i == 0 || glob[i-1] == '/'
		rest := glob[i:]
		switch c := glob[i]; {
		case rest == "**" && atStart: // the whole glob
			put("*")
			i += len(rest)
		case rest == "/**": // what is above as well
			above := slices.Clone(specs)
			put("/*")
			specs = append(specs, above...)
			i += len(rest)
		case strings.HasPrefix(rest, "**/"):
			exact = exact && atStart
			// A star that follows stands for directories too.
			if !strings.HasPrefix(rest, "**/*") {
				none := slices.Clone(specs)
				put("*/")
				specs = append(specs, none...)
			}
			if len(specs) > maxPathspecs {
				return []string{literalPrefix(glob) + "*"}, false
			}
			i += len("**/")
		case c == '*':
			stars := len(rest) - len(strings.TrimLeft(rest, "*"))
			// Only in the name of a file in any directory does it not matter
			// that git's star matches slashes.
			exact = exact && stars == 1 && !strings.Contains(rest, "/") && strings.HasSuffix(glob[:i], "**/")
			put("*")
			i += stars
		case c == '?':
			exact = false
			put("?*") // one character may be several bytes
			i++
		case c == '[':
			exact = false
			end := classEnd(rest)
			if plainClass(rest[:end]) {
				put(rest[:end])
			} else {
				put("?*")
			}
			i += end
		default:
			if c == '\\' && i+1 < len(glob) {
				i++
			}
			spec, plain := literal(glob[i : i+1])
			exact = exact && plain
			put(spec)
			i++
		}
	}
	slices.Sort(specs)
	return slices.Compact(specs), exact
}

func literalPrefix(glob string) string {
	spec, _ := literal(fixedPrefix(glob))
	return spec
}

// classEnd gives the length of the class that a glob begins with.
func classEnd(glob string) int {
	for i := 1; i < len(glob); i++ {
		switch glob[i] {
		case '\\':
			i++
		case ']':
			return i + 1
		}
	}
	return len(glob)
}

// plainClass says whether a class means the same to git: letters, digits and
// ranges of them.
func plainClass(class string) bool {
	inner := strings.TrimSuffix(strings.TrimPrefix(class, "["), "]")
	for i := range len(inner) {
		if c := inner[i]; !plainInShell(c) || strings.IndexByte("+,@%=/", c) >= 0 {
			return false
		}
	}
	return inner != ""
}
