package terraform

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Object gives what a local is made of, as far as that is written: the values of
// its keys, those included that are merged into it or there in some cases alone.
func (m *Module) Object(local string) (map[string][]hclsyntax.Expression, error) {
	for _, body := range m.files {
		for _, b := range body.Blocks {
			if a := b.Body.Attributes[local]; b.Type == "locals" && a != nil {
				return parts(a.Expr), nil
			}
		}
	}
	return nil, fmt.Errorf("there is no local %s", local)
}

// parts gives the values of an object by their keys.
func parts(e hclsyntax.Expression) map[string][]hclsyntax.Expression {
	out := map[string][]hclsyntax.Expression{}
	add := func(more map[string][]hclsyntax.Expression) {
		for key, values := range more {
			out[key] = append(out[key], values...)
		}
	}
	switch e := e.(type) {
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			key := hcl.ExprAsKeyword(item.KeyExpr)
			out[key] = append(out[key], item.ValueExpr)
		}
	case *hclsyntax.FunctionCallExpr:
		for _, arg := range e.Args {
			add(parts(arg))
		}
	case *hclsyntax.ConditionalExpr:
		add(parts(e.TrueResult))
		add(parts(e.FalseResult))
	case *hclsyntax.ParenthesesExpr:
		add(parts(e.Expression))
	case *hclsyntax.TupleConsExpr: // of a list all entries together
		for _, entry := range e.Exprs {
			add(parts(entry))
		}
	}
	return out
}

// Schema is as much of a JSON schema as says which keys there are.
type Schema struct {
	Defs       map[string]*Schema `json:"$defs"`
	Ref        string             `json:"$ref"`
	Properties map[string]*Schema `json:"properties"`
	Items      *Schema            `json:"items"`
}

// UnmarshalJSON reads a schema; true is one that allows all.
func (s *Schema) UnmarshalJSON(data []byte) error {
	type plain Schema
	if string(data) == "true" || string(data) == "false" {
		return nil
	}
	return json.Unmarshal(data, (*plain)(s))
}

// Unknown gives keys of an object that a schema does not have, below a path.
// What the schema does not describe further is not looked into.
func (s *Schema) Unknown(at *Schema, object map[string][]hclsyntax.Expression, path string) []string {
	const definitions = "#/$defs/"
	for at != nil && (at.Ref != "" || at.Items != nil) {
		if at.Items != nil {
			at = at.Items
			continue
		}
		at = s.Defs[at.Ref[len(definitions):]]
	}
	if at == nil || len(at.Properties) == 0 {
		return nil
	}
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if at.Properties[key] == nil {
			wrong = append(wrong, path+key)
			continue
		}
		for _, value := range object[key] {
			wrong = append(wrong, s.Unknown(at.Properties[key], parts(value), path+key+".")...)
		}
	}
	return wrong
}
