package config

import (
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"
)

// Document is a YAML file in the format of another tool, read as strictly as
// pipegen's own: unknown and repeated keys, wrong types and control characters
// are faults at their position. What other tools leave out is let through: a
// key without value, an empty text and an empty list count as not written. For
// a text behind a pointer the empty one counts, and may have several lines.
type Document struct{ doc *document }

// ParseDocument reads data, whose faults call it name, as one YAML mapping.
func ParseDocument(name string, data []byte) *Document {
	if faults := unfit(name, int64(len(data)), data); faults != nil {
		return &Document{&document{file: name, faults: faults, foreign: true}}
	}
	doc := parse(name, data, true)
	doc.foreign = true
	if doc.root == nil && len(doc.faults) == 0 {
		doc.fault(&yaml.Node{Line: 1, Column: 1}, "empty-file", "", "the file is empty")
	}
	return &Document{doc}
}

// Decode fills out, a pointer to a struct with yaml tags on all its fields, and
// reports what is wrong.
func (d *Document) Decode(out any) { decode(d.doc, d.doc.root, out) }

// Layer puts what the mapping at a key path says over what out, a pointer to a
// struct, holds already: maps and structs merge, the rest is replaced. It
// reports nothing: Decode has done so.
func (d *Document) Layer(out any, path ...any) {
	if n := d.node(path); n != nil {
		decode(&document{foreign: true}, n, out)
	}
}

// Has says whether there is something at a key path, whose steps are keys and
// indexes of lists.
func (d *Document) Has(path ...any) bool { return d.node(path) != nil }

func (d *Document) node(path []any) *yaml.Node {
	n := d.doc.root
	for _, step := range path {
		if n == nil {
			return nil
		}
		_, n = child(target(n), step)
	}
	return n
}

// Walk calls f for every text, number and truth value at or below a key path.
func (d *Document) Walk(path []any, f func(path []any, value string)) {
	if n := d.node(path); n != nil {
		walk(target(n), path, f)
	}
}

func walk(n *yaml.Node, path []any, f func(path []any, value string)) {
	switch n.Kind {
	case yaml.ScalarNode:
		f(path, n.Value)
	case yaml.SequenceNode:
		for i, element := range n.Content {
			walk(target(element), append(slices.Clip(path), i), f)
		}
	case yaml.MappingNode:
		for _, e := range entries(n, &document{}) {
			walk(target(e.value), append(slices.Clip(path), e.key.Value), f)
		}
	}
}

// Report adds a fault at a key path, or at the nearest parent of it that is
// there.
func (d *Document) Report(s Severity, rule, hint string, path []any, format string, args ...any) {
	f := Fault{File: d.doc.file, Severity: s, Rule: rule, Message: fmt.Sprintf(format, args...), Hint: hint}
	if d.doc.root != nil {
		n, _ := locate(d.doc.root, path)
		f.Line, f.Column = n.Line, n.Column
	}
	d.doc.add(f)
}

// Faults are those that were reported so far, sorted, each once.
func (d *Document) Faults() Faults {
	faults := slices.Clone(d.doc.faults)
	faults.Sort()
	return slices.Compact(faults)
}
