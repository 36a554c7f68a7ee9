package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
)

// collect reads a log through the client.
func collect(ctx context.Context, c *api.Client, run string, q api.LogQuery) (lines []api.LogLine, end api.State, err error) {
	end, err = c.Logs(ctx, run, q, func(l api.LogLine) error { lines = append(lines, l); return nil })
	return lines, end, err
}

func ofBuild(lines []api.LogLine, build string) (messages []string) {
	for _, l := range lines {
		if l.Build == build && l.State == "" {
			messages = append(messages, l.Message)
		}
	}
	return messages
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	run := w.submit(alice, "app")
	a := w.agent()
	a.say(0, "one", "two <&> \x1b[31mred\x1b[0m", "three")
	me := w.client(alice)

	// While it runs: what is there, without an end.
	some, end, err := collect(ctx, me, run.ID, api.LogQuery{})
	if err != nil || end != "" {
		t.Fatalf("%v %v %v", some, end, err)
	}
	if got := ofBuild(some, "app@amd64"); len(got) < 3 || got[len(got)-3] != "one" || got[len(got)-2] != "two <&> \x1b[31mred\x1b[0m" {
		t.Errorf("%q", got)
	}
	type result struct {
		lines []api.LogLine
		end   api.State
		err   error
	}
	followed := make(chan result, 1)
	go func() {
		lines, end, err := collect(ctx, me, run.ID, api.LogQuery{Follow: true})
		followed <- result{lines, end, err}
	}()
	a.say(3, "four")
	a.succeed(4)
	w.until(run.ID, api.Succeeded)
	got := <-followed
	if got.err != nil || got.end != api.Succeeded {
		t.Fatalf("%v %v", got.end, got.err)
	}
	all, end, err := collect(ctx, me, run.ID, api.LogQuery{})
	if err != nil || end != api.Succeeded || len(all) != len(got.lines) {
		t.Fatalf("%d and %d lines, %v %v", len(all), len(got.lines), end, err)
	}
	for i := range all {
		if all[i].Seq != int64(i) || all[i].Message != got.lines[i].Message {
			t.Errorf("line %d: %+v and %+v", i, all[i], got.lines[i])
		}
	}
	// From the middle, and of one build alone.
	late, _, err := collect(ctx, me, run.ID, api.LogQuery{From: int64(len(all)) - 2})
	if err != nil || len(late) != 2 || late[0].Seq != int64(len(all))-2 {
		t.Errorf("%+v %v", late, err)
	}
	_, text := w.ask("GET", "/v1/runs/"+run.ID+"/logs?build=app%40amd64", alice, "")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var last api.LogLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.End != api.Succeeded || last.Seq != int64(len(all)) {
		t.Errorf("the end of one build's log: %+v %v", last, err)
	}
	for _, line := range lines[:len(lines)-1] {
		var l api.LogLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Build != "app@amd64" {
			t.Errorf("%s %v", line, err)
		}
	}
	// As events.
	res, text := w.ask("GET", "/v1/runs/"+run.ID+"/logs", alice, "", "Accept", "text/event-stream", "Last-Event-ID", "0")
	if res.Header.Get("Content-Type") != events || !strings.HasPrefix(text, "id: 1\ndata: {\"seq\":1,") || !strings.Contains(text, "\n\nevent: end\ndata: {\"seq\":"+fmt.Sprint(len(all))) {
		t.Errorf("%v\n%s", res.Header, text)
	}
	if n := strings.Count(text, "id: "); n != len(all)-1 {
		t.Errorf("%d events, want %d", n, len(all)-1)
	}
	for _, wrong := range []string{"?from=-1", "?from=x", "?follow=maybe", "?form=1", "?from=99999999999999999999"} {
		if res, text := w.ask("GET", "/v1/runs/"+run.ID+"/logs"+wrong, alice, ""); res.StatusCode != 400 {
			t.Errorf("%s: %d %s", wrong, res.StatusCode, text)
		}
	}
	if res, _ := w.ask("GET", "/v1/runs/"+run.ID+"/logs", alice, "", "Accept", "text/event-stream", "Last-Event-ID", "x"); res.StatusCode != 400 {
		t.Errorf("a wrong Last-Event-ID: %d", res.StatusCode)
	}
}

// Two hundred readers over HTTP get every line once, in order, while they come.
func TestManyReaders(t *testing.T) {
	w := newWorld(t)
	w.validate = false
	run := w.submit(alice, "app")
	a := w.agent()
	const readers, pieces, size = 200, 20, 50
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			next, lines := int64(0), 0
			end, err := w.client(alice).Logs(t.Context(), run.ID, api.LogQuery{Follow: true}, func(l api.LogLine) error {
				if l.Seq != next {
					return fmt.Errorf("line %d, want %d", l.Seq, next)
				}
				next++
				if l.Build != "" && l.State == "" && strings.HasPrefix(l.Message, "line ") {
					if l.Message != fmt.Sprintf("line %d", lines) {
						return fmt.Errorf("%q, want line %d", l.Message, lines)
					}
					lines++
				}
				return nil
			})
			if err != nil || end != api.Succeeded || lines != pieces*size {
				t.Errorf("reader %d: %d lines, %s, %v", i, lines, end, err)
			}
		})
	}
	for piece := range pieces {
		var lines []string
		for i := range size {
			lines = append(lines, fmt.Sprintf("line %d", piece*size+i))
		}
		a.say(int64(piece*size), lines...)
	}
	a.succeed(pieces * size)
	wg.Wait()
}

// While nothing happens the connection shows that it lives.
func TestKeepAlive(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Limits.KeepAlive = 20 * time.Millisecond })
	run := w.submit(alice, "app")
	w.agent()
	for accept, want := range map[string]string{ndjson: "\n", events: ": still here\n"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v1/runs/"+run.ID+"/logs?follow=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+alice)
		req.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r, signs := bufio.NewReader(res.Body), 0
		for signs < 3 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v", accept, err)
			}
			if line == want {
				signs++
			}
		}
		res.Body.Close()
		cancel()
	}
}

// A reader that vanishes, or takes nothing, is let go, and the writer never
// waits for it.
func TestReadersThatVanish(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Limits.Stuck, o.Limits.KeepAlive = 300*time.Millisecond, 50*time.Millisecond
	})
	w.validate = false
	run := w.submit(alice, "app")
	a := w.agent()
	open := func() net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		fmt.Fprintf(conn, "GET /v1/runs/%s/logs?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", run.ID, alice)
		if line, err := bufio.NewReaderSize(conn, 64).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q %v", line, err)
		}
		return conn
	}
	gone, stuck := open(), open()
	defer func() { _ = stuck.Close() }()
	if err := gone.Close(); err != nil {
		t.Error(err)
	}
	line := strings.Repeat("x", 60_000)
	next := int64(0)
	deadline := time.Now().Add(30 * time.Second)
	for ; readers(t, w) > 0; next++ {
		if time.Now().After(deadline) {
			t.Fatalf("%v readers are still there", readers(t, w))
		}
		a.say(next, line)
	}
	a.succeed(next)
	lines, end, err := collect(t.Context(), w.client(alice), run.ID, api.LogQuery{Follow: true})
	if err != nil || end != api.Succeeded || int64(len(ofBuild(lines, "app@amd64"))) < next {
		t.Errorf("%d lines, %v %v", len(lines), end, err)
	}
}

func readers(t *testing.T, w *world) float64 {
	t.Helper()
	return metric(t, w, "pipegen_log_readers")
}

// metric reads one that has no labels.
func metric(t *testing.T, w *world, name string) float64 {
	t.Helper()
	_, text := w.ask("GET", "/metrics", root, "")
	for line := range strings.Lines(text) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no %s in\n%s", name, text)
	return 0
}

// When the process ends, streams end after a whole line and without an end of
// the log, so that readers go on elsewhere; new ones are not let in.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.validate = false
	run := w.submit(alice, "app")
	a := w.agent()
	a.say(0, "one", "two")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/v1/runs/"+run.ID+"/logs?follow=1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"two"`) {
			break
		}
	}
	w.front.Drain()
	if res, _ := w.ask("GET", "/health/ready", "", ""); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready while it ends: %d", res.StatusCode)
	}
	rest, err := io.ReadAll(r)
	if err != nil || strings.Contains(string(rest), `"end"`) || len(rest) > 0 && !strings.HasSuffix(string(rest), "\n") {
		t.Errorf("%q %v", rest, err)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(w.url, "http://"), time.Second); err == nil {
		t.Error("it still listens")
	}
}

// What goes wrong inside is said without saying what.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		err    error
		status int
		says   string
	}{
		"unavailable": {fmt.Errorf("%w: disk full at /secret", controller.ErrUnavailable), 503, ""},
		"bug":         {errors.New("nil map in /secret"), 500, ""},
		"late":        {context.DeadlineExceeded, 503, ""},
		"gone":        {fmt.Errorf("%w: the log has expired", controller.ErrGone), 410, "expired"},
		"conflict":    {fmt.Errorf("%w: it runs", controller.ErrConflict), 409, "it runs"},
	} {
		e := describe(tt.err)
		if e.status != tt.status || strings.Contains(e.detail+e.hint, "secret") || !strings.Contains(e.detail, tt.says) || e.status == 503 && e.after == 0 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if res, text := w.ask("GET", "/nothing", alice, ""); res.StatusCode != 404 || problemOf(t, text).Request != res.Header.Get("X-Request-Id") {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if res, text := w.ask("DELETE", "/v1/runs", alice, ""); res.StatusCode != 405 || res.Header.Get("Allow") == "" || problemOf(t, text).Status != 405 {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}
