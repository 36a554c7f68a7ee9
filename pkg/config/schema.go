package config

import _ "embed" // the schemas below

// The schemas are generated from the types of this package; its tests fail
// when they drift (go test ./pkg/config -run Schema -update renews them).
var (
	//go:embed schema/build-config.json
	buildConfigSchema []byte
	//go:embed schema/pipegen.json
	pipegenSchema []byte
)

// Schema gives the JSON Schema (draft 2020-12) of a file: build-config or
// pipegen.
func Schema(name string) ([]byte, bool) {
	switch name {
	case "build-config":
		return buildConfigSchema, true
	case "pipegen":
		return pipegenSchema, true
	}
	return nil, false
}
