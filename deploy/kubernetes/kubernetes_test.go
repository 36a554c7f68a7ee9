// Package kubernetes holds the tests of the manifests and the chart that need
// no cluster and no program; the others are in test/e2e.
package kubernetes

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
)

var update = flag.Bool("update", false, "renew what of values.schema.json is made from pipegen's own types")

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The Role is what the launcher is made for, in the base, the chart and the
// documentation.
func TestRole(t *testing.T) {
	type rule struct {
		APIGroups, Resources, Verbs []string
	}
	type role struct {
		Kind  string
		Rules []rule
	}
	var want []rule
	for _, p := range kubernetes.Permissions {
		want = append(want, rule{[]string{p.Group}, []string{p.Resource}, p.Verbs})
	}
	_, page, _ := strings.Cut(read(t, "../../docs/kubernetes.md"), "kind: Role\n")
	page, _, _ = strings.Cut(page, "```")
	for name, text := range map[string]string{
		"base": read(t, "base/role.yaml"),
		// Its rules are without templates.
		"chart": regexp.MustCompile(`(?m)^.*\{\{.*\n`).ReplaceAllString(read(t, "chart/templates/role.yaml"), ""),
		"docs":  "kind: Role\n" + page,
	} {
		var roles []role
		for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
			var r role
			if err := d.Decode(&r); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if r.Kind == "Role" {
				roles = append(roles, r)
			}
		}
		if len(roles) != 1 || !reflect.DeepEqual(roles[0].Rules, want) {
			t.Errorf("%s: %+v, want one Role with %+v", name, roles, want)
		}
	}
}

// The controller takes its configuration, with the issuers that stand in
// comments too.
func TestConfig(t *testing.T) {
	text := read(t, "base/configs/config.yaml")
	head, issuers, found := strings.Cut(text, "# oidc:\n")
	if !found {
		t.Fatal("there is no example of an issuer")
	}
	all := "url: https://pipegen.example.com\n" + head + "oidc:\n" + regexp.MustCompile(`(?m)^# `).ReplaceAllString(issuers, "")
	for name, text := range map[string]string{"config.yaml": text, "with issuers": all} {
		s, err := config.ReadServer(name, []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Contains(text, "\noidc:"); (len(s.OIDC) == 1) != want {
			t.Errorf("%s has %d issuers", name, len(s.OIDC))
		}
		on := s.OnKubernetes()
		client, err := kubernetes.NewClient(&rest.Config{Host: "http://127.0.0.1:1"}) // nobody is there
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kubernetes.New(t.Context(), kubernetes.Options{Client: client, Namespace: on.Namespace, Settings: on}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each variable that an example of an environment names is one that is
// documented.
func TestEnvironment(t *testing.T) {
	known := read(t, "../../docs/server.md") + read(t, "../../docs/kubernetes.md")
	for _, overlay := range []string{"sqlite", "postgres"} {
		names := regexp.MustCompile(`(?m)^(?:# )?([A-Z][A-Z0-9_]+)=`).FindAllStringSubmatch(read(t, "overlays/"+overlay+"/.env.example"), -1)
		if len(names) < 5 {
			t.Errorf("%s: %v", overlay, names)
		}
		for _, name := range names {
			if !strings.Contains(known, "`"+name[1]) && !strings.Contains(known, name[1]+"`") {
				t.Errorf("%s: nobody says what %s is", overlay, name[1])
			}
		}
	}
}

// What the chart takes as config is what pipegen's own schema has as server.
func TestSchemaOfConfig(t *testing.T) {
	var own struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	text, _ := config.Schema("pipegen")
	if err := json.Unmarshal(text, &own); err != nil {
		t.Fatal(err)
	}
	needed := map[string]json.RawMessage{}
	reference := regexp.MustCompile(`"#/\$defs/(\w+)"`)
	for wanted := []string{"Server"}; len(wanted) > 0; wanted = wanted[1:] {
		if needed[wanted[0]] == nil {
			needed[wanted[0]] = own.Defs[wanted[0]]
			for _, m := range reference.FindAllSubmatch(own.Defs[wanted[0]], -1) {
				wanted = append(wanted, string(m[1]))
			}
		}
	}
	const name, key = "chart/values.schema.json", "\n  \"$defs\": "
	before := read(t, name)
	head, _, found := strings.Cut(before, key)
	defs, err := json.MarshalIndent(needed, "  ", "  ")
	if err != nil || !found {
		t.Fatal(found, err)
	}
	if after := head + key + string(defs) + "\n}\n"; after != before && *update {
		if err := os.WriteFile(name, []byte(after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if after != before {
		t.Errorf("%s is not what pipegen's types say: renew it with go test ./deploy/kubernetes -update", name)
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "chart/values.schema.json")))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("values.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func values(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// Every value has a type, and every type a value, down to what is passed on.
func TestSchemaHasAllValues(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal([]byte(read(t, "chart/values.schema.json")), &s); err != nil {
		t.Fatal(err)
	}
	delete(s["properties"].(map[string]any), "global")
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		properties, closed := schema["properties"].(map[string]any)
		if !closed {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("%s takes other keys", path)
		}
		if a, b := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(values)); !slices.Equal(a, b) {
			t.Errorf("%s: the schema has %v, values.yaml %v", path, a, b)
		}
		for key, below := range properties {
			next, _ := values[key].(map[string]any)
			compare(path+"/"+key, below.(map[string]any), next)
		}
	}
	defaults := values(t, read(t, "chart/values.yaml"))
	compare("", s, defaults)
	for _, name := range []string{"chart/values.yaml", "chart/values-postgres.yaml"} {
		if err := schema(t).Validate(values(t, read(t, name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is wrong is told of where it is, as Helm does, which uses the same
// package.
func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	for _, tt := range []struct{ values, want string }{
		{"replica: 2", "additional properties 'replica' not allowed"},
		{"replicas: two", "at '/replicas': got string, want integer"},
		{"replicas: -1", "at '/replicas': minimum: got -1, want 0"},
		{"{database: sqlite, replicas: 2}", "at '/replicas': maximum: got 2, want 1"},
		{"database: mysql", "at '/database': value must be one of 'sqlite', 'postgres'"},
		{"image: registry.example.com/a:b", "at '/image': got string, want object"},
		{"image: {tag: 1.5}", "at '/image/tag': got number, want string"},
		{"image: {tag: 'a b'}", "at '/image/tag': 'a b' does not match pattern"},
		{"image: {repository: \"a\\nb\"}", "at '/image/repository'"},
		{"image: {digest: sha256:1}", "at '/image/digest'"},
		{"image: {pullPolicy: always}", "at '/image/pullPolicy': value must be one of"},
		{"env: {A: 1}", "at '/env/A': got number, want string"},
		{"env: {'A: b': c}", "at '/env': invalid propertyName 'A: b'"},
		{"secret: {env: {A: true}}", "at '/secret/env/A': got boolean, want string"},
		{"secret: {values: {}}", "at '/secret': additional properties 'values' not allowed"},
		{"key: {value: abc}", "at '/key/value'"},
		{"persistence: {size: large}", "at '/persistence/size'"},
		{"agents: {namespace: Builds}", "at '/agents/namespace'"},
		{"agents: {createNamespace: 'yes'}", "at '/agents/createNamespace': got string, want boolean"},
		{"ingress: {host: 'a b'}", "at '/ingress/host'"},
		{"ingress: {annotations: {a: 1}}", "at '/ingress/annotations/a': got number, want string"},
		{"service: {port: 70000}", "at '/service/port': maximum"},
		{"drainSeconds: 10s", "at '/drainSeconds': got string, want integer"},
		{"tolerations: {}", "at '/tolerations': got object, want array"},
		{"config: {limit: {}}", "at '/config': additional properties 'limit' not allowed"},
		{"config: {limits: {attempts: many}}", "at '/config/limits/attempts': got string, want integer"},
		{"config: {oidc: {issuer: a}}", "at '/config/oidc': got object, want array"},
		{"config: {oidc: [{issuer: a}]}", "at '/config/oidc/0': missing property 'rules'"},
		{"config: {oidc: [{issuer: a, rules: [{claims: {ref: main}}]}]}", "at '/config/oidc/0/rules/0/claims/ref': got string, want array"},
		{"config: {kubernetes: {imge: a}}", "at '/config/kubernetes': additional properties 'imge' not allowed"},
	} {
		err := s.Validate(values(t, tt.values))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.values, err, tt.want)
		}
	}
}

// Nothing of the chart evaluates values as templates, and nothing is pasted:
// each value goes through an encoder.
func TestChartEncodesValues(t *testing.T) {
	files, err := filepath.Glob("chart/templates/*.yaml")
	if err != nil || len(files) < 9 {
		t.Fatal(files, err)
	}
	action := regexp.MustCompile(`\{\{-?\s*(.*?)\s*-?\}\}`)
	for _, file := range files {
		for _, m := range action.FindAllStringSubmatch(read(t, file), -1) {
			text := m[1]
			switch first, _, _ := strings.Cut(text, " "); first {
			case "if", "else", "end", "with", "range", "/*":
				continue
			}
			encoded := regexp.MustCompile(`(\| quote|\| toYaml)( \| nindent \d+)?$|^toYaml \S+ \| nindent \d+$|^(int|add) |^include "pipegen\.(labels|selector|metadata|config)" .*nindent \d+$|^include "pipegen\.check" \.$|^\$\w+ :?=`).MatchString(text)
			if !encoded || strings.Contains(text, "tpl ") {
				t.Errorf("%s pastes a value: {{ %s }}", file, text)
			}
		}
	}
}
