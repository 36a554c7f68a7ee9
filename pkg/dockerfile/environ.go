package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// PlatformArgs gives the arguments that a builder sets by itself: TARGET* for
// the platform that the image is for and BUILD* for that of the machine, both
// as os/arch[/variant].
func PlatformArgs(target, build string) map[string]string {
	args := make(map[string]string, 2*len(platformParts))
	for _, part := range platformParts {
		args["TARGET"+part] = platformPart(target, part)
		args["BUILD"+part] = platformPart(build, part)
	}
	return args
}

var platformParts = []string{"PLATFORM", "OS", "ARCH", "VARIANT"}

func platformPart(platform, part string) string {
	if part == "PLATFORM" {
		return platform
	}
	os, rest, _ := strings.Cut(platform, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	switch part {
	case "OS":
		return os
	case "ARCH":
		return arch
	}
	return variant
}

// environ holds the variables that FROM sees. It implements shell.EnvGetter.
type environ struct {
	args     map[string]string // given
	defaults map[string]string // of ARG
	platform string            // what builders set by themselves
	escape   byte
	lex      *shell.Lex // made when a word needs it
}

func (e *environ) Get(name string) (string, bool) {
	if v, ok := e.args[name]; ok {
		return v, true
	}
	if v, ok := e.defaults[name]; ok {
		return v, true
	}
	part, ok := strings.CutPrefix(name, "TARGET")
	if !ok {
		part, ok = strings.CutPrefix(name, "BUILD")
	}
	if ok && slices.Contains(platformParts, part) {
		return platformPart(e.platform, part), true
	}
	return "", false
}

func (e *environ) Keys() []string {
	all := PlatformArgs(e.platform, e.platform)
	maps.Copy(all, e.defaults)
	maps.Copy(all, e.args)
	return slices.Collect(maps.Keys(all))
}

// expand expands the variables in a word, and removes its quotes.
func (e *environ) expand(word string) (string, error) {
	if s, ok := e.plain(word); ok {
		return s, nil
	}
	if e.lex == nil {
		e.lex = shell.NewLex(rune(e.escape))
	}
	s, _, err := e.lex.ProcessWord(word, e)
	return s, err
}

// plain expands a word of ASCII without quotes, escapes and other variables
// than $NAME and ${NAME}, as most are. It is what the lexer makes of them, at a
// tenth of the cost.
func (e *environ) plain(word string) (string, bool) {
	if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune("'\"\\`", r) }) {
		return "", false
	}
	before, rest, more := strings.Cut(word, "$")
	if !more {
		return word, true
	}
	var b strings.Builder
	for more {
		b.WriteString(before)
		name, braces := strings.CutPrefix(rest, "{")
		end := 0
		for end < len(name) && isName(name[end], end) {
			end++
		}
		name, rest = name[:end], name[end:]
		if name == "" || braces && !strings.HasPrefix(rest, "}") {
			return "", false
		}
		if braces {
			rest = rest[1:]
		}
		value, _ := e.Get(name)
		b.WriteString(value)
		before, rest, more = strings.Cut(rest, "$")
	}
	b.WriteString(before)
	return b.String(), true
}

// isName says whether c can be the character at this place of a variable's name.
func isName(c byte, at int) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || at > 0 && c >= '0' && c <= '9'
}

// environ gives the variables that FROM sees. Arguments that no ARG declares
// count too, as Kaniko has it: a file that BuildKit refuses for them only
// yields a base more here.
func (g *Graph) environ(args map[string]string) (*environ, error) {
	e := &environ{args: args, defaults: make(map[string]string, len(g.args)), platform: "linux/amd64", escape: g.escape}
	if platform, ok := args["TARGETPLATFORM"]; ok {
		e.platform = platform
	}
	for _, a := range g.args {
		if _, set := args[a.Key]; set || a.Default == nil {
			continue
		}
		v, err := e.expand(*a.Default)
		if err != nil {
			return nil, &SyntaxError{a.Line, fmt.Sprintf("expanding ARG %s: %v", a.Key, err)}
		}
		e.defaults[a.Key] = v
	}
	return e, nil
}
