package api

import _ "embed" // the document below

// OpenAPI is the description of the interface, as the controller serves it at
// /v1/openapi.yaml: an OpenAPI document of version 3.0.
//
//go:embed openapi.yaml
var OpenAPI []byte
