package web

import (
	"net/http"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
)

var digestPattern = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

func checkDigest(digest string) error {
	if !digestPattern.MatchString(digest) {
		return failure.Input("%q is no digest: sha256: and 64 hex digits", digest)
	}
	return nil
}

func (s *Server) announceContext(w http.ResponseWriter, r *http.Request, c *call) error {
	var req api.ContextRequest
	if err := decode(w, r, small, &req, false); err != nil {
		return err
	}
	if err := checkDigest(req.Digest); err != nil {
		return err
	}
	c.detail = "context " + req.Digest
	switch {
	case req.Size < 0:
		return failure.Input("a context of %d bytes", req.Size)
	case req.Size > s.o.Limits.ContextBytes:
		return s.largeContext()
	}
	up, err := s.o.Core.AnnounceContext(r.Context(), req)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, up)
}

func (s *Server) largeContext() error {
	e := tooLarge(s.o.Limits.ContextBytes)
	e.detail = "the context is too large: " + e.detail
	e.hint = "a .dockerignore keeps files out of it"
	return e
}

func (s *Server) putContext(w http.ResponseWriter, r *http.Request, c *call) error {
	digest := r.PathValue("digest")
	if err := checkDigest(digest); err != nil {
		return err
	}
	c.detail = "context " + digest
	switch {
	case r.ContentLength < 0:
		return &httpError{status: http.StatusLengthRequired, detail: "the size of the context must be known beforehand"}
	case r.ContentLength > s.o.Limits.ContextBytes:
		return s.largeContext()
	}
	if err := s.o.Core.ReceiveContext(r.Context(), digest, r.ContentLength, s.pace(w, r)); err != nil {
		return unreadIn(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pace gives a body of some length without a limit in time, and lets the answer
// take its time after it.
func (s *Server) pace(w http.ResponseWriter, r *http.Request) *paced {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(24 * time.Hour))
	return &paced{r: http.MaxBytesReader(w, r.Body, s.o.Limits.ContextBytes), control: control, started: time.Now()}
}

func (s *Server) completeContext(w http.ResponseWriter, r *http.Request, c *call) error {
	digest := r.PathValue("digest")
	if err := checkDigest(digest); err != nil {
		return err
	}
	c.detail = "context " + digest
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.o.Limits.Body))
	var req api.ContextComplete
	if err := decode(w, r, 4<<20, &req, false); err != nil {
		return err
	}
	// What was brought is read again before the answer.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(time.Hour))
	if err := s.o.Core.CompleteContext(r.Context(), digest, req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
