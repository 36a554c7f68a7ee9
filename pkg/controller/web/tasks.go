package web

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// The answers to agents, whose token is of the task that the path names.

// identify gives an agent its token that shows who it is. Anybody may try, at
// most some times a second from one address if it is of no use.
func (s *Server) identify(w http.ResponseWriter, r *http.Request, c *call) error {
	task := r.PathValue("task")
	var req api.Identity
	token, err := "", decode(w, r, small, &req, false)
	if err == nil {
		token, err = s.o.Core.Token(r.Context(), task, req.Proof)
	}
	if err != nil {
		if busy := s.tooStray(c); busy != nil {
			return busy
		}
		if errors.Is(err, runner.ErrUnidentified) {
			c.log.Warn("a proof is refused", "task", quote.Text(task), "why", err)
			return &httpError{status: http.StatusForbidden, detail: lines(runner.ErrUnidentified.Error()), refused: true}
		}
		return err
	}
	c.principal.Name = "agent " + task
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, http.StatusOK, api.TaskToken{Token: token})
}

func (s *Server) claim(w http.ResponseWriter, r *http.Request, c *call) error {
	var req api.Claim
	if err := decode(w, r, small, &req, false); err != nil {
		return err
	}
	if req.Agent == "" || len(req.Agent) > 128 {
		return failure.Input("an agent names itself, with at most 128 bytes")
	}
	a, err := s.o.Core.Claim(r.Context(), r.PathValue("task"), req)
	if err != nil {
		return err
	}
	c.detail = "agent " + quote.Text(req.Agent) + ", version " + quote.Text(req.Version)
	return answer(w, http.StatusOK, a)
}

func (s *Server) appendLog(w http.ResponseWriter, r *http.Request, _ *call) error {
	var req api.TaskLog
	if err := decode(w, r, s.o.Limits.LogBytes, &req, false); err != nil {
		return err
	}
	if req.From < 0 {
		return failure.Input("a log begins with line 0, not %d", req.From)
	}
	ack, err := s.o.Core.AppendLog(r.Context(), r.PathValue("task"), req)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, ack)
}

func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request, _ *call) error {
	var req api.Heartbeat
	if err := decode(w, r, small, &req, true); err != nil {
		return err
	}
	ack, err := s.o.Core.Heartbeat(r.Context(), r.PathValue("task"), req)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, ack)
}

func (s *Server) finish(w http.ResponseWriter, r *http.Request, c *call) error {
	var req api.TaskResult
	if err := decode(w, r, 4<<20, &req, false); err != nil {
		return err
	}
	if err := s.o.Core.Finish(r.Context(), r.PathValue("task"), req); err != nil {
		return err
	}
	switch {
	case req.Cancelled:
		c.detail = "cancelled"
	case req.Error != "":
		c.detail = "failed"
	default:
		c.detail = "succeeded"
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// readContext gives an agent its archive, from any byte on.
func (s *Server) readContext(w http.ResponseWriter, r *http.Request, _ *call) error {
	offset := int64(0)
	if first, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && strings.HasSuffix(first, "-") {
		n, err := strconv.ParseInt(strings.TrimSuffix(first, "-"), 10, 64)
		if err == nil && n >= 0 {
			offset = n
		}
	}
	archive, info, err := s.o.Core.OpenContext(r.Context(), r.PathValue("task"), offset)
	if err != nil {
		return err
	}
	defer archive.Close()
	header := w.Header()
	if offset > info.Size {
		header.Set("Content-Range", "bytes */"+strconv.FormatInt(info.Size, 10))
		return &httpError{status: http.StatusRequestedRangeNotSatisfiable, detail: "the context ends before that"}
	}
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Accept-Ranges", "bytes")
	header.Set("Content-Length", strconv.FormatInt(info.Size-offset, 10))
	status := http.StatusOK
	if offset > 0 {
		status = http.StatusPartialContent
		header.Set("Content-Range", "bytes "+strconv.FormatInt(offset, 10)+"-"+strconv.FormatInt(info.Size-1, 10)+"/"+strconv.FormatInt(info.Size, 10))
	}
	w.WriteHeader(status)
	out := &patient{w: w, control: http.NewResponseController(w), stuck: s.o.Limits.Stuck}
	_ = out.control.SetReadDeadline(time.Time{})
	_, err = io.CopyBuffer(out, archive, make([]byte, 256<<10))
	return err
}

// patient is an answer that may be long, to a reader that must take some of it
// now and then.
type patient struct {
	w       io.Writer
	control *http.ResponseController
	stuck   time.Duration
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(p.stuck))
	return p.w.Write(b)
}

// unreadIn says what a body that could not be read means, where that is what
// an error is about.
func unreadIn(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		return unread(err)
	}
	return err
}
