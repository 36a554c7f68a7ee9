package web

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Bodies that are no good are refused with what is wrong in them.
func TestBodies(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Limits.RunBytes, o.Limits.LogBytes = 10_000, 1000 })
	run := w.submit(alice, "app")
	a := w.agent()
	task := "/v1/tasks/" + a.Launch.Task
	for name, tt := range map[string]struct {
		path, token, body string
		header            []string
		status            int
		says, hint        string
	}{
		"unknown field":           {"/v1/runs", alice, `{"plam":{}}`, nil, 400, `unknown field "plam"`, `did you mean "plan"?`},
		"unknown field of a plan": {"/v1/runs", alice, `{"plan":{"version":1,"skippd":[]}}`, nil, 400, `unknown field "skippd"`, `did you mean "skipped"?`},
		"no JSON":                 {"/v1/runs", alice, "{\"plan\":\n  nonsense}", nil, 400, "line 2", ""},
		"half":                    {"/v1/runs", alice, `{"plan":{`, nil, 400, "no JSON", ""},
		"wrong type":              {"/v1/runs", alice, `{"priority":"high"}`, nil, 400, `"priority" cannot be string`, ""},
		"two documents":           {"/v1/runs", alice, `{"runner":"local"} {}`, nil, 400, "after its end", ""},
		"empty":                   {"/v1/runs", alice, "", nil, 400, "no body", ""},
		"no plan":                 {"/v1/runs", alice, "{}", nil, 400, "no plan", "pipegen plan"},
		"plan without images":     {"/v1/runs", alice, `{"plan":{"version":1,"images":[]}}`, nil, 400, "", ""},
		"another version":         {"/v1/runs", alice, `{"plan":{"version":9}}`, nil, 400, "version 9", ""},
		"null":                    {"/v1/runs", alice, "null", nil, 400, "no plan", ""},
		"list":                    {"/v1/runs", alice, "[]", nil, 400, "", ""},
		"not JSON at all":         {"/v1/runs", alice, "plan=x", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "x-www-form", "application/json"},
		"large":                   {"/v1/runs", alice, `{"runner":"` + strings.Repeat("x", 10_000) + `"}`, nil, 413, "10000 bytes", ""},
		"long key":                {"/v1/runs", alice, "{}", []string{"Idempotency-Key", strings.Repeat("k", 129)}, 400, "Idempotency-Key", ""},
		"no key":                  {"/v1/runs", alice, "{}", []string{"Idempotency-Key", "a b"}, 400, "Idempotency-Key", ""},
		"cancel":                  {"/v1/runs/" + run.ID + "/cancel", alice, `{"why":"x"}`, nil, 400, `unknown field "why"`, ""},
		"cancel at length":        {"/v1/runs/" + run.ID + "/cancel", alice, `{"reason":"` + strings.Repeat("x", 2000) + `"}`, nil, 400, "1024", ""},
		"retry with a body":       {"/v1/runs/" + run.ID + "/retry", alice, `{"x":1}`, nil, 400, `unknown field "x"`, ""},
		"log":                     {task + "/logs", a.Token, `{"from":-1,"lines":[]}`, nil, 400, "line 0", ""},
		"large log":               {task + "/logs", a.Token, `{"from":0,"lines":[{"message":"` + strings.Repeat("x", 1000) + `"}]}`, nil, 413, "1000 bytes", ""},
		"claim without a name":    {task + "/claim", a.Token, `{"version":"v"}`, nil, 400, "names itself", ""},
		"context":                 {"/v1/contexts", alice, `{"digest":"sha256:x","size":1}`, nil, 400, "no digest", ""},
		"large context":           {"/v1/contexts", alice, `{"digest":"` + digestOf("x") + `","size":1000000000000}`, nil, 413, "too large", ".dockerignore"},
		"context of less":         {"/v1/contexts", alice, `{"digest":"` + digestOf("x") + `","size":-1}`, nil, 400, "-1 bytes", ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := tt.header
			if header == nil || header[0] != "Content-Type" {
				header = append(header, "Content-Type", "application/json")
			}
			res, text := w.ask("POST", tt.path, tt.token, tt.body, header...)
			p := problemOf(t, text)
			if res.StatusCode != tt.status || p.Status != tt.status || !strings.Contains(p.Detail, tt.says) || !strings.Contains(p.Hint, tt.hint) {
				t.Errorf("%d %+v, want %d, %q, hint %q", res.StatusCode, p, tt.status, tt.says, tt.hint)
			}
		})
	}
	for _, wrong := range []string{"?sate=queued", "?state=queed", "?state=lost", "?limit=0", "?limit=201", "?limit=x", "?label=x", "?a;b=%zz"} {
		if res, text := w.ask("GET", "/v1/runs"+wrong, alice, ""); res.StatusCode != 400 || problemOf(t, text).Detail == "" {
			t.Errorf("%s: %d %s", wrong, res.StatusCode, text)
		}
	}
	if _, text := w.ask("GET", "/v1/runs?sate=queued", alice, ""); problemOf(t, text).Hint != `did you mean "state"?` {
		t.Error(text)
	}
}

// A token that asks too often is told when to come again; others are not
// touched, nor are agents.
func TestRates(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Limits.Requests = 0.5 })
	var last reply
	allowed := 0
	for range 20 {
		if last, _ = w.ask("GET", "/v1/runs", alice, ""); last.StatusCode == 200 {
			allowed++
		}
	}
	after, err := strconv.Atoi(last.Header.Get("Retry-After"))
	if last.StatusCode != http.StatusTooManyRequests || err != nil || after < 1 || allowed < 5 || allowed > 15 {
		t.Errorf("%d allowed, then %d, after %q", allowed, last.StatusCode, last.Header.Get("Retry-After"))
	}
	if res, _ := w.ask("GET", "/v1/runs", bob, ""); res.StatusCode != 200 {
		t.Errorf("somebody else: %d", res.StatusCode)
	}
	// Whoever guesses tokens cannot fill the audit log, nor keep out who has one.
	codes := map[int]int{}
	for i := range 200 {
		res, _ := w.ask("GET", "/v1/runs", fmt.Sprintf("guess-%d-0123456789", i), "")
		codes[res.StatusCode]++
	}
	if codes[401] < 20 || codes[429] < 100 {
		t.Errorf("%v", codes)
	}
	n := 0
	for _, r := range w.records() {
		if r.Status == 401 {
			n++
		}
		if r.Status == 429 && r.Who == "" {
			t.Errorf("%+v", r)
		}
	}
	if n != codes[401] {
		t.Errorf("%d records of %d refusals", n, codes[401])
	}
	if res, _ := w.ask("GET", "/v1/runs", eye, ""); res.StatusCode != 200 {
		t.Errorf("one with a token from the same address: %d", res.StatusCode)
	}
	r := newRates(-1, -1)
	if r.wait("x") != 0 {
		t.Error("no limit is a limit")
	}
}

// A client that sends its header, or its body, a byte at a time is let go.
func TestSlowClients(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Limits.Body = 300 * time.Millisecond })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", alice)
	go func() {
		for range 500 {
			if _, err := conn.Write([]byte(" ")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Fatalf("%v %v", res, err)
	}
	res.Body.Close()
	// A header that is too long, and headers without an end.
	long, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = long.Close() }()
	go fmt.Fprintf(long, "GET /v1/runs HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 100_000))
	_ = long.SetReadDeadline(time.Now().Add(20 * time.Second))
	if res, err := http.ReadResponse(bufio.NewReader(long), nil); err != nil || res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v %v", res, err)
	} else {
		res.Body.Close()
	}
}

// A context goes through the controller where there is no S3, once.
func TestContexts(t *testing.T) {
	w := newWorld(t)
	me := w.client(alice)
	data := []byte(strings.Repeat("context ", 50_000))
	digest := digestOf(string(data))
	req := api.ContextRequest{Digest: digest, Size: int64(len(data))}
	if sent, err := me.UploadContext(t.Context(), req, bytes.NewReader(data), nil); err != nil || !sent {
		t.Fatalf("%t %v", sent, err)
	}
	if sent, err := w.client(bob).UploadContext(t.Context(), req, bytes.NewReader(data), nil); err != nil || sent {
		t.Errorf("sent twice: %t %v", sent, err)
	}
	wrong := digestOf("something else")
	if res, text := w.ask("PUT", "/v1/contexts/"+wrong, alice, "these bytes"); res.StatusCode != 400 {
		t.Errorf("another digest: %d %s", res.StatusCode, text)
	}
	if u, err := me.AnnounceContext(t.Context(), api.ContextRequest{Digest: wrong, Size: 11}); err != nil || u.Exists {
		t.Errorf("what was refused is there: %+v %v", u, err)
	}
	p := planOf("app")
	p.Images[0].Source = nil
	if _, err := me.CreateRun(t.Context(), api.RunRequest{Plan: p, Context: digest}, ""); err != nil {
		t.Fatal(err)
	}
	a := w.agent()
	if a.Assignment.Context == nil || a.Assignment.Context.Digest != digest || a.Assignment.Context.Size != int64(len(data)) {
		t.Fatalf("%+v", a.Assignment.Context)
	}
	body := a.Download(t.Context(), *a.Assignment.Context, nil)
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	path := "/v1/tasks/" + a.Launch.Task + "/context"
	for from, want := range map[string]int{"bytes=399990-": 206, "bytes=0-": 200, "bytes=400001-": 416, "lines=1": 200} {
		res, text := w.ask("GET", path, a.Token, "", "Range", from)
		if res.StatusCode != want || want == 206 && (text != string(data[399990:]) || res.Header.Get("Content-Range") != "bytes 399990-399999/400000") {
			t.Errorf("%s: %d %v", from, res.StatusCode, res.Header)
		}
	}
	if res, _ := w.ask("PUT", "/v1/contexts/sha256:x", alice, "x"); res.StatusCode != 400 {
		t.Errorf("no digest: %d", res.StatusCode)
	}
	req2, err := http.NewRequestWithContext(t.Context(), http.MethodPut, w.url+"/v1/contexts/"+wrong, struct{ io.Reader }{strings.NewReader("x")})
	if err != nil {
		t.Fatal(err)
	}
	req2.Header.Set("Authorization", "Bearer "+alice)
	res, err := http.DefaultClient.Do(req2)
	if err != nil || res.StatusCode != http.StatusLengthRequired {
		t.Errorf("without a length: %v %v", res, err)
	}
	res.Body.Close()
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	run := w.submit(alice, "app")
	a := w.agent()
	a.say(0, "12345", "67890")
	a.succeed(2)
	w.until(run.ID, api.Succeeded)
	_, text := w.ask("GET", "/metrics", eye, "")
	for _, want := range []string{
		`pipegen_runs_total{state="queued"} 1`, `pipegen_runs_total{state="succeeded"} 1`, "pipegen_log_lines_total 2", "pipegen_run_seconds_count",
		`pipegen_task_transitions_total{from="running",runner="local",to="succeeded"} 1`, `pipegen_task_state_seconds_count{runner="local",state="queued"}`,
		`pipegen_queue_active{runner="local"} 0`, `pipegen_queue_oldest_seconds{runner="local"}`, `pipegen_http_requests_total{method="POST",route="/v1/runs",status="201"} 1`,
		`pipegen_http_request_seconds_count{method="POST",route="/v1/tasks/{task}/result"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s", want)
		}
	}
	if strings.Contains(text, "alice") || strings.Contains(text, run.ID) {
		t.Error("labels hold what there is no end of")
	}
	if metric(t, w, "pipegen_log_bytes_total") < 10 {
		t.Error("bytes of logs are not counted")
	}
}

func TestRemote(t *testing.T) {
	for _, tt := range []struct {
		proxy           bool
		forwarded, want string
	}{
		{false, "203.0.113.9", "192.0.2.1"},
		{true, "203.0.113.9", "203.0.113.9"},
		{true, "198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{true, "spoofed, nonsense", "192.0.2.1"},
		{true, "", "192.0.2.1"},
	} {
		s, err := New(Options{Anonymous: true, BehindProxy: tt.proxy})
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{RemoteAddr: "192.0.2.1:1234", Header: http.Header{"X-Forwarded-For": {tt.forwarded}}}
		if got := s.remote(r); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

// A certificate that is renewed is used without a restart; a broken one is not.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	log := slog.New(slog.DiscardHandler)
	if _, err := Certificate(cert, key, log); !errors.Is(err, failure.ErrInput) {
		t.Errorf("no files: %v", err)
	}
	selfSigned(t, cert, key, 1)
	get, err := Certificate(cert, key, log)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		pair, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.SerialNumber.Int64()
	}
	if serial() != 1 {
		t.Error("not the certificate of the file")
	}
	selfSigned(t, cert, key, 2)
	for deadline := time.Now().Add(20 * time.Second); serial() != 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used")
		}
	}
	if err := os.WriteFile(cert, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if serial() != 2 {
		t.Error("a broken certificate is used")
	}
}

func selfSigned(t *testing.T, cert, key string, serial int64) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for file, data := range map[string][]byte{cert: certPEM, key: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
