package logcopy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
)

// event is one of CloudWatch's.
type event struct {
	Timestamp int64  `json:"timestamp"`
	Message   string `json:"message"`
}

// watch stands in for CloudWatch Logs and STS, and checks the limits of each request.
type watch struct {
	t       *testing.T
	mu      sync.Mutex
	groups  map[string]map[string][]event
	days    int32
	puts    int
	refuse  map[string]string // code by call; "CODE xN": so often
	refused int
}

func (w *watch) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var in struct {
		LogGroupName, LogStreamName string
		LogEvents                   []event
		Limit                       int
		RetentionInDays             int32
	}
	if call == "" {
		fmt.Fprint(rw, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/pipegen/one</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>")
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fail := func(code string) {
		rw.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(rw).Encode(map[string]string{"__type": code, "message": "words of AWS"})
	}
	if code, left := w.refuse[call], 0; code != "" {
		if name, n, ok := strings.Cut(code, " x"); ok {
			code = name
			_, _ = fmt.Sscan(n, &left)
			if w.refuse[call] = fmt.Sprint(name, " x", left-1); left == 1 {
				delete(w.refuse, call)
			}
		}
		w.refused++
		fail(code)
		return
	}
	group := w.groups[in.LogGroupName]
	switch stream, there := group[in.LogStreamName]; {
	case call == "CreateLogGroup" && group == nil:
		w.groups[in.LogGroupName] = map[string][]event{}
	case call == "PutRetentionPolicy":
		w.days = in.RetentionInDays
	case group == nil || !there && call != "CreateLogStream":
		fail("ResourceNotFoundException")
		return
	case call == "CreateLogStream" && !there:
		group[in.LogStreamName] = nil
	case strings.HasPrefix(call, "Create"):
		fail("ResourceAlreadyExistsException")
		return
	case call == "GetLogEvents":
		_ = json.NewEncoder(rw).Encode(map[string]any{"events": stream[max(0, len(stream)-in.Limit):]})
		return
	case call == "PutLogEvents":
		w.check(in.LogEvents)
		w.puts++
		group[in.LogStreamName] = append(stream, in.LogEvents...)
	}
	fmt.Fprint(rw, "{}")
}

func (w *watch) check(events []event) {
	size := 0
	for _, e := range events {
		size += len(e.Message) + 26
		if len(e.Message)+26 > 256<<10 || e.Message == "" {
			w.t.Errorf("an event of %d bytes", len(e.Message))
		}
	}
	sorted := slices.IsSortedFunc(events, func(a, b event) int { return int(a.Timestamp - b.Timestamp) })
	if n := len(events); n == 0 || n > 10_000 || size > 1<<20 || !sorted || events[n-1].Timestamp-events[0].Timestamp > 24*60*60*1000 {
		w.t.Errorf("a request of %d events and %d bytes, in order: %v", n, size, sorted)
	}
}

func (w *watch) config() aws.Config {
	server := httptest.NewServer(w)
	w.t.Cleanup(server.Close)
	return aws.Config{Region: "eu-central-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}
}

// stream gives what is in a stream.
func (w *watch) stream(group, name string) []event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.groups[group][name])
}

// site is a controller with runs whose logs are there, or come.
type site struct {
	mu   sync.Mutex
	runs map[string]*logged
}

type logged struct {
	run   api.Run
	lines []api.LogLine
}

func (s *site) List(_ context.Context, f controller.Filter) (api.RunList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page api.RunList
	for _, r := range s.runs {
		if f.States == nil || slices.Contains(f.States, r.run.State) {
			page.Runs = append(page.Runs, r.run)
		}
	}
	slices.SortFunc(page.Runs, func(a, b api.Run) int { return b.Created.Compare(a.Created) })
	i := slices.IndexFunc(page.Runs, func(r api.Run) bool { return r.ID == f.After })
	page.Runs = page.Runs[i+1:]
	if len(page.Runs) > 1 { // a page has one run
		page.Runs, page.Next = page.Runs[:1], page.Runs[0].ID
	}
	return page, nil
}

func (s *site) Get(_ context.Context, id string) (api.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[id].run, nil
}

func (s *site) Logs(ctx context.Context, id string, from int64, _ string, _ bool, yield func(controller.LogChunk) error) error {
	for {
		s.mu.Lock()
		lines, state := s.runs[id].lines, s.runs[id].run.State
		s.mu.Unlock()
		if from < int64(len(lines)) {
			some := lines[from:min(from+1000, int64(len(lines)))]
			var text bytes.Buffer
			for _, l := range some {
				_ = json.NewEncoder(&text).Encode(l)
			}
			if err := yield(controller.LogChunk{First: from, Count: len(some), NDJSON: text.Bytes()}); err != nil {
				return err
			}
			from += int64(len(some))
			continue
		}
		if state.Ended() {
			return nil
		}
		if !pause(ctx, time.Millisecond) {
			return ctx.Err()
		}
	}
}

// say adds lines to a run's log.
func (s *site) say(id string, messages ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[id]
	for _, m := range messages {
		r.lines = append(r.lines, api.LogLine{Seq: int64(len(r.lines)), Time: time.Now(), Level: "info", Message: m})
	}
}

func (s *site) set(id string, state api.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs == nil {
		s.runs = map[string]*logged{}
	}
	r := s.runs[id]
	if r == nil {
		r = &logged{run: api.Run{ID: id, Created: time.Now()}}
		s.runs[id] = r
	}
	if r.run.State = state; state.Ended() {
		now := time.Now()
		r.run.Finished = &now
	}
}

// world is a copier that runs.
type world struct {
	*site
	*watch
	options Options
	stop    func()
	log     bytes.Buffer
}

func newWorld(t *testing.T) *world {
	w := &world{site: &site{}, watch: &watch{t: t, groups: map[string]map[string][]event{}, refuse: map[string]string{}}}
	w.options = Options{
		Source: w.site, Config: w.config(), Group: "/builds", StreamPrefix: "ci/", RetentionDays: 30, look: 5 * time.Millisecond, linger: 10 * time.Millisecond, patience: 20 * time.Millisecond,
		Lead: func(ctx context.Context, _ string, fn func(context.Context) error) (bool, error) {
			return true, fn(ctx)
		},
		Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
	})
	return w
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { New(w.options).Run(ctx); close(done) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// until waits for the end of a run's copy, and gives its messages.
func (w *world) until(t *testing.T, id string) (messages []string, last api.LogLine) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		messages = nil
		for _, e := range w.stream("/builds", "ci/"+id) {
			if err := json.Unmarshal([]byte(e.Message), &last); err != nil {
				t.Fatal(err)
			}
			if last.End == "" {
				messages = append(messages, last.Message)
			}
		}
		if last.End != "" {
			return messages, last
		}
		if time.Now().After(deadline) {
			w.stop()
			t.Fatalf("run %s is not copied: %d lines; %s", id, len(messages), w.log.String())
		}
	}
}

// A log is copied as it comes, in order, to a stream of its own.
func TestCopy(t *testing.T) {
	w := newWorld(t)
	w.set("one", api.Running)
	w.set("two", api.Succeeded)
	w.say("two", "short")
	w.start()
	var want []string
	for i := range 200 {
		m := fmt.Sprint("line ", i)
		want = append(want, m)
		w.say("one", m)
		if i%20 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	w.set("three", api.Queued) // says nothing yet
	w.set("one", api.Failed)
	got, last := w.until(t, "one")
	if !slices.Equal(got, want) || last.Seq != 200 || last.End != api.Failed {
		t.Errorf("%d lines, and %+v", len(got), last)
	}
	if got, _ := w.until(t, "two"); !slices.Equal(got, []string{"short"}) {
		t.Errorf("%q", got)
	}
	w.stop()
	if w.stream("/builds", "ci/three") != nil || w.days != 30 {
		t.Errorf("%v, kept for %d days", w.groups, w.days)
	}
	if w.puts > 60 {
		t.Errorf("%d requests for 203 events", w.puts)
	}
}

// However much there is, no request is over a limit.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.set("one", api.Succeeded)
	long := strings.Repeat("<\u00e4\x01", 70_000) // most of it is escaped
	for range 30 {
		w.say("one", strings.Repeat("x", 60_000))
	}
	w.say("one", long)
	for i := range 25_000 {
		w.say("one", fmt.Sprint(i))
	}
	r := w.runs["one"]
	r.lines[100].Time = time.Now().Add(-10 * time.Hour)
	r.lines[5_000].Time = time.Now().Add(48 * time.Hour)
	for i := range 50 {
		r.lines[i].Time = time.Now().Add(-30 * time.Hour)
	}
	w.start()
	got, last := w.until(t, "one")
	pieces := len(got) - (len(r.lines) - 1)
	if last.Seq != int64(len(r.lines)) || pieces < 2 || strings.Join(got[30:30+pieces], "") != long || got[len(got)-1] != "24999" {
		t.Errorf("%d lines of %d, the long one in %d", len(got), len(r.lines), pieces)
	}
}

// Another controller goes on where the first one was.
func TestTakingOver(t *testing.T) {
	w := newWorld(t)
	w.set("one", api.Running)
	w.say("one", "a", "b")
	w.start()
	for len(w.stream("/builds", "ci/one")) < 2 {
		time.Sleep(time.Millisecond)
	}
	w.stop()
	w.say("one", "c", "d")
	w.set("one", api.Succeeded)
	w.set("over", api.Succeeded)
	w.start()
	if got, _ := w.until(t, "one"); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("%q", got)
	}
	w.until(t, "over")
	w.stop()
	puts := w.puts
	w.start()
	time.Sleep(50 * time.Millisecond)
	if w.stop(); w.puts != puts {
		t.Errorf("%d requests for what is copied", w.puts-puts)
	}
}

// Whatever CloudWatch refuses for a while is done in the end, and told once.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		refuse map[string]string
		told   string
	}{
		"throttling everywhere": {map[string]string{"CreateLogGroup": "ThrottlingException x3", "CreateLogStream": "ThrottlingException x3", "PutLogEvents": "ThrottlingException x5", "GetLogEvents": "ThrottlingException x3"}, ""},
		"out of order":          {map[string]string{"PutLogEvents": "ServiceUnavailableException x4"}, "ServiceUnavailableException"},
		"may not write":         {map[string]string{"PutLogEvents": "AccessDeniedException x4"}, "a policy of arn:aws:sts::123456789012:assumed-role/pipegen/one has to allow logs:PutLogEvents on /builds:ci/one"},
		"may not make a group":  {map[string]string{"CreateLogGroup": "AccessDeniedException x4"}, "logs:CreateLogGroup"},
		"session is over":       {map[string]string{"PutLogEvents": "ExpiredTokenException x4"}, "get new ones"},
		"clock":                 {map[string]string{"PutLogEvents": "RequestTimeTooSkewed x8"}, "clock"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.refuse = c.refuse
			w.set("one", api.Running)
			w.say("one", "a", "b")
			w.start()
			w.set("one", api.Succeeded)
			got, _ := w.until(t, "one")
			w.stop()
			if told := w.log.String(); !slices.Equal(got, []string{"a", "b"}) || w.refused == 0 || !strings.Contains(told, c.told) || c.told == "" && told != "" || strings.Count(told, "\n") > 1 {
				t.Errorf("copied %q after %d refusals, told %s", got, w.refused, told)
			}
		})
	}
}

// Where the end of a stream may not be read nothing is copied twice.
func TestNoLookAtStreams(t *testing.T) {
	w := newWorld(t)
	w.set("before", api.Running)
	w.refuse["GetLogEvents"] = "AccessDeniedException"
	w.start()
	time.Sleep(30 * time.Millisecond)
	w.set("after", api.Running)
	w.say("after", "a")
	w.set("after", api.Succeeded)
	w.until(t, "after")
	w.stop()
	if told := w.log.String(); len(w.stream("/builds", "ci/before")) > 0 || !strings.Contains(told, "logs:GetLogEvents") {
		t.Errorf("told %s", told)
	}
}

// A log that is gone has no copy, and one that cannot be taken is counted.
func TestGoneAndInvalid(t *testing.T) {
	w := newWorld(t)
	w.options.Source = gone{w.site}
	w.refuse["PutLogEvents"] = "InvalidParameterException x1"
	w.set("gone", api.Running)
	w.set("one", api.Running)
	w.say("one", "a")
	w.start()
	time.Sleep(50 * time.Millisecond)
	w.set("one", api.Succeeded)
	w.until(t, "one")
	time.Sleep(20 * time.Millisecond)
	w.stop()
	if told := w.log.String(); !strings.Contains(told, "did not take all lines") || strings.Contains(told, "gone") {
		t.Errorf("told %s", told)
	}
}

type gone struct{ *site }

func (g gone) Logs(ctx context.Context, id string, from int64, build string, follow bool, yield func(controller.LogChunk) error) error {
	if id == "gone" {
		return errors.Join(controller.ErrGone)
	}
	return g.site.Logs(ctx, id, from, build, follow, yield)
}
