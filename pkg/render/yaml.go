package render

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/failure"
)

// mapping makes a YAML mapping of keys and values in turn; a nil value leaves
// its key out.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: make([]*yaml.Node, 0, len(pairs))}
	for i := 0; i+1 < len(pairs); i += 2 {
		key, _ := pairs[i].(string)
		if value := node(pairs[i+1]); value != nil {
			n.Content = append(n.Content, text(key), value)
		}
	}
	return n
}

// list makes a YAML sequence.
func list[T any](items ...T) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: make([]*yaml.Node, 0, len(items))}
	for _, item := range items {
		if s, ok := any(item).(string); ok {
			n.Content = append(n.Content, text(s))
		} else if value := node(item); value != nil {
			n.Content = append(n.Content, value)
		}
	}
	return n
}

// flow puts a sequence or mapping on one line.
func flow(n *yaml.Node) *yaml.Node {
	n.Style = yaml.FlowStyle
	return n
}

// text makes a YAML string.
func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// node gives strings, booleans, integers, lists of strings and nodes as nodes.
// Empty text and lists of nothing are nil.
func node(v any) *yaml.Node {
	switch v := v.(type) {
	case *yaml.Node:
		return v
	case string:
		if v == "" {
			return nil
		}
		return text(v)
	case []string:
		if len(v) == 0 {
			return nil
		}
		return list(v...)
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	case int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(v)}
	}
	return nil
}

// encode writes a document below a comment, which may have several lines.
// Every string is quoted that some reader of YAML would take for something
// else. The error is a failure.ErrInput for text that would show as something
// else than it is.
func encode(comment string, root *yaml.Node) ([]byte, error) {
	if err := carefully(root); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for line := range strings.Lines(comment) {
		b.WriteString("# " + line)
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// plain says whether all readers of YAML take s for the same string without
// quotes: words of letters, digits and _./@$- with one blank between them, of
// which the first begins with a letter, a $, or a dot and two letters. GitLab's
// reads YAML 1.1, with symbols (:x) and numbers such as 1,000 and 1:30 beside.
func plain(s string) bool {
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	switch {
	case s == "":
		return false
	case s[0] == '.':
		if len(s) < 3 || !letter(s[1]) || !letter(s[2]) {
			return false
		}
	case !letter(s[0]) && s[0] != '$':
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case letter(c), c >= '0' && c <= '9', c == '_', c == '.', c == '/', c == '@', c == '$', c == '-':
		case c == ' ' && i+1 < len(s) && s[i+1] != ' ':
		default:
			return false
		}
	}
	return true
}

// words are not strings for some reader of YAML, in whatever case.
var words = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", ".inf", ".nan"}

// carefully quotes every string that is not plain, and refuses text that
// would show as something else than it is.
func carefully(n *yaml.Node) error {
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.ShortTag() == "!!binary", !utf8.ValidString(n.Value): // the former is what Encode makes of the latter
		return failure.Input("a text that is not UTF-8 cannot be rendered: %q", n.Value)
	case n.ShortTag() == "!!str", n.ShortTag() == "!!merge":
		if r, bad := misleading(n.Value); bad {
			return failure.Input("the text %q cannot be rendered: it holds %U", n.Value, r)
		}
		n.Tag, n.Style = "!!str", styleOf(n.Value)
	}
	for _, child := range n.Content {
		if err := carefully(child); err != nil {
			return err
		}
	}
	return nil
}

func styleOf(s string) yaml.Style {
	switch {
	case plain(s) && !slices.Contains(words, strings.ToLower(s)):
		return 0
	case strings.Contains(s, `"`) && !strings.ContainsAny(s, "'\n\t"):
		return yaml.SingleQuotedStyle
	}
	return yaml.DoubleQuotedStyle
}

// misleading gives the first character that is not seen but changes what is.
func misleading(s string) (rune, bool) {
	for _, r := range s {
		if r >= ' ' && r < 0x7f {
			continue
		}
		if r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return r, true
		}
	}
	return 0, false
}
