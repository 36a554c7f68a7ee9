package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

const (
	// sayCommand makes this program say lines: sayCommand RATE SECONDS.
	sayCommand = "say-lines"

	firstRuns  = 1_000
	queuedRuns = 10_000
	listed     = 500 // times
	submitters = 8   // at once
	starts     = 20
	logRate    = 100_000 // lines a second
	logSeconds = 10
	logReaders = 10
)

// controllers measures a controller as a process, over HTTP with a token.
func controllers(ctx context.Context, b bench) error {
	t := table{}
	fmt.Printf("\nA controller with the local runner, builds that do nothing; over HTTP with a token\n\n")
	one := func(v float64) column { return column{{v, true}} }
	submitted, page, err := measureQueue(ctx, b)
	if err != nil {
		return fmt.Errorf("a queue: %w", err)
	}
	t.goal(thousands(firstRuns)+" runs submitted", "s", 2, one(submitted.Seconds()))
	t.goal("page of "+thousands(queuedRuns)+" queued runs, p99", "ms", 15, one(milliseconds(page)))
	median, slow, err := measureStarts(ctx, b)
	if err != nil {
		return fmt.Errorf("starts: %w", err)
	}
	t.goal("submit to agent's start, median", "ms", 300, one(milliseconds(median)))
	t.goal("submit to agent's start, p95", "ms", 300, one(milliseconds(slow)))
	l, err := measureLog(ctx, b)
	if err != nil {
		return fmt.Errorf("a log: %w", err)
	}
	t.goal("seconds for "+thousands(logSeconds)+" s of "+thousands(logRate)+" lines", "s", logSeconds+1, one(l.took.Seconds()))
	t.goal("lines lost to "+thousands(logReaders)+" readers", "", 0, one(float64(l.lost)))
	t.goal("from a build's line to its readers, p99", "ms", 250, one(milliseconds(l.lag)))
	t.goal("memory of the controller", "MB", 150, one(l.memory))
	return nil
}

// measureQueue submits runs, to a runner that is busy, and lists them.
func measureQueue(ctx context.Context, b bench) (submitted, page time.Duration, err error) {
	s, err := startServer(ctx, b, 1)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	busy, err := s.client.CreateRun(ctx, s.request("busy", 1, "sleep 600"), "")
	if err != nil {
		return 0, 0, err
	}
	if err := s.submit(ctx, 0, 20); err != nil { // connections, statements
		return 0, 0, err
	}
	began := time.Now()
	if err := s.submit(ctx, 20, firstRuns); err != nil {
		return 0, 0, err
	}
	submitted = time.Since(began)
	if err := s.submit(ctx, 20+firstRuns, queuedRuns-firstRuns); err != nil {
		return 0, 0, err
	}
	queries := []api.RunQuery{
		{}, {States: []api.State{api.Queued}}, {Labels: map[string]string{"parity": "odd"}}, {Image: "app7"}, {States: []api.State{api.Queued, api.Running}, Limit: 100},
	}
	times := make([]time.Duration, listed)
	for i := range times {
		q := queries[i%len(queries)]
		began := time.Now()
		list, err := s.client.Runs(ctx, q)
		times[i] = time.Since(began)
		if err != nil || len(list.Runs) == 0 {
			return 0, 0, fmt.Errorf("a page of %d runs: %w", len(list.Runs), err)
		}
	}
	// Its agent is ended with it.
	if _, err := s.client.CancelRun(ctx, busy.ID, ""); err != nil {
		return 0, 0, err
	}
	for run := busy; !run.State.Ended(); time.Sleep(50 * time.Millisecond) {
		if run, err = s.client.Run(ctx, busy.ID); err != nil {
			return 0, 0, err
		}
	}
	return submitted, percentile(times, 99), nil
}

// submit submits n runs, several at a time.
func (s *serverProcess) submit(ctx context.Context, first, n int) error {
	var wg sync.WaitGroup
	numbers := make(chan int)
	faults := make([]error, submitters)
	for i := range submitters {
		wg.Go(func() {
			for n := range numbers {
				r := s.request(fmt.Sprint("app", n%100), 1, "true")
				r.Labels = map[string]string{"parity": "even"}
				if n%2 == 1 {
					r.Labels["parity"] = "odd"
				}
				if _, err := s.client.CreateRun(ctx, r, ""); err != nil {
					faults[i] = err
				}
			}
		})
	}
	for i := range n {
		numbers <- first + i
	}
	close(numbers)
	wg.Wait()
	return errors.Join(faults...)
}

// measureStarts measures from a request for a run to its agent's claim.
func measureStarts(ctx context.Context, b bench) (median, slow time.Duration, err error) {
	s, err := startServer(ctx, b, 2)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	var times []time.Duration
	for range starts {
		began := time.Now()
		run, err := s.client.CreateRun(ctx, s.request("app", 1, "true"), "")
		if err != nil {
			return 0, 0, err
		}
		for !run.State.Ended() {
			time.Sleep(20 * time.Millisecond)
			if run, err = s.client.Run(ctx, run.ID); err != nil {
				return 0, 0, err
			}
		}
		i := slices.IndexFunc(run.Images[0].Tasks[0].History, func(t api.Transition) bool { return t.State == api.Running })
		if run.State != api.Succeeded || i < 0 {
			return 0, 0, fmt.Errorf("run %s %s: %s", run.ID, run.State, run.Reason)
		}
		times = append(times, run.Images[0].Tasks[0].History[i].Time.Sub(began))
	}
	return percentile(times, 50), percentile(times, 95), nil
}

func percentile(times []time.Duration, p int) time.Duration {
	slices.Sort(times)
	return times[min(len(times)-1, len(times)*p/100)]
}

// logFigures say how the lines of a log came to its readers.
type logFigures struct {
	took, lag time.Duration
	lost      int
	memory    float64
}

// measureLog has the builds of one image say lines, and readers follow.
func measureLog(ctx context.Context, b bench) (f logFigures, err error) {
	s, err := startServer(ctx, b, len(platforms))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	command := fmt.Sprintf("%s %s %d %d", self, sayCommand, logRate/len(platforms), logSeconds)
	run, err := s.client.CreateRun(ctx, s.request("app", len(platforms), command), "")
	if err != nil {
		return f, err
	}
	all := make([]logReader, logReaders)
	faults := make([]error, logReaders)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { faults[i] = all[i].follow(ctx, s, run.ID) })
	}
	wg.Wait()
	if err := errors.Join(faults...); err != nil {
		return f, err
	}
	var lags [longestLag]int
	for i := range all {
		r := &all[i]
		f.lost += logRate*logSeconds - r.lines
		f.took = max(f.took, r.last.Sub(r.first))
		for ms, n := range r.lags {
			lags[ms] += n
		}
	}
	left := logRate * logSeconds * logReaders / 100
	ms := len(lags) - 1
	for left -= lags[ms]; left > 0 && ms > 0; left -= lags[ms] {
		ms--
	}
	f.lag = time.Duration(ms+1) * time.Millisecond
	f.memory, err = s.peak()
	return f, err
}

// longestLag is from how many milliseconds on lags are counted as one.
const longestLag = 60_000

// logReader counts the lines of builds in a log, and how late they come.
type logReader struct {
	next        int // number of the line that comes next
	lines       int
	lags        [longestLag]int // by milliseconds
	first, last time.Time
}

// follow reads the log of a run to its end.
func (r *logReader) follow(ctx context.Context, s *serverProcess, run string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/runs/"+run+"/logs?follow=1", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := res.Body.Read(buf[kept:])
		now := time.Now()
		rest := buf[:kept+n]
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			rest = after
			if err := r.line(line, now); err != nil {
				return err
			}
		}
		kept = copy(buf, rest)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// line takes a line of the log.
func (r *logReader) line(line []byte, now time.Time) error {
	const before, after = `{"seq":`, `"}` // of numbers and messages
	comma := bytes.IndexByte(line, ',')
	if comma < len(before) {
		return nil // keeps the connection open
	}
	message := len(line) - len(after) - (logLine - 1)
	isBuilds := message > comma && line[message-1] == '"' && line[len(line)-len(after)-1] == '.'
	if !isBuilds && bytes.Contains(line, []byte(`,"end":"`)) {
		return nil
	}
	if seq, err := strconv.Atoi(string(line[len(before):comma])); err != nil || seq != r.next {
		return fmt.Errorf("line %s comes in place of %d", line[len(before):comma], r.next)
	}
	r.next++
	if !isBuilds {
		return nil // of the agent, or the controller
	}
	said, err := strconv.ParseInt(string(line[message:message+16]), 10, 64)
	if err != nil {
		return err
	}
	at := time.UnixMicro(said)
	r.first, r.last = cmp.Or(r.first, at), now
	r.lines++
	r.lags[min(max(now.Sub(at).Milliseconds(), 0), longestLag-1)]++
	return nil
}
