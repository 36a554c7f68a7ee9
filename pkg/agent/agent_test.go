package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

var built = plan.Result{ID: "app@amd64", Ref: "r.example/images:app-1-amd64", Digest: "sha256:" + strings.Repeat("a", 64)}

func TestTask(t *testing.T) {
	c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n", "link": "-> Dockerfile"})
	o := c.options(func(_ context.Context, w Work) (plan.Result, error) {
		text, err := os.ReadFile(filepath.Join(w.Root, "link"))
		if err != nil || string(text) != "FROM scratch\n" {
			t.Errorf("%q, %v", text, err)
		}
		var p plan.Published
		text, err = os.ReadFile(plan.PublishedFile(w.MetadataDir, "base"))
		if err := errors.Join(err, json.Unmarshal(text, &p)); err != nil || p.Digest[7] != 'b' {
			t.Error(p, err)
		}
		if w.Build.ID != "app@amd64" || w.Image.Name != "app" || w.Getenv("NPM_TOKEN") != "npm-s3cret" || w.Getenv("PATH") != "/bin" || len(w.Logins) != 1 || w.Logins[0] != (registry.Login{Registry: "r.example", Username: "u", Password: "registry-passw0rd"}) {
			t.Errorf("%+v", w)
		}
		for _, secret := range os.Environ() {
			if strings.Contains(secret, "s3cret") || strings.Contains(secret, "passw0rd") {
				t.Error("the environment has", secret)
			}
		}
		fmt.Fprint(w.Log, "one\ntwo\nwarning: three\n")
		if err := w.Log.WriteLines([]byte("four\nfive\n"), []int{5}); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w.Log, "six")
		return built, nil
	})
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.messages())
	if want := "[one two warning: three four five built app@amd64: " + built.Ref + "@" + built.Digest + " six]"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for _, l := range c.lines {
		if l.Level == "warning" != (l.Message == "warning: three") || l.More != (l.Message == "four") || l.Time.IsZero() {
			t.Errorf("%+v", l)
		}
	}
	r := c.results[0]
	if r.Result == nil || r.Result.Digest != built.Digest || r.Error != "" || r.Infrastructure || r.Cancelled || r.LogLines != int64(len(c.lines)) || r.Usage.PeakMemory != 99 {
		t.Errorf("%+v", r)
	}
	if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Each thing that is said to a controller is said again until it is heard, and
// counts once, wherever connections break.
func TestDisconnects(t *testing.T) {
	for name, fault := range map[string]struct {
		first   func(n int, w http.ResponseWriter) bool
		unheard bool
	}{
		"not there": {func(n int, _ http.ResponseWriter) bool {
			if n <= 2 {
				panic(http.ErrAbortHandler)
			}
			return false
		}, false},
		"busy": {func(n int, w http.ResponseWriter) bool {
			if n <= 2 {
				refuse(w, []int{503, 429}[n-1])
			}
			return n <= 2
		}, false},
		"unheard": {nil, true},
	} {
		for _, endpoint := range []string{"claim", "context", "logs", "heartbeat", "result"} {
			t.Run(endpoint+" "+name, func(t *testing.T) {
				t.Parallel()
				c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n"})
				c.first = func(what string, n int, w http.ResponseWriter, _ *http.Request) bool {
					return what == endpoint && fault.first != nil && fault.first(n, w)
				}
				c.unheard = func(what string, n int) bool { return what == endpoint && fault.unheard && n <= 2 }
				o := c.options(func(ctx context.Context, w Work) (plan.Result, error) {
					for i := range 50 {
						fmt.Fprintln(w.Log, "line", i)
						if i%10 == 0 {
							time.Sleep(20 * time.Millisecond)
						}
					}
					for endpoint == "heartbeat" && ctx.Err() == nil {
						enough := false
						c.do(func() { enough = c.asked[endpoint] >= 3 })
						if enough {
							break
						}
						time.Sleep(10 * time.Millisecond)
					}
					return built, nil
				})
				if err := Run(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				lines := c.messages()
				if len(lines) != 51 {
					t.Errorf("%d lines: %q", len(lines), lines)
				}
				for i, l := range lines[:50] {
					if l != fmt.Sprint("line ", i) {
						t.Errorf("line %d is %q", i, l)
					}
				}
				if len(c.results) != 1 || c.results[0].Result == nil || c.results[0].LogLines != int64(len(c.lines)) {
					t.Errorf("%+v", c.results)
				}
			})
		}
	}
}

// A controller that is away does not hold the build up, and misses nothing.
func TestControllerAway(t *testing.T) {
	c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n"})
	away := false
	c.first = func(string, int, http.ResponseWriter, *http.Request) bool {
		if away {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	const lines = 30_000
	text := strings.Repeat("x", 90)
	o := c.options(func(_ context.Context, w Work) (plan.Result, error) {
		c.do(func() { away = true })
		for i := range lines {
			fmt.Fprintf(w.Log, "%6d %s\n", i, text)
		}
		go func() { // a new one, with the same store
			time.Sleep(300 * time.Millisecond)
			c.do(func() { away = false })
		}()
		return built, nil
	})
	c.assignment.LogBytes = 1 << 30
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	got := c.messages()
	if len(got) != lines+1 {
		t.Fatalf("%d lines", len(got))
	}
	for i, l := range got[:lines] {
		if want := fmt.Sprintf("%6d %s", i, text); l != want {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if c.biggest < 500 {
		t.Errorf("%d lines at once at most", c.biggest)
	}
}

// How a task ends, and what the controller is told.
func TestEnds(t *testing.T) {
	wait := func(ctx context.Context, _ Work) (plan.Result, error) {
		<-ctx.Done()
		return plan.Result{}, errors.New("killed") // what follows from it
	}
	fail := func(err error) func(context.Context, Work) (plan.Result, error) {
		return func(context.Context, Work) (plan.Result, error) { return plan.Result{}, err }
	}
	reason := "by ada: wrong branch"
	for name, tt := range map[string]struct {
		do      func(context.Context, Work) (plan.Result, error)
		arrange func(c *controller, interrupt context.CancelFunc)
		want    api.TaskResult
		none    bool // the controller is told nothing
		err     string
		why     string // of the machine, when it tells the agent to stop
	}{
		"build fails":         {do: fail(failure.WithHint(errors.New("RUN false"), "do better")), want: api.TaskResult{Error: "RUN false", Hint: "do better"}},
		"machine fails":       {do: fail(Fault(errors.New("no sandbox"))), want: api.TaskResult{Error: "no sandbox", Infrastructure: true}},
		"disk is full":        {do: fail(fmt.Errorf("writing: %w", &os.PathError{Op: "write", Path: "x", Err: full})), want: api.TaskResult{Error: "writing: write x: no space left on device", Infrastructure: true}},
		"cancelled":           {do: wait, arrange: func(c *controller, _ context.CancelFunc) { c.cancel = &reason }, want: api.TaskResult{Error: "cancelled: by ada: wrong branch", Cancelled: true}},
		"interrupted":         {do: wait, arrange: func(_ *controller, stop context.CancelFunc) { time.AfterFunc(100*time.Millisecond, stop) }, want: api.TaskResult{Error: "the agent was told to stop", Infrastructure: true}, err: "context canceled"},
		"interrupted by Spot": {do: wait, why: "Spot", arrange: func(_ *controller, stop context.CancelFunc) { time.AfterFunc(100*time.Millisecond, stop) }, want: api.TaskResult{Error: "the agent was told to stop: Spot", Infrastructure: true}, err: "context canceled"},
		"stopped by the controller": {do: wait, why: "Spot", arrange: func(c *controller, stop context.CancelFunc) {
			c.cancel, c.assignment.HeartbeatSeconds = &reason, 600
			time.AfterFunc(100*time.Millisecond, stop)
		}, want: api.TaskResult{Error: "cancelled: by ada: wrong branch", Cancelled: true}, err: "context canceled"},
		"late": {do: wait, arrange: func(c *controller, _ context.CancelFunc) {
			c.assignment.Deadline = time.Now().Add(100 * time.Millisecond)
		}, want: api.TaskResult{Error: "the run's time is over"}},
		"given up":       {do: wait, arrange: answers("heartbeat", 404), none: true, err: "given the task up"},
		"log unwanted":   {do: wait, arrange: answers("logs", 410), none: true, err: "given the task up"},
		"lost claim":     {do: wait, arrange: answers("heartbeat", 409), none: true, err: "given the task up"},
		"log refused":    {do: wait, arrange: answers("logs", 409), want: api.TaskResult{Error: "POST /v1/tasks/r-0-1/logs: refused by the test (HTTP 409)", Infrastructure: true}},
		"claimed before": {arrange: func(c *controller, _ context.CancelFunc) { c.agent = "another" }, none: true, err: "claiming task r-0-1"},
		"wrong token":    {arrange: answers("claim", 401), none: true, err: "HTTP 401"},
		"other version":  {arrange: func(c *controller, _ context.CancelFunc) { c.assignment.Plan.Version++ }, want: api.TaskResult{Error: "the plan is of another version of pipegen than this agent's, test", Hint: "run controller and agents at the same version"}},
		"other build":    {arrange: func(c *controller, _ context.CancelFunc) { c.assignment.Build = "app@arm64" }, want: api.TaskResult{Error: `the plan has no build "app@arm64"`}},
		"needs more":     {arrange: func(c *controller, _ context.CancelFunc) { c.assignment.Published = nil }, want: api.TaskResult{Error: "app@amd64 is built on base, which the controller has not published", Infrastructure: true}},
		"foreign secret": {arrange: func(c *controller, _ context.CancelFunc) {
			c.assignment.Plan.Images[1].Builds[0].Secrets = []config.Secret{{ID: "s", File: "/etc/hostname"}}
		}, want: api.TaskResult{Error: "secret s: the file /etc/hostname is not in the context", Hint: "take the secret from a variable (env)"}},
		"linked secret": {arrange: func(c *controller, _ context.CancelFunc) {
			c.assignment.Plan.Images[1].Builds[0].Secrets = []config.Secret{{ID: "s", File: "out"}}
		}, want: api.TaskResult{Error: "secret s: the file out is not in the context", Hint: "take the secret from a variable (env)"}},
		"no context": {arrange: answers("context", 404), want: api.TaskResult{Error: "downloading the context: GET /v1/tasks/r-0-1/context: refused by the test (HTTP 404)", Infrastructure: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n", "out": "-> /etc/hostname"})
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			if tt.arrange != nil {
				tt.arrange(c, interrupt)
			}
			do := tt.do
			if do == nil {
				do = fail(errors.New("it was to come to nothing"))
			}
			o := c.options(do)
			o.Interrupted = tt.why
			err := Run(ctx, o)
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Error("the error has the token")
			}
			if tt.none {
				if len(c.results) > 0 {
					t.Errorf("told %+v", c.results)
				}
				return
			}
			if len(c.results) != 1 {
				t.Fatalf("told %+v", c.results)
			}
			got := c.results[0]
			if got.LogLines != int64(len(c.lines)) {
				t.Errorf("%d lines, but %d came", got.LogLines, len(c.lines))
			}
			got.Usage, got.LogLines = nil, 0
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// answers has an endpoint refuse everything.
func answers(endpoint string, status int) func(*controller, context.CancelFunc) {
	return func(c *controller, _ context.CancelFunc) {
		c.first = func(what string, _ int, w http.ResponseWriter, _ *http.Request) bool {
			if what == endpoint {
				refuse(w, status)
			}
			return what == endpoint
		}
	}
}

// A result is told for as long as there is time, and not for ever.
func TestNobodyToTell(t *testing.T) {
	c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n"})
	answers("result", 503)(c, nil)
	o := c.options(func(context.Context, Work) (plan.Result, error) { return built, nil })
	o.reporting = 300 * time.Millisecond
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "could not be told in time") {
		t.Error(err)
	}
	c = newController(t, map[string]string{"Dockerfile": "FROM scratch\n"})
	answers("logs", 503)(c, nil)
	ctx, interrupt := context.WithCancel(t.Context())
	o = c.options(func(context.Context, Work) (plan.Result, error) { interrupt(); return built, nil })
	o.leaving = 300 * time.Millisecond
	if err := Run(ctx, o); err == nil || !strings.Contains(err.Error(), "could not be told in time") {
		t.Error(err)
	}
}

// A context arrives through breaks and with addresses that expire; a wrong one
// is fetched again, and a hostile one is the build's own fault.
func TestContext(t *testing.T) {
	big := map[string]string{"Dockerfile": "FROM scratch\n", "data": noise(1 << 20)}
	for name, tt := range map[string]struct {
		arrange func(c *controller)
		files   map[string]string
		want    api.TaskResult
		text    string
	}{
		"cut": {arrange: func(c *controller) {
			c.first = func(what string, n int, w http.ResponseWriter, r *http.Request) bool {
				if what != "context" || n > 2 {
					return false
				}
				if (n == 2) != (r.Header.Get("Range") != "") {
					c.t.Errorf("request %d for %q", n, r.Header.Get("Range"))
				}
				http.ServeContent(&cut{w, 300_000}, r, "", time.Time{}, bytes.NewReader(c.archive))
				return true
			}
		}},
		"expired": {arrange: func(c *controller) {
			fresh := "/v1/tasks/r-0-1/context?sig=new"
			c.first = func(what string, n int, w http.ResponseWriter, r *http.Request) bool {
				if what == "claim" && n > 1 {
					c.assignment.Context.URL = fresh
				}
				if what == "context" && r.URL.RequestURI() != fresh {
					refuse(w, http.StatusForbidden)
					return true
				}
				return false
			}
		}},
		"wrong once": {arrange: func(c *controller) {
			c.first = func(what string, n int, w http.ResponseWriter, _ *http.Request) bool {
				if what == "context" && n == 1 {
					_, _ = w.Write(bytes.Repeat([]byte{7}, len(c.archive)))
					return true
				}
				return false
			}
		}},
		"wrong":   {arrange: func(c *controller) { c.assignment.Context.Digest = digestOf(nil) }, want: api.TaskResult{Infrastructure: true}, text: "digest"},
		"hostile": {arrange: func(*controller) {}, files: map[string]string{"../../etc/passwd": "root"}, text: "passwd"},
		"no archive": {arrange: func(c *controller) {
			c.archive = []byte("<html>")
			c.assignment.Context.Digest, c.assignment.Context.Size = digestOf(c.archive), 6
		}, text: "archive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := tt.files
			if files == nil {
				files = big
			}
			c := newController(t, files)
			tt.arrange(c)
			o := c.options(func(_ context.Context, w Work) (plan.Result, error) {
				if text, err := os.ReadFile(filepath.Join(w.Root, "data")); err != nil || string(text) != big["data"] {
					t.Errorf("%d bytes, %v", len(text), err)
				}
				return built, nil
			})
			if err := Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			r := c.results[0]
			if (r.Result == nil) != (tt.text != "") || !strings.Contains(r.Error, tt.text) || r.Infrastructure != tt.want.Infrastructure {
				t.Errorf("%+v", r)
			}
		})
	}
}

// noise is text that no archive makes smaller.
func noise(n int) string {
	b := make([]byte, 0, n)
	for sum := sha256.Sum256(nil); len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return string(b)
}

// cut breaks the connection after some bytes.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// Times are by the controller's clock, whatever this machine's says.
func TestClocksDiffer(t *testing.T) {
	for _, ahead := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		c := newController(t, map[string]string{"Dockerfile": "FROM scratch\n"})
		there := func() time.Time { return time.Now().Add(ahead) }
		c.first = func(_ string, _ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Date", there().UTC().Format(http.TimeFormat))
			return false
		}
		c.assignment.Deadline = there().Add(time.Hour)
		o := c.options(func(ctx context.Context, w Work) (plan.Result, error) {
			fmt.Fprintln(w.Log, "line")
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			return built, context.Cause(ctx)
		})
		if err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if r := c.results[0]; r.Result == nil {
			t.Errorf("%s ahead: %+v", ahead, r)
		}
		for _, l := range c.lines {
			if off := l.Time.Sub(there()).Abs(); off > time.Minute {
				t.Errorf("%s ahead: a line is %s off", ahead, off)
			}
		}
	}
}
