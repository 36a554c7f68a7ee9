package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/schemagen"
)

var update = flag.Bool("update", false, "renew the files that the tests compare with")

// enums are the keys whose values come from a set.
var enums = map[string][]string{
	"engine": engines, "runner": runners, "frontend": frontends, "layout": layouts,
	"media_type": mediaTypes, "mode": cacheModes, "encryption": encryptions, "read_by": readers,
}

func adjust(typeName, key string, s *schemagen.Schema) {
	if set := enums[key]; set != nil {
		s.Enum = anys(set)
	}
	switch key {
	case "outputs":
		s.Items.Enum = anys(outputs)
		s.MinItems = new(uint64(1))
	case "targets", "platforms":
		s.MinItems = new(uint64(1))
	case "additional_tags":
		s.Items.Pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
	case "create_repository":
		*s = schemagen.Schema{Description: s.Description, AnyOf: []*schemagen.Schema{{Type: "boolean"}, {Ref: s.Ref}}}
	case "overlays":
		s.PropertyNames = &schemagen.Schema{Enum: anys(ciSystems)}
		s.AdditionalProperties.PropertyNames = &schemagen.Schema{Enum: anys(jobKinds)}
	}
	if typeName == "BuildConfig" {
		s.Default = map[string]any{
			"dockerfile_path": "Dockerfile", "context_path": ".", "platforms": []string{"linux/amd64", "linux/arm64"},
			"engine": "kaniko", "outputs": []string{"image"}, "index": true, "runner": "ci", "timeout": "1h",
		}[key]
	}
	if typeName == "Pipegen" {
		s.Default = map[string]any{"layout": "tag", "ignore": []string{"**/README.md"}}[key]
	}
}

func anys(set []string) []any {
	all := make([]any, len(set))
	for i, s := range set {
		all[i] = s
	}
	return all
}

func define(t reflect.Type) *schemagen.Schema {
	if t != reflect.TypeFor[Pairs]() {
		return nil
	}
	return &schemagen.Schema{
		Description: "Names with values: a map, or a list of NAME=value.",
		AnyOf: []*schemagen.Schema{
			{Type: "object", AdditionalProperties: &schemagen.Schema{Extras: map[string]any{"type": []string{"string", "number", "boolean"}}}},
			{Type: "array", Items: &schemagen.Schema{Type: "string", Pattern: "^[^=]+="}},
		},
	}
}

func TestSchemaIsThatOfTheTypes(t *testing.T) {
	for name, value := range map[string]any{"build-config": BuildConfig{}, "pipegen": Pipegen{}} {
		want, err := schemagen.Generate(schemagen.Input{
			ID: "urn:pipegen:schema:" + name, Title: name + ".yaml of pipegen",
			Value: value, Tag: "yaml", Numbers: true,
			Sources: map[string]string{"github.com/pipegen/pipegen/pkg/config": "."},
			SameAs:  map[reflect.Type]reflect.Type{reflect.TypeFor[Override](): reflect.TypeFor[BuildConfig]()},
			Define:  define, Adjust: adjust,
		})
		if err != nil {
			t.Fatal(err)
		}
		file := "schema/" + name + ".json"
		if *update {
			if err := os.WriteFile(file, want, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, ok := Schema(name)
		if !ok || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the types say: renew it with go test ./pkg/config -run Schema -update", file)
		}
	}
	if _, ok := Schema("plan"); ok {
		t.Error("config has a schema of the plan")
	}
}

// TestSchemaAgreesWithLoad judges the same files by both.
func TestSchemaAgreesWithLoad(t *testing.T) {
	for _, tt := range []struct {
		name, file, text string
		good             bool
	}{
		{"least", "build-config", "use_local_context: true\n", true},
		{"numbers as text", "build-config", "additional_tags: [1.10, 3]\nresources: {cpu: 0.5, memory: 2Gi}\n", true},
		{"pairs as a map", "build-config", "build_args: {A: 1.10, B: true, C: x, D: 8080}\n", true},
		{"pairs as a list", "build-config", "build_args: [A=1, B=, 'C=a=b']\nenv: [X=y]\n", true},
		{"upstream", "build-config", "upstream_repo: https://example.org/x.git\nupstream_ref: 1.2\nupstream_auth: {token_env: T}\n", true},
		{"overrides", "build-config", "overrides: {linux/arm64: {target: x, cache: {enable: true, ttl: 24h}}}\n", true},
		{"targets", "build-config", "targets: [{name: a}, {name: b, target: c, additional_tags: [latest]}]\n", true},
		{"secrets", "build-config", "secrets: [{id: a, env: A}, {id: b, file: /run/b}]\n", true},
		{"scripts", "build-config", "pre_script: |\n  echo a\n  echo b\npost_script: ''\n", true},
		{"cache by field", "build-config", "cache: {ttl: 1h}\n", true},
		{"unknown key", "build-config", "platform: [linux/amd64]\n", false},
		{"unknown key below", "build-config", "cache: {enabled: true}\n", false},
		{"unknown key in an override", "build-config", "overrides: {linux/arm64: {name: x}}\n", false},
		{"text for a list", "build-config", "platforms: linux/amd64\n", false},
		{"list for text", "build-config", "target: [a]\n", false},
		{"boolean for text", "build-config", "target: true\n", false},
		{"text for a boolean", "build-config", "index: 'yes'\n", false},
		{"nothing", "build-config", "build_args:\n", false},
		{"null in pairs", "build-config", "build_args: {A: }\n", false},
		{"list in pairs", "build-config", "build_args: {A: [b]}\n", false},
		{"pair without =", "build-config", "build_args: [A]\n", false},
		{"unknown engine", "build-config", "engine: docker\n", false},
		{"unknown output", "build-config", "outputs: [tar]\n", false},
		{"no outputs", "build-config", "outputs: []\n", false},
		{"no platforms", "build-config", "platforms: []\n", false},
		{"bad tag", "build-config", "additional_tags: [a/b]\n", false},
		{"target without name", "build-config", "targets: [{target: a}]\n", false},
		{"secret without id", "build-config", "secrets: [{env: A}]\n", false},
		{"all of pipegen.yaml", "pipegen", `
registry: registry.example.org/images
layout: tag
projects: [projects/*]
ignore: ["**/*.md"]
rebuild_all: [shared/**]
defaults: {platforms: [linux/amd64], timeout: 30m}
runners: {linux/amd64: {gitlab: [a], github: ubuntu-24.04, concourse: []}}
images: {kaniko: registry.example.org/images:builder-latest}
overlays: {gitlab: {build: {variables: {A: b}, retry: 2, tags: null}}}
buildkit: {addresses: ["unix:///run/b.sock"], insecure: false}
publish: {media_type: docker, keys: false, insecure: ["registry:5000"], create_repository: true}
server: {url: "https://pipegen.example.org"}
`, true},
		{"creation", "pipegen", "publish: {create_repository: {encryption: KMS, kms_key: alias/a, immutable: true, mutable_tags: ['*latest'], scan_on_push: true, lifecycle_policy: '{\"rules\": [{}]}'}}\n", true},
		{"no creation", "pipegen", "publish: {create_repository: false}\n", true},
		{"text for a creation", "pipegen", "publish: {create_repository: 'yes'}\n", false},
		{"unknown encryption", "pipegen", "publish: {create_repository: {encryption: DES}}\n", false},
		{"access", "pipegen", "publish: {registries: {123456789012.dkr.ecr.eu-west-1.amazonaws.com: {assume_role: ['arn:aws:iam::123456789012:role/ci'], external_id: 12, region: eu-west-1}}, id_token: {role: 'arn:aws:iam::123456789012:role/ci', audience: a}}\n", true},
		{"unknown key", "pipegen", "registries: [a]\n", false},
		{"unknown key in defaults", "pipegen", "defaults: {platform: []}\n", false},
		{"unknown layout", "pipegen", "layout: tags\n", false},
		{"unknown system", "pipegen", "overlays: {jenkins: {build: {}}}\n", false},
		{"unknown job", "pipegen", "overlays: {gitlab: {test: {}}}\n", false},
		{"unknown media type", "pipegen", "publish: {media_type: oci2}\n", false},
		{"text for a boolean", "pipegen", "publish: {keys: 'no'}\n", false},
	} {
		t.Run(tt.file+"/"+tt.name, func(t *testing.T) {
			fsys := fstest.MapFS{"app/Dockerfile": {}, "app/build-config.yaml": {Data: []byte("index: true\n")}, "projects/x/Dockerfile": {}, "projects/x/build-config.yaml": {Data: []byte("index: true\n")}}
			file := "app/build-config.yaml"
			if tt.file == "pipegen" {
				file = "pipegen.yaml"
			}
			fsys[file] = &fstest.MapFile{Data: []byte(tt.text)}
			_, loadErr := Load(fsys, paths(fsys), Options{})
			if (loadErr == nil) != tt.good {
				t.Errorf("Load: %v", loadErr)
			}
			if err := validate(t, tt.file, tt.text); (err == nil) != tt.good {
				t.Errorf("schema: %v", err)
			}
		})
	}
}

func validate(t *testing.T, name, text string) error {
	t.Helper()
	data, _ := Schema(name)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	id := "urn:pipegen:schema:" + name
	if err := c.AddResource(id, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(id)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	inJSON, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(inJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(instance)
}
