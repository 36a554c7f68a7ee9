package plan

import _ "embed" // the schema below

// The schema is generated from the types of this package; its test fails when
// it drifts (go test ./pkg/plan -run Schema -update renews it).
//
//go:embed schema/plan.json
var schema []byte

// Schema gives the JSON Schema (draft 2020-12) of the plan document.
func Schema() []byte { return schema }
