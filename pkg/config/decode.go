package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"gopkg.in/yaml.v3"
)

// decoder fills values from YAML nodes and reports, with its position, every
// key that is unknown or written twice and every value of a wrong type. What
// is there already is the lower layer: maps and structs merge, the rest is
// replaced, and nothing that the lower layer shares with others is changed.
type decoder struct {
	doc *document
}

// decode fills out, a pointer to a struct, from n.
func decode(doc *document, n *yaml.Node, out any) {
	if n == nil {
		return
	}
	(&decoder{doc}).value(reflect.ValueOf(out).Elem(), n, "the file")
}

// layer fills out from n as decode does, for an n whose faults have been
// reported already.
func layer(n *yaml.Node, out any) { decode(&document{}, n, out) }

func (d *decoder) value(v reflect.Value, n *yaml.Node, name string) {
	n = target(n)
	if isNull(n) && v.Kind() != reflect.Interface {
		if d.doc.foreign {
			return
		}
		d.doc.fault(n, "wrong-type", "give it a value, or remove the line", "%s has no value", show(name))
		return
	}
	switch t := v.Type(); t.Kind() {
	case reflect.Pointer:
		if t == reflect.TypeFor[*CreateRepository]() && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
			v.SetZero()
			if strings.EqualFold(n.Value, "true") {
				v.Set(reflect.New(t.Elem()))
			}
			return
		}
		below := reflect.New(t.Elem())
		if !v.IsNil() {
			below.Elem().Set(v.Elem())
		}
		// Scripts are the texts behind pointers; they may have several lines.
		if t.Elem().Kind() == reflect.String {
			if s, ok := d.text(n, name, true); ok {
				below.Elem().SetString(s)
				v.Set(below)
			}
			return
		}
		before := len(d.doc.faults)
		d.value(below.Elem(), n, name)
		// A scalar that could not be read counts as not written.
		if t.Elem().Kind() == reflect.Struct || len(d.doc.faults) == before {
			v.Set(below)
		}
	case reflect.Struct:
		d.structure(v, n, name)
	case reflect.Map:
		if t == reflect.TypeFor[Pairs]() {
			v.Set(reflect.ValueOf(d.pairs(v.Interface().(Pairs), n, name)))
			return
		}
		d.mapping(v, n, name)
	case reflect.Slice:
		d.list(v, n, name)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.doc.fault(n, "wrong-type", "write true or false", "%s wants true or false, not %s", name, kindOf(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			d.doc.fault(n, "wrong-type", "write a whole number", "%s wants a whole number, not %s", name, kindOf(n))
			return
		}
		v.SetInt(int64(i))
	case reflect.String:
		if s, ok := d.text(n, name, false); ok && (s != "" || !d.doc.foreign) {
			v.SetString(s)
		}
	case reflect.Interface:
		if x := d.free(n, name); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		panic("config: no rule for a key of type " + t.String())
	}
}

func (d *decoder) structure(v reflect.Value, n *yaml.Node, name string) {
	if !d.wants(n, yaml.MappingNode, name) {
		return
	}
	keys := keysIn(v.Type())
	for _, e := range entries(n, d.doc) {
		if i, ok := keys.index[e.key.Value]; ok {
			d.value(v.Field(i), e.value, e.key.Value)
			continue
		}
		if d.doc.full() {
			continue
		}
		if _, ok := keysOf()[reflect.TypeFor[BuildConfig]()].index[e.key.Value]; ok && v.Type() == reflect.TypeFor[Override]() {
			d.doc.fault(e.key, "unknown-key", "write it at the top of the file", "%s cannot differ per platform", e.key.Value)
			continue
		}
		hint := ""
		if near := Nearest(e.key.Value, keys.names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		} else if len(keys.names) <= 8 {
			hint = "known keys: " + strings.Join(keys.names, ", ")
		}
		d.doc.fault(e.key, "unknown-key", hint, "unknown key %s", show(e.key.Value))
	}
}

func (d *decoder) mapping(v reflect.Value, n *yaml.Node, name string) {
	if !d.wants(n, yaml.MappingNode, name) {
		return
	}
	t := v.Type()
	all := reflect.MakeMap(t)
	for it := v.MapRange(); it.Next(); {
		all.SetMapIndex(it.Key(), it.Value())
	}
	for _, e := range entries(n, d.doc) {
		element := reflect.New(t.Elem()).Elem()
		key := reflect.ValueOf(e.key.Value)
		if old := all.MapIndex(key); old.IsValid() {
			element.Set(old)
		}
		d.value(element, e.value, e.key.Value)
		all.SetMapIndex(key, element)
	}
	v.Set(all)
}

func (d *decoder) list(v reflect.Value, n *yaml.Node, name string) {
	if !d.wants(n, yaml.SequenceNode, name) {
		return
	}
	if d.doc.foreign && len(n.Content) == 0 {
		return
	}
	all := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, element := range n.Content {
		d.value(all.Index(i), element, fmt.Sprintf("%s[%d]", name, i))
	}
	v.Set(all)
}

// text gives a scalar as it is written: 8080 and 1.10 stay what they are.
func (d *decoder) text(n *yaml.Node, name string, lines bool) (string, bool) {
	if !d.wants(n, yaml.ScalarNode, name) {
		return "", false
	}
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!timestamp":
	case "!!bool":
		d.doc.fault(n, "wrong-type", "put it in quotes if text is meant", "%s wants text, not %s", name, kindOf(n))
		return "", false
	default:
		d.doc.fault(n, "wrong-type", "remove the tag", "%s cannot have the YAML tag %s", name, show(n.ShortTag()))
		return "", false
	}
	return n.Value, d.clean(n, name, lines)
}

// clean reports control characters; in texts of several lines a newline and
// a tab are none.
func (d *decoder) clean(n *yaml.Node, name string, lines bool) bool {
	for _, r := range n.Value {
		if isControl(r) && !(lines && (r == '\n' || r == '\t')) {
			d.doc.fault(n, "control-character", "", "%s contains the control character %U", name, r)
			return false
		}
	}
	return true
}

// free gives a value whose keys are not pipegen's, in the types of
// encoding/json.
func (d *decoder) free(n *yaml.Node, name string) any {
	n = target(n)
	switch n.Kind {
	case yaml.MappingNode:
		all := make(map[string]any, len(n.Content)/2)
		for _, e := range entries(n, d.doc) {
			all[e.key.Value] = d.free(e.value, e.key.Value)
		}
		return all
	case yaml.SequenceNode:
		all := make([]any, len(n.Content))
		for i, element := range n.Content {
			all[i] = d.free(element, name)
		}
		return all
	}
	d.clean(n, name, true)
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var x any
		if err := n.Decode(&x); err != nil {
			d.doc.fault(n, "wrong-type", "", "%s is no %s", show(n.Value), kindOf(n))
		}
		if f, ok := x.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			d.doc.fault(n, "wrong-type", "", "%s is no number that can be written down", name)
			return nil
		}
		return x
	}
	return n.Value
}

func (d *decoder) wants(n *yaml.Node, kind yaml.Kind, name string) bool {
	if n.Kind == kind {
		return true
	}
	what, hint := "text", ""
	switch kind {
	case yaml.MappingNode:
		what, hint = "a map", "write one key: value a line, indented"
	case yaml.SequenceNode:
		what, hint = "a list", "write it as a list, also if it has one entry: [a]"
	}
	d.doc.fault(n, "wrong-type", hint, "%s wants %s, not %s", name, what, kindOf(n))
	return false
}

// entry is one key of a mapping with its value.
type entry struct{ key, value *yaml.Node }

// entries gives the entries of a mapping. Merge keys (<<) are resolved: what
// is written wins over what is merged, and the first merged over the next.
// Keys that are written twice or are no text are reported to doc and left out.
func entries(n *yaml.Node, doc *document) []entry {
	all := make([]entry, 0, len(n.Content)/2)
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := target(n.Content[i]), n.Content[i+1]
		first := seen[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			doc.fault(n.Content[i], "wrong-type", "put a text that begins with { or [ in quotes", "a key is %s", kindOf(key))
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case strings.ContainsFunc(key.Value, isControl):
			doc.fault(key, "control-character", "", "the key %s contains a control character", show(key.Value))
		case first != nil:
			doc.fault(n.Content[i], "duplicate-key", "", "%s is written twice, first in line %d", show(key.Value), first.Line)
		default:
			seen[key.Value] = key
			all = append(all, entry{key, value})
		}
	}
	for _, value := range merged {
		from := []*yaml.Node{value}
		if source := target(value); source.Kind == yaml.SequenceNode {
			from = source.Content
		}
		for _, source := range from {
			if target(source).Kind != yaml.MappingNode {
				doc.fault(source, "wrong-type", "write <<: *anchor", "<< wants a map, not %s", kindOf(target(source)))
				continue
			}
			for _, e := range entries(target(source), &document{}) {
				if seen[e.key.Value] == nil {
					seen[e.key.Value] = e.key
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// locate gives the node that a fault of a key path points at: the value if it
// is a scalar or an element of a list, else its key. Where a part of the path
// is missing it gives the nearest parent, and false.
func locate(n *yaml.Node, path []any) (*yaml.Node, bool) {
	at := n
	for _, step := range path {
		key, value := child(target(n), step)
		if value == nil {
			return at, false
		}
		n, at = value, value
		if key != nil && target(value).Kind != yaml.ScalarNode {
			at = key
		}
	}
	return at, true
}

func child(n *yaml.Node, step any) (key, value *yaml.Node) {
	switch step := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && step >= 0 && step < len(n.Content) {
			return nil, n.Content[step]
		}
	case string:
		if n.Kind == yaml.MappingNode {
			for _, e := range entries(n, &document{}) {
				if e.key.Value == step {
					return e.key, e.value
				}
			}
		}
		if n.Kind == yaml.SequenceNode {
			for _, element := range n.Content {
				if strings.HasPrefix(target(element).Value, step+"=") {
					return nil, element
				}
			}
		}
	}
	return nil, nil
}

// keys are the keys of a struct, by its yaml tags.
type keys struct {
	index map[string]int
	names []string
}

// keysOf holds the keys of every struct that a file is read into.
var keysOf = sync.OnceValue(func() map[reflect.Type]keys {
	return collectKeys(map[reflect.Type]keys{}, reflect.TypeFor[BuildConfig](), reflect.TypeFor[Pipegen]())
})

// keysIn gives the keys of a struct, also of one that is not pipegen's own.
func keysIn(t reflect.Type) keys {
	if k, ok := keysOf()[t]; ok {
		return k
	}
	return collectKeys(map[reflect.Type]keys{}, t)[t]
}

func collectKeys(all map[reflect.Type]keys, types ...reflect.Type) map[reflect.Type]keys {
	for _, t := range types {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			collectKeys(all, t.Elem())
		case reflect.Struct:
			if _, done := all[t]; done {
				continue
			}
			k := keys{index: map[string]int{}}
			for i := range t.NumField() {
				name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
				k.index[name] = i
			}
			k.names = slices.Sorted(maps.Keys(k.index))
			all[t] = k
			for field := range t.Fields() {
				collectKeys(all, field.Type)
			}
		}
	}
	return all
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func isControl(r rune) bool { return unicode.IsControl(r) }

// kindOf names what a node is, for messages.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	}
	return "text"
}
