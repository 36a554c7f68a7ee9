package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// small is what requests may have that are no plans and no logs, in bytes.
const small = 64 << 10

// decode reads a JSON body of at most so many bytes. Fields that the type does
// not have are errors with their name. Where it may be empty, it is left as it
// was then.
func decode(w http.ResponseWriter, r *http.Request, limit int64, into any, mayBeEmpty bool) error {
	if given := r.Header.Get("Content-Type"); given != "" {
		if t, _, err := mime.ParseMediaType(given); err != nil || t != "application/json" {
			return &httpError{status: http.StatusUnsupportedMediaType, detail: "the body is " + quote.Text(given), hint: "send application/json"}
		}
	}
	data, err := body(w, r, limit)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		if mayBeEmpty {
			return nil
		}
		return failure.Input("the request has no body")
	}
	if l, ok := into.(*api.TaskLog); ok && l.Parse(data) { // most of all that comes
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return malformed(data, err, into)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return failure.Input("the body has something after its end")
	}
	return nil
}

// body reads a whole body of at most so many bytes.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var data bytes.Buffer
	data.Grow(int(min(max(r.ContentLength, 0), 1<<20)) + bytes.MinRead) // what is announced need not come
	if _, err := data.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		return nil, unread(err)
	}
	return data.Bytes(), nil
}

// unread says why a body could not be read.
func unread(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &httpError{status: http.StatusRequestTimeout, detail: "the body took too long"}
	}
	return failure.Input("reading the body: %w", err)
}

// malformed says what is wrong with a JSON body, and where.
func malformed(data []byte, err error, into any) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typed):
		return failure.Input("the field %q cannot be %s", typed.Field, typed.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		offset = int64(len(data))
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name := strings.Trim(field, `"`)
		return nearest(failure.Input("unknown field %q", name), name, fields(reflect.TypeOf(into)))
	}
	if offset < 0 {
		return failure.Input("the body is no JSON: %w", err)
	}
	before := data[:min(offset, int64(len(data)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	return failure.Input("the body is no JSON: %w, line %d, column %d", err, line, len(before)-bytes.LastIndexByte(before, '\n')-1)
}

func nearest(err error, word string, among []string) error {
	if near := config.Nearest(word, among); near != "" {
		return failure.WithHint(err, "did you mean %q?", near)
	}
	return err
}

// fields gives the names of all fields of a type and of those below it.
func fields(t reflect.Type) []string {
	names, seen := map[string]bool{}, map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(t.Elem())
		case reflect.Struct:
			if seen[t] || t == reflect.TypeFor[time.Time]() {
				return
			}
			seen[t] = true
			for f := range t.Fields() {
				if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
					names[name] = true
				}
				walk(f.Type)
			}
		}
	}
	walk(t)
	return slices.Sorted(maps.Keys(names))
}

// query gives the parameters of a request. One that is not among the names is
// an error.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, failure.Input("the query of the address cannot be read: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(names, name) {
			return nil, nearest(failure.Input("unknown parameter %q", name), name, names)
		}
	}
	return q, nil
}

// flag reads a parameter that says yes or no.
func flag(q url.Values, name string) (bool, error) {
	switch v := q.Get(name); v {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, failure.Input("the parameter %s wants 0 or 1, not %q", name, v)
	}
}

// idempotencyKey reads the header by which a request sent twice counts once.
func idempotencyKey(r *http.Request) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	if len(key) > 128 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", failure.Input("Idempotency-Key is longer than 128 characters, or not printable")
	}
	return key, nil
}

// paced is a body that may take as long as it takes, if it comes at slowest
// bytes a second on the whole, after a minute.
type paced struct {
	r       io.Reader
	control *http.ResponseController
	started time.Time
	n       int64
}

const slowest = 16 << 10

func (p *paced) Read(b []byte) (int, error) {
	allowed := time.Minute + time.Duration(p.n/slowest)*time.Second
	_ = p.control.SetReadDeadline(p.started.Add(allowed))
	n, err := p.r.Read(b)
	p.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading the body: %w", err)
	}
	return n, err
}
