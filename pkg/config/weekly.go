package config

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/glob"
)

// WeeklyFile lists what is rebuilt weekly.
const WeeklyFile = "rebuild-weekly.txt"

// Policies of a WeeklyEntry.
const (
	PolicyAlways = "always"
	PolicyStale  = "stale" // only if a base image moved
)

// WeeklyEntry is one line of rebuild-weekly.txt.
type WeeklyEntry struct {
	// Pattern is the name of an image or project, a directory, or a
	// doublestar glob of them.
	Pattern string
	// PolicyAlways or PolicyStale.
	Policy string
	Line   int

	column int
}

// Matches says whether e means this image of p: by the image's name, the
// project's name or its directory.
func (e WeeklyEntry) Matches(p *Project, image string) bool {
	if slices.Contains([]string{image, p.Config.Name, p.Dir}, e.Pattern) {
		return true
	}
	return glob.HasMeta(e.Pattern) && (glob.Match(e.Pattern, image) || glob.Match(e.Pattern, p.Dir))
}

// parseWeekly reads rebuild-weekly.txt: a pattern a line, in double quotes if
// it has blanks, and optionally a policy; # begins a comment where a word
// could begin.
func parseWeekly(data []byte) ([]WeeklyEntry, Faults) {
	var all []WeeklyEntry
	var faults Faults
	seen := map[string]int{}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		fault := func(severity Severity, column int, rule, hint, format string, args ...any) {
			faults = append(faults, Fault{WeeklyFile, number, column, severity, rule, fmt.Sprintf(format, args...), hint})
		}
		if i := strings.IndexFunc(line, func(r rune) bool { return isControl(r) && r != '\t' }); i >= 0 {
			fault(Error, 1+utf8.RuneCountInString(line[:i]), "control-character", "", "the line contains a control character")
			continue
		}
		words, problem := weeklyWords(line)
		if problem != "" {
			fault(Error, words[len(words)-1].column, "bad-quote", "", "%s", problem)
			continue
		}
		if len(words) == 0 {
			continue
		}
		e := WeeklyEntry{Pattern: words[0].text, Policy: PolicyAlways, Line: number, column: words[0].column}
		if len(words) > 1 {
			e.Policy = words[1].text
		}
		switch {
		case !slices.Contains(policies, e.Policy):
			hint := oneOf(e.Policy, policies)
			if Nearest(e.Policy, policies) == "" {
				hint += "; put a name with blanks in double quotes"
			}
			fault(Error, words[1].column, "unknown-value", hint, "unknown policy %s", show(e.Policy))
			continue
		case len(words) > 2:
			fault(Error, words[2].column, "extra-word", "a comment begins with #", "%s follows the policy", show(words[2].text))
			continue
		}
		if e.Pattern != "" {
			e.Pattern = path.Clean(e.Pattern)
		}
		if problem, hint := badGlob(e.Pattern, false); problem != "" {
			fault(Error, e.column, "bad-glob", hint, "%s %s", show(e.Pattern), problem)
			continue
		}
		if first, twice := seen[e.Pattern]; twice {
			fault(Warning, e.column, "duplicate-entry", "", "%s is listed twice, first in line %d", show(e.Pattern), first)
			continue
		}
		seen[e.Pattern] = number
		all = append(all, e)
	}
	return all, faults
}

type weeklyWord struct {
	text   string
	column int
}

// weeklyWords splits a line at its blanks. On a problem the last word is
// where it is.
func weeklyWords(line string) (words []weeklyWord, problem string) {
	for rest := line; ; {
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		if rest == "" || rest[0] == '#' {
			return words, ""
		}
		w := weeklyWord{column: 1 + utf8.RuneCountInString(line[:len(line)-len(rest)])}
		if rest[0] != '"' {
			end := strings.IndexFunc(rest, unicode.IsSpace)
			if end < 0 {
				end = len(rest)
			}
			w.text, rest = rest[:end], rest[end:]
			words = append(words, w)
			continue
		}
		var closed bool
		w.text, rest, closed = strings.Cut(rest[1:], `"`)
		words = append(words, w)
		if !closed {
			return words, "a quote is not closed"
		}
		if r, _ := utf8.DecodeRuneInString(rest); rest != "" && !unicode.IsSpace(r) {
			return words, "a blank must follow the closing quote"
		}
	}
}

// unmatched gives a fault for every entry that means no image.
func unmatched(entries []WeeklyEntry, projects []*Project) Faults {
	if len(entries) == 0 {
		return nil
	}
	literal := map[string]bool{}
	var names []string
	for _, p := range projects {
		literal[p.Dir] = true
		names = append(names, p.Config.Name)
		for _, image := range p.Images() {
			literal[image.Name] = true
			names = append(names, image.Name)
		}
	}
	for _, name := range names {
		literal[name] = true
	}
	matches := func(e WeeklyEntry) bool {
		if literal[e.Pattern] {
			return true
		}
		return glob.HasMeta(e.Pattern) && slices.ContainsFunc(projects, func(p *Project) bool {
			return slices.ContainsFunc(p.Images(), func(i ProjectImage) bool { return e.Matches(p, i.Name) })
		})
	}
	var faults Faults
	for _, e := range entries {
		if matches(e) {
			continue
		}
		f := Fault{File: WeeklyFile, Line: e.Line, Column: e.column, Severity: Error, Rule: "no-match", Message: show(e.Pattern) + " is no image, project directory or glob of them"}
		if near := Nearest(e.Pattern, names); near != "" {
			f.Hint = fmt.Sprintf("did you mean %q?", near)
		}
		faults = append(faults, f)
	}
	return faults
}
