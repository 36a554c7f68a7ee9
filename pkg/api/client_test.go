package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

const secret = "agent-token-0123456789"

// dial gives a client of a server that does not wait long.
func dial(t *testing.T, server *httptest.Server, o ClientOptions) *Client {
	t.Helper()
	o.URL = server.URL + o.URL
	if o.Token == "" {
		o.Token = secret
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	c.firstPause = time.Millisecond
	return c
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, p Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// Each call asks for what the interface says, with the token.
func TestCalls(t *testing.T) {
	var got string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + string(body)
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			got += " key=" + key
		}
		if r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("User-Agent") != "pipegen/test" {
			t.Errorf("%s: headers %v", got, r.Header)
		}
		answer(w, map[string]any{})
	})
	c := dial(t, server, ClientOptions{URL: "/behind/", UserAgent: "pipegen/test"})
	ctx := t.Context()
	for want, call := range map[string]func() error{
		`POST /behind/v1/runs {"plan":null,"runner":"local"} key=k`: func() error { _, err := c.CreateRun(ctx, RunRequest{Runner: "local"}, "k"); return err },
		`POST /behind/v1/runs/r1/retry  key=k`:                      func() error { _, err := c.RetryRun(ctx, "r1", "k"); return err },
		`POST /behind/v1/runs/r1/cancel {"reason":"why"}`:           func() error { _, err := c.CancelRun(ctx, "r1", "why"); return err },
		`GET /behind/v1/runs/a%2F..%2Fb%3F `:                        func() error { _, err := c.Run(ctx, "a/../b?"); return err },
		`GET /behind/v1/runs?after=x&image=app&label=a%3D1&label=b%3D%26&limit=5&state=queued&state=failed&submitter=me `: func() error {
			_, err := c.Runs(ctx, RunQuery{States: []State{Queued, Failed}, Submitter: "me", Image: "app", Labels: map[string]string{"b": "&", "a": "1"}, Limit: 5, After: "x"})
			return err
		},
		`POST /behind/v1/contexts {"digest":"sha256:ab","size":3}`:                      func() error { _, err := c.AnnounceContext(ctx, ContextRequest{"sha256:ab", 3}); return err },
		`POST /behind/v1/contexts/sha256:ab/complete {"upload":"u","etags":["e"]}`:      func() error { return c.CompleteContext(ctx, "sha256:ab", ContextComplete{"u", []string{"e"}}) },
		`POST /behind/v1/tasks/t/claim {"agent":"a","version":"v"}`:                     func() error { _, _, err := c.Claim(ctx, "t", Claim{"a", "v"}); return err },
		`POST /behind/v1/tasks/t/logs {"from":2,"lines":null}`:                          func() error { _, err := c.AppendLog(ctx, "t", TaskLog{From: 2}); return err },
		`POST /behind/v1/tasks/t/heartbeat {"usage":{"cpu_seconds":1,"peak_memory":2}}`: func() error { _, err := c.Heartbeat(ctx, "t", Heartbeat{&Usage{1, 2}}); return err },
		`POST /behind/v1/tasks/t/result {"error":"e","log_lines":7}`:                    func() error { return c.Finish(ctx, "t", TaskResult{Error: "e", LogLines: 7}) },
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("got  %s\nwant %s\n%v", got, want, err)
		}
	}
	if _, err := c.Run(ctx, ".."); !errors.Is(err, failure.ErrInput) {
		t.Errorf("a run named ..: %v", err)
	}
	one, err := c.CreateRun(ctx, RunRequest{}, "")
	if _, key, ok := strings.Cut(got, "key="); err != nil || !ok || len(key) < 20 {
		t.Errorf("%v %v: no key in %s", one, err, got)
	}
}

// Answers that may be better later are waited for, others are told as they are.
func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		problem  Problem
		is       error
		attempts int32
		text     string
	}{
		"unauthorized": {Problem{Status: 401, Detail: "who are you"}, ErrUnauthorized, 1, "who are you (HTTP 401)"},
		"forbidden":    {Problem{Status: 403, Title: "no"}, ErrForbidden, 1, "GET /v1/runs/r: no (HTTP 403)"},
		"not found":    {Problem{Status: 404}, ErrNotFound, 1, "GET /v1/runs/r: not found (HTTP 404)"},
		"conflict":     {Problem{Status: 409, Detail: "another"}, ErrConflict, 1, "another"},
		"gone":         {Problem{Status: 410}, ErrGone, 1, "gone"},
		"input":        {Problem{Status: 422, Detail: "a\x1b[31mb\nc"}, failure.ErrInput, 1, "a\\x1b[31mb\nc"},
		"not there":    {Problem{Status: 501}, nil, 1, "501"},
		"too many":     {Problem{Status: 429}, nil, 4, "HTTP 429"},
		"broken":       {Problem{Status: 500}, nil, 4, "500"},
		"bad gateway":  {Problem{Status: 502}, nil, 4, "502"},
		"away":         {Problem{Status: 503}, nil, 4, "503"},
		"says it":      {Problem{Status: 403, Detail: "token " + secret + " at https://u:p@h/"}, ErrForbidden, 1, "token *** at https://REDACTED@h/"},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			tt.problem.Hint = "do this"
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if n.Add(1) == 4 && tt.attempts == 4 {
					answer(w, Run{ID: "r"})
					return
				}
				problem(w, tt.problem)
			})
			var told atomic.Int32
			c := dial(t, server, ClientOptions{Retrying: func(err error, _ time.Duration) {
				told.Add(1)
				if strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), tt.text) {
					t.Error(err)
				}
			}})
			_, err := c.Run(t.Context(), "r")
			if n.Load() != tt.attempts || told.Load() != tt.attempts-1 {
				t.Errorf("%d attempts, told of %d", n.Load(), told.Load())
			}
			if tt.attempts == 4 {
				if err != nil {
					t.Error(err)
				}
				_, err = c.Patient(-1).Run(t.Context(), "r")
				if n.Load() == 5 && err == nil { // the 4th alone did well
					t.Error("no error")
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Status != tt.problem.Status || failure.Hint(err) != "do this" || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, hint %q", err, failure.Hint(err))
			}
		})
	}
}

// Connections that are refused, or break in an answer, are made again; a call
// that is cancelled ends with the cause.
func TestConnections(t *testing.T) {
	var n atomic.Int32
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"id":`)
			return
		}
		answer(w, Run{ID: "r"})
	})
	c := dial(t, server, ClientOptions{})
	if run, err := c.Run(t.Context(), "r"); err != nil || run.ID != "r" || n.Load() != 3 {
		t.Errorf("%v, %v after %d", run, err, n.Load())
	}
	server.Close()
	var broken *ConnectionError
	if _, err := c.Patient(-1).Run(t.Context(), "r"); !errors.As(err, &broken) || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	if _, err := c.Patient(time.Hour).Run(ctx, "r"); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}

	stuck := make(chan struct{})
	slow := serve(t, func(_ http.ResponseWriter, _ *http.Request) { <-stuck })
	defer close(stuck)
	c = dial(t, slow, ClientOptions{Patience: -1})
	c.answering = 20 * time.Millisecond
	if _, err := c.Run(t.Context(), "r"); !errors.Is(err, errSlow) {
		t.Errorf("got %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked, with %v", r.Host, r.Header) })
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := dial(t, server, ClientOptions{}).Run(t.Context(), "r")
	if err == nil || !strings.Contains(failure.Hint(err), other.URL) {
		t.Errorf("got %v", err)
	}
}

func TestNewClient(t *testing.T) {
	for _, o := range []ClientOptions{
		{}, {URL: "pipegen.example.com"}, {URL: "ftp://h"}, {URL: "https://u:hunter22@h"}, {URL: "https://h?a=hunter22"}, {URL: "https://h", Token: "hunter22 "},
		{URL: "http://pipegen.example.com", Token: "hunter22"}, {URL: "https://h", CACerts: []byte("hunter22")},
	} {
		if _, err := NewClient(o); !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "hunter22@") || strings.Contains(err.Error(), `"hunter22`) {
			t.Errorf("%s: %v", o.URL, err)
		}
	}
	for _, o := range []ClientOptions{{URL: "http://h"}, {URL: "http://h", Token: "t", Insecure: true}, {URL: "http://127.0.0.1:1", Token: "t"}, {URL: "http://localhost", Token: "t"}, {URL: "http://[::1]", Token: "t"}} {
		if _, err := NewClient(o); err != nil {
			t.Errorf("%s: %v", o.URL, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, Run{ID: "r"}) }))
	server.Config.ErrorLog = nil
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	if _, err := dial(t, server, ClientOptions{}).Run(t.Context(), "r"); !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
		t.Errorf("an authority nobody knows: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if _, err := dial(t, server, ClientOptions{CACerts: ca}).Run(t.Context(), "r"); err != nil {
		t.Error(err)
	}
}

// A log comes whole and once, however often its connection breaks, and in
// whatever way.
func TestLogs(t *testing.T) {
	const lines = 1000
	var n atomic.Int32
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/runs/r/logs" || r.URL.Query().Get("follow") != "1" {
			t.Error(r.URL)
		}
		var from int
		if _, err := fmt.Sscan(r.URL.Query().Get("from"), &from); err != nil && r.URL.Query().Has("from") {
			t.Error(err)
		}
		k := n.Add(1)
		if k%5 == 4 {
			problem(w, Problem{Status: 503})
			return
		}
		e := json.NewEncoder(w)
		for i := max(0, from-3); i < lines; i++ {
			if i == from+70 {
				switch k % 5 {
				case 0:
					fmt.Fprint(w, `{"seq":`) // cut short
					return
				case 1:
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				case 2:
					return // an end that is none
				}
				fmt.Fprint(w, "\n")
				w.(http.Flusher).Flush()
				<-r.Context().Done() // silence
				return
			}
			_ = e.Encode(LogLine{Seq: int64(i), Message: fmt.Sprint("line ", i), Level: "info"})
		}
		_ = e.Encode(LogLine{Seq: lines, End: Failed})
	})
	c := dial(t, server, ClientOptions{})
	c.silence = 30 * time.Millisecond
	var next int64 = 5
	end, err := c.Logs(t.Context(), "r", LogQuery{From: 5, Follow: true}, func(l LogLine) error {
		if l.Seq != next || l.Message != fmt.Sprint("line ", next) {
			t.Fatalf("got %+v, want line %d", l, next)
		}
		next++
		return nil
	})
	if err != nil || end != Failed || next != lines {
		t.Errorf("%v %v, %d lines of %d, %d answers", end, err, next, lines, n.Load())
	}
}

func TestLogEnds(t *testing.T) {
	write := func(lines ...LogLine) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("build") == "gone" {
				problem(w, Problem{Status: 404})
			}
			for _, l := range lines {
				_ = json.NewEncoder(w).Encode(l)
			}
		}
	}
	why := &ConnectionError{"of the reader", io.EOF}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		query   LogQuery
		yield   error
		end     State
		is      error
		text    string
	}{
		"running":  {write(LogLine{Seq: 0}), LogQuery{}, nil, "", nil, ""},
		"ended":    {write(LogLine{Seq: 0}, LogLine{Seq: 1, End: Succeeded}), LogQuery{}, nil, Succeeded, nil, ""},
		"gap":      {write(LogLine{Seq: 0}, LogLine{Seq: 3}), LogQuery{Follow: true}, nil, "", nil, "lines 1 to 2 of the log are missing"},
		"filtered": {write(LogLine{Seq: 1}, LogLine{Seq: 3}, LogLine{Seq: 9, End: Succeeded}), LogQuery{Build: "b"}, nil, Succeeded, nil, ""},
		"reader":   {write(LogLine{Seq: 0}), LogQuery{Follow: true}, why, "", why, ""},
		"none":     {write(), LogQuery{Follow: true, Build: "gone"}, nil, "", ErrNotFound, ""},
		"noise":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>\n") }, LogQuery{Follow: true}, nil, "", nil, "no JSON"},
		"endless":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<20)) }, LogQuery{}, nil, "", nil, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, serve(t, tt.handler), ClientOptions{})
			end, err := c.Logs(t.Context(), "r", tt.query, func(LogLine) error { return tt.yield })
			wrong := (err != nil) != (tt.is != nil || tt.text != "")
			if wrong || end != tt.end || tt.is != nil && !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, %v", end, err)
			}
		})
	}
}

// A context goes up in parts, through faults of the store, and only where it
// is not there yet; the token goes to the controller alone.
func TestUpload(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	var store sync.Map
	var faults, completed, announced atomic.Int32
	blobs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the store got %v", r.Header)
		}
		body, err := io.ReadAll(r.Body)
		switch faults.Add(1) {
		case 2:
			http.Error(w, "SlowDown", http.StatusServiceUnavailable)
			return
		case 4:
			panic(http.ErrAbortHandler)
		case 6:
			http.Error(w, "<Code>ExpiredToken</Code>", http.StatusForbidden)
			return
		}
		if err != nil || r.Header.Get("X-Signed") != "yes" || int64(len(body)) != r.ContentLength {
			t.Errorf("%v %v %d", err, r.Header, r.ContentLength)
		}
		store.Store(r.URL.Query().Get("part"), body)
		w.Header().Set("ETag", "e"+r.URL.Query().Get("part"))
	})
	controller := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			t.Errorf("%s with %v", r.URL, r.Header)
		}
		switch r.URL.Path {
		case "/v1/contexts":
			announced.Add(1)
			u := ContextUpload{Exists: completed.Load() > 0, Upload: "u", PartSize: 3000}
			for i := range 4 {
				u.Parts = append(u.Parts, SignedURL{URL: fmt.Sprintf("%s/b?part=%d&sig=hush", blobs.URL, i), Header: map[string]string{"X-Signed": "yes"}})
			}
			answer(w, u)
		case "/v1/contexts/sha256:ab/complete":
			var done ContextComplete
			_ = json.NewDecoder(r.Body).Decode(&done)
			if fmt.Sprint(done) != "{u [e0 e1 e2 e3]}" {
				t.Error(done)
			}
			completed.Add(1)
			panic(http.ErrAbortHandler) // done, but nobody hears of it
		default:
			t.Error(r.URL)
		}
	})
	c := dial(t, controller, ClientOptions{Patience: 200 * time.Millisecond})
	var most atomic.Int64
	_, err := c.UploadContext(t.Context(), ContextRequest{"sha256:ab", int64(len(data))}, bytes.NewReader(data), func(n int64) { most.Store(max(most.Load(), n)) })
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("the end was never answered: %v", err)
	}
	var got []byte
	for i := range 4 {
		part, _ := store.Load(fmt.Sprint(i))
		b, _ := part.([]byte)
		got = append(got, b...)
	}
	if !bytes.Equal(got, data) || most.Load() != int64(len(data)) || announced.Load() != 2 {
		t.Errorf("%d bytes, %d told, announced %d times", len(got), most.Load(), announced.Load())
	}
	if sent, err := c.UploadContext(t.Context(), ContextRequest{"sha256:ab", int64(len(data))}, bytes.NewReader(data), nil); sent || err != nil {
		t.Errorf("sent again: %t, %v", sent, err)
	}
}

// Parts that are there already are not sent again. Where they turn out to be other
// ones than the archive has, which is seen at the end, all is sent once more.
func TestUploadGoesOn(t *testing.T) {
	data := []byte("aaaabbbbcc")
	for _, wrong := range []bool{false, true} {
		var mu sync.Mutex
		puts, announced := map[string]int{}, 0
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/contexts", func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			announced++
			u := ContextUpload{Upload: "u1", PartSize: 4, Parts: []SignedURL{{URL: "/part/1"}, {URL: "/part/2"}, {URL: "/part/3"}}}
			if announced == 1 {
				u.Have = []string{"e1", "", "e3"}
			}
			_ = json.NewEncoder(w).Encode(u)
		})
		mux.HandleFunc("PUT /part/{n}", func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			puts[r.PathValue("n")+" "+string(body)]++
			w.Header().Set("ETag", "e"+r.PathValue("n"))
		})
		mux.HandleFunc("POST /v1/contexts/{digest}/complete", func(w http.ResponseWriter, r *http.Request) {
			var c ContextComplete
			if err := json.NewDecoder(r.Body).Decode(&c); err != nil || !slices.Equal(c.ETags, []string{"e1", "e2", "e3"}) {
				t.Errorf("completed with %q, %v", c.ETags, err)
			}
			if mu.Lock(); wrong && announced == 1 {
				w.WriteHeader(http.StatusBadRequest)
			}
			mu.Unlock()
			fmt.Fprint(w, "{}")
		})
		server := httptest.NewServer(mux)
		c, err := NewClient(ClientOptions{URL: server.URL, Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		most := int64(0)
		_, err = c.UploadContext(t.Context(), ContextRequest{"sha256:ab", int64(len(data))}, bytes.NewReader(data), func(n int64) {
			mu.Lock()
			defer mu.Unlock()
			most = max(most, n)
		})
		server.Close()
		want := map[string]int{"2 bbbb": 1}
		if wrong {
			want = map[string]int{"1 aaaa": 1, "2 bbbb": 2, "3 cc": 1}
		}
		if err != nil || !maps.Equal(puts, want) || most != 10 {
			t.Errorf("wrong parts: %v: %v; sent %v; %d bytes are there", wrong, err, puts, most)
		}
	}
}

// A controller that takes the context itself gives paths of its own.
func TestUploadToController(t *testing.T) {
	var body []byte
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			t.Errorf("%s with %v", r.URL, r.Header)
		}
		switch r.Method + " " + r.URL.RequestURI() {
		case "POST /at/v1/contexts":
			answer(w, ContextUpload{Upload: "u", Parts: []SignedURL{{URL: "/v1/contexts/sha256:ab?upload=u"}}})
		case "PUT /at/v1/contexts/sha256:ab?upload=u":
			body, _ = io.ReadAll(r.Body)
		case "POST /at/v1/contexts/sha256:ab/complete":
			answer(w, map[string]any{})
		default:
			t.Error(r.URL)
		}
	})
	c := dial(t, server, ClientOptions{URL: "/at"})
	if sent, err := c.UploadContext(t.Context(), ContextRequest{"sha256:ab", 3}, strings.NewReader("abc"), nil); !sent || err != nil || string(body) != "abc" {
		t.Errorf("%t %v %q", sent, err, body)
	}
	for _, hostile := range []string{"file:///etc/passwd", "v1/x", "", "https:x", "\x00", "gopher://h/"} {
		if _, err := c.signed(t.Context(), http.MethodGet, SignedURL{URL: hostile}, nil); err == nil {
			t.Errorf("%q was taken for an address", hostile)
		}
	}
	for _, foreign := range []string{"//127.0.0.2/x", server.URL + "/x"} {
		if req, err := c.signed(t.Context(), http.MethodGet, SignedURL{URL: foreign}, nil); err == nil && req.Header.Get("Authorization") != "" {
			t.Errorf("%q gets the token", foreign)
		}
	}
}

// A download comes whole through breaks, expired addresses and servers that
// begin anew.
func TestDownload(t *testing.T) {
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for name, ranges := range map[string]bool{"ranges": true, "no ranges": false} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			var fresh atomic.Bool
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				k := n.Add(1)
				if k >= 3 && !fresh.Load() {
					http.Error(w, "expired", http.StatusForbidden)
					return
				}
				if r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("Authorization") != "" {
					t.Error(r.Header)
				}
				w.Header().Set("ETag", `"v1"`)
				if !ranges {
					r.Header.Del("Range")
				} else if k > 1 && r.Header.Get("Range") == "" {
					t.Error("it begins anew")
				}
				if k == 2 {
					panic(http.ErrAbortHandler)
				}
				http.ServeContent(&cutting{w, int(k) * 20_000}, r, "", time.Time{}, bytes.NewReader(data))
			})
			c := dial(t, server, ClientOptions{})
			c.silence = 50 * time.Millisecond
			body := c.Download(t.Context(), ContextSource{SignedURL: SignedURL{URL: server.URL + "/a?sig=old"}, Size: int64(len(data))}, func(context.Context) (SignedURL, error) {
				fresh.Store(true)
				return SignedURL{URL: server.URL + "/a?sig=new"}, nil
			})
			defer body.Close()
			if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
			}
		})
	}
}

// cutting breaks the connection after some bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestDownloadFails(t *testing.T) {
	short := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.Error(w, "", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		fmt.Fprint(w, "abc")
	})
	c := dial(t, short, ClientOptions{})
	var e *Error
	if got, err := io.ReadAll(c.Download(t.Context(), ContextSource{SignedURL: SignedURL{URL: short.URL}, Size: 9}, nil)); string(got) != "abc" || !errors.As(err, &e) || e.Status != 416 {
		t.Errorf("%q, %v", got, err)
	}
	expired := errors.New("ended")
	gone := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	if _, err := io.ReadAll(c.Download(t.Context(), ContextSource{SignedURL: SignedURL{URL: gone.URL + "?sig=hush"}}, func(context.Context) (SignedURL, error) { return SignedURL{}, expired })); !errors.Is(err, expired) {
		t.Error(err)
	}
	if _, err := io.ReadAll(c.Download(t.Context(), ContextSource{SignedURL: SignedURL{URL: gone.URL + "?sig=hush"}}, nil)); !errors.Is(err, ErrForbidden) || strings.Contains(err.Error(), "hush") {
		t.Error(err)
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "x": 0, "86400": time.Minute, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): 0} {
		if got := after(value); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
