package diff

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/pipegen/pipegen/pkg/failure"
)

// readConfigEnvironment adds what GIT_CONFIG_COUNT announces; see git-config(1), ENVIRONMENT.
func readConfigEnvironment(getenv func(string) string, into map[string][]string) error {
	text := getenv("GIT_CONFIG_COUNT")
	if text == "" {
		return nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 || count > 10_000 {
		return failure.Input("GIT_CONFIG_COUNT %q is no number of settings", text)
	}
	for i := range count {
		n := strconv.Itoa(i)
		key := getenv("GIT_CONFIG_KEY_" + n)
		section, rest, ok := strings.Cut(key, ".")
		if !ok {
			return failure.Input("GIT_CONFIG_KEY_%d %q is no key", i, key)
		}
		sub, variable := "", rest
		if dot := strings.LastIndexByte(rest, '.'); dot >= 0 {
			sub, variable = rest[:dot+1], rest[dot+1:]
		}
		key = strings.ToLower(section) + "." + sub + strings.ToLower(variable)
		into[key] = append(into[key], getenv("GIT_CONFIG_VALUE_"+n))
	}
	return nil
}

// readIncluding reads a file of git's configuration and those that it includes
// by include.path and includeIf.gitdir.path; see git-config(1), INCLUDES. CI
// systems keep credentials in such files. Other conditions do not hold here.
func readIncluding(l layout, file string, into map[string][]string, depth int) error {
	if depth > 10 {
		return failure.Input("git's configuration %s is included again and again", file)
	}
	settings := map[string][]string{}
	if err := readConfigFile(file, settings); err != nil {
		return err
	}
	for key, values := range settings {
		into[key] = append(into[key], values...)
		condition, conditional := strings.CutPrefix(strings.TrimSuffix(key, ".path"), "includeif.")
		if key != "include.path" && (!conditional || !l.holds(condition, file)) {
			continue
		}
		for _, name := range values {
			if err := readIncluding(l, expandPath(name, file), into, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds says whether a condition of includeIf does.
func (l layout) holds(condition, file string) bool {
	kind, pattern, _ := strings.Cut(condition, ":")
	dir := filepath.ToSlash(l.gitDir)
	switch kind {
	case "gitdir":
	case "gitdir/i":
		pattern, dir = strings.ToLower(pattern), strings.ToLower(dir)
	default:
		return false
	}
	if strings.HasPrefix(pattern, "./") || strings.HasPrefix(pattern, "~/") {
		pattern = expandPath(pattern, file)
	} else if !path.IsAbs(pattern) {
		pattern = "**/" + pattern
	}
	if strings.HasSuffix(condition, "/") {
		pattern = strings.TrimSuffix(pattern, "/") + "/**"
	}
	if strings.HasSuffix(pattern, "/**") {
		pattern += "/*" // not the directory itself
	}
	matched, err := doublestar.Match(pattern, dir)
	return err == nil && matched
}

// expandPath makes a path of git's configuration absolute.
func expandPath(name, file string) string {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(name) {
		return filepath.Join(filepath.Dir(file), name)
	}
	return name
}
