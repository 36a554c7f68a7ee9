package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
)

// readAhead is about how many bytes of kept lines a reader takes at a time.
const readAhead = 256 << 10

// Logs calls yield with the log of a run from line number from on, of one build
// alone if build is not empty: what is there, and with follow all that comes
// until the run has ended. It never holds up who writes the log: a slow yield
// reads from the store what came meanwhile. Any number of readers share the
// bytes of a chunk. An error of yield ends it and is returned; ErrGone: the log
// has expired.
func (c *Controller) Logs(ctx context.Context, id string, from int64, build string, follow bool, yield func(chunk LogChunk) error) error {
	if from < 0 {
		return failure.Input("logs begin with line 0, not %d", from)
	}
	r := c.hub.join(id, from)
	defer c.hub.leave(r)
	pos := from
	give := func(chunk liveChunk) error {
		if chunk.end() <= pos {
			return nil
		}
		if skip := pos - chunk.First; skip > 0 {
			chunk.NDJSON = skipLines(chunk.NDJSON, skip)
			chunk.First, chunk.Count = pos, chunk.Count-int(skip)
		}
		if build == "" || build == chunk.build {
			if err := yield(chunk.LogChunk); err != nil {
				return err
			}
		}
		pos = chunk.end()
		c.hub.read(r, pos)
		return nil
	}
	for {
		chunks, look, changed := c.hub.next(r)
		for _, chunk := range chunks {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := give(chunk); err != nil {
				return err
			}
		}
		if len(chunks) > 0 {
			continue
		}
		if look || !follow {
			state, err := c.readLog(ctx, id, pos)
			switch {
			case err != nil:
				return err
			case pos >= state.lines && (state.ended || !follow):
				return nil
			case pos >= state.lines:
				c.hub.at(id, state.lines)
			case state.where == store.LogExpired:
				return fmt.Errorf("%w: the log of run %s has expired", ErrGone, id)
			case state.where != store.LogRows:
				return c.readArchive(ctx, id, pos, state.lines, build, yield)
			case len(state.chunks) == 0 || state.chunks[0].First > pos:
				return fmt.Errorf("the log of run %s has no line %d", id, pos)
			}
			for _, chunk := range state.chunks {
				lines, err := c.codec.unpack(chunk.Data)
				if err != nil {
					return fmt.Errorf("the log of run %s, line %d: %w", id, chunk.First, err)
				}
				ndjson := number(chunk.First, chunk.Count, lines)
				if err := give(liveChunk{LogChunk{First: chunk.First, Count: chunk.Count, NDJSON: ndjson}, chunk.Build}); err != nil {
					return err
				}
			}
			if len(state.chunks) > 0 {
				continue
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// logState is how a log is, with what the database has of it from some line on.
type logState struct {
	where  string
	lines  int64
	ended  bool
	chunks []store.Chunk
}

func (c *Controller) readLog(ctx context.Context, run string, from int64) (s logState, err error) {
	err = c.o.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if s.where, s.lines, s.ended, err = tx.LogState(run); err != nil || s.where != store.LogRows || from >= s.lines {
			return err
		}
		s.chunks, err = tx.Chunks(run, from, readAhead)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return s, fmt.Errorf("run %s: %w", run, ErrNotFound)
	}
	return s, err
}

// pollLogs looks for what other controllers wrote into logs that somebody follows here.
func (c *Controller) pollLogs(h *hub) {
	runs := h.followed()
	err := c.o.Store.Read(c.life, func(tx *store.Tx) error {
		ends, err := tx.LogEnds(runs)
		for _, e := range ends {
			h.found(e.Run, e.Lines, e.Ended)
		}
		return err
	})
	if err != nil && c.life.Err() == nil {
		c.log.Warn("looking for log lines of other controllers", "err", err)
	}
}

// AppendLog adds lines to the log of a task, and returns when they are durable.
// Lines that are there already are left out; ErrConflict: some before them are
// missing, or nobody claimed the task; ErrGone: it has ended. What is beyond
// the limit is taken and left out.
func (c *Controller) AppendLog(ctx context.Context, task string, l api.TaskLog) (api.LogAck, error) {
	if l.From < 0 {
		return api.LogAck{}, failure.Input("logs begin with line 0, not %d", l.From)
	}
	seen, err := c.claimed(ctx, task)
	if err != nil {
		return api.LogAck{}, fmt.Errorf("task %s: %w", task, err)
	}
	l.Lines = within(l.Lines, seen.since, c.o.Now())
	known := min(max(seen.lines-l.From, 0), int64(len(l.Lines)))
	encoded := c.codec.encode(subject{build: seen.build}, l.Lines[known:])
	var next int64
	err = c.change(ctx, onTask(task), func(ch *change) error {
		t, err := ch.task(task)
		if err != nil {
			return fmt.Errorf("task %s: %w", task, err)
		}
		end := l.From + int64(len(l.Lines))
		next = max(end, t.Lines)
		switch {
		case end <= t.Lines && t.State != api.Queued && t.State != api.Starting:
			return nil // all of it is there
		case t.State.Ended():
			return fmt.Errorf("%w: task %s has ended: %s", ErrGone, task, t.State)
		case t.State != api.Running:
			return fmt.Errorf("%w: task %s is %s, nobody claimed it", ErrConflict, task, t.State)
		case l.From > t.Lines:
			return fmt.Errorf("%w: line %d of task %s comes next, not %d", ErrConflict, t.Lines, task, l.From)
		}
		fresh := l.Lines[t.Lines-l.From:]
		pieces := encoded
		if len(fresh) != len(l.Lines)-int(known) {
			pieces = c.codec.encode(subject{build: t.Build}, fresh)
		}
		var size int64
		for _, line := range fresh {
			size += int64(len(line.Message))
		}
		limit := c.o.Limits.LogBytes
		if t.Bytes <= limit {
			if err := ch.append(t.Run, t.Build, pieces); err != nil {
				return err
			}
			if t.Bytes+size > limit {
				ch.say(t.Run, subject{build: t.Build}, "warning", "the log has reached the limit of %d bytes; what follows is left out", limit)
			}
		}
		e := Event{
			Kind: LogAppended, Time: ch.now, Run: t.Run, Task: t.ID, Build: t.Build, Runner: t.Runner, Submitter: t.Submitter,
			Attempt: t.Attempt, Lines: int64(len(fresh)), Bytes: size,
		}
		ch.After(func() { c.o.Observe(e) })
		return ch.Received(task, end, t.Bytes+size)
	})
	if err == nil {
		c.claims.received(task, next)
	}
	return api.LogAck{Next: next}, err
}

// within puts the times of lines into the time that their task has run: an
// agent's clock may be wrong. The caller's lines stay as they are.
func within(lines []api.TaskLine, since, now time.Time) []api.TaskLine {
	lines = slices.Clone(lines)
	for i := range lines {
		switch at := &lines[i].Time; {
		case at.IsZero() || at.After(now):
			*at = now
		case at.Before(since):
			*at = since
		}
	}
	return lines
}
