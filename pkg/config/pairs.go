package config

import (
	"maps"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// Pairs are names with values. In a file they are a map, or a list of K=V.
// Values keep the text they are written with: 1.10 stays 1.10.
type Pairs map[string]string

// pairs gives the pairs of n over those of the lower layer.
func (d *decoder) pairs(lower Pairs, n *yaml.Node, name string) Pairs {
	all := maps.Clone(lower)
	if all == nil {
		all = Pairs{}
	}
	switch n.Kind {
	case yaml.MappingNode:
		for _, e := range entries(n, d.doc) {
			value, ok := d.pairValue(target(e.value), e.key.Value)
			if d.pairName(e.key, name, e.key.Value) && ok {
				all[e.key.Value] = value
			}
		}
	case yaml.SequenceNode:
		seen := make(map[string]int, len(n.Content))
		for _, element := range n.Content {
			at := element
			element = target(element)
			if element.Kind != yaml.ScalarNode || isNull(element) {
				d.doc.fault(at, "bad-pair", "write NAME=value", "an entry of %s is %s", name, kindOf(element))
				continue
			}
			// The text of the entry may be a secret: messages show no more than its name.
			key, value, found := strings.Cut(element.Value, "=")
			if !found {
				d.doc.fault(at, "bad-pair", "write NAME=value; NAME= gives the empty value", "an entry of %s has no =", name)
				continue
			}
			if line, twice := seen[key]; twice {
				d.doc.fault(at, "duplicate-key", "", "%s is written twice in %s, first in line %d", show(key), name, line)
				continue
			}
			seen[key] = at.Line
			if d.pairName(at, name, key) && d.clean(element, key, true) {
				all[key] = value
			}
		}
	default:
		d.doc.fault(n, "wrong-type", "write NAME: value, or a list of NAME=value", "%s wants a map or a list, not %s", name, kindOf(n))
	}
	return all
}

func (d *decoder) pairValue(n *yaml.Node, key string) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.doc.fault(n, "bad-pair", "put the text in quotes", "the value of %s is %s, not text", show(key), kindOf(n))
	case isNull(n) && d.doc.foreign:
		return "", true
	case isNull(n):
		d.doc.fault(n, "bad-pair", `write "" for the empty value`, "%s has no value", show(key))
	default:
		return n.Value, d.clean(n, show(key), true)
	}
	return "", false
}

func (d *decoder) pairName(n *yaml.Node, list, key string) bool {
	switch {
	case key == "":
		d.doc.fault(n, "bad-pair", "write NAME=value", "an entry of %s has no name", list)
	case strings.ContainsFunc(key, func(r rune) bool { return r == '=' || isControl(r) || unicode.IsSpace(r) }):
		d.doc.fault(n, "bad-pair", "", "the name %s in %s contains a blank, an = or a control character", show(key), list)
	case list == "env" && !isEnvName(key):
		d.doc.fault(n, "bad-env-name", "letters, digits and underscores, not beginning with a digit", "%s is no name of an environment variable", show(key))
	default:
		return true
	}
	return false
}
