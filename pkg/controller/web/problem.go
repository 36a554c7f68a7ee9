package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// httpError is an error with the status that it is answered with.
type httpError struct {
	status       int
	detail, hint string
	after        time.Duration
	// Whether it is somebody who may not, for the audit log.
	refused bool
	// Whether the audit log has enough of it.
	quiet bool
}

func (e *httpError) Error() string { return e.detail }

func busy(wait time.Duration) *httpError {
	return &httpError{status: http.StatusTooManyRequests, detail: "too many requests", hint: "fewer a second, or ask for a higher limit", after: wait, refused: true}
}

func unavailable(detail string) *httpError {
	return &httpError{status: http.StatusServiceUnavailable, detail: detail, after: 2 * time.Second}
}

func forbidden(what, role string) *httpError {
	e := &httpError{status: http.StatusForbidden, detail: "the token may not " + what, refused: true}
	if role != "" {
		e.hint = "it needs the role " + role
	}
	return e
}

// hidden is the answer about a run that is somebody else's: there is none.
func hidden() *httpError {
	return &httpError{status: http.StatusNotFound, detail: "there is no such run", refused: true}
}

func missing() *httpError {
	return &httpError{status: http.StatusNotFound, detail: "there is no such run"}
}

func tooLarge(limit int64) *httpError {
	return &httpError{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("the body has more than %d bytes", limit)}
}

// describe gives the status and the words for an error. Whatever is no fault of
// the caller's is told to the log alone.
func describe(err error) *httpError {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e
	}
	text := lines(err.Error())
	e := &httpError{detail: text, hint: hint(err)}
	var large *http.MaxBytesError
	unchecked, _ := errors.AsType[*access.Unavailable](err)
	switch {
	case errors.As(err, &large):
		return tooLarge(large.Limit)
	case errors.Is(err, access.ErrForbidden):
		e.status, e.refused = http.StatusForbidden, true
	case errors.Is(err, controller.ErrSpent):
		e.status, e.refused, e.hint = http.StatusForbidden, true, "a token of a CI system is for the run of its own job; runs in the rule that let it in allows more"
	case errors.Is(err, controller.ErrNotFound), errors.Is(err, blob.ErrNotFound):
		e.status = http.StatusNotFound
	case errors.Is(err, controller.ErrConflict):
		e.status = http.StatusConflict
	case errors.Is(err, controller.ErrGone):
		e.status = http.StatusGone
	case errors.Is(err, failure.ErrInput):
		e.status = http.StatusBadRequest
	case unchecked != nil:
		return &httpError{status: http.StatusServiceUnavailable, detail: "tokens of " + lines(unchecked.Issuer) + " cannot be checked for now", hint: "its keys cannot be fetched; try again later", after: unchecked.After}
	case errors.Is(err, controller.ErrUnavailable):
		return unavailable("the controller cannot do that for now")
	case errors.Is(err, context.DeadlineExceeded):
		e.status, e.detail, e.hint, e.after = http.StatusServiceUnavailable, "it took too long", "", 2*time.Second
	case errors.Is(err, context.Canceled):
		e.status, e.detail, e.hint, e.after = http.StatusServiceUnavailable, "the controller is about to end", "", 2*time.Second
	default:
		e.status, e.detail, e.hint = http.StatusInternalServerError, "something is wrong with the controller", "its operator finds the request by its id in the log"
	}
	return e
}

// lines makes a text of several lines safe to show.
func lines(text string) string {
	parts := strings.Split(quote.URL(text), "\n")
	for i, line := range parts {
		parts[i] = quote.Text(line)
	}
	return strings.Join(parts, "\n")
}

// refuse answers with a problem (RFC 9457).
func (s *Server) refuse(w http.ResponseWriter, c *call, err error) {
	e := describe(err)
	if e.status >= 500 {
		c.log.Error("the request failed", "error", err)
	}
	if e.refused || c.detail == "" {
		c.detail = e.detail
	}
	header := w.Header()
	if e.after > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.after.Seconds()))))
	}
	if e.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="pipegen"`)
	}
	header.Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.status)
	encode(w, api.Problem{Title: http.StatusText(e.status), Status: e.status, Detail: e.detail, Hint: e.hint, Request: c.id})
}

// answer writes a document.
func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encode(w, v)
	return nil
}

// encode writes JSON. Whoever does not read it to its end has left.
func encode(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
