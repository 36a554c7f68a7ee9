package logcopy

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"github.com/pipegen/pipegen/pkg/api"
)

// Limits of PutLogEvents.
// https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
const (
	maxBatch  = 1 << 20 // bytes, with overhead for each event
	maxEvents = 10_000
	overhead  = 26
	maxEvent  = 256<<10 - overhead
	maxSpan   = 24*time.Hour - time.Minute
	// Later ones are refused.
	maxAhead = time.Hour
)

// batch is what goes in one request: in the order of the log, which is that of
// time.
type batch struct {
	events []types.InputLogEvent
	bytes  int
}

// fits says whether an event may be added.
func (b *batch) fits(e types.InputLogEvent) bool {
	if len(b.events) == 0 {
		return true
	}
	span := time.Duration(*e.Timestamp-*b.events[0].Timestamp) * time.Millisecond
	return len(b.events) < maxEvents && b.bytes+len(*e.Message)+overhead <= maxBatch && span <= maxSpan
}

func (b *batch) add(e types.InputLogEvent) {
	b.events = append(b.events, e)
	b.bytes += len(*e.Message) + overhead
}

// clock gives times that do not go back: a run's lines come from machines
// whose clocks differ.
type clock struct{ last int64 }

func (c *clock) at(t, now time.Time) int64 {
	if ahead := now.Add(maxAhead); t.After(ahead) {
		t = ahead
	}
	c.last = max(c.last, t.UnixMilli())
	return c.last
}

// events makes an event of each line, or several of one that is too long.
func events(ndjson []byte, c *clock, now time.Time, each func(types.InputLogEvent) error) error {
	for line := range bytes.Lines(ndjson) {
		line = bytes.TrimRight(line, "\n")
		var l api.LogLine
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		at := c.at(l.Time, now)
		for _, text := range pieces(line, l) {
			if err := each(types.InputLogEvent{Message: aws.String(text), Timestamp: aws.Int64(at)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pieces gives a line in parts that are not too long for an event.
func pieces(line []byte, l api.LogLine) []string {
	if len(line) <= maxEvent {
		return []string{string(line)}
	}
	half := len(l.Message) / 2
	for half > 0 && !utf8.RuneStart(l.Message[half]) {
		half--
	}
	if half == 0 {
		return nil // there is more beside the message than a controller writes
	}
	first, second := l, l
	first.Message, second.Message = l.Message[:half], l.Message[half:]
	first.More = true
	var all []string
	for _, part := range []api.LogLine{first, second} {
		text, err := json.Marshal(part)
		if err == nil {
			all = append(all, pieces(text, part)...)
		}
	}
	return all
}
