// Package web is the controller's HTTP interface: what api/openapi.yaml
// describes, and who may use it how much.
package web

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// Core is what the interface stands before; *controller.Controller is one.
type Core interface {
	Submit(ctx context.Context, s controller.Submission) (run api.Run, created bool, err error)
	Get(ctx context.Context, id string) (api.Run, error)
	List(ctx context.Context, f controller.Filter) (api.RunList, error)
	Cancel(ctx context.Context, id, by, reason string) (api.Run, error)
	Retry(ctx context.Context, id, by, idempotencyKey string, g controller.Grant) (api.Run, error)
	Logs(ctx context.Context, id string, from int64, build string, follow bool, yield func(controller.LogChunk) error) error
	Token(ctx context.Context, task string, proof map[string]string) (string, error)
	Claim(ctx context.Context, task string, cl api.Claim) (api.Assignment, error)
	AppendLog(ctx context.Context, task string, l api.TaskLog) (api.LogAck, error)
	Heartbeat(ctx context.Context, task string, h api.Heartbeat) (api.HeartbeatAck, error)
	Finish(ctx context.Context, task string, r api.TaskResult) error
	TaskOf(ctx context.Context, tokenHash []byte) (string, error)
	AnnounceContext(ctx context.Context, r api.ContextRequest) (api.ContextUpload, error)
	CompleteContext(ctx context.Context, digest string, r api.ContextComplete) error
	ReceiveContext(ctx context.Context, digest string, size int64, body io.Reader) error
	OpenContext(ctx context.Context, task string, offset int64) (io.ReadCloser, blob.Info, error)
	Plan(ctx context.Context, id string) (*plan.Plan, error)
	Ready(ctx context.Context) error
}

// Compiled is a config.yaml as a run.
type Compiled struct {
	Plan        *plan.Plan
	Credentials []api.Credential
	Secrets     map[string]string
	Runner      string
	// Lines for the run's submitter.
	Warnings []string
}

// Options are what the interface needs.
type Options struct {
	Core   Core
	Access access.Authenticator
	// Whether requests without a token come from access.Anonymous. Requests
	// must then name a loopback address as their host, so that no web page can
	// reach the controller under a name of its own.
	Anonymous bool
	// Whether X-Forwarded-For tells who calls: a proxy stands before.
	BehindProxy bool
	// Runner of requests that name none.
	DefaultRunner string
	// Runners that others stand for, by the name that requests give; may be nil.
	Instead map[string]string
	// Where clients of the original leave contexts; nil: nowhere.
	Blobs blob.Store
	// What builds get that name no CPU or memory; nil: as the runner has it.
	Resources *config.Resources
	// Says what is wrong with a plan for this controller; nil: nothing is.
	Check func(p *plan.Plan) error
	// Compile reads a config.yaml of the original; nil: there is no POST /build.
	Compile func(data []byte, service string) (*Compiled, error)
	// How long to answer when told to end, while readiness says no: until those
	// who send requests here have noticed.
	Linger time.Duration
	// Directory for files of a request's length; empty: the system's.
	TempDir string
	Limits  Limits
	Metrics *Metrics
	// Takes one JSON object a line of who did what; nil: nobody does.
	Audit *Audit
	// Tracer of requests; nil: none. A traceparent is passed on in any case.
	Tracer trace.TracerProvider
	Logger *slog.Logger
}

// Limits of requests. What is 0 has the default.
type Limits struct {
	// Bytes of a run's request; default 32 MiB.
	RunBytes int64
	// Bytes of a piece of a log; default 8 MiB.
	LogBytes int64
	// Bytes of a context; default 16 GiB.
	ContextBytes int64
	// Requests a second of one token, in bursts of ten times as many; default
	// 200. Agents have the same each. Less than 0: no limit.
	Requests float64
	// How long a reader of a log may take nothing; default 30 seconds.
	Stuck time.Duration
	// How long the body of a request may take, contexts left out; default 30
	// seconds.
	Body time.Duration
	// Between signs of life in a log; default 15 seconds.
	KeepAlive time.Duration
	// How long what clients of the original left in the bucket is kept; default 7
	// days.
	Contexts time.Duration
}

func (l Limits) filled() Limits {
	defaults := Limits{RunBytes: 32 << 20, LogBytes: 8 << 20, ContextBytes: 16 << 30, Requests: 200, Stuck: 30 * time.Second, Body: 30 * time.Second, KeepAlive: 15 * time.Second, Contexts: 7 * 24 * time.Hour}
	fill(&l.RunBytes, defaults.RunBytes)
	fill(&l.LogBytes, defaults.LogBytes)
	fill(&l.ContextBytes, defaults.ContextBytes)
	fill(&l.Requests, defaults.Requests)
	fill(&l.Stuck, defaults.Stuck)
	fill(&l.Body, defaults.Body)
	fill(&l.KeepAlive, defaults.KeepAlive)
	fill(&l.Contexts, defaults.Contexts)
	return l
}

func fill[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Server answers requests. It is an http.Handler.
type Server struct {
	o       Options
	mux     *http.ServeMux
	origins *http.CrossOriginProtection
	tokens  *rates
	strays  *rates // requests without a valid token, by address
	tracer  trace.Tracer

	draining atomic.Bool
	streams  context.Context
	drain    context.CancelFunc
}

// New makes a server. Wrong options wrap failure.ErrInput.
func New(o Options) (*Server, error) {
	if o.Access == nil && !o.Anonymous {
		return nil, failure.Input("a controller without tokens answers nobody")
	}
	o.Limits = o.Limits.filled()
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider()
	}
	s := &Server{
		o: o, mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(), tracer: o.Tracer.Tracer("github.com/pipegen/pipegen"),
		tokens: newRates(o.Limits.Requests, 10*o.Limits.Requests), strays: newRates(1, 20),
	}
	s.streams, s.drain = context.WithCancel(context.Background())
	for _, rt := range s.routes() {
		s.mux.Handle(rt.pattern, s.serve(rt))
	}
	return s, nil
}

// Drain ends the streams of logs at the end of a line and has the process
// taken for one that is about to end. Readers go on elsewhere, or later.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.drain()
}

// kind says who may call a route.
type kind int

const (
	anybody   kind = iota
	known          // any principal
	submitter      // one with the role submit
	reader         // one with the role read
	agent          // the agent of the task that the path names
)

// route is one operation of the interface.
type route struct {
	pattern string // METHOD PATH
	kind    kind
	handle  func(http.ResponseWriter, *http.Request, *call) error
	// Whether it changes something that the audit log tells of.
	audited bool
	// Whether the body may take as long as it takes.
	long bool
	// Whether the request is logged for debugging alone.
	frequent bool
}

func (s *Server) routes() []route {
	all := []route{
		{pattern: "POST /v1/contexts", kind: submitter, handle: s.announceContext, audited: true},
		{pattern: "PUT /v1/contexts/{digest}", kind: submitter, handle: s.putContext, audited: true, long: true},
		{pattern: "POST /v1/contexts/{digest}/complete", kind: submitter, handle: s.completeContext, audited: true, long: true},
		{pattern: "POST /v1/runs", kind: submitter, handle: s.createRun, audited: true},
		{pattern: "GET /v1/runs", kind: known, handle: s.listRuns},
		{pattern: "GET /v1/runs/{run}", kind: known, handle: s.getRun},
		{pattern: "POST /v1/runs/{run}/cancel", kind: submitter, handle: s.cancelRun, audited: true},
		{pattern: "POST /v1/runs/{run}/retry", kind: submitter, handle: s.retryRun, audited: true},
		{pattern: "GET /v1/runs/{run}/logs", kind: known, handle: s.readLog},
		{pattern: "POST /v1/tasks/{task}/token", kind: anybody, handle: s.identify, audited: true},
		{pattern: "POST /v1/tasks/{task}/claim", kind: agent, handle: s.claim, audited: true},
		{pattern: "GET /v1/tasks/{task}/context", kind: agent, handle: s.readContext},
		{pattern: "POST /v1/tasks/{task}/logs", kind: agent, handle: s.appendLog, frequent: true},
		{pattern: "POST /v1/tasks/{task}/heartbeat", kind: agent, handle: s.heartbeat, frequent: true},
		{pattern: "POST /v1/tasks/{task}/result", kind: agent, handle: s.finish, audited: true},
		{pattern: "GET /v1/openapi.yaml", kind: known, handle: openAPI},
		{pattern: "GET /metrics", kind: reader, handle: s.metrics, frequent: true},
		{pattern: "GET /health/live", kind: anybody, handle: live, frequent: true},
		{pattern: "GET /health/ready", kind: anybody, handle: s.ready, frequent: true},
	}
	if s.o.Compile != nil {
		all = append(all,
			route{pattern: "POST /build", kind: submitter, handle: s.build, audited: true, long: true},
			route{pattern: "GET /build/{run}/logs", kind: known, handle: s.buildLog})
	}
	return all
}

func live(w http.ResponseWriter, _ *http.Request, _ *call) error {
	return answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request, c *call) error {
	if s.draining.Load() {
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable) // as it should be: nothing to tell of
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := s.o.Core.Ready(ctx); err != nil {
		c.log.Error("not ready", "error", err)
		return unavailable("the store cannot be used")
	}
	return live(w, r, c)
}

func openAPI(w http.ResponseWriter, _ *http.Request, _ *call) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(api.OpenAPI)
	return nil
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request, _ *call) error {
	s.o.Metrics.handler.ServeHTTP(w, r)
	return nil
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID names a request.
func newID() string {
	b := make([]byte, 10)
	_, _ = rand.Read(b) // never fails
	return idEncoding.EncodeToString(b)
}

// accepts says whether an Accept header names a media type.
func accepts(r *http.Request, mediaType string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		name, _, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), mediaType) {
			return true
		}
	}
	return false
}
