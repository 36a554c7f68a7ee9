package config

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/glob"
)

// The functions here judge one word of a configuration. Those that return a
// text say what is wrong with the word, in words that follow its name; ""
// means nothing.

// maxTag is how long a tag may be (OCI distribution specification).
const maxTag = 128

// isTag says whether s is a tag as in the OCI distribution specification:
// [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}. A name that stands at the beginning of
// tags has the same shape.
func isTag(s string) bool {
	return s != "" && len(s) <= maxTag && s[0] != '.' && s[0] != '-' &&
		!strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && r != '.' && r != '-' })
}

// isComponent says whether s may stand between the slashes of a repository's
// name: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* in the OCI distribution
// specification.
func isComponent(s string) bool {
	isPlain := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if s == "" || !isPlain(s[0]) || !isPlain(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isPlain(s[i]) {
			i++
			continue
		}
		end := i
		for !isPlain(s[end]) {
			end++
		}
		if separator := s[i:end]; separator != "." && separator != "_" && separator != "__" && strings.Trim(separator, "-") != "" {
			return false
		}
		i = end
	}
	return true
}

// isEnvName says whether s can name an environment variable in a shell.
func isEnvName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) })
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
}

// badPath judges a path that must stay below the directory it starts from.
func badPath(s string) string {
	switch {
	case strings.Contains(s, `\`):
		return "contains a backslash"
	case path.IsAbs(s) || len(s) > 2 && s[1:3] == ":/":
		return "is absolute"
	case path.Clean(s) == ".." || strings.HasPrefix(path.Clean(s), "../"):
		return "leaves the context"
	}
	return ""
}

// badGlob judges a doublestar pattern that is matched against paths relative
// to the root of the repository: of directories, or of files.
func badGlob(s string, ofFiles bool) (problem, hint string) {
	switch {
	case s == "":
		return "is empty", ""
	case !glob.Valid(s):
		return "is no valid glob", "check its brackets and braces"
	case path.IsAbs(s):
		return "is absolute", "globs are relative to the root of the repository"
	case slices.Contains(strings.Split(s, "/"), ".."):
		return "leads upwards", "globs are relative to the root of the repository"
	case ofFiles && strings.HasSuffix(s, "/"):
		return "can never match", "write " + path.Clean(s) + "/**"
	case path.Clean(s) != s:
		return "can never match", "write " + path.Clean(s)
	}
	return "", ""
}

// badGitURL judges the URL of an upstream repository. Only transports that
// run nothing on this machine are let through: git's ext:: and fd:: are not.
func badGitURL(s string) (problem, hint string) {
	const want = "https://host/path, ssh://git@host/path, git@host:path or file:///path"
	if strings.HasPrefix(s, "-") {
		return "begins with a dash", want
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' }) {
		return "contains a blank", want
	}
	scheme, _, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		if isSCPLike(s) {
			return "", ""
		}
		return "is no git URL", want
	}
	u, err := url.Parse(s)
	if err != nil {
		return "is no git URL", want
	}
	if _, secret := u.User.Password(); secret {
		return "contains a password", "take it out and name the variable that holds it: upstream_auth: {token_env: NAME}"
	}
	switch scheme {
	case "https", "http", "ssh", "git":
		if u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") || strings.Trim(u.Path, "/") == "" {
			return "is no git URL", want
		}
	case "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return "is no git URL", "file:///path"
		}
	default:
		return "has a scheme that is none of https, http, ssh, git and file", want
	}
	return "", ""
}

// isSCPLike says whether s is [user@]host:path.
func isSCPLike(s string) bool {
	host, rest, found := strings.Cut(s, ":")
	if !found || rest == "" || rest[0] == ':' || rest[0] == '-' {
		return false
	}
	user, name, hasUser := strings.Cut(host, "@")
	if !hasUser {
		user, name = "git", host
	}
	plain := func(s string) bool {
		return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && r != '.' && r != '-' })
	}
	// One letter is the drive of a Windows path; an @ in what follows means
	// that it is a password.
	return plain(user) && plain(name) && len(name) > 1 && !strings.Contains(rest, "@")
}

// badRef judges the name of a branch or tag, or a commit SHA, by the rules of
// git-check-ref-format.
func badRef(s string) string {
	if strings.HasPrefix(s, "-") {
		return "begins with a dash"
	}
	if s == "@" || strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasSuffix(s, ".") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) }) {
		return "is no name of a branch, tag or commit"
	}
	for component := range strings.SplitSeq(s, "/") {
		if component == "" || component[0] == '.' || strings.HasSuffix(component, ".lock") {
			return "is no name of a branch, tag or commit"
		}
	}
	return ""
}

// badDuration judges a duration such as 45m.
func badDuration(s string) string {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return "is no duration"
	case d <= 0:
		return "is not positive"
	}
	return ""
}

// badCPU and badSize judge quantities as in Kubernetes: a decimal number with
// a suffix, which for bytes must be there: "512" and "512m" are below one
// kilobyte and never meant.
func badCPU(s string) string {
	return badQuantity(s, "", "m")
}

func badSize(s string) string {
	return badQuantity(s, "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
}

func badQuantity(s string, suffixes ...string) string {
	number := strings.TrimRightFunc(s, func(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' })
	whole, fraction, dot := strings.Cut(number, ".")
	switch {
	case number == "", strings.Trim(whole+fraction, "0123456789") != "", whole == "", dot && fraction == "":
		return "is no quantity"
	case !slices.Contains(suffixes, s[len(number):]):
		return "is no quantity in a unit that is known here"
	case strings.Trim(whole+fraction, "0") == "":
		return "is nothing"
	}
	return ""
}

// isEndOfLife says whether an image is one of the archived Kaniko project.
func isEndOfLife(image string) bool {
	return strings.HasPrefix(image, "gcr.io/kaniko-project/") || strings.Contains(image, "/gcr.io/kaniko-project/")
}
