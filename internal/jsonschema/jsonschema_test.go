package jsonschema_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	full "github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/jsonschema"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ schema, value, want string }{ // want: path: message; empty: none
		{`{"type":"string"}`, `"x"`, ""},
		{`{"type":"string"}`, `1`, ": want string, not integer"},
		{`{"type":["string","null"]}`, `null`, ""},
		{`{"type":"number"}`, `1`, ""},
		{`{"type":"integer"}`, `1.5`, ": want integer, not number"},
		{`{"enum":[1,"a"]}`, `1.0`, ""},
		{`{"enum":[1,"a"]}`, `"b"`, ": want one of 1, a"},
		{`{"const":"a"}`, `"b"`, ": want a"},
		{`{"minimum":1,"maximum":2}`, `3`, ": want 2 or less"},
		{`{"minimum":1,"maximum":2}`, `0`, ": want 1 or more"},
		{`{"minLength":2}`, `"é"`, ": want 2 characters or more"},
		{`{"maxLength":2}`, `"éaé"`, ": want 2 characters or less"},
		{`{"pattern":"^a"}`, `"ba"`, ": does not match ^a"},
		{`{"items":{"type":"string"}}`, `["a",1]`, "1: want string, not integer"},
		{`{"minItems":1}`, `[]`, ": want 1 items or more"},
		{`{"maxItems":1}`, `[1,2]`, ": want 1 items or less"},
		{`{"uniqueItems":true}`, `[1,2,1]`, "2: is there twice"},
		{`{"required":["a"]}`, `{"b":1}`, ": lacks a"},
		{`{"minProperties":1}`, `{}`, ": want 1 keys or more"},
		{`{"maxProperties":1}`, `{"a":1,"b":1}`, ": want 1 keys or less"},
		{`{"properties":{"a":{"type":"string"}}}`, `{"a":1,"b":1}`, "a: want string, not integer"},
		{`{"properties":{"a":{}},"additionalProperties":false}`, `{"a":1,"b":1}`, "b: is no key of this place"},
		{`{"patternProperties":{"^x":{"type":"string"}},"additionalProperties":false}`, `{"xy":1}`, "xy: want string, not integer"},
		{`{"additionalProperties":{"type":"string"}}`, `{"a":{"b":1}}`, "a: want string, not object"},
		{`{"dependencies":{"a":["b"]}}`, `{"a":1}`, "a: wants b beside it"},
		{`{"dependencies":{"a":{"required":["c"]}}}`, `{"a":1}`, ": lacks c"},
		{`{"allOf":[{"type":"string"},{"minLength":2}]}`, `"a"`, ": want 2 characters or more"},
		{`{"anyOf":[{"type":"string"},{"type":"object","properties":{"a":{"type":"string"}}}]}`, `{"a":1}`, "a: want string, not integer"},
		{`{"oneOf":[{"type":"string"},{"minLength":1}]}`, `"a"`, ": can be taken in 2 ways"},
		{`{"not":{"type":"string"}}`, `"a"`, ": cannot be like this"},
		{`{"if":{"type":"string"},"then":{"minLength":2},"else":{"type":"null"}}`, `"a"`, ": want 2 characters or more"},
		{`{"if":{"type":"string"},"then":{"minLength":2},"else":{"type":"null"}}`, `1`, ": want null, not integer"},
		{`{"definitions":{"s":{"type":"string"}},"items":{"$ref":"#/definitions/s"}}`, `[1]`, "0: want string, not integer"},
		{`{"properties":{"a":false,"b":true}}`, `{"a":1,"b":1}`, "a: cannot be here"},
	} {
		s, err := jsonschema.Parse([]byte(c.schema))
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		var v any
		if err := json.Unmarshal([]byte(c.value), &v); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range s.Check(v) {
			got = append(got, strings.Join(f.Path, ".")+": "+f.Message)
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s of %s: got %q, want %q", c.value, c.schema, got, c.want)
		}
	}
	for _, bad := range []string{`[]`, `{`, `{"contains":{}}`, `{"items":{"$ref":"#/nowhere"}}`, `{"$ref":"other.json"}`, `{"pattern":"["}`, `{"items":[{}]}`} {
		if _, err := jsonschema.Parse([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// What this package says of GitLab's schema is what one says that does all of
// JSON Schema: of rendered pipelines, and of these with a piece changed.
func TestAgainstOther(t *testing.T) {
	const dir = "../../pkg/render/"
	text, err := os.ReadFile(dir + "schemas/gitlab-ci.json")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := jsonschema.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	other, err := full.NewCompiler().Compile(dir + "schemas/gitlab-ci.json")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "testdata/o*.child.yml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	refused := 0
	for _, file := range append(files, "../../templates/gitlab/gitlab-ci.yml") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := yaml.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		compare := func(what string) {
			faults := ours.Check(doc)
			err := other.Validate(doc)
			if (len(faults) == 0) != (err == nil) {
				t.Errorf("%s, %s: got %v, the other %v", file, what, faults, err)
			}
			if err != nil {
				refused++
			}
		}
		compare("as it is")
		everywhere(doc, compare)
	}
	if refused < 100 {
		t.Errorf("only %d changes were wrong", refused)
	}
}

// everywhere puts other values in each place of a value in turn.
func everywhere(v any, compare func(string)) {
	try := func(what string, get any, set func(any)) {
		for _, other := range []any{nil, true, 7, "text", []any{"a", 1}, map[string]any{"unknown": "x"}} {
			set(other)
			compare(what)
		}
		set(get)
		everywhere(get, compare)
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		for _, k := range keys {
			try(k, v[k], func(other any) { v[k] = other })
		}
	case []any:
		for i := range v {
			try("item", v[i], func(other any) { v[i] = other })
		}
	}
}
