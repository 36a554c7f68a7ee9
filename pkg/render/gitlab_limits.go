package render

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/failure"
)

// GitLab's limits, as a new installation has them.
const (
	maxJobName = 255
	// maxNeeds is what one job may need, the parent's prepare included.
	maxNeeds = 50
	// maxMemory is max_yaml_size_bytes: what the objects of one file may take
	// up in GitLab, some five to eight times the file.
	maxMemory = 2 << 20
)

// plainName is what names may be in job names, variables and file names: it
// holds nothing that GitLab, a shell or a glob would expand.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// plainScalar is what all readers of YAML take for the same string without
// quotes. GitLab's reads YAML 1.1, with symbols (:x) and numbers such as
// 1,000 and 1:30 beside.
var plainScalar = regexp.MustCompile(`^(\.[A-Za-z]{2}|[A-Za-z$])[A-Za-z0-9_./@$-]*( [A-Za-z0-9_./@$-]+)*$`)

// words are not strings for some reader of YAML, in whatever case.
var words = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", ".inf", ".nan"}

// carefully quotes every string that is not plain, and refuses text that
// would show as something else than it is.
func carefully(n *yaml.Node) error {
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.ShortTag() == "!!binary": // what the encoder makes of invalid UTF-8
		return failure.Input("a text that is not UTF-8 cannot be rendered: %s", n.Value)
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
	case plainScalar.MatchString(s) && !slices.Contains(words, strings.ToLower(s)):
		return 0
	case strings.Contains(s, `"`) && !strings.ContainsAny(s, "'\n\t"):
		return yaml.SingleQuotedStyle
	}
	return yaml.DoubleQuotedStyle
}

// misleading gives the first character that is not seen but changes what is.
func misleading(s string) (rune, bool) {
	for _, r := range s {
		if r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return r, true
		}
	}
	return 0, false
}

// withinMemory refuses what GitLab would refuse as too big. It counts as
// lib/gitlab/utils/deep_size.rb does: each key and value once more as often
// as it occurs.
func withinMemory(root *yaml.Node) error {
	if n := rubySize(root); n > maxMemory {
		jobs := 0
		for i := 0; i < len(root.Content); i += 2 {
			if strings.HasPrefix(root.Content[i].Value, "build ") {
				jobs++
			}
		}
		return failure.WithHint(
			failure.Input("the child pipeline is too big: %d builds would take %d KiB in GitLab, its limit is %d KiB", jobs, n>>10, maxMemory>>10),
			"plan fewer images at a time: pipegen plan NAME...")
	}
	return nil
}

// rubySize estimates what Ruby's ObjectSpace.memsize_of gives for the
// objects of a document, in bytes: for large ones a tenth too much.
func rubySize(n *yaml.Node) int {
	size := 0
	switch n.Kind {
	case yaml.ScalarNode:
		if n.ShortTag() != "!!str" {
			return 0 // true, false, null and small integers are in the reference
		}
		if size = 40; len(n.Value) > 15 {
			// Either beside the object, or in a slot of the next size.
			size = max(size+len(n.Value)+1, 80)
			for slot := 80; slot <= 640; slot *= 2 {
				if len(n.Value)+25 <= slot {
					size = max(size, slot)
					break
				}
			}
		}
	case yaml.SequenceNode:
		if size = 40; len(n.Content) > 3 {
			size += 8 * max(16, 2*len(n.Content))
		}
	case yaml.MappingNode:
		entries := len(n.Content) / 2
		if size = 168; entries > 8 {
			slots := 16
			for slots < entries {
				slots *= 2
			}
			size = 40 + 56 + slots*24 + 2*slots*4
		}
	}
	for _, child := range n.Content {
		size += rubySize(child)
	}
	return size
}
