package logcopy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/failure"
)

// stream is the copy of one run's log.
type stream struct {
	*Copier
	run   string
	name  string
	clock clock
	batch batch
	// Lines that CloudWatch did not take.
	lost int
}

// copy copies the log of a run until it has ended. Of one that somebody else may
// have begun to copy it goes on after the last line that is there.
func (c *Copier) copy(ctx context.Context, run string, begun bool) {
	s := &stream{Copier: c, run: run, name: c.o.StreamPrefix + run}
	from := int64(0)
	if begun {
		next, done, err := s.resume(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.tell("looking how far copies are", err)
			}
			return
		}
		if done {
			return
		}
		from = next
	}
	err := s.lines(ctx, from)
	if err != nil && ctx.Err() == nil && !errors.Is(err, controller.ErrNotFound) && !errors.Is(err, controller.ErrGone) {
		c.tell("copying the log of run "+run, err)
	}
	if s.lost > 0 {
		c.o.Logger.Warn("the copy of logs: CloudWatch did not take all lines", "run", run, "lines", s.lost)
	}
}

// resume gives the first line that the copy does not have; done: it has all.
func (s *stream) resume(ctx context.Context) (from int64, done bool, err error) {
	var out *cloudwatchlogs.GetLogEventsOutput
	var refused error
	err = s.insist(ctx, "reading the end of the stream", func(ctx context.Context) error {
		var err error
		out, err = s.client.GetLogEvents(ctx, &cloudwatchlogs.GetLogEventsInput{
			LogGroupName: &s.o.Group, LogStreamName: &s.name, Limit: aws.Int32(1), StartFromHead: aws.Bool(false),
		})
		switch {
		case amazon.Code(err) == notFound:
			return nil
		case amazon.Denied(err): // then it is not known how to go on
			refused, err = s.refused(ctx, "reading the end of the stream", err), nil
		}
		return err
	})
	if err = errors.Join(err, refused); err != nil || out == nil || len(out.Events) == 0 {
		return 0, false, err
	}
	last := out.Events[len(out.Events)-1]
	var l api.LogLine
	if err := json.Unmarshal([]byte(aws.ToString(last.Message)), &l); err != nil {
		return 0, false, fmt.Errorf("the stream %s ends with something that is no line of a log", s.name)
	}
	s.clock.last = aws.ToInt64(last.Timestamp)
	return l.Seq + 1, l.End != "", nil
}

// lines copies from a line on to the end of the run.
func (s *stream) lines(ctx context.Context, from int64) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// One chunk waits while a batch is sent; the rest stays where it is kept.
	chunks := make(chan controller.LogChunk)
	read := make(chan error, 1)
	go func() {
		read <- s.o.Source.Logs(ctx, s.run, from, "", true, func(c controller.LogChunk) error {
			select {
			case chunks <- c:
				return nil
			case <-ctx.Done():
				return errStopped
			}
		})
	}()
	next := from
	var waited <-chan time.Time
	for {
		select {
		case c := <-chunks:
			if err := s.add(ctx, c.NDJSON); err != nil {
				stop(err)
				return errors.Join(err, unlessStopped(<-read))
			}
			if next = c.First + int64(c.Count); waited == nil {
				waited = time.After(s.o.linger)
			}
		case <-waited:
			waited = nil
			if err := s.send(ctx); err != nil {
				stop(err)
				return errors.Join(err, unlessStopped(<-read))
			}
		case err := <-read:
			if err != nil {
				return err
			}
			return s.end(ctx, next)
		}
	}
}

// unlessStopped leaves out what was to happen.
func unlessStopped(err error) error {
	if errors.Is(err, errStopped) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// add adds lines to the batch, and sends those that are full.
func (s *stream) add(ctx context.Context, ndjson []byte) error {
	return events(ndjson, &s.clock, time.Now(), func(e types.InputLogEvent) error {
		if !s.batch.fits(e) {
			if err := s.send(ctx); err != nil {
				return err
			}
		}
		s.batch.add(e)
		return nil
	})
}

// end adds what tells that the log is complete.
func (s *stream) end(ctx context.Context, lines int64) error {
	r, err := s.o.Source.Get(ctx, s.run)
	if err != nil {
		return err
	}
	text, err := json.Marshal(api.LogLine{Seq: lines, Time: aws.ToTime(r.Finished), Level: "info", Message: "the run has " + string(r.State), End: r.State})
	if err == nil {
		err = s.add(ctx, append(text, '\n'))
	}
	if err != nil {
		return err
	}
	return s.send(ctx)
}

const notFound = "ResourceNotFoundException"

// send sends the batch, however long that takes.
func (s *stream) send(ctx context.Context) error {
	if len(s.batch.events) == 0 {
		return nil
	}
	err := s.insist(ctx, "writing the stream", func(ctx context.Context) error {
		out, err := s.put(ctx)
		if amazon.Code(err) == notFound {
			if err = s.make(ctx); err == nil {
				out, err = s.put(ctx)
			}
		}
		switch amazon.Code(err) {
		case "InvalidParameterException": // no other attempt is better
			s.tell("writing the stream", s.refused(ctx, "writing the stream", err))
			s.lost += len(s.batch.events)
			return nil
		case "DataAlreadyAcceptedException":
			return nil
		}
		if err == nil && out.RejectedLogEventsInfo != nil {
			s.lost += rejected(out.RejectedLogEventsInfo, len(s.batch.events))
		}
		return err
	})
	if err == nil {
		s.batch = batch{events: s.batch.events[:0]}
	}
	return err
}

func (s *stream) put(ctx context.Context) (*cloudwatchlogs.PutLogEventsOutput, error) {
	return s.client.PutLogEvents(ctx, &cloudwatchlogs.PutLogEventsInput{LogGroupName: &s.o.Group, LogStreamName: &s.name, LogEvents: s.batch.events})
}

// rejected counts events that are too old or too new for the group.
func rejected(info *types.RejectedLogEventsInfo, of int) int {
	n := 0
	if i := info.TooOldLogEventEndIndex; i != nil {
		n = max(n, int(*i))
	}
	if i := info.ExpiredLogEventEndIndex; i != nil {
		n = max(n, int(*i))
	}
	if i := info.TooNewLogEventStartIndex; i != nil {
		n += of - int(*i)
	}
	return n
}

// make makes the stream, and the group if need be.
func (s *stream) make(ctx context.Context) error {
	create := func() error {
		_, err := s.client.CreateLogStream(ctx, &cloudwatchlogs.CreateLogStreamInput{LogGroupName: &s.o.Group, LogStreamName: &s.name})
		return unlessThere(err)
	}
	err := create()
	if amazon.Code(err) != notFound {
		return err
	}
	_, err = s.client.CreateLogGroup(ctx, &cloudwatchlogs.CreateLogGroupInput{LogGroupName: &s.o.Group, Tags: map[string]string{"pipegen:managed": "true"}})
	if err == nil && s.o.RetentionDays > 0 {
		_, err = s.client.PutRetentionPolicy(ctx, &cloudwatchlogs.PutRetentionPolicyInput{LogGroupName: &s.o.Group, RetentionInDays: &s.o.RetentionDays})
	}
	if err = unlessThere(err); err != nil {
		return err
	}
	return create()
}

func unlessThere(err error) error {
	if amazon.Code(err) == "ResourceAlreadyExistsException" {
		return nil
	}
	return err
}

// insist does something until it is done or ctx ends.
func (s *stream) insist(ctx context.Context, doing string, do func(context.Context) error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, s.o.patience) {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !amazon.Throttled(err) {
			s.tell(doing, s.refused(ctx, doing, err))
		}
		if !pause(ctx, wait*3/4+rand.N(wait/2)) { //nolint:gosec // nothing is to be kept from being guessed
			return context.Cause(ctx)
		}
	}
}

func (s *stream) refused(ctx context.Context, doing string, err error) error {
	return s.caller.Refused(ctx, doing, s.o.Group+":"+s.name, err)
}

// explained is an error with its hint.
func explained(err error) string {
	if hint := failure.Hint(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}
