package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

var secret = fixed{&authn.Basic{Username: "user", Password: "secret"}}

// TestFaults reads a manifest from registries that misbehave.
func TestFaults(t *testing.T) {
	lie := Digest([]byte("something else"))
	for _, tt := range []struct {
		name string
		// Which requests get the fault, and how many of them.
		methods, part string
		times         int
		fault         registrytest.Fault
		ref           string // default: :v1
		// What reading says; empty: it succeeds after all. Requests for the
		// manifest; 0: any number.
		want     string
		requests int
	}{
		{"a wrong digest of a tag", "GET", "/manifests/", 0, registrytest.Says(200, "{}", "Content-Type", manifestType, "Docker-Content-Digest", lie), "", "the registry says that the digest is " + lie, 1},
		{"other bytes than the digest's", "GET", "/manifests/", 0, registrytest.Says(200, "[]", "Content-Type", manifestType), "@" + Digest([]byte("{}")), "the bytes that the registry sent have the digest", 1},
		{"garbage for a digest", "GET", "/manifests/", 0, registrytest.Says(200, "{}", "Content-Type", manifestType, "Docker-Content-Digest", "sha256:x"), "", "", 1}, {"a header that is none", "GET", "/manifests/", 0, registrytest.Says(200, "{}", "Content-Type", manifestType, "Docker-Content-Digest", "x\x1b"), "", "malformed MIME header", 1},
		{"no type", "GET", "/manifests/", 0, registrytest.Says(200, "{}", "Content-Type", ""), "", "neither that of an image nor of an index", 1},
		{"a page for people", "GET", "/manifests/", 0, registrytest.Says(200, "<html>", "Content-Type", "text/html; charset=utf-8"), "", `media type "text/html"`, 1},
		{"hangs once", "GET", "/manifests/", 1, registrytest.Hangs, "", "", 2},
		{"hangs always", "GET", "/manifests/", 0, registrytest.Hangs, "", errSilent.Error(), 3},
		{"truncated once", "GET", "/manifests/", 1, registrytest.Truncates, "", "", 2},
		{"truncated always", "GET", "/manifests/", 0, registrytest.Truncates, "", "unexpected EOF", 3},
		{"hangs up twice", "GET", "/manifests/", 2, registrytest.HangsUp, "", "", 3},
		{"endless", "GET", "/manifests/", 0, registrytest.Endless(200), "", "more than 4194304 bytes", 1},
		{"an endless error", "GET", "/manifests/", 0, registrytest.Endless(404), "", "byte limit", 1},
		{"an endless ping", "GET", "/v2/", 0, registrytest.Endless(404), "", "", 0},
		{"an error without words", "GET", "/manifests/", 0, registrytest.Says(418, ""), "", "418 I'm a teapot", 1},
		{"an error in another shape", "GET", "/manifests/", 0, registrytest.Says(400, `{"errors":"no"}`), "", "400 Bad Request", 1},
		{"401 without end", "GET", "/manifests/", 0, registrytest.Says(401, `{"errors":[{"code":"UNAUTHORIZED","message":"again"}]}`, "WWW-Authenticate", `Bearer realm="https://127.0.0.1:1/token"`), "", "401 Unauthorized", 1},
		{"408 once", "GET", "/manifests/", 1, registrytest.Says(408, ""), "", "", 2},
		{"circles", "GET", "/manifests/", 0, registrytest.Says(307, "", "Location", "/v2/app/manifests/v1"), "", "stopped after 10 redirects", 10},
		{"a redirect to nowhere", "GET", "/manifests/", 0, registrytest.Says(307, "", "Location", "http://[::1"), "", "Location", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := registrytest.New(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
						requests.Add(1)
					}
					next.ServeHTTP(w, r)
				})
			}, registrytest.Faulty(tt.methods, tt.part, tt.times, tt.fault))
			s.Put(t, "app:v1", manifestType, []byte("{}"))
			ref := tt.ref
			if ref == "" {
				ref = ":v1"
			}
			c := impatient(Options{})
			if strings.HasPrefix(tt.name, "hangs ") {
				c = hasty()
			}
			c.transport.patience = 2 * time.Second
			_, raw, err := c.Get(t.Context(), s.Host+"/app"+ref)
			switch {
			case tt.part == "/v2/" && err != nil:
			case tt.want == "" && (err != nil || string(raw) != "{}"):
				t.Errorf("got %q, %v", raw, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 700):
				t.Errorf("got %v", err)
			}
			if got := int(requests.Load()); tt.requests > 0 && got != tt.requests {
				t.Errorf("%d requests, want %d", got, tt.requests)
			}
		})
	}
}

// TestKeptConnectionsClose lets a registry close every connection after its
// answer without saying so.
func TestKeptConnectionsClose(t *testing.T) {
	s := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			w.(http.Flusher).Flush()
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = conn.Close()
			}
		})
	})
	c := impatient(Options{})
	for i := range 20 {
		if _, err := c.Put(t.Context(), fmt.Sprintf("%s/app:v%d", s.Host, i), manifestType, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChallenges answers the ping with headers that ask for credentials in
// ways of their own. None of them may get the credentials, or make the client
// hang or fall.
func TestChallenges(t *testing.T) {
	var got atomic.Int64
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			got.Add(1)
		}
		_, _ = io.WriteString(w, `{"token":"T"}`)
	}))
	defer thief.Close()
	for _, header := range []string{
		"", "Bearer", "Bearer realm", `Bearer realm="`, `Bearer realm=""`, `Bearer realm="://"`, `Bearer realm="ftp://example.org/"`,
		`Bearer realm="` + thief.URL + `/token"`, // plain HTTP, though the registry speaks TLS
		`Bearer realm="file:///etc/passwd"`, `Negotiate`, `Basic`, `,,,`, `Bearer realm="https://169.254.169.254/token"`, "Bearer \x00",
		`Bearer realm="https://127.0.0.1:1/` + strings.Repeat("x", 100_000) + `"`,
	} {
		s, rt := registrytest.NewTLS(t, registrytest.Faulty("GET HEAD", "/v2/", 0, registrytest.Says(401, "", "WWW-Authenticate", header)))
		c := impatient(Options{Transport: rt, Keychain: secret, Patience: time.Second})
		_, _, err := c.Get(t.Context(), s.Host+"/app:v1")
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") || len(err.Error()) > 900 {
			t.Errorf("%.80q: %v", header, err)
		}
	}
	if got.Load() > 0 {
		t.Error("credentials were sent over plain HTTP")
	}
}

// TestTokenService gives answers of a token service.
func TestTokenService(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		want  string // empty: success
	}{
		{"good", registrytest.Says(200, `{"token":"T"}`), ""},
		{"the other name", registrytest.Says(200, `{"access_token":"T"}`), ""},
		{"no token", registrytest.Says(200, `{}`), "no token"},
		{"no JSON", registrytest.Says(200, `<html>`), "invalid character"},
		{"endless", registrytest.Endless(200), "byte limit"},
		{"denied", registrytest.Says(403, `{"errors":[{"code":"DENIED","message":"no"}]}`), "403 Forbidden"},
		{"unwell", registrytest.Says(500, ``), "500 Internal Server Error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == "/token":
						if user, password, _ := r.BasicAuth(); user != "user" || password != "secret" {
							t.Errorf("%q asked for a token", user)
						}
						tt.fault(w, r)
					case r.Header.Get("Authorization") != "Bearer T":
						registrytest.Says(401, "", "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)(w, r)
					default:
						next.ServeHTTP(w, r)
					}
				})
			})
			c := impatient(Options{Keychain: secret, Patience: 20 * time.Millisecond})
			_, err := c.Head(t.Context(), s.Host+"/app:v1")
			if tt.want == "" && !errors.Is(err, ErrNotFound) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTokenEnds lets a token end before a write: the same bytes arrive.
func TestTokenEnds(t *testing.T) {
	s := registrytest.New(t, registrytest.TokenAuth("user", "secret", func(string) {}), func(next http.Handler) http.Handler {
		ended := registrytest.Faulty("PUT", "/manifests/", 1, func(w http.ResponseWriter, r *http.Request) {
			registrytest.Says(401, "", "WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)(w, r)
		})
		return ended(next)
	})
	c := impatient(Options{Keychain: secret})
	d, err := c.Put(t.Context(), s.Host+"/app:v1", manifestType, []byte(`{"a":"b"}`))
	if err != nil || d.Digest != Digest([]byte(`{"a":"b"}`)) {
		t.Fatal(err)
	}
	writes := slices.DeleteFunc(s.Requests(), func(r string) bool { return !strings.HasPrefix(r, "PUT ") })
	if len(writes) != 2 {
		t.Errorf("%d writes, one of them without its bytes", len(writes))
	}
	if _, raw, err := c.Get(t.Context(), s.Host+"/app:v1"); err != nil || string(raw) != `{"a":"b"}` {
		t.Errorf("the registry holds %q, %v", raw, err)
	}
}

// TestBudgetIsShared lets clients that share one send no more together.
func TestBudgetIsShared(t *testing.T) {
	budget := NewBudget(0.001)
	s := registrytest.New(t)
	one, two := impatient(Options{Budget: budget}), impatient(Options{Budget: budget})
	if budget.Burst() != 1 {
		t.Errorf("bursts of %d", budget.Burst())
	}
	_ = budget.Allow()
	for _, c := range []*Client{one, two} {
		c.transport.patience = 0
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := c.Head(ctx, s.Host+"/app:v1"); err == nil || len(s.Requests()) > 0 {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	if b := NewBudget(50).Burst(); b != 100 {
		t.Errorf("bursts of %d at 50 a second", b)
	}
}

// TestProxy goes through a proxy, and hides its credentials.
func TestProxy(t *testing.T) {
	var seen atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization"))
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	through := func(address string) *Client {
		rt := NewTransport()
		rt.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(address) }
		return impatient(Options{Transport: rt, Patience: time.Millisecond})
	}
	_, err := through("http://user:secret@"+strings.TrimPrefix(proxy.URL, "http://")).Head(t.Context(), "registry.example.org/app:v1")
	if err == nil || !strings.Contains(err.Error(), "the proxy asks for a user") || failure.Hint(err) == "" || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if got := seen.Load(); got != "CONNECT registry.example.org:443 Basic dXNlcjpzZWNyZXQ=" {
		t.Errorf("the proxy was asked %v", got)
	}
	_, err = through("http://user:secret@127.0.0.1:1").Head(t.Context(), "registry.example.org/app:v1")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	// What the standard library says of a variable that is no URL.
	bad := fmt.Errorf("invalid proxy address %q: %w", "http://user:secret@proxy:x", &url.Error{Op: "parse", URL: "http://user:secret@proxy:x", Err: errors.New("invalid port")})
	c := impatient(Options{Transport: tripper(func(*http.Request) (*http.Response, error) { return nil, bad })})
	if _, err = c.Head(t.Context(), "registry.example.org/app:v1"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// pages serves tags in pages of n, with a link that link makes.
func pages(tags []string, n int, link func(r *http.Request, last string) string) registrytest.Fault {
	return func(w http.ResponseWriter, r *http.Request) {
		start := slices.Index(tags, r.URL.Query().Get("last")) + 1
		end := min(start+n, len(tags))
		if end < len(tags) {
			w.Header().Set("Link", link(r, tags[end-1]))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"name":"app","tags":["%s"]}`, strings.Join(tags[start:end], `","`))
	}
}

func TestListPages(t *testing.T) {
	var tags []string
	for i := range 10_000 {
		tags = append(tags, fmt.Sprintf("app-20261121-%07x-amd64", i))
	}
	for name, link := range map[string]func(*http.Request, string) string{
		"relative": func(_ *http.Request, last string) string {
			return `</v2/app/tags/list?last=` + last + `&n=1000>; rel="next"`
		},
		"absolute": func(r *http.Request, last string) string {
			return `<http://` + r.Host + `/v2/app/tags/list?last=` + last + `>; rel=next`
		},
		"https": func(r *http.Request, last string) string {
			return `<https://` + r.Host + `/v2/app/tags/list?last=` + last + `>`
		},
		"beside others": func(_ *http.Request, last string) string {
			return `<https://example.org/,>; title="a, b"; rel="help" , <list?last=` + last + `>; REL="next"`
		},
		"query alone": func(_ *http.Request, last string) string { return `<?last=` + last + `>; rel="next"` },
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Faulty("GET", "/tags/list", 0, pages(tags, 1000, link)))
			got, err := impatient(Options{}).List(t.Context(), s.Host+"/app")
			if err != nil || !slices.Equal(got, tags) {
				t.Errorf("%d tags, %v", len(got), err)
			}
		})
	}
	asked := atomic.Int64{}
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer thief.Close()
	for name, tt := range map[string]struct{ link, want string }{
		"a circle":           {`</v2/app/tags/list?n=1000>; rel="next"`, "circle"},
		"another host":       {`<` + thief.URL + `/v2/app/tags/list?last=x>; rel="next"`, "elsewhere"},
		"another repository": {`</v2/other/tags/list?last=x>; rel="next"`, "elsewhere"},
		"upwards":            {`<../../../../etc?last=x>; rel="next"`, "elsewhere"},
		"a user":             {`<http://user:secret@registry/v2/app/tags/list?last=x>; rel="next"`, "elsewhere"},
		"another scheme":     {`<file:///v2/app/tags/list?last=x>; rel="next"`, "elsewhere"},
		"no target":          {`next`, "header Link"},
		"no end":             {`</v2/app`, "header Link"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.BasicAuth("user", "secret"), registrytest.Faulty("GET", "/tags/list", 0, registrytest.Says(200, `{"tags":["a"]}`, "Link", tt.link)))
			_, err := impatient(Options{Keychain: secret}).List(t.Context(), s.Host+"/app")
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
		})
	}
	if asked.Load() > 0 {
		t.Error("the link was followed elsewhere")
	}
	for name, tt := range map[string]struct {
		fault registrytest.Fault
		want  string // empty: success
	}{
		"no tags":     {registrytest.Says(200, `{"name":"app","tags":null}`), ""},
		"no JSON":     {registrytest.Says(200, `<html>`), "cannot be read"},
		"endless":     {registrytest.Endless(200), "bytes"},
		"no tag":      {registrytest.Says(200, `{"tags":["a\u001b[31m"]}`), "which is none"},
		"no page":     {registrytest.Says(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`), "404 Not Found"},
		"pages on":    {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"tags":["a"]}`) }, ""},
		"other shape": {registrytest.Says(200, `{"tags":{"a":1}}`), "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Faulty("GET", "/tags/list", 0, tt.fault))
			_, err := impatient(Options{}).List(t.Context(), s.Host+"/app")
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{`</v2/a/tags/list?last=x>; rel="next"`, `<a>; rel=prev, <b>; rel="next"`, `<>`, `<`, `<a>; x="\",", <b>`, ", ,"} {
		f.Add(s)
	}
	r := Reference{Host: "registry.example.org", Path: "team/app"}
	f.Fuzz(func(t *testing.T, s string) {
		link, ok, err := nextLink([]string{s})
		if err != nil || !ok {
			return
		}
		next, err := within(r, "tags/list?n=1", link)
		if err != nil {
			return
		}
		u, err := url.Parse("https://" + r.Host + "/v2/" + r.Path + "/" + next)
		if err != nil || u.Host != r.Host || u.Path != "/v2/team/app/tags/list" || u.User != nil || u.Fragment != "" {
			t.Errorf("%q leads to %q, %v", s, next, err)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://auth.example.org/token",service="x",scope="y"`, `Basic realm="x"`, `Bearer realm="http://127.0.0.1/"`, "Bearer ,=", `Bearer realm="https://auth.example.org\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		c := impatient(Options{Keychain: secret, Patience: time.Nanosecond, Transport: tripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme != "https" {
				t.Errorf("%q leads to %s", header, r.URL)
			}
			if r.URL.Host == "registry.example.org" && r.URL.Path == "/v2/" {
				return &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {header}}, Body: http.NoBody, Request: r}, nil
			}
			return &http.Response{StatusCode: 403, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		})})
		_, err := c.Head(t.Context(), "registry.example.org/app:v1")
		if err == nil || strings.Contains(err.Error(), "secret") || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: %v", header, err)
		}
	})
}
