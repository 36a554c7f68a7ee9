// Package schemagen makes the JSON Schemas of pipegen's documents from their
// Go types and doc comments. Tests alone use it: what it makes is checked in.
package schemagen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema is a schema that is being made.
type Schema = jsonschema.Schema

// Input says what a schema is made from.
type Input struct {
	// ID and Title of the schema. The ID is a name and no address.
	ID, Title string
	// Value is of the document's type; Tag names the struct tag with its keys.
	Value any
	Tag   string
	// Sources are the directories whose Go comments become descriptions, by
	// import path.
	Sources map[string]string
	// SameAs names for a type another one whose fields of the same name
	// describe what its own do not.
	SameAs map[reflect.Type]reflect.Type
	// Define gives the definition of a type that is not written as its Go type
	// suggests, or nil.
	Define func(t reflect.Type) *Schema
	// Adjust adds to the schema of a key what its type does not say.
	Adjust func(typeName, key string, s *Schema)
	// Numbers lets a number stand for a text without quotes, as YAML writes it.
	Numbers bool
}

// Generate gives the schema as indented JSON with a newline at its end.
func Generate(in Input) ([]byte, error) {
	defined := jsonschema.Definitions{}
	r := &jsonschema.Reflector{
		Anonymous:      true,
		ExpandedStruct: true,
		FieldNameTag:   in.Tag,
		Mapper: func(t reflect.Type) *Schema {
			if in.Define == nil {
				return nil
			}
			s := in.Define(t)
			if s == nil {
				return nil
			}
			defined[t.Name()] = s
			return &Schema{Ref: "#/$defs/" + t.Name()}
		},
	}
	for base, dir := range in.Sources {
		if err := r.AddGoComments(base, dir); err != nil {
			return nil, fmt.Errorf("reading comments of %s: %w", base, err)
		}
	}
	r.LookupComment = func(t reflect.Type, field string) string {
		own := r.CommentMap[t.PkgPath()+"."+t.Name()+"."+field]
		if other := in.SameAs[t]; own == "" && other != nil && field != "" {
			return r.CommentMap[other.PkgPath()+"."+other.Name()+"."+field]
		}
		return ""
	}
	s := r.Reflect(in.Value)
	s.ID, s.Title = jsonschema.ID(in.ID), in.Title
	root := reflect.Indirect(reflect.ValueOf(in.Value)).Type().Name()
	finish(in, root, s)
	for name, def := range s.Definitions {
		finish(in, name, def)
	}
	maps.Copy(s.Definitions, defined)
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// finish adjusts the keys of one definition.
func finish(in Input, name string, s *Schema) {
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		if in.Adjust != nil {
			in.Adjust(name, p.Key, p.Value)
		}
		if in.Numbers {
			numbers(p.Value)
		}
	}
}

func numbers(s *Schema) {
	if s == nil {
		return
	}
	if s.Type == "string" && s.Enum == nil {
		s.Type = ""
		s.Extras = map[string]any{"type": []string{"string", "number"}}
	}
	numbers(s.Items)
	numbers(s.AdditionalProperties)
}
