package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/issuertest"
	"github.com/pipegen/pipegen/pkg/failure"
)

// identities is GitHub's service, as jobs see it.
type identities struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // audiences
	answer int
	body   string
}

func newIdentities(t *testing.T, issuer *issuertest.Issuer, now func() time.Time) *identities {
	s := &identities{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer of the job" || r.URL.Query().Get("api-version") != "2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.asked = append(s.asked, r.URL.Query().Get("audience"))
		if s.answer != 0 {
			w.WriteHeader(s.answer)
			_, _ = w.Write([]byte(s.body))
			return
		}
		claims := issuer.GitHub(r.URL.Query().Get("audience"), "octo-org/app", "refs/heads/main", now())
		_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": issuer.Token(claims)})
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *identities) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *identities) say(status int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.body = status, body
}

func (s *identities) getenv(name string) string {
	return map[string]string{identityAddress: s.URL + "/token?api-version=2", identityBearer: "of the job"}[name]
}

func TestGitHubIdentity(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	s := newIdentities(t, issuertest.New(t), clock)
	source, err := GitHubIdentity(IdentityOptions{Getenv: s.getenv, Audience: "https://p.example.com/a?b&c", Now: clock, Pause: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	get := func() string {
		t.Helper()
		token, err := source(t.Context())
		if err != nil || strings.Count(token, ".") != 2 {
			t.Fatal(token, err)
		}
		return token
	}
	first := get()
	if again := get(); again != first || s.count() != 1 || s.asked[0] != "https://p.example.com/a?b&c" {
		t.Errorf("asked for %q", s.asked)
	}
	// Another one comes before the first has ended.
	now = now.Add(3*time.Minute + 30*time.Second)
	second := get()
	if second == first || s.count() != 2 {
		t.Error("the token was not renewed")
	}
	// One that is good still is used while there is no other.
	s.say(http.StatusServiceUnavailable, "")
	now = now.Add(4 * time.Minute)
	if get() != second || s.count() != 2+identityAttempts {
		t.Errorf("asked %d times", s.count())
	}
	now = now.Add(2 * time.Minute)
	if token, err := source(t.Context()); err == nil || token != "" || !strings.Contains(err.Error(), "503") {
		t.Error(token, err)
	}
	s.say(0, "")
	if third := get(); third == second {
		t.Error("the token is the one before")
	}
	// Many that ask at once share an answer.
	now = now.Add(time.Hour)
	before := s.count()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := source(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.count() - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestGitHubIdentityFails(t *testing.T) {
	s := newIdentities(t, issuertest.New(t), time.Now)
	for name, env := range map[string]map[string]string{
		"no permission": {}, "half": {identityAddress: s.URL}, "no URL": {identityAddress: "here", identityBearer: "b"},
	} {
		if _, err := GitHubIdentity(IdentityOptions{Getenv: func(n string) string { return env[n] }, Audience: "a"}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	source, err := GitHubIdentity(IdentityOptions{Getenv: s.getenv, Audience: "a", Pause: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		status int
		body   string
		asked  int
	}{
		"forbidden": {http.StatusForbidden, "of the job", 1}, "nothing": {http.StatusOK, "{}", 1}, "no JSON": {http.StatusOK, "of the job", 1},
		"elsewhere": {http.StatusFound, "", 1}, "busy": {http.StatusTooManyRequests, "", identityAttempts},
	} {
		s.say(tt.status, tt.body)
		before := s.count()
		token, err := source(t.Context())
		if err == nil || token != "" || s.count()-before != tt.asked || strings.Contains(err.Error(), "of the job") {
			t.Errorf("%s: %q %v, asked %d times", name, token, err, s.count()-before)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := source(ctx); !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestLifeOfWhatDoesNotSay(t *testing.T) {
	now := time.Now()
	for _, token := range []string{"", "a.b.c", "e30.e30.x", "e30.eyJpYXQiOjUsImV4cCI6NX0.x"} {
		if renew, ends := life(token, now); renew != now.Add(forgetful) || ends != renew {
			t.Errorf("%q", token)
		}
	}
}
