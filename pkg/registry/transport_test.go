package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

type fixed struct{ auth authn.Authenticator }

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) { return f.auth, nil }

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// impatient makes a client that does not wait as long as a real one.
func impatient(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = fixed{authn.Anonymous}
	}
	c := New(o)
	c.transport.firstPause = time.Millisecond
	return c
}

// onManifests answers requests for manifests by the number of the request,
// from 1; false passes it on.
func onManifests(f func(n int, w http.ResponseWriter, r *http.Request) bool) func(http.Handler) http.Handler {
	var n atomic.Int64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") || !f(int(n.Add(1)), w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// hasty makes one that takes a short silence for a dead connection.
func hasty() *Client {
	c := impatient(Options{})
	c.transport.silence = 400 * time.Millisecond
	return c
}

func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func TestRetries(t *testing.T) {
	status := func(code int, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			if len(header) == 2 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(code)
		}
	}
	tests := map[string]struct {
		fault func(http.ResponseWriter)
		// How often the fault is met before all is well.
		times int
		// How many requests there are then, and whether the write succeeds.
		requests int
		ok       bool
	}{
		"429":                    {status(429), 2, 3, true},
		"429 with seconds":       {status(429, "Retry-After", "0"), 2, 3, true},
		"429 with a past date":   {status(429, "Retry-After", "Fri, 21 Nov 2025 01:02:03 GMT"), 2, 3, true},
		"429 for an hour":        {status(429, "Retry-After", "3600"), 2, 1, false},
		"500":                    {status(500), 2, 3, true},
		"503":                    {status(503), 1, 2, true},
		"400":                    {status(400), 1, 1, false},
		"401":                    {status(401), 1, 1, false},
		"403":                    {status(403), 1, 1, false},
		"404":                    {status(404), 1, 1, false},
		"409":                    {status(409), 1, 1, false},
		"501":                    {status(501), 1, 1, false},
		"505":                    {status(505), 1, 1, false},
		"520, of a proxy":        {status(520), 1, 2, true},
		"connection closed":      {hangUp, 2, 3, true},
		"silence before headers": {func(http.ResponseWriter) { time.Sleep(600 * time.Millisecond) }, 1, 2, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := registrytest.New(t, onManifests(func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false // what the tag holds that was refused
				}
				if n := requests.Add(1); n <= int64(tt.times) {
					_, _ = io.Copy(io.Discard, r.Body)
					tt.fault(w)
					return true
				}
				return false
			}))
			d, err := hasty().Put(t.Context(), s.Host+"/app:v1", "application/vnd.oci.image.manifest.v1+json", []byte("{}"))
			if got := int(requests.Load()); (err == nil) != tt.ok || got != tt.requests {
				t.Errorf("%d requests, want %d; %v", got, tt.requests, err)
			}
			if tt.ok && s.Digest(t, "app:v1") != d.Digest {
				t.Error("the bytes did not arrive as they were sent")
			}
		})
	}
}

func TestRetriesEnd(t *testing.T) {
	s := registrytest.New(t, onManifests(func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}))
	c := impatient(Options{})
	c.transport.patience = 50 * time.Millisecond
	_, err := c.Head(t.Context(), s.Host+"/app:v1")
	var e *Error
	if !errors.As(err, &e) || e.Status != 500 || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestContextEndsWaits(t *testing.T) {
	wait := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	hang := func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	body := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	for name, f := range map[string]func(int, http.ResponseWriter, *http.Request) bool{"pause": wait, "headers": hang, "body": body} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, onManifests(f))
			ctx, cancel := context.WithCancel(t.Context())
			c := New(Options{Keychain: fixed{authn.Anonymous}})
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, _, err := c.Get(ctx, s.Host+"/app:v1"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("budget", func(t *testing.T) {
		s := registrytest.New(t)
		c := New(Options{Keychain: fixed{authn.Anonymous}, RPS: 0.0001})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		// To find out that nothing speaks TLS there takes all of this budget.
		_, err := c.Head(ctx, s.Host+"/app:v1")
		if !errors.Is(err, context.DeadlineExceeded) || len(s.Requests()) != 0 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("credentials", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		block := make(chan struct{})
		defer close(block)
		if _, err := waitFor(ctx, func() (int, error) { <-block; return 1, nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestBodyThatHangs(t *testing.T) {
	for _, faults := range []int{1, 100} {
		s := registrytest.New(t, onManifests(func(n int, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || n > faults+1 {
				return false
			}
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}))
		s.Put(t, "app:v1", "application/vnd.oci.image.manifest.v1+json", []byte("{}"))
		_, raw, err := hasty().Get(t.Context(), s.Host+"/app:v1")
		if faults == 1 && (err != nil || string(raw) != "{}") {
			t.Errorf("after one hanging body: %q, %v", raw, err)
		}
		if faults > 1 && (err == nil || !strings.Contains(err.Error(), errSilent.Error())) {
			t.Errorf("after many: %v", err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"5": 5 * time.Second, " 0 ": 0, "Sat, 21 Nov 2026 01:02:13 GMT": 10 * time.Second, "Sat, 21 Nov 2020 01:02:13 GMT": 0,
		"": -1, "soon": -1, "-5": -1, "99999999999999999999": -1, "999999999": 1 << 20 * time.Second,
	} {
		got, ok := retryAfter(in, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	ask := func(host string, insecure ...string) (schemes string, err error) {
		seen := make(chan string, 100)
		c := impatient(Options{Insecure: insecure, Transport: tripper(func(r *http.Request) (*http.Response, error) {
			seen <- r.URL.Scheme
			if r.URL.Scheme == "http" {
				return httptest.NewRecorder().Result(), nil
			}
			return nil, errors.New("http: server gave HTTP response to HTTPS client")
		})})
		_, err = c.Head(t.Context(), host+"/app:v1")
		_, _ = c.Copy(t.Context(), host+"/app@"+Digest(nil), host+"/b")
		_, _ = c.List(t.Context(), host+"/app")
		for len(seen) > 0 {
			schemes += " " + <-seen
		}
		return schemes, err
	}
	for _, host := range []string{"10.0.0.1:5000", "192.168.1.1", "172.16.0.1:80", "registry.local", "registry.localhost:5000", "example.org"} {
		schemes, err := ask(host, "other:5000", host+"0")
		if strings.Contains(schemes, "http ") || strings.HasSuffix(schemes, "http") {
			t.Errorf("%s was asked over%s", host, schemes)
		}
		if err == nil || !strings.Contains(failure.Hint(err), "publish.insecure") || !strings.Contains(err.Error(), "plain HTTP") {
			t.Errorf("%s: %v (%s)", host, err, failure.Hint(err))
		}
	}
	for _, host := range []string{"127.0.0.2:5000", "[::1]:5000", "localhost", "10.0.0.1:5000", "example.org:81"} {
		schemes, _ := ask(host, "10.0.0.1:5000", "example.org")
		if !strings.HasSuffix(schemes, " http") {
			t.Errorf("%s was asked over%s", host, schemes)
		}
	}
}

func TestRedirects(t *testing.T) {
	type seen struct{ auth atomic.Value }
	elsewhere := func() (*httptest.Server, *seen) {
		var s seen
		s.auth.Store("not asked")
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.auth.Store(r.Header.Get("Authorization"))
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = io.WriteString(w, "{}")
		}))
		t.Cleanup(srv.Close)
		return srv, &s
	}
	t.Run("credentials stay", func(t *testing.T) {
		for name, auth := range map[string]func(http.Handler) http.Handler{
			"basic": registrytest.BasicAuth("user", "secret"), "token": registrytest.TokenAuth("user", "secret", func(string) {}),
		} {
			other, got := elsewhere()
			// Another name, and another port alone: for cookies and the standard
			// library's credentials that is the same host.
			for _, to := range []string{strings.Replace(other.URL, "127.0.0.1", "localhost", 1), other.URL} {
				s := registrytest.New(t, auth, onManifests(func(_ int, w http.ResponseWriter, r *http.Request) bool {
					http.Redirect(w, r, to, http.StatusTemporaryRedirect)
					return true
				}))
				c := impatient(Options{Keychain: fixed{&authn.Basic{Username: "user", Password: "secret"}}})
				if _, raw, err := c.Get(t.Context(), s.Host+"/app:v1"); err != nil || string(raw) != "{}" {
					t.Errorf("%s: %q, %v", name, raw, err)
				}
				if a := got.auth.Load(); a != "" {
					t.Errorf("%s: credentials followed the redirect to %s: %v", name, to, a)
				}
			}
		}
	})
	t.Run("no downgrade", func(t *testing.T) {
		for name, on := range map[string]string{"manifests": "/manifests/", "ping": "/v2/", "token": "/token"} {
			other, got := elsewhere()
			s, rt := registrytest.NewTLS(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch {
					case strings.Contains(r.URL.Path, on):
						http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
					case on == "/token":
						w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token"`)
						w.WriteHeader(http.StatusUnauthorized)
					default:
						next.ServeHTTP(w, r)
					}
				})
			})
			c := impatient(Options{Transport: rt, Keychain: fixed{&authn.Basic{Username: "user", Password: "secret"}}})
			_, _, err := c.Get(t.Context(), s.Host+"/app:v1")
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", name, err)
			}
			if a := got.auth.Load(); a != "not asked" {
				t.Errorf("%s: the redirect to http was followed", name)
			}
		}
	})
	t.Run("token service over plain HTTP", func(t *testing.T) {
		s, rt := registrytest.NewTLS(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://auth.example.org/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
		})
		c := impatient(Options{Transport: rt, Keychain: fixed{&authn.Basic{Username: "user", Password: "secret"}}})
		if _, err := c.Head(t.Context(), s.Host+"/app:v1"); err == nil {
			t.Error("credentials were sent to it")
		}
	})
	t.Run("to this machine", func(t *testing.T) {
		from := httptest.NewRequest(http.MethodGet, "https://registry.example.org/v2/", nil)
		for to, ok := range map[string]bool{
			"https://storage.example.org/x": true, "https://10.0.0.1/x": true, "http://storage.example.org/x": false,
			"https://127.0.0.1/x": false, "https://localhost/x": false, "https://169.254.169.254/latest": false, "https://[fe80::1]/": false,
		} {
			err := checkRedirect(httptest.NewRequest(http.MethodGet, to, nil), []*http.Request{from})
			if (err == nil) != ok {
				t.Errorf("redirect to %s: %v", to, err)
			}
		}
	})
}

func TestTokensAreReused(t *testing.T) {
	var scopes []string
	s := registrytest.New(t, registrytest.TokenAuth("user", "secret", func(scope string) { scopes = append(scopes, scope) }))
	c := impatient(Options{Keychain: fixed{&authn.Basic{Username: "user", Password: "secret"}}})
	c.WillPush(s.Host + "/app")
	for i := range 3 {
		ref := fmt.Sprintf("%s/app:v%d", s.Host, i)
		if _, err := c.Head(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), ref, "application/vnd.oci.image.manifest.v1+json", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Head(t.Context(), s.Host+"/other:v1"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if got := strings.Join(scopes, ", "); got != "repository:app:push,pull, repository:other:pull" {
		t.Errorf("tokens for %s", got)
	}
	if got := s.Requests(); len(got) != 1+2+7 || got[0] != "GET /v2/" {
		t.Errorf("%d requests: %v", len(got), got)
	}
}

func TestErrorsAreOneLine(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	tlsServer, _ := registrytest.NewTLS(t)
	denied := registrytest.New(t, onManifests(func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"no\naccess \u001b[31m to https://user:secret@example.org/"}]}`)
		return true
	}))
	garbage := registrytest.New(t, onManifests(func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "<html>\n"+strings.Repeat("x", 10_000))
		return true
	}))
	dns := impatient(Options{Transport: tripper(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "registry.example.org", IsNotFound: true}}
	})})
	for _, tt := range []struct {
		name       string
		client     *Client
		host       string
		want, hint string
	}{
		{"refused", impatient(Options{}), strings.TrimPrefix(closed.URL, "http://"), "connection refused", "running"},
		{"unknown host", dns, "registry.example.org", "unknown host registry.example.org", "DNS"},
		{"authority", impatient(Options{}), tlsServer.Host, "unknown authority", "LOCAL_CA_CERTIFICATE"},
		{"denied", impatient(Options{}), denied.Host, "403 Forbidden: DENIED: no access", "credentials"},
		{"denied without credentials", impatient(Options{Keychain: newKeychain(AWS{}, func(string) string { return "" }, nil)}), denied.Host, "403", "no credentials for " + denied.Host},
		{"garbage", impatient(Options{}), garbage.Host, "400 Bad Request: <html> xxx", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			_, _, err := tt.client.Get(t.Context(), tt.host+"/app:v1")
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			if !strings.HasPrefix(text, "reading "+tt.host+"/app:v1: ") || !strings.Contains(text, tt.want) || len(text) > 500 {
				t.Errorf("got %s", text)
			}
			if strings.ContainsAny(text+failure.Hint(err), "\n\x1b") || strings.Contains(text, "secret") {
				t.Errorf("unsafe: %q", text)
			}
			if !strings.Contains(failure.Hint(err), tt.hint) {
				t.Errorf("hint: %s", failure.Hint(err))
			}
		})
	}
}

// Whatever a registry answers, its connection is used again.
func TestConnectionsAreReused(t *testing.T) {
	var n, dials atomic.Int64
	s := registrytest.New(t, onManifests(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%3 != 0 {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Retry-After", "0")
		http.Error(w, strings.Repeat("busy ", 1000), http.StatusTooManyRequests)
		return true
	}))
	rt := NewTransport()
	dial := rt.DialContext
	rt.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, address)
	}
	c := impatient(Options{Transport: rt})
	for i := range 10 {
		ref := fmt.Sprintf("%s/app:v%d", s.Host, i)
		if _, _, err := c.Get(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), ref, manifestType, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Head(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	// One finds out that the registry speaks no TLS.
	if got := dials.Load(); got != 2 {
		t.Errorf("%d connections", got)
	}
}
