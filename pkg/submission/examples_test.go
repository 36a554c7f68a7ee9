package submission

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

const examples = "../../examples"

// The examples are what they say: nothing in them is wrong or without effect.
func TestExamples(t *testing.T) {
	for _, c := range []struct {
		config, compose string
		services        []string
		images, builds  int
	}{
		{"config.yaml", "", nil, 1, 2},
		{"client-config.yaml.example", "", nil, 1, 2},
		{"", "compose.yaml", nil, 2, 3},
		{"", "compose.yaml", []string{"worker"}, 1, 1},
		{"config.yaml", "compose.yaml", []string{"app"}, 1, 2},
	} {
		o := Options{Services: c.services, Repo: examples}
		if c.config != "" {
			o.Config = filepath.Join(examples, c.config)
		}
		if c.compose != "" {
			o.Compose = filepath.Join(examples, c.compose)
		}
		s, err := Load(t.Context(), o)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		builds := 0
		for _, img := range s.Plan.Images {
			builds += len(img.Builds)
		}
		if len(s.Plan.Images) != c.images || builds != c.builds {
			t.Errorf("%+v: %d images, %d builds", c, len(s.Plan.Images), builds)
		}
		if ignored := c.config != "" && c.compose != ""; len(s.Warnings) > 0 != ignored {
			t.Errorf("%+v: warnings: %v", c, s.Warnings)
		}
	}
	if _, err := Environment(nil, filepath.Join(examples, ".env.example")); err != nil {
		t.Error(err)
	}
}

// The reference example names every key there is, but for those without effect.
func TestExampleHasEveryKey(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(examples, "client-config.yaml.example"))
	if err != nil {
		t.Fatal(err)
	}
	var visit func(of reflect.Type)
	visit = func(of reflect.Type) {
		for field := range of.Fields() {
			key := field.Tag.Get("yaml")
			if field.Type == reflect.TypeFor[*agentsImage]() || key == "container-name" || key == "custom-platform" {
				continue
			}
			if !bytes.Contains(data, []byte(key+":")) {
				t.Errorf("the example has no %s", key)
			}
			if field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct {
				visit(field.Type.Elem())
			} else if field.Type.Kind() == reflect.Struct {
				visit(field.Type)
			}
		}
	}
	visit(reflect.TypeFor[settings]())
}

func TestExamplesOfCI(t *testing.T) {
	github, err := os.ReadFile(filepath.Join(examples, "client", ".github-actions.yml"))
	if err != nil {
		t.Fatal(err)
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := linter.Lint("images.yml", github, nil)
	if err != nil || len(found) > 0 {
		t.Errorf("GitHub: %v, %v", found, err)
	}
	gitlab, err := os.ReadFile(filepath.Join(examples, "client", ".gitlab.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var job any
	if err := yaml.Unmarshal(gitlab, &job); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(github), string(gitlab)} {
		if !strings.Contains(text, "pipegen submit --compose compose.yaml --async --repo .") {
			t.Errorf("no command in\n%s", text)
		}
	}
	schema, err := jsonschema.NewCompiler().Compile("../render/schemas/gitlab-ci.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(instance); err != nil {
		t.Errorf("GitLab: %v", err)
	}
}
