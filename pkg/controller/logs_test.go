package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// flaky is a blob store that can be away.
type flaky struct {
	blob.Store
	away atomic.Bool
}

var errAway = errors.New("connection refused")

func (f *flaky) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if f.away.Load() {
		return errAway
	}
	return f.Store.Put(ctx, key, r, size)
}

func (f *flaky) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, blob.Info, error) {
	if f.away.Load() {
		return nil, blob.Info{}, errAway
	}
	return f.Store.Get(ctx, key, offset)
}

func (f *flaky) Delete(ctx context.Context, key string) error {
	if f.away.Load() {
		return errAway
	}
	return f.Store.Delete(ctx, key)
}

// archived waits until the log of a run is in the blob store alone.
func (w *world) archived(id string) {
	w.t.Helper()
	for range 2000 {
		s, err := w.readLog(w.t.Context(), id, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if s.where == store.LogBlob {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatal("the log never goes to the blob store")
}

// of gives the messages of one build that are its agent's.
func of(build string, lines []api.LogLine) (all []string) {
	for _, l := range lines {
		if l.Build == build && l.State == "" {
			all = append(all, l.Message)
		}
	}
	return all
}

// Followers can draw all states from the log alone.
func TestLogTellsStates(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		switch {
		case a.Build == "bad@amd64":
			if err := a.claim(); err != nil {
				return err
			}
			return a.fail("exit status 1")
		case a.Build == "app@arm64" && strings.HasSuffix(a.Task, "-1"):
			return errors.New("no node")
		}
		return builds(a)
	})
	run := w.end(w.submit("app", "bad", "top<bad").ID)
	got := map[string]string{}
	for _, l := range w.log(run.ID, true) {
		if l.State == "" {
			continue
		}
		if (l.Build == "") == (l.Image == "") {
			t.Errorf("a state of both or neither: %+v", l)
		}
		got[l.Build+l.Image] += string(l.State) + ": " + l.Message + "\n"
	}
	for name, want := range map[string]string{
		"app@amd64": "starting: starting on local\nrunning: running, agent v1\nsucceeded: succeeded: " + digestOf("app@amd64") + "\n",
		"app@arm64": "starting: starting on local\nlost: lost: no node; trying again in 1ms (2 of 3)\nstarting: starting on local, attempt 2\n" +
			"running: running, agent v1\nsucceeded: succeeded: " + digestOf("app@arm64") + "\n",
		"bad@amd64": "starting: starting on local\nrunning: running, agent v1\nfailed: exit status 1\n",
		"app":       "publishing: publishing\nsucceeded: published registry.test/images:app-1, app-latest@" + digestOf("app") + "\n",
		"bad":       "failed: bad@amd64 failed: exit status 1\n",
		"top":       "cancelled: needs bad, which failed\n",
		"top@amd64": "",
	} {
		if got[name] != want {
			t.Errorf("%s:\n%swant\n%s", name, got[name], want)
		}
	}
}

// What an agent sends twice is there once; what is missing is asked for.
func TestAppendLog(t *testing.T) {
	lines := func(messages ...string) (l []api.TaskLine) {
		for _, m := range messages {
			l = append(l, api.TaskLine{Time: time.Now(), Message: m, Level: "warn"})
		}
		return l
	}
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		for _, c := range []struct {
			from int64
			send []api.TaskLine
			next int64
			err  error
		}{
			{0, lines("a", "b"), 2, nil},
			{0, lines("a", "b"), 2, nil},
			{1, lines("b", "c", "d"), 4, nil},
			{5, lines("f"), 4, ErrConflict},
			{4, nil, 4, nil},
			{0, lines("a"), 4, nil},
		} {
			ack, err := a.AppendLog(a.ctx, a.Task, api.TaskLog{From: c.from, Lines: c.send})
			if !errors.Is(err, c.err) || err == nil && ack.Next != c.next {
				t.Errorf("%d lines from %d: %+v, %v", len(c.send), c.from, ack, err)
			}
		}
		a.lines = 5
		if err := a.succeed(); !errors.Is(err, ErrConflict) {
			t.Errorf("a report before the whole log: %v", err)
		}
		a.lines = 4
		return a.succeed()
	})
	run := w.end(w.submit("app").ID)
	if got := of("app@amd64", w.log(run.ID, true)); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("%q", got)
	}
	only, err := w.read(t.Context(), run.ID, 0, "app@arm64", true)
	if err != nil || len(only) != 4+3 || slices.ContainsFunc(only, func(l api.LogLine) bool { return l.Build != "app@arm64" }) {
		t.Errorf("one build alone: %+v, %v", only, err)
	}
}

// The times of agents whose clocks are wrong lie within their task's.
func TestTimesOfAgents(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		ack, err := a.AppendLog(a.ctx, a.Task, api.TaskLog{Lines: []api.TaskLine{
			{Time: time.Now().Add(48 * time.Hour), Message: "ahead"}, {Time: time.Unix(0, 0), Message: "behind"}, {Message: "none"},
		}})
		if err != nil {
			return err
		}
		a.lines = ack.Next
		return a.succeed()
	})
	run := w.end(w.submit("app").ID)
	for _, l := range w.log(run.ID, true) {
		if l.Time.Before(run.Created) || l.Time.After(*run.Finished) {
			t.Errorf("%s: a line %q of %s, in a run from %s to %s", l.Build, l.Message, l.Time, run.Created, run.Finished)
		}
	}
}

func TestLogLimit(t *testing.T) {
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		for range 4 {
			if err := a.say(strings.Repeat("x", 60)); err != nil {
				return err
			}
		}
		return a.succeed()
	}, func(o *Options) { o.Limits.LogBytes = 100 })
	run := w.end(w.submit("app").ID)
	got := of("app@amd64", w.log(run.ID, true))
	if run.State != api.Succeeded || len(got) != 3 || got[2] != "the log has reached the limit of 100 bytes; what follows is left out" {
		t.Errorf("%s: %q", run.State, got)
	}
}

// A line of 10 MB and noise arrive, in pieces that any reader of lines can take.
func TestLongLinesAndNoise(t *testing.T) {
	long := strings.Repeat("ü0123456789", 1<<20)
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		if err := a.say(long, string(noise), "\x00\r\n\u2028\x1b[31m\x7f"); err != nil {
			return err
		}
		return a.succeed()
	})
	check := func(run string) {
		t.Helper()
		var whole []string
		goesOn := false
		err := w.Logs(t.Context(), run, 0, "app@amd64", true, func(c LogChunk) error {
			if len(c.NDJSON) > 4<<20 || bytes.ContainsAny(c.NDJSON, "\r\x00\x1b") {
				t.Errorf("a chunk of %d bytes, or with control characters", len(c.NDJSON))
			}
			lines, err := decode(c)
			for _, l := range lines {
				if l.State != "" {
					continue
				}
				if len(l.Message) > 4*longestLine {
					t.Errorf("a message of %d bytes", len(l.Message))
				}
				if goesOn {
					whole[len(whole)-1] += l.Message
				} else {
					whole = append(whole, l.Message)
				}
				goesOn = l.More
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(whole) != 3 || whole[0] != long || whole[2] != "\x00\r\n\u2028\x1b[31m\x7f" || utf8.RuneCountInString(whole[1]) < 1<<18 {
			t.Errorf("%d lines came", len(whole))
		}
	}
	run := w.submit("app")
	check(run.ID)
	w.archived(run.ID)
	check(run.ID)
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a", "\"\\\n\t\x00", "\u2028\u0085", "\xff\xfeü", "\ufffd", "\U0001f600\xf0\x9f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := appendString(nil, s)
		var got string
		// Each byte that is no UTF-8 becomes a character.
		if err := json.Unmarshal(text, &got); err != nil || got != string([]rune(s)) {
			t.Errorf("%q became %q, %v", s, got, err)
		}
		if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r == '\u0085' }) {
			t.Errorf("%q has control characters", text)
		}
	})
}

// Any number of readers, from any line on, slow ones and ones that vanish,
// get each line once and in order, and hold nobody up.
func TestReaders(t *testing.T) {
	const readers, rounds, each = 200, 60, 50
	begin := make(chan struct{})
	w := newWorld(t, func(a *agent) error {
		if a.Build != "app@amd64" {
			return builds(a)
		}
		if err := a.claim(); err != nil {
			return err
		}
		<-begin
		for i := range rounds {
			var some []string
			for j := range each {
				some = append(some, fmt.Sprintf("line %d %s", i*each+j, strings.Repeat(".", 100)))
			}
			if err := a.say(some...); err != nil {
				return err
			}
		}
		return a.succeed()
	})
	run := w.submit("app")
	w.until(run.ID, func(r api.Run) bool { return task(r, "app@amd64").State == api.Running })
	var wg sync.WaitGroup
	var vanished atomic.Int32
	stuck, release := make(chan struct{}), make(chan struct{})
	wg.Go(func() { // one that reads nothing until the run has ended
		var next int64
		err := w.Logs(t.Context(), run.ID, 0, "", true, func(c LogChunk) error {
			if next == 0 {
				close(stuck)
				<-release
			}
			if c.First != next {
				t.Errorf("a chunk from %d after line %d", c.First, next)
			}
			next = c.First + int64(c.Count)
			return nil
		})
		if err != nil || next < rounds*each {
			t.Errorf("the slow reader got %d lines, %v", next, err)
		}
	})
	<-stuck
	for n := range readers {
		wg.Go(func() {
			from := int64(n % 7)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			next, lines := from, 0
			err := w.Logs(ctx, run.ID, from, "", true, func(c LogChunk) error {
				if c.First != next || bytes.Count(c.NDJSON, []byte("\n")) != c.Count || !bytes.HasPrefix(c.NDJSON, fmt.Appendf(nil, `{"seq":%d,`, next)) {
					t.Errorf("reader %d: a chunk from %d after line %d", n, c.First, next)
				}
				next += int64(c.Count)
				lines += c.Count
				if n%10 == 3 && lines > 500 {
					cancel() // it vanishes
				}
				if n%10 == 4 {
					time.Sleep(5 * time.Millisecond)
				}
				return nil
			})
			switch {
			case n%10 == 3 && (errors.Is(err, context.Canceled) || err == nil && next >= rounds*each): // its last piece may have been the log's
				vanished.Add(1)
			case err != nil || next < rounds*each:
				t.Errorf("reader %d: %d lines, %v", n, next, err)
			}
		})
	}
	close(begin)
	run = w.end(run.ID) // nobody holds it up
	close(release)
	wg.Wait()
	if run.State != api.Succeeded || vanished.Load() != readers/10 {
		t.Errorf("%s, %d vanished", run.State, vanished.Load())
	}
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if len(w.hub.streams) != 0 || w.hub.bytes != 0 {
		t.Errorf("%d streams and %d bytes are left", len(w.hub.streams), w.hub.bytes)
	}
}

// While the blob store is away logs stay readable, and go there when it is back.
func TestArchive(t *testing.T) {
	var blobs *flaky
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		for i := range 40 {
			if err := a.say(strings.Repeat(fmt.Sprintf("%s %d ", a.Build, i), 8<<10)); err != nil {
				return err
			}
		}
		return a.succeed()
	}, func(o *Options) {
		blobs = &flaky{Store: o.Blobs}
		blobs.away.Store(true)
		o.Blobs = blobs
	})
	run := w.end(w.submit("app").ID)
	before := w.log(run.ID, true)
	if _, err := w.archiveSome(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("archiving while the blob store is away: %v", err)
	}
	if again := w.log(run.ID, true); len(again) != len(before) {
		t.Errorf("%d of %d lines", len(again), len(before))
	}
	blobs.away.Store(false)
	if _, err := w.archiveSome(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.archived(run.ID)
	for from := int64(0); from <= int64(len(before)); from += 7 {
		got, err := w.read(t.Context(), run.ID, from, "", from%2 == 0)
		if err != nil || !slices.Equal(got, before[from:]) {
			t.Fatalf("from line %d: %d lines, not %d, %v", from, len(got), len(before[from:]), err)
		}
	}
	only, err := w.read(t.Context(), run.ID, 5, "app@arm64", false)
	if err != nil || !slices.Equal(of("app@arm64", only), of("app@arm64", before[5:])) {
		t.Errorf("one build alone: %d lines, %v", len(only), err)
	}
	var rows []store.Chunk
	if err := w.o.Store.Read(t.Context(), func(tx *store.Tx) (err error) { rows, err = tx.Chunks(run.ID, 0, 1); return err }); err != nil || len(rows) != 0 {
		t.Errorf("%d rows are left, %v", len(rows), err)
	}
	blobs.away.Store(true)
	if _, err := w.read(t.Context(), run.ID, 0, "", false); !errors.Is(err, errAway) {
		t.Errorf("reading while the blob store is away: %v", err)
	}
	blobs.away.Store(false)
	// Half a log is no log.
	body, info, err := blobs.Get(t.Context(), logKey(run.ID), 0)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	var index []byte
	if err := w.o.Store.Read(t.Context(), func(tx *store.Tx) (err error) { index, err = tx.LogIndex(run.ID); return err }); err != nil {
		t.Fatal(err)
	}
	last, err := locate(index, int64(len(before)))
	if err != nil || last.offset == 0 {
		t.Fatalf("the last frame: %+v, %v", last, err)
	}
	for _, n := range []int64{last.offset, info.Size - 10} {
		if err := blobs.Put(t.Context(), logKey(run.ID), bytes.NewReader(whole[:n]), n); err != nil {
			t.Fatal(err)
		}
		if _, err := w.read(t.Context(), run.ID, 0, "", false); err == nil {
			t.Errorf("%d of %d bytes of a log are taken for all of it", n, info.Size)
		}
	}
}
