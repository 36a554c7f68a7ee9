package config

import (
	"slices"

	"github.com/pipegen/pipegen/pkg/glob"
)

// Covers says whether a directory with a build-config.yaml is a project: its
// path or a glob of it is in projects, or there is no such list.
func (p *Pipegen) Covers(dir string) bool {
	return p.Projects == nil || slices.ContainsFunc(p.Projects, func(pattern string) bool {
		return pattern == dir || glob.Match(pattern, dir)
	})
}

// unmatchedGlob gives the warning for a glob of files that matches none of
// those of the checkout, which are sorted; rule "" means that it does, or is no
// glob at all.
func unmatchedGlob(pattern string, files []string) (rule, hint, message string) {
	if problem, _ := badGlob(pattern, true); problem != "" {
		return "", "", ""
	}
	for range glob.Find(glob.New([]string{pattern}), files, itself) {
		return "", "", ""
	}
	if !glob.HasMeta(pattern) && isDir(files, pattern) {
		return "glob-directory", "write " + pattern + "/**", show(pattern) + " is a directory: no file matches it"
	}
	return "no-match", "", show(pattern) + " matches no file"
}

func itself(s *string) string { return *s }

// unmatchedGlobs warns of the globs of files in pipegen.yaml that match none.
func (l *loader) unmatchedGlobs(settings *document) {
	if settings.root == nil {
		return
	}
	warn := func(globs []string, path ...any) {
		for i, pattern := range globs {
			// What is not written there is a default of pipegen's own.
			n, written := locate(settings.root, at(append(path, i)...))
			if rule, hint, message := unmatchedGlob(pattern, l.files); rule != "" && written {
				l.faults = append(l.faults, Fault{
					File: settings.file, Line: n.Line, Column: n.Column, Severity: Warning, Rule: rule, Message: message, Hint: hint,
				})
			}
		}
	}
	warn(l.pipegen.Ignore, "ignore")
	warn(l.pipegen.RebuildAll, "rebuild_all")
	if l.pipegen.Defaults != nil {
		warn(l.pipegen.Defaults.Watch, "defaults", "watch")
	}
}
