package gittest

import (
	"io"
	"net/http"
	"net/http/cgi" //nolint:gosec // the fault that is meant is of Go before 1.6.3
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Server serves the repositories below a directory as git servers do: through
// git http-backend.
type Server struct {
	// Address of the directory, without a slash at its end.
	URL string

	mu       sync.Mutex
	requests []string
}

// Serve starts a server on the loopback interface, which ends with the test.
// What wrap puts around a handler stands between client and git, the first outermost.
func Serve(t testing.TB, root string, wrap ...func(http.Handler) http.Handler) *Server {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	var handler http.Handler = &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		// Version 2 of the protocol is asked for in a header, which CGI passes on.
		Env:    append(slices.DeleteFunc(Environ(), notGit), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: io.Discard,
	}
	for _, w := range slices.Backward(wrap) {
		handler = w(handler)
	}
	s := &Server{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
		s.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	s.URL = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func notGit(variable string) bool { return !strings.HasPrefix(variable, "GIT_") }

// Requests gives method and URI of all requests since the last call.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.requests
	s.requests = nil
	return all
}

// With gives the server's address with a user and a password in it.
func (s *Server) With(user, password string) string {
	return strings.Replace(s.URL, "://", "://"+user+":"+password+"@", 1)
}

// Authorized asks for a user and a password.
func Authorized(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Version0 is a server that knows the protocol's first version alone.
func Version0(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Git-Protocol")
		next.ServeHTTP(w, r)
	})
}
