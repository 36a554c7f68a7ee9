package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Nothing but health, and agents that show who they are, is answered without a token, nor with one that is forged
// or has expired.
func TestEveryRouteWantsAToken(t *testing.T) {
	w := newWorld(t, func(o *Options, co *controller.Options) { o.BehindProxy = true; withBuild(o, co) })
	examples := strings.NewReplacer("{run}", "1111111111111111", "{task}", "1111111111111111-0-1", "{digest}", digestOf("x"))
	n := 0
	for _, rt := range w.front.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		if strings.HasSuffix(path, "/token") {
			continue // it wants a proof
		}
		for name, token := range map[string]string{"no": "", "a forged": "forged-token-0123456789", "an expired": expired} {
			n++
			res, text := w.ask(method, examples.Replace(path), token, "", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", n))
			if open := strings.HasPrefix(path, "/health/"); open && res.StatusCode != 200 || !open && res.StatusCode != 401 {
				t.Errorf("%s with %s token: %d %s", rt.pattern, name, res.StatusCode, text)
			}
		}
	}
	if n < 3*20 {
		t.Errorf("%d requests", n)
	}
}

type panicking struct{ Core }

func (panicking) List(context.Context, controller.Filter) (api.RunList, error) {
	panic("a bug: hush-hush")
}

// A bug in one request is that request's alone, and the operator learns of it.
func TestPanic(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) { o.Core = panicking{} })
	res, text := w.ask("GET", "/v1/runs", alice, "")
	if res.StatusCode != 500 || strings.Contains(text, "hush-hush") || problemOf(t, text).Request == "" {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if log := w.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "a bug: hush-hush") || !strings.Contains(log, "refusals_test.go") {
		t.Errorf("the log does not tell where: %s", log)
	}
	if res, _ := w.ask("GET", "/health/live", "", ""); res.StatusCode != 200 {
		t.Errorf("%d", res.StatusCode)
	}
}

// One runner stands for others, and the token's limits are about that one.
func TestInstead(t *testing.T) {
	w := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Instead = map[string]string{"kubernetes": "local", "ecs": "local"}
	})
	for _, asked := range []string{"", "local", "kubernetes", "ecs"} {
		run, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: planOf("app"), Runner: asked}, "")
		if err != nil || run.Runner != "local" {
			t.Errorf("%q: %+v %v", asked, run, err)
		}
	}
	if _, err := w.client(alice).CreateRun(t.Context(), api.RunRequest{Plan: planOf("app"), Runner: "lambda"}, ""); !errors.Is(err, failure.ErrInput) {
		t.Error(err)
	}
}

// A retry is no way around limits that the token was given since.
func TestRetryWithinLimits(t *testing.T) {
	mine, admin := token(t, "alice", alice, access.Submit), token(t, "root", root, access.Admin)
	var tokens atomic.Pointer[[]access.Token]
	tokens.Store(&[]access.Token{mine, admin})
	w := newWorld(t, func(o *Options, _ *controller.Options) {
		o.Access = access.Static{Source: func() ([]access.Token, error) { return *tokens.Load(), nil }}
	})
	run := w.submit(alice, "app")
	a := w.agent()
	if err := a.Finish(t.Context(), a.Launch.Task, api.TaskResult{Error: "no"}); err != nil {
		t.Fatal(err)
	}
	w.until(run.ID, api.Failed)
	tokens.Store(&[]access.Token{with(mine, func(k *access.Token) { k.Registries = []string{"registry.test/mine"} }), admin})
	if _, err := w.client(alice).RetryRun(t.Context(), run.ID, ""); !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), "registry.test/images") {
		t.Error(err)
	}
	if again, err := w.client(root).RetryRun(t.Context(), run.ID, ""); err != nil || again.RetryOf != run.ID {
		t.Errorf("%+v %v", again, err)
	}
}

// What clients of the original leave in the bucket goes when it is old; what
// the controller keeps there is not touched.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Options{Anonymous: true, Blobs: blob.Dir(dir)})
	if err != nil {
		t.Fatal(err)
	}
	const context1, other, log = "repos/1732190000-0a1b2c3d/repo.tar.gz", "repos/notes/readme.txt", "logs/1"
	for _, key := range []string{context1, other, log} {
		if err := s.o.Blobs.Put(t.Context(), key, bytes.NewReader([]byte("x")), 1); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (keys []string) {
		for _, key := range []string{context1, other, log} {
			if _, err := s.o.Blobs.Stat(t.Context(), key); err == nil {
				keys = append(keys, key)
			} else if !errors.Is(err, blob.ErrNotFound) {
				t.Error(err)
			}
		}
		return keys
	}
	if err := s.forgetOnce(t.Context(), time.Now().Add(-time.Hour)); err != nil || len(left()) != 3 {
		t.Errorf("%v %v", left(), err)
	}
	if err := s.forgetOnce(t.Context(), time.Now().Add(time.Hour)); err != nil || strings.Join(left(), " ") != other+" "+log {
		t.Errorf("%v %v", left(), err)
	}
}

// A page in a browser cannot use a token that a proxy adds, whatever it sends.
func TestPages(t *testing.T) {
	w := newWorld(t)
	for _, header := range [][]string{{"Origin", "https://evil.example.org"}, {"Sec-Fetch-Site", "cross-site"}} {
		if res, text := w.ask(http.MethodPost, "/v1/runs", alice, "{}", header...); res.StatusCode != 403 {
			t.Errorf("%v: %d %s", header, res.StatusCode, text)
		}
	}
}
