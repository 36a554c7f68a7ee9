package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// tracing sends spans from the submission of a run to its push to where the
// variables of OpenTelemetry say, and nowhere without them.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
	close    func(context.Context)
}

func (a *app) tracing(ctx context.Context, log *slog.Logger) (*tracing, error) {
	asked := a.getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || a.getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	if !asked || a.getenv("OTEL_SDK_DISABLED") == "true" || a.getenv("OTEL_TRACES_EXPORTER") == "none" {
		p := noop.NewTracerProvider()
		return &tracing{p, p.Tracer(""), func(context.Context) {}}, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("sending traces", "error", err) }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, failure.Input("OTEL_EXPORTER_OTLP_…: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "pipegen"), attribute.String("service.version", version)),
		resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describing this process for traces: %w", err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &tracing{p, p.Tracer("github.com/pipegen/pipegen"), func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			log.Warn("sending the last traces", "error", err)
		}
	}}, nil
}

// of gives a context within the trace that a traceparent names.
func (t *tracing) of(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// observe makes a span of each state that a task was in, and of each run.
func (t *tracing) observe(e controller.Event) {
	if e.Trace == "" {
		return
	}
	var name string
	switch {
	case e.Kind == controller.RunEnded:
		name = "run"
	case e.Kind == controller.TaskMoved && e.From != "":
		name = "task " + string(e.From)
	default:
		return
	}
	_, span := t.tracer.Start(t.of(context.Background(), e.Trace), name, trace.WithTimestamp(e.Time.Add(-e.Elapsed)), trace.WithAttributes(
		attribute.String("pipegen.run", e.Run), attribute.String("pipegen.task", e.Task), attribute.String("pipegen.image", e.Image),
		attribute.String("pipegen.build", e.Build), attribute.String("pipegen.runner", e.Runner), attribute.String("pipegen.submitter", e.Submitter),
		attribute.String("pipegen.state", string(e.To)), attribute.Int("pipegen.attempt", e.Attempt)))
	if e.To == api.Failed || e.To == api.Lost {
		span.SetStatus(codes.Error, quote.Text(e.Reason))
	}
	span.End(trace.WithTimestamp(e.Time))
}
