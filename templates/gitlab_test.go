package templates_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/templates"
)

func gitlabSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../pkg/render/schemas/gitlab-ci.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func parsed(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return doc
}

func TestParentPipeline(t *testing.T) {
	files, err := templates.Init("gitlab")
	if err != nil {
		t.Fatal(err)
	}
	if err := gitlabSchema(t).Validate(parsed(t, files[0].Data)); err != nil {
		t.Errorf("against GitLab's schema: %v", err)
	}
	// This repository builds its own images by the same pipeline.
	own, err := os.ReadFile("../.gitlab-ci.yml")
	if err != nil {
		t.Fatal(err)
	}
	if string(own) != string(files[0].Data) {
		t.Error(".gitlab-ci.yml is not what pipegen init gitlab writes")
	}
}

var interpolation = regexp.MustCompile(`\$\[\[\s*inputs\.(\w+)\s*\]\]`)

// component puts inputs into templates/pipegen.yml as GitLab does: a value that
// is nothing but an input keeps its type, and text is put into text. Numbers and
// booleans stand in quotes there, as values of variables.
func component(t *testing.T, inputs map[string]any) map[string]any {
	t.Helper()
	file, err := os.ReadFile("pipegen.yml")
	if err != nil {
		t.Fatal(err)
	}
	head, body, ok := bytes.Cut(file, []byte("\n---\n"))
	if !ok {
		t.Fatal("no header")
	}
	header := parsed(t, head)
	if err := gitlabSchema(t).Validate(header); err != nil {
		t.Errorf("the header against GitLab's schema: %v", err)
	}
	declared := header["spec"].(map[string]any)["inputs"].(map[string]any)
	used := map[string]bool{}
	value := func(name string) any {
		used[name] = true
		spec, ok := declared[name].(map[string]any)
		if !ok {
			t.Fatalf("there is no input %s", name)
		}
		v, given := inputs[name]
		if !given {
			if v, given = spec["default"]; !given {
				t.Fatalf("input %s is required", name)
			}
		}
		if want, ok := spec["regex"].(string); ok && !regexp.MustCompile(want).MatchString(fmt.Sprint(v)) {
			t.Fatalf("input %s is %v, want %s", name, v, want)
		}
		return v
	}
	var fill func(v any) any
	fill = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			out := map[string]any{}
			for k, e := range v {
				out[fill(k).(string)] = fill(e)
			}
			return out
		case []any:
			out := make([]any, len(v))
			for i, e := range v {
				out[i] = fill(e)
			}
			return out
		case string:
			if m := interpolation.FindStringSubmatch(v); m != nil && m[0] == v {
				if list, ok := value(m[1]).([]any); ok {
					return list
				}
			}
			return interpolation.ReplaceAllStringFunc(v, func(s string) string {
				return fmt.Sprint(value(interpolation.FindStringSubmatch(s)[1]))
			})
		}
		return v
	}
	doc := fill(parsed(t, body)).(map[string]any)
	for name := range declared {
		if !used[name] {
			t.Errorf("input %s is not used", name)
		}
	}
	return doc
}

func TestComponent(t *testing.T) {
	for _, inputs := range []map[string]any{
		{"image": "registry.example/pipegen:1"},
		{"image": "$BUILDER", "job": "images", "stage": "publish", "tags": []any{"docker", "large"}, "select": "stale,app", "depth": 200, "max_jobs": 500, "check_readme": true, "registry": "registry.example/images"},
	} {
		doc := component(t, inputs)
		if err := gitlabSchema(t).Validate(doc); err != nil {
			t.Errorf("%v: against GitLab's schema: %v", inputs, err)
		}
		name := "pipegen"
		if job, ok := inputs["job"].(string); ok {
			name = job
		}
		prepare, build := doc[name+"-prepare"].(map[string]any), doc[name].(map[string]any)
		if len(doc) != 2 || prepare == nil || build == nil {
			t.Fatalf("%v: jobs %v", inputs, doc)
		}
		if include := build["trigger"].(map[string]any)["include"].([]any)[0].(map[string]any); include["job"] != name+"-prepare" {
			t.Errorf("%v: the child is looked for in %v", inputs, include)
		}
		// No input reaches a shell line: variables carry them.
		for _, line := range prepare["script"].([]any) {
			for _, v := range inputs {
				if s, ok := v.(string); ok && strings.Contains(line.(string), s) {
					t.Errorf("the shell line %q holds the input %q", line, s)
				}
			}
		}
	}

	// It does what the parent pipeline does that init writes.
	files, err := templates.Init("gitlab")
	if err != nil {
		t.Fatal(err)
	}
	parent := parsed(t, files[0].Data)["prepare"].(map[string]any)
	prepare := component(t, map[string]any{"image": "x"})["pipegen-prepare"].(map[string]any)
	script := prepare["script"].([]any)
	for i, line := range script {
		script[i] = strings.ReplaceAll(line.(string), ` --prepare-job "$CI_JOB_NAME"`, "")
	}
	if !slices.Equal(script, parent["script"].([]any)) {
		t.Errorf("the component runs %q, the parent pipeline %q", script, parent["script"])
	}
	if fmt.Sprint(prepare["artifacts"]) != fmt.Sprint(parent["artifacts"]) {
		t.Errorf("the component leaves %v, the parent pipeline %v", prepare["artifacts"], parent["artifacts"])
	}
}
