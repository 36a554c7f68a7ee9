package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

// A source is asked for each attempt, so that what is renewed is shown at once,
// and what it gives is in no message.
func TestTokenSource(t *testing.T) {
	var mu sync.Mutex
	var shown []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		shown = append(shown, r.Header.Get("Authorization"))
		switch len(shown) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			_, _ = w.Write([]byte(`{"id":"r","state":"queued"}`))
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"detail":"` + r.Header.Get("Authorization") + `"}`))
		}
	}))
	t.Cleanup(s.Close)
	n := 0
	var fault error
	c, err := NewClient(ClientOptions{URL: s.URL, Tokens: func(context.Context) (string, error) {
		n++
		return "token-" + strconv.Itoa(n), fault
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.firstPause = 1
	if run, err := c.Run(t.Context(), "r"); err != nil || run.ID != "r" {
		t.Error(run, err)
	}
	if _, err := c.Run(t.Context(), "r"); !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "token-") {
		t.Error(err)
	}
	if want := []string{"Bearer token-1", "Bearer token-2", "Bearer token-3"}; !slices.Equal(shown, want) {
		t.Errorf("%q", shown)
	}
	// Without a token nothing is sent.
	fault = errors.New("there is none")
	if _, err := c.Run(t.Context(), "r"); !errors.Is(err, fault) || len(shown) != 3 {
		t.Error(err, shown)
	}
	fault = nil
	for _, o := range []ClientOptions{
		{URL: "http://pipegen.example.com", Tokens: fixed("x")},
		{URL: s.URL, Tokens: fixed("a\nb")},
	} {
		c, err := NewClient(o)
		if err == nil {
			_, err = c.Run(t.Context(), "r")
		}
		if !errors.Is(err, failure.ErrInput) || len(shown) != 3 {
			t.Errorf("%s: %v", o.URL, err)
		}
	}
}
