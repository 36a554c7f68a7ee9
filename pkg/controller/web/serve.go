package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// call is one request that is being answered.
type call struct {
	id        string
	principal access.Principal
	remote    string
	log       *slog.Logger
	// Further words for the audit log.
	detail string
	// The traceparent to pass on; empty: none.
	trace string
	span  trace.Span
}

// ServeHTTP answers a request. What no route is for is a problem too.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		w.Header().Set("Connection", "close") // the next request goes to who stays
	}
	h, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	// The mux knows whether the path or the method is wrong.
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	out := &recorded{ResponseWriter: w}
	c := &call{id: newID(), remote: s.remote(r)}
	c.log = s.o.Logger.With("request", c.id)
	w.Header().Set("X-Request-Id", c.id)
	err := error(&httpError{status: rec.Code, detail: "there is nothing at " + quote.Text(r.URL.Path)})
	if rec.Code == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", rec.Header().Get("Allow"))
		err = &httpError{status: rec.Code, detail: fmt.Sprintf("%s takes %s", quote.Text(r.URL.Path), rec.Header().Get("Allow"))}
	}
	s.refuse(out, c, err)
	s.o.Metrics.request("", r.Method, out.status, 0)
	c.log.Debug("answered", "method", r.Method, "path", quote.Text(r.URL.Path), "status", out.status, "remote", c.remote)
}

// serve answers the requests of a route: it says who calls, keeps to limits,
// and tells logs, metrics, traces and the audit log what came of it.
func (s *Server) serve(rt route) http.Handler {
	method, path, _ := strings.Cut(rt.pattern, " ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		c := &call{id: newID(), remote: s.remote(r)}
		c.log = s.o.Logger.With("request", c.id)
		w.Header().Set("X-Request-Id", c.id)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		ctx := s.begin(r, c, method+" "+path)
		out := &recorded{ResponseWriter: w}
		control := http.NewResponseController(w)
		// Deadlines of another request on the same connection end here.
		_ = control.SetWriteDeadline(started.Add(2 * time.Minute))
		if !rt.long {
			_ = control.SetReadDeadline(started.Add(s.o.Limits.Body))
		}
		r = r.WithContext(ctx)
		err := s.enter(rt, r, c)
		if err == nil {
			err = sheltered(func() error { return rt.handle(out, r, c) })
		}
		if err != nil {
			s.failed(r, c, out, err)
		}
		took := time.Since(started)
		s.o.Metrics.request(path, method, out.status, took)
		s.end(c, out.status)
		if s.audits(rt, out.status, err) {
			s.audit(r, c, rt, out.status)
		}
		level := slog.LevelInfo
		if rt.frequent && out.status < 400 {
			level = slog.LevelDebug
		}
		c.log.Log(r.Context(), level, "answered", "method", method, "path", quote.Text(r.URL.Path), "status", out.status,
			"took", took.Round(time.Microsecond), "bytes", out.written, "who", c.principal.Name, "remote", c.remote)
	})
}

// sheltered gives a panic as an error, so that it is answered and told of like
// one.
func sheltered(handle func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return handle()
}

// failed answers with an error, or notes it if the answer has begun.
func (s *Server) failed(r *http.Request, c *call, out *recorded, err error) {
	switch {
	case out.status == 0:
		s.refuse(out, c, err)
	case r.Context().Err() != nil || errors.Is(err, context.Canceled):
		c.log.Debug("the reader left", "error", err)
	default:
		c.log.Warn("the answer broke off", "error", err)
	}
	if c.span != nil && out.status >= 500 {
		c.span.SetStatus(codes.Error, quote.Text(err.Error()))
	}
}

// enter lets a request in, or says why not.
func (s *Server) enter(rt route, r *http.Request, c *call) error {
	if rt.kind == anybody {
		return nil
	}
	if s.o.Anonymous && !loopback(r.Host) {
		return &httpError{status: http.StatusMisdirectedRequest, detail: "this controller answers under a loopback address alone", refused: true}
	}
	if err := s.origins.Check(r); err != nil {
		return &httpError{status: http.StatusForbidden, detail: "web pages may not call the controller", refused: true}
	}
	token := tokenOf(r)
	if rt.kind == agent {
		return s.enterAgent(r, c, token)
	}
	if err := s.known(r, c, token); err != nil {
		return err
	}
	if wait := s.tokens.wait(c.principal.Name); wait > 0 {
		return busy(wait)
	}
	switch {
	case rt.kind == submitter && !c.principal.Has(access.Submit):
		return forbidden("start, cancel and retry runs", "submit")
	case rt.kind == reader && !c.principal.Has(access.Read):
		return forbidden("see that", "read")
	}
	return nil
}

// known finds out which principal calls.
func (s *Server) known(r *http.Request, c *call, token string) error {
	if token == "" && s.o.Anonymous {
		c.principal = access.Anonymous()
		return nil
	}
	if token == "" {
		return s.stray(c, errNoToken)
	}
	if s.o.Access == nil {
		return s.stray(c, access.ErrUnknown)
	}
	var err error
	c.principal, err = s.o.Access.Authenticate(r.Context(), token)
	refusal, told := errors.AsType[*access.Refusal](err)
	if told {
		c.principal.Issuer, c.principal.Subject = refusal.Issuer, refusal.Subject
		if refusal.Detail != "" {
			c.log.Info("a token is refused", "issuer", refusal.Issuer, "subject", quote.Text(refusal.Subject), "why", refusal.Detail)
		}
	} else if errors.Is(err, access.ErrUnknown) {
		// One of an agent is a token, but not for this.
		sum := access.Hash(token)
		if task, terr := s.o.Core.TaskOf(r.Context(), sum[:]); terr == nil {
			c.principal.Name = "agent " + task
			return forbidden("see or do anything but its task", "")
		}
	}
	if errors.Is(err, access.ErrUnknown) || errors.Is(err, access.ErrExpired) {
		return s.stray(c, err)
	}
	if _, unchecked := errors.AsType[*access.Unavailable](err); unchecked || errors.Is(err, access.ErrForbidden) {
		// Some issuers give tokens to anybody.
		if err := s.tooStray(c); err != nil {
			return err
		}
		return err
	}
	if err != nil {
		c.log.Error("authenticating", "error", err)
		return unavailable("tokens cannot be checked for now")
	}
	return nil
}

// enterAgent lets the agent of the task in that the path names. Other tasks do
// not exist for it.
func (s *Server) enterAgent(r *http.Request, c *call, token string) error {
	if token == "" {
		return s.stray(c, errNoToken)
	}
	sum := access.Hash(token)
	task, err := s.o.Core.TaskOf(r.Context(), sum[:])
	switch {
	case errors.Is(err, controller.ErrNotFound), errors.Is(err, controller.ErrGone):
		if s.o.Access != nil {
			if p, err := s.o.Access.Authenticate(r.Context(), token); err == nil {
				c.principal = p
				return forbidden("do the work of agents", "")
			}
		}
		return s.stray(c, err)
	case err != nil:
		return err
	}
	c.principal.Name = "agent " + task
	if wait := s.tokens.wait(c.principal.Name); wait > 0 {
		return busy(wait)
	}
	if task != r.PathValue("task") {
		return &httpError{status: http.StatusNotFound, detail: "there is no such task", refused: true}
	}
	return nil
}

var errNoToken = errors.New("the request has no token")

// stray refuses a request without a token that is good, at most some a second
// from one address.
func (s *Server) stray(c *call, err error) error {
	if err := s.tooStray(c); err != nil {
		return err
	}
	e := &httpError{status: http.StatusUnauthorized, detail: "the token is not known", hint: "send a token: Authorization: Bearer TOKEN", refused: true}
	refusal, told := errors.AsType[*access.Refusal](err)
	switch {
	case told:
		e.detail, e.hint = lines(refusal.Text), "ask the CI system for a token for this controller"
	case errors.Is(err, errNoToken):
		e.detail = err.Error()
	case errors.Is(err, access.ErrExpired):
		e.detail, e.hint = "the token has expired", "ask for a new one"
	case errors.Is(err, controller.ErrGone):
		e.status, e.detail, e.hint = http.StatusGone, "the task has ended", ""
	}
	return e
}

// tooStray counts a request of somebody whom nobody knows, and refuses it if
// there are too many from there; nil: there are not.
func (s *Server) tooStray(c *call) error {
	wait := s.strays.wait(c.remote)
	if wait <= 0 {
		return nil
	}
	e := busy(wait)
	e.quiet = true // or anybody could fill the audit log
	return e
}

// tokenOf gives the bearer token of a request, also from the header that
// clients of the original send.
func tokenOf(r *http.Request) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(token)
	}
	return r.Header.Get("X-Build-Token")
}

// remote gives the address that a request came from.
func (s *Server) remote(r *http.Request) string {
	if s.o.BehindProxy {
		// The last is what the proxy itself saw; those before it anybody may write.
		forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if a, err := netip.ParseAddr(strings.TrimSpace(forwarded[len(forwarded)-1])); err == nil {
			return a.String()
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return quote.Text(r.RemoteAddr)
	}
	return host
}

// loopback says whether a Host header names this machine alone.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

var traceContext = propagation.TraceContext{}

// begin starts the span of a request, and says what to pass on of its trace.
func (s *Server) begin(r *http.Request, c *call, name string) context.Context {
	ctx := traceContext.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, c.span = s.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path), attribute.String("pipegen.request", c.id)))
	carrier := propagation.MapCarrier{}
	traceContext.Inject(ctx, carrier)
	c.trace = carrier.Get("traceparent")
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		c.log = c.log.With("trace", sc.TraceID().String())
	}
	return ctx
}

func (s *Server) end(c *call, status int) {
	c.span.SetAttributes(attribute.Int("http.response.status_code", status), attribute.String("enduser.id", c.principal.Name))
	c.span.End()
}

// recorded notes what became of an answer.
type recorded struct {
	http.ResponseWriter
	status  int
	written int64
}

func (w *recorded) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorded) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *recorded) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// hint gives an error's hint, safe to show.
func hint(err error) string { return quote.Text(quote.URL(failure.Hint(err))) }
