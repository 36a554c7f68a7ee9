package plan

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pipegen/pipegen/internal/schemagen"
)

var updateSchema = flag.Bool("update", false, "renew the files that the tests compare with")

func TestSchemaIsThatOfTheTypes(t *testing.T) {
	want, err := schemagen.Generate(schemagen.Input{
		ID: "urn:pipegen:schema:plan", Title: "plan of pipegen",
		Value: Plan{}, Tag: "json",
		Sources: map[string]string{
			"github.com/pipegen/pipegen/pkg/plan":   ".",
			"github.com/pipegen/pipegen/pkg/config": "../config",
		},
		Adjust: func(typeName, key string, s *schemagen.Schema) {
			switch typeName + "." + key {
			case "Plan.version":
				s.Const = Version
			case "Reason.kind":
				s.Enum = []any{Changed, Watched, RemovedBase, RebuildAll, Weekly, Named, All, Missing, Stale, Dependency}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if *updateSchema {
		if err := os.WriteFile("schema/plan.json", want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(Schema(), want) {
		t.Error("schema/plan.json is not what the types say: renew it with go test ./pkg/plan -run Schema -update")
	}
}

func TestSchemaJudgesPlans(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:pipegen:schema:plan", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("urn:pipegen:schema:plan")
	if err != nil {
		t.Fatal(err)
	}
	const least = `{"version":1,"event":"push","base":"","head":"0123456789012345678901234567890123456789",
		"committed":"2026-11-21T01:02:03Z","created":"2026-11-21T02:03:04Z","pipeline":"","registry":"","layout":"tag",
		"ci":{"runner":{}},"publish":{},"skipped":[{"name":"b","reason":"unchanged"}],"images":[{"name":"a","dir":"a","key":"k",
		"reasons":[{"kind":"changed","detail":"a/Dockerfile"}],"repository":"r","tags":["t"],"needs":[],"index":true,"builds":[{"id":"a@amd64",
		"platform":"linux/amd64","engine":"kaniko","destination":"r:t","context":"a","dockerfile":"a/Dockerfile","outputs":["image"],
		"args":{"A":"1"},"cache":{"enable":true},"secrets":[{"id":"s","env":"S"}],"runner":"ci","runs_on":{},"timeout":"1h0m0s"}]}]}`
	for _, tt := range []struct {
		name, from, to string
		good           bool
	}{
		{"as it is", "", "", true},
		{"another version", `"version":1`, `"version":2`, false},
		{"unknown key", `"version":1`, `"version":1,"x":1`, false},
		{"no head", `"head":`, `"heads":`, false},
		{"unknown reason", `"kind":"changed"`, `"kind":"because"`, false},
		{"time", `2026-11-21T01:02:03Z`, `yesterday`, false},
		{"nothing for a list", `"needs":[]`, `"needs":null`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.Replace(least, tt.from, tt.to, 1)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); (err == nil) != tt.good {
				t.Errorf("%v", err)
			}
		})
	}
}
