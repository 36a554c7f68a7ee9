package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
)

const token = "t0ken-of-the-task"

// controller is one that does as the interface says, and what a test wants.
type controller struct {
	t      *testing.T
	server *httptest.Server
	// Is asked first, with the name of the endpoint and which request to it this
	// is, from 1; true: it has answered.
	first func(what string, n int, w http.ResponseWriter, r *http.Request) bool
	// Answers of the endpoint that are made but not sent, by the number of the request.
	unheard func(what string, n int) bool

	mu         sync.Mutex
	assignment api.Assignment
	archive    []byte
	agent      string
	asked      map[string]int
	lines      []api.TaskLine
	biggest    int // lines in a batch
	usage      *api.Usage
	cancel     *string
	results    []api.TaskResult
}

func newController(t *testing.T, files map[string]string) *controller {
	t.Helper()
	c := &controller{t: t, asked: map[string]int{}, archive: pack(t, files)}
	p := &plan.Plan{Version: plan.Version, Registry: "r.example/images", Layout: "tag", Images: []plan.Image{
		{Name: "base", Dir: "base", Repository: "r.example/images", Tags: []string{"base-1"}},
		{Name: "app", Dir: "app", Repository: "r.example/images", Tags: []string{"app-1"}, Needs: []string{"base"}, Builds: []plan.Build{{
			ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko", Context: ".", Dockerfile: "Dockerfile", Timeout: "1h",
		}}},
	}}
	c.assignment = api.Assignment{
		Task: "r-0-1", Run: "r", Build: "app@amd64", Attempt: 1, Plan: p, HeartbeatSeconds: 1, LogBytes: 1 << 20,
		Context:     &api.ContextSource{SignedURL: api.SignedURL{URL: "/v1/tasks/r-0-1/context"}, Digest: digestOf(c.archive), Size: int64(len(c.archive))},
		Published:   []plan.Published{{Name: "base", Repository: "r.example/images", Digest: "sha256:" + strings.Repeat("b", 64)}},
		Credentials: []api.Credential{{Registry: "r.example", Username: "u", Password: "registry-passw0rd"}},
		Secrets:     map[string]string{"NPM_TOKEN": "npm-s3cret"},
	}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	return c
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, text = tar.TypeSymlink, to, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func refuse(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{Status: status, Detail: "refused by the test"})
}

func (c *controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := strings.TrimPrefix(r.URL.Path, "/v1/tasks/r-0-1/")
	if r.Header.Get("Authorization") != "Bearer "+token {
		c.t.Errorf("%s without the token", what)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[what]++
	n := c.asked[what]
	if c.first != nil && c.first(what, n, w, r) {
		return
	}
	var answer any
	switch what {
	case "claim":
		var cl api.Claim
		c.read(r, &cl)
		if c.agent != "" && c.agent != cl.Agent {
			refuse(w, http.StatusConflict)
			return
		}
		c.agent = cl.Agent
		a := c.assignment
		a.LogFrom = int64(len(c.lines))
		answer = a
	case "context":
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(c.archive))
		return
	case "logs":
		var l api.TaskLog
		c.read(r, &l)
		if l.From > int64(len(c.lines)) {
			refuse(w, http.StatusConflict)
			return
		}
		if seen := int64(len(c.lines)) - l.From; seen < int64(len(l.Lines)) {
			c.lines = append(c.lines, l.Lines[seen:]...)
		}
		c.biggest = max(c.biggest, len(l.Lines))
		answer = api.LogAck{Next: int64(len(c.lines))}
	case "heartbeat":
		var h api.Heartbeat
		c.read(r, &h)
		c.usage = h.Usage
		ack := api.HeartbeatAck{Cancel: c.cancel != nil}
		if c.cancel != nil {
			ack.Reason = *c.cancel
		}
		answer = ack
	case "result":
		if len(c.results) > 0 {
			refuse(w, http.StatusUnauthorized) // the token is good for nothing any more
			return
		}
		var res api.TaskResult
		c.read(r, &res)
		c.results = append(c.results, res)
	default:
		c.t.Errorf("asked for %s", r.URL)
	}
	if c.unheard != nil && c.unheard(what, n) {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (c *controller) read(r *http.Request, v any) {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		c.t.Error(err)
	}
}

func (c *controller) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// options are those of an agent of the controller.
func (c *controller) options(do func(context.Context, Work) (plan.Result, error)) Options {
	client, err := api.NewClient(api.ClientOptions{URL: c.server.URL, Token: token})
	if err != nil {
		c.t.Fatal(err)
	}
	return Options{
		Client: client, Task: "r-0-1", Version: "test", Dir: filepath.Join(c.t.TempDir(), "work"), Do: do,
		Getenv: func(name string) string { return map[string]string{"PATH": "/bin", "NPM_TOKEN": "not this"}[name] },
		Usage:  func() api.Usage { return api.Usage{CPUSeconds: 1.5, PeakMemory: 99} },
	}
}

// messages are the lines of the build, without the agent's own.
func (c *controller) messages() (out []string) {
	for _, l := range c.lines {
		if !strings.HasPrefix(l.Message, "pipegen test on ") && !strings.Contains(l.Message, "the context") {
			out = append(out, l.Message)
		}
	}
	return out
}
