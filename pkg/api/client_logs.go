package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxEntry bounds a line of a log as it travels, in bytes: 64 KiB of text in
// which every byte is escaped, and what stands around it.
const maxEntry = 1 << 20

// LogQuery says what of a run's log is wanted.
type LogQuery struct {
	// Seq of the first line.
	From int64
	// Id of the build whose lines are wanted; empty: all.
	Build string
	// Whether to wait for more until the run has ended.
	Follow bool
}

// Logs gives the lines of a run's log to yield, in order and each once, and the
// state of the run once it has ended and the log is complete; empty: there may
// be more later. A connection that breaks is made again where it broke off. An
// error of yield ends it and comes back as it is.
func (c *Client) Logs(ctx context.Context, run string, q LogQuery, yield func(LogLine) error) (State, error) {
	b := c.backoff()
	for {
		s := stream{client: c, run: run, query: &q, yield: yield}
		err := s.read(ctx)
		switch {
		case s.end != "" || s.stopped || err == nil && !q.Follow:
			return s.end, err
		case err == nil: // the controller, or a proxy before it, is about to end
			err = &ConnectionError{http.MethodGet + " /v1/runs/" + run + "/logs", io.ErrUnexpectedEOF}
		}
		if s.moved {
			b = c.backoff()
		} else if s.answered {
			b.started = time.Now()
		}
		if err := b.wait(ctx, err); err != nil {
			return "", err
		}
	}
}

// stream is one answer with a log.
type stream struct {
	client *Client
	run    string
	query  *LogQuery // From moves past what yield got
	yield  func(LogLine) error

	answered, moved, stopped bool
	end                      State
}

// read reads the answer to its end.
func (s *stream) read(ctx context.Context) error {
	c, q := s.client, s.query
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(c.answering, func() { cancel(errSilent) })
	defer quiet.Stop()
	v := url.Values{"from": {strconv.FormatInt(q.From, 10)}}
	if q.Build != "" {
		v.Set("build", q.Build)
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	req, err := c.request(ctx, request{method: http.MethodGet, path: []string{"runs", s.run, "logs"}, query: v, header: http.Header{"Accept": {"application/x-ndjson"}}}, nil)
	if err != nil {
		return err
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	s.answered = true
	r := bufio.NewReaderSize(res.Body, maxEntry)
	for {
		quiet.Reset(c.silence)
		text, err := r.ReadSlice('\n')
		quiet.Stop()
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return c.broken(ctx, req, "reading the log", io.ErrUnexpectedEOF)
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("%s: a line of the log has more than %d bytes", c.name(req), maxEntry)
		case err != nil:
			return c.broken(ctx, req, "reading the log", err)
		case len(text) == 1:
			continue // keeps the connection open
		}
		var l LogLine
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("%s: a line of the log is no JSON: %w", c.name(req), err)
		}
		switch {
		case l.End != "":
			s.end = l.End
			return nil
		case l.Seq < q.From:
			continue // seen
		case l.Seq > q.From && q.Build == "":
			return fmt.Errorf("%s: lines %d to %d of the log are missing", c.name(req), q.From, l.Seq-1)
		}
		if err := s.yield(l); err != nil {
			s.stopped = true
			return err
		}
		q.From, s.moved = l.Seq+1, true
	}
}
