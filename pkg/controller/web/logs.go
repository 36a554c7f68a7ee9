package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	ndjson = "application/x-ndjson"
	events = "text/event-stream"
)

// readLog streams the log of a run.
func (s *Server) readLog(w http.ResponseWriter, r *http.Request, c *call) error {
	q, err := query(r, "from", "follow", "build")
	if err != nil {
		return err
	}
	follow, err := flag(q, "follow")
	if err != nil {
		return err
	}
	from := int64(0)
	if text := q.Get("from"); text != "" {
		if from, err = strconv.ParseInt(text, 10, 64); err != nil || from < 0 {
			return failure.Input("the parameter from wants a number from 0 on, not %q", text)
		}
	}
	form := format{mediaType: ndjson, encode: same, idle: []byte("\n")}
	if accepts(r, events) {
		form = format{mediaType: events, encode: asEvents, idle: []byte(": still here\n\n")}
		if last := r.Header.Get("Last-Event-ID"); last != "" {
			n, err := strconv.ParseInt(last, 10, 64)
			if err != nil || n < 0 {
				return failure.Input("Last-Event-ID wants the number of a line, not %q", last)
			}
			from = n + 1
		}
	}
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	next := from
	ended, err := s.follow(w, r, run, from, q.Get("build"), follow, form, func(chunk controller.LogChunk) {
		next = max(next, chunk.First+int64(chunk.Count))
	})
	if err != nil || ended.State == "" {
		return err
	}
	if q.Get("build") != "" {
		// The number of all lines, of which the last may be of other builds.
		count := func(chunk controller.LogChunk) error { next = chunk.First + int64(chunk.Count); return nil }
		if err := s.o.Core.Logs(r.Context(), run.ID, next, "", false, count); err != nil {
			return err
		}
	}
	end, err := json.Marshal(api.LogLine{Seq: next, Time: finished(ended), End: ended.State})
	if err != nil {
		return err
	}
	end = append(end, '\n')
	if form.mediaType == events {
		end = append([]byte("event: end\ndata: "), append(end, '\n')...)
	}
	return s.stream(w, form).send(end)
}

func finished(run api.Run) time.Time {
	if run.Finished != nil {
		return *run.Finished
	}
	return run.Created
}

// follow sends a log and gives the run once that has ended and its log is
// complete; its state is empty if there may be more later.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, run api.Run, from int64, build string, follow bool, form format, seen func(controller.LogChunk)) (api.Run, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(s.streams, cancel)
	defer stop()
	s.o.Metrics.readers.Inc()
	defer s.o.Metrics.readers.Dec()

	out := s.stream(w, form)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	if follow {
		waiting.Go(func() { out.keepAlive(ctx, cancel, s.o.Limits.KeepAlive) })
	}
	began := false
	err := s.o.Core.Logs(ctx, run.ID, from, build, follow, func(chunk controller.LogChunk) error {
		began = true
		seen(chunk)
		return out.send(form.encode(chunk))
	})
	switch {
	case s.draining.Load() && r.Context().Err() == nil && (err != nil || ctx.Err() != nil):
		return api.Run{}, out.send(nil) // at the end of a line, without an end of the log
	case err != nil && !began && !out.started():
		return api.Run{}, err
	case err != nil:
		// What was sent is whole lines: the reader goes on after them.
		return api.Run{}, fmt.Errorf("reading the log: %w", err)
	case !follow && !run.State.Ended():
		return api.Run{}, out.send(nil)
	}
	ended, err := s.o.Core.Get(r.Context(), run.ID)
	if err != nil || !ended.State.Ended() {
		return api.Run{}, err
	}
	return ended, nil
}

// format is how a log travels.
type format struct {
	mediaType string
	// Gives a chunk as it is sent.
	encode func(controller.LogChunk) []byte
	// What says that the connection lives; nil: nothing does.
	idle []byte
}

func same(chunk controller.LogChunk) []byte { return chunk.NDJSON }

// asEvents gives each line as an event whose id is its number.
func asEvents(chunk controller.LogChunk) []byte {
	var b bytes.Buffer
	b.Grow(len(chunk.NDJSON) + 32*chunk.Count)
	for line := range bytes.Lines(chunk.NDJSON) {
		b.WriteString("id: ")
		b.Write(seqOf(line))
		b.WriteString("\ndata: ")
		b.Write(bytes.TrimRight(line, "\n"))
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// seqOf gives the digits of a line's number, which stands first in it.
func seqOf(line []byte) []byte {
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	end := bytes.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if ok && end > 0 {
		return rest[:end]
	}
	var l api.LogLine
	_ = json.Unmarshal(line, &l)
	return strconv.AppendInt(nil, l.Seq, 10)
}

// stream is an answer that goes on. What is sent is sent whole or ends it.
type stream struct {
	form    format
	stuck   time.Duration
	control *http.ResponseController

	mu   sync.Mutex
	w    http.ResponseWriter
	last time.Time
	head bool
}

func (s *Server) stream(w http.ResponseWriter, form format) *stream {
	out := &stream{form: form, stuck: s.o.Limits.Stuck, control: http.NewResponseController(w), w: w, last: time.Now()}
	// A deadline for what is read would end the request when it passes.
	_ = out.control.SetReadDeadline(time.Time{})
	return out
}

func (s *stream) started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// send sends and flushes. A reader that takes nothing for too long is left.
func (s *stream) send(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.head {
		s.head = true
		s.w.Header().Set("Content-Type", s.form.mediaType)
		s.w.Header().Set("X-Accel-Buffering", "no")
		if rec, ok := s.w.(*recorded); !ok || rec.status == 0 {
			s.w.WriteHeader(http.StatusOK)
		}
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(s.stuck))
	if len(b) > 0 {
		if _, err := s.w.Write(b); err != nil {
			return err
		}
	}
	s.last = time.Now()
	return s.control.Flush()
}

// keepAlive says now and then that the connection lives, and ends the request
// when nobody hears it.
func (s *stream) keepAlive(ctx context.Context, cancel context.CancelFunc, every time.Duration) {
	if s.form.idle == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		quiet := time.Since(s.last) >= every
		s.mu.Unlock()
		if quiet && s.send(s.form.idle) != nil {
			cancel()
			return
		}
	}
}
