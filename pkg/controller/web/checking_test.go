package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/pipegen/pipegen/pkg/api"
)

// document is the description of the interface.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

var router = sync.OnceValues(func() (routers.Router, error) {
	doc, err := document()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// checking holds each answer against the document of the interface, and what
// was asked if it was granted. Logs pass line by line.
type checking struct {
	t        *testing.T
	validate bool
}

// answered holds the answers that tests had: METHOD PATH STATUS.
var answered sync.Map

func (c *checking) RoundTrip(req *http.Request) (*http.Response, error) {
	var asked []byte
	if c.validate && req.Body != nil {
		var err error
		if asked, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(asked))
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || !c.validate {
		return res, err
	}
	if res.Header.Get("X-Request-Id") == "" {
		c.t.Errorf("%s %s: the answer does not name its request", req.Method, req.URL.Path)
	}
	known, err := router()
	if err != nil {
		c.t.Error(err)
		return res, nil
	}
	// The document's server is the root of wherever the controller is.
	at := &http.Request{Method: req.Method, URL: &url.URL{Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}, Header: req.Header}
	rt, params, err := known.FindRoute(at)
	if err != nil {
		if res.StatusCode/100 != 4 {
			c.t.Errorf("%s %s is not in the document, and gives %d", req.Method, req.URL.Path, res.StatusCode)
		}
		return res, nil
	}
	answered.Store(req.Method+" "+rt.Path+" "+strconv.Itoa(res.StatusCode), true)
	if res.StatusCode/100 == 2 {
		at.Body, at.ContentLength, at.Header = io.NopCloser(bytes.NewReader(asked)), int64(len(asked)), req.Header.Clone()
		if body := rt.Operation.RequestBody; body != nil && at.Header.Get("Content-Type") == "" {
			at.Header.Set("Content-Type", slices.Sorted(maps.Keys(body.Value.Content))[0]) // nobody has to say it
		}
		if err := openapi3filter.ValidateRequest(req.Context(), &openapi3filter.RequestValidationInput{Request: at, PathParams: params, Route: rt, Options: &openapi3filter.Options{
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, ExcludeRequestBody: rt.Path == "/build" || strings.HasPrefix(at.Header.Get("Content-Type"), "application/octet-stream"),
		}}); err != nil {
			c.t.Errorf("%s %s was granted, and is not in the document: %v", req.Method, req.URL, err)
		}
	}
	mediaType := res.Header.Get("Content-Type")
	if mediaType == ndjson || mediaType == events || strings.HasPrefix(mediaType, "application/octet-stream") {
		if content := rt.Operation.Responses.Status(res.StatusCode).Value.Content.Get(mediaType); content == nil {
			c.t.Errorf("%s %s: %s is not in the document", req.Method, req.URL.Path, mediaType)
		} else if mediaType == ndjson {
			res.Body = &checkedLines{t: c.t, schema: content.Schema.Value, r: res.Body}
		}
		return res, nil
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	err = openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: at, PathParams: params, Route: rt},
		Status:                 res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: strings.HasPrefix(mediaType, "text/plain") || mediaType == "application/yaml"},
	})
	if err != nil {
		c.t.Errorf("%s %s: %v\n%s", req.Method, req.URL.Path, err, body)
	}
	return res, nil
}

type checkedLines struct {
	t      *testing.T
	schema *openapi3.Schema
	r      io.ReadCloser
	rest   []byte
}

func (c *checkedLines) Close() error { return c.r.Close() }

func (c *checkedLines) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.rest = append(c.rest, p[:n]...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			return n, err
		}
		c.rest = rest
		if len(line) == 0 {
			continue
		}
		var v any
		if jerr := json.Unmarshal(line, &v); jerr != nil {
			c.t.Errorf("%s: %v", line, jerr)
		} else if serr := c.schema.VisitJSON(v); serr != nil {
			c.t.Errorf("%s: %v", line, serr)
		}
	}
}
