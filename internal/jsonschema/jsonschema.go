// Package jsonschema checks values against a JSON Schema of draft 7
// (https://json-schema.org/draft-07), as far as the schemas go that pipegen
// carries. Unlike the packages that do all of it, it costs nothing until it is
// used: they compile the schemas of schemas when a program starts.
package jsonschema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Schema is a schema to check with.
type Schema struct {
	root     map[string]any
	patterns map[string]*regexp.Regexp
}

// Fault is one way in which a value is not as the schema wants it.
type Fault struct {
	// Keys, and indexes of lists, from the value down to what is wrong.
	Path    []string
	Message string
}

// Parse reads a schema. One with keywords that Check does not know is an
// error, rather than half checked.
func Parse(text []byte) (*Schema, error) {
	s := &Schema{patterns: map[string]*regexp.Regexp{}}
	if err := json.Unmarshal(text, &s.root); err != nil {
		return nil, fmt.Errorf("reading a JSON Schema: %w", err)
	}
	return s, s.learn(s.root)
}

// Keywords by what they hold: nothing that is checked, values, one schema, a
// list of them, a map of them.
var (
	annotations = []string{"$schema", "$id", "$comment", "title", "description", "markdownDescription", "default", "examples", "format"}
	values      = []string{
		"$ref", "type", "enum", "const", "required", "pattern", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems",
		"minimum", "maximum", "minProperties", "maxProperties",
	}
	schemas = []string{"items", "additionalProperties", "not", "if", "then", "else"}
	lists   = []string{"oneOf", "anyOf", "allOf"}
	named   = []string{"properties", "patternProperties", "definitions", "dependencies"}
)

// learn compiles patterns and refuses what Check would not understand.
func (s *Schema) learn(v any) error {
	schema, ok := v.(map[string]any)
	if !ok {
		if _, ok := v.(bool); ok {
			return nil
		}
		return fmt.Errorf("a JSON Schema is %T", v)
	}
	for _, key := range slices.Sorted(maps.Keys(schema)) {
		var below []any
		switch value := schema[key]; {
		case slices.Contains(annotations, key), slices.Contains(values, key):
		case slices.Contains(schemas, key):
			below = []any{value}
		case slices.Contains(lists, key):
			below, _ = value.([]any)
		case slices.Contains(named, key):
			byName, _ := value.(map[string]any)
			for name, sub := range byName {
				if _, list := sub.([]any); key == "dependencies" && list {
					continue // names of properties
				}
				below = append(below, sub)
				if key == "patternProperties" {
					if err := s.compile(name); err != nil {
						return err
					}
				}
			}
		default:
			return fmt.Errorf("JSON Schema keyword %q is not known", key)
		}
		for _, sub := range below {
			if err := s.learn(sub); err != nil {
				return err
			}
		}
	}
	if pattern, ok := schema["pattern"].(string); ok {
		return s.compile(pattern)
	}
	if ref, ok := schema["$ref"].(string); ok {
		if _, err := s.find(ref); err != nil {
			return err
		}
	}
	return nil
}

func (s *Schema) compile(pattern string) error {
	re, err := regexp.Compile(pattern)
	s.patterns[pattern] = re
	return err
}

// find gives what a reference within the schema leads to.
func (s *Schema) find(ref string) (any, error) {
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil, fmt.Errorf("JSON Schema reference %q leads out of the schema", ref)
	}
	var at any = s.root
	for key := range strings.SplitSeq(path, "/") {
		m, _ := at.(map[string]any)
		if at, ok = m[key]; !ok {
			return nil, fmt.Errorf("JSON Schema reference %q leads nowhere", ref)
		}
	}
	return at, nil
}

// Check gives the faults of a value made of map[string]any, []any, string,
// bool, int, float64 and nil. Where several forms are allowed and none fits,
// the faults are those of the form that fits furthest.
func (s *Schema) Check(value any) []Fault {
	return s.check(s.root, value, nil)
}

func fault(at []string, format string, args ...any) []Fault {
	return []Fault{{slices.Clone(at), fmt.Sprintf(format, args...)}}
}

func (s *Schema) check(schema, v any, at []string) []Fault {
	if allowed, ok := schema.(bool); ok {
		if !allowed {
			return fault(at, "cannot be here")
		}
		return nil
	}
	rules, _ := schema.(map[string]any)
	if ref, ok := rules["$ref"].(string); ok { // which in draft 7 stands alone
		target, err := s.find(ref)
		if err != nil {
			return fault(at, "%s", err)
		}
		return s.check(target, v, at)
	}
	faults := checkValue(rules, v, at)
	switch v := v.(type) {
	case string:
		faults = append(faults, s.checkString(rules, v, at)...)
	case []any:
		faults = append(faults, s.checkList(rules, v, at)...)
	case map[string]any:
		faults = append(faults, s.checkMap(rules, v, at)...)
	}
	return append(faults, s.checkForms(rules, v, at)...)
}

func checkValue(rules map[string]any, v any, at []string) []Fault {
	if want, ok := rules["type"]; ok {
		types, list := want.([]any)
		if !list {
			types = []any{want}
		}
		if !slices.ContainsFunc(types, func(t any) bool { return isType(v, t) }) {
			return fault(at, "want %s, not %s", join(types), typeOf(v))
		}
	}
	if among, ok := rules["enum"].([]any); ok && !slices.ContainsFunc(among, func(e any) bool { return equal(e, v) }) {
		return fault(at, "want one of %s", join(among))
	}
	if want, ok := rules["const"]; ok && !equal(want, v) {
		return fault(at, "want %v", want)
	}
	if n, ok := number(v); ok {
		if least, ok := number(rules["minimum"]); ok && n < least {
			return fault(at, "want %v or more", least)
		}
		if most, ok := number(rules["maximum"]); ok && n > most {
			return fault(at, "want %v or less", most)
		}
	}
	return nil
}

func (s *Schema) checkString(rules map[string]any, v string, at []string) []Fault {
	n := utf8.RuneCountInString(v)
	if least, ok := number(rules["minLength"]); ok && n < int(least) {
		return fault(at, "want %v characters or more", least)
	}
	if most, ok := number(rules["maxLength"]); ok && n > int(most) {
		return fault(at, "want %v characters or less", most)
	}
	if pattern, ok := rules["pattern"].(string); ok && !s.patterns[pattern].MatchString(v) {
		return fault(at, "does not match %s", pattern)
	}
	return nil
}

func (s *Schema) checkList(rules map[string]any, v []any, at []string) []Fault {
	if least, ok := number(rules["minItems"]); ok && len(v) < int(least) {
		return fault(at, "want %v items or more", least)
	}
	if most, ok := number(rules["maxItems"]); ok && len(v) > int(most) {
		return fault(at, "want %v items or less", most)
	}
	var faults []Fault
	for i, item := range v {
		here := append(slices.Clip(at), strconv.Itoa(i))
		if rules["uniqueItems"] == true && slices.ContainsFunc(v[:i], func(e any) bool { return equal(e, item) }) {
			faults = append(faults, fault(here, "is there twice")...)
		}
		if of, ok := rules["items"]; ok {
			faults = append(faults, s.check(of, item, here)...)
		}
	}
	return faults
}

func (s *Schema) checkMap(rules map[string]any, v map[string]any, at []string) []Fault {
	if least, ok := number(rules["minProperties"]); ok && len(v) < int(least) {
		return fault(at, "want %v keys or more", least)
	}
	if most, ok := number(rules["maxProperties"]); ok && len(v) > int(most) {
		return fault(at, "want %v keys or less", most)
	}
	var faults []Fault
	required, _ := rules["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			faults = append(faults, fault(at, "lacks %v", name)...)
		}
	}
	properties, _ := rules["properties"].(map[string]any)
	patterns, _ := rules["patternProperties"].(map[string]any)
	others, limited := rules["additionalProperties"]
	for _, key := range slices.Sorted(maps.Keys(v)) {
		here := append(slices.Clip(at), key)
		known := false
		if of, ok := properties[key]; ok {
			known = true
			faults = append(faults, s.check(of, v[key], here)...)
		}
		for _, pattern := range slices.Sorted(maps.Keys(patterns)) {
			if s.patterns[pattern].MatchString(key) {
				known = true
				faults = append(faults, s.check(patterns[pattern], v[key], here)...)
			}
		}
		switch {
		case known || !limited:
		case others == false:
			faults = append(faults, fault(here, "is no key of this place")...)
		default:
			faults = append(faults, s.check(others, v[key], here)...)
		}
	}
	dependencies, _ := rules["dependencies"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(dependencies)) {
		if _, ok := v[key]; !ok {
			continue
		}
		names, list := dependencies[key].([]any)
		for _, name := range names {
			if _, ok := v[name.(string)]; !ok {
				faults = append(faults, fault(append(slices.Clip(at), key), "wants %v beside it", name)...)
			}
		}
		if !list {
			faults = append(faults, s.check(dependencies[key], v, at)...)
		}
	}
	return faults
}

// checkForms checks what a value must be as a whole: one of several forms.
func (s *Schema) checkForms(rules map[string]any, v any, at []string) []Fault {
	var faults []Fault
	all, _ := rules["allOf"].([]any)
	for _, of := range all {
		faults = append(faults, s.check(of, v, at)...)
	}
	for _, key := range []string{"anyOf", "oneOf"} {
		forms, ok := rules[key].([]any)
		if !ok {
			continue
		}
		fit := 0
		var nearest []Fault
		for _, form := range forms {
			wrong := s.check(form, v, at)
			if len(wrong) == 0 {
				fit++
			} else if nearest == nil || depth(wrong) > depth(nearest) {
				nearest = wrong
			}
		}
		switch {
		case fit == 0:
			faults = append(faults, nearest...)
		case fit > 1 && key == "oneOf":
			faults = append(faults, fault(at, "can be taken in %d ways", fit)...)
		}
	}
	if not, ok := rules["not"]; ok && len(s.check(not, v, at)) == 0 {
		faults = append(faults, fault(at, "cannot be like this")...)
	}
	if condition, ok := rules["if"]; ok {
		next := "then"
		if len(s.check(condition, v, at)) > 0 {
			next = "else"
		}
		if then, ok := rules[next]; ok {
			faults = append(faults, s.check(then, v, at)...)
		}
	}
	return faults
}

// depth is how far down the first fault is found.
func depth(faults []Fault) int {
	deepest := math.MaxInt
	for _, f := range faults {
		deepest = min(deepest, len(f.Path))
	}
	return deepest
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	case int:
		return "integer"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
		return "number"
	}
	return fmt.Sprintf("%T", v)
}

func isType(v, want any) bool {
	got := typeOf(v)
	return got == want || got == "integer" && want == "number"
}

// equal takes 1 and 1.0 for the same.
func equal(a, b any) bool {
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y
	}
	return reflect.DeepEqual(a, b)
}

func join(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}
