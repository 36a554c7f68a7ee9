package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pipegen/pipegen/pkg/controller"
)

// Metrics counts what the controller does, for Prometheus. No label holds what
// a submitter chooses, so that their number stays small.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	readers  prometheus.Gauge
	runs     *prometheus.CounterVec
	runTook  *prometheus.HistogramVec
	tasks    *prometheus.CounterVec
	inState  *prometheus.HistogramVec
	logLines prometheus.Counter
	logBytes prometheus.Counter
}

// NewMetrics makes metrics, with those of the process and of Go.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pipegen_http_requests_total", Help: "Requests by route, method and status."}, []string{"route", "method", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pipegen_http_request_seconds", Help: "How long requests took; streams of logs are left out.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"route", "method"}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pipegen_log_readers", Help: "Readers of logs that are connected."}),
		runs:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pipegen_runs_total", Help: "Runs by what became of them; state queued: that were made."}, []string{"state"}),
		runTook: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pipegen_run_seconds", Help: "From making a run to its end.", Buckets: durations,
		}, []string{"state"}),
		tasks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pipegen_task_transitions_total", Help: "Changes of tasks' states."}, []string{"runner", "from", "to"}),
		inState: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pipegen_task_state_seconds", Help: "How long tasks were in a state that they left.", Buckets: durations,
		}, []string{"runner", "state"}),
		logLines: prometheus.NewCounter(prometheus.CounterOpts{Name: "pipegen_log_lines_total", Help: "Lines of logs that agents brought."}),
		logBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "pipegen_log_bytes_total", Help: "Bytes of logs that agents brought."}),
	}
	m.registry.MustRegister(m.requests, m.took, m.readers, m.runs, m.runTook, m.tasks, m.inState, m.logLines, m.logBytes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return m
}

// durations are those of builds, in seconds.
var durations = []float64{.1, .5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400}

// Observe counts an event of the controller. It is for controller.Options.
func (m *Metrics) Observe(e controller.Event) {
	switch e.Kind {
	case controller.RunCreated:
		m.runs.WithLabelValues("queued").Inc()
	case controller.RunEnded:
		m.runs.WithLabelValues(string(e.To)).Inc()
		m.runTook.WithLabelValues(string(e.To)).Observe(e.Elapsed.Seconds())
	case controller.TaskMoved:
		m.tasks.WithLabelValues(e.Runner, string(e.From), string(e.To)).Inc()
		if e.From != "" {
			m.inState.WithLabelValues(e.Runner, string(e.From)).Observe(e.Elapsed.Seconds())
		}
	case controller.LogAppended:
		m.logLines.Add(float64(e.Lines))
		m.logBytes.Add(float64(e.Bytes))
	}
}

// Watch has the queue asked whenever metrics are read.
func (m *Metrics) Watch(queue func(context.Context) (controller.QueueStats, error)) {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"runner"}, nil)
	}
	m.registry.MustRegister(&queueCollector{
		queue:   queue,
		ready:   describe("pipegen_queue_ready", "Tasks that could start if there were a place, by runner; publications have none."),
		waiting: describe("pipegen_queue_waiting", "Tasks that wait for others."),
		active:  describe("pipegen_queue_active", "Tasks that have a place."),
		oldest:  describe("pipegen_queue_oldest_seconds", "Age of the oldest task that could start."),
	})
}

type queueCollector struct {
	queue                          func(context.Context) (controller.QueueStats, error)
	ready, waiting, active, oldest *prometheus.Desc
}

func (c *queueCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.ready, c.waiting, c.active, c.oldest} {
		out <- d
	}
}

func (c *queueCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stats, err := c.queue(ctx)
	if err != nil {
		return // what cannot be known is left out
	}
	for runner, q := range stats {
		for desc, value := range map[*prometheus.Desc]float64{
			c.ready: float64(q.Ready), c.waiting: float64(q.Waiting), c.active: float64(q.Active), c.oldest: q.Oldest.Seconds(),
		} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, runner)
		}
	}
}

// request counts an answer; route is the path as the interface names it.
func (m *Metrics) request(route, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if route != "" && !streams[route] {
		m.took.WithLabelValues(route, method).Observe(took.Seconds())
	}
}

// streams are the routes whose answers go on for as long as somebody reads.
var streams = map[string]bool{"/v1/runs/{run}/logs": true, "/build/{run}/logs": true}
