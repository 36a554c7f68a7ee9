package controller

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Options are what a controller works with.
type Options struct {
	Store *store.Store
	Blobs blob.Store
	// By name: local, kubernetes, ecs.
	Launchers map[string]runner.Launcher
	// Launcher of runs that name none.
	Default string
	// Launchers whose agents are on this machine: each controller has as many
	// places there as the limit says. Those of others are shared.
	Local []string
	// Publish joins the builds of an image, in the order of the plan, and tags
	// the index, with the run's credentials; log takes lines for the run's log,
	// level being info, warning or error.
	Publish func(ctx context.Context, p *plan.Plan, img *plan.Image, results []plan.Result, creds []api.Credential,
		log func(level, msg string)) (plan.Published, error)
	// Refuses, as failure.ErrInput, what builds of a submitter may not name of what
	// AWS keeps, by ARN; nil: they may name anything.
	MayName func(submitter string, arns []string) error
	// Reads what AWS keeps, by ARN; nil: this controller does not.
	Stored func(ctx context.Context, arns []string) (map[string]string, error)
	// Says whether agents of a runner read that in its place, by their own role;
	// nil: they do not.
	AgentsRead func(runner string) bool
	// How agents reach this controller.
	URL string
	// Name of this process among those that share the store. One that starts
	// under the name of another takes its tasks over at once.
	Instance string
	Limits   Limits
	// Seals credentials and secrets at rest.
	Keys Sealer
	// Default: time.Now. Durations are measured by the monotonic clock.
	Now    func() time.Time
	Logger *slog.Logger
	// Is told what happens; must return at once. May be nil.
	Observe func(Event)
}

// Limits of a controller. What is 0 has the default.
type Limits struct {
	// Tasks at once by runner; a runner that is not named has no limit.
	Runner map[string]int
	// Tasks at once of one submitter on all runners, where its Grant says nothing;
	// 0: no limit.
	Submitter int
	// Images that this controller publishes at once; default 8.
	Publishing int
	// From asking a runner for an agent to its claim; default 10 minutes.
	Start time.Duration
	// Since the last word of an agent; default 2 minutes.
	Silence time.Duration
	// Of runs and builds that name none; default 24 hours.
	Total time.Duration
	// At a task that the machinery lost; default 3.
	Attempts int
	// Before a second attempt, doubled before each further one; default 5 seconds.
	Backoff time.Duration
	// Between heartbeats of an agent; default 10 seconds.
	Heartbeat time.Duration
	// Without a sign of life of another controller until its tasks are taken over; default 30 seconds.
	Lease time.Duration
	// Most bytes of a task's log; default 1 GiB.
	LogBytes int64
	// Since the last use of a context; also for the sealed credentials of ended
	// runs, without which they cannot be tried again; default 7 days.
	KeepContexts time.Duration
	// Since the end of the run; default 30 days.
	KeepLogs time.Duration
	// Since the end of the run; default 90 days.
	KeepRuns time.Duration
}

func (l Limits) withDefaults() Limits {
	l.Publishing = cmp.Or(l.Publishing, 8)
	l.Start = cmp.Or(l.Start, 10*time.Minute)
	l.Silence = cmp.Or(l.Silence, 2*time.Minute)
	l.Total = cmp.Or(l.Total, 24*time.Hour)
	l.Attempts = cmp.Or(l.Attempts, 3)
	l.Backoff = cmp.Or(l.Backoff, 5*time.Second)
	l.Heartbeat = cmp.Or(l.Heartbeat, 10*time.Second)
	l.Lease = cmp.Or(l.Lease, 30*time.Second)
	l.LogBytes = cmp.Or(l.LogBytes, 1<<30)
	l.KeepContexts = cmp.Or(l.KeepContexts, 7*24*time.Hour)
	l.KeepLogs = cmp.Or(l.KeepLogs, 30*24*time.Hour)
	l.KeepRuns = cmp.Or(l.KeepRuns, 90*24*time.Hour)
	return l
}

// Event tells metrics and traces what happened.
type Event struct {
	Kind EventKind
	Time time.Time
	Run  string
	// W3C traceparent of the request that made the run.
	Trace              string
	Task, Image, Build string
	Runner, Submitter  string
	From, To           api.State
	Reason             string
	Attempt            int
	// How long it was in From; of a run: since it was made.
	Elapsed time.Duration
	// Of a log.
	Lines, Bytes int64
}

// EventKind says what an event is about.
type EventKind int

// The kinds of event.
const (
	RunCreated  EventKind = iota
	RunEnded              // To, Elapsed
	TaskMoved             // From, To, Reason, Elapsed
	LogAppended           // Lines, Bytes
)

// Submission asks for a run.
type Submission struct {
	Request   api.RunRequest
	Submitter string
	// By which the same submission sent twice gives one run; may be empty.
	IdempotencyKey string
	// W3C traceparent; may be empty.
	Trace string
	Grant Grant
}

// Filter chooses runs for a list.
type Filter struct {
	// Any of these; none: all.
	States    []api.State
	Submitter string
	// Name of an image.
	Image string
	// All of these.
	Labels map[string]string
	// Most runs of a page; default 50, at most 200.
	Limit int
	// Next of the page before.
	After string
}

// LogChunk is a piece of a run's log.
type LogChunk struct {
	// Seq of the first line.
	First int64
	Count int
	// An api.LogLine a line. Encoded once and shared by all readers: not to be changed.
	NDJSON []byte
}

// QueueStats says what waits, by runner; publications are under "".
type QueueStats map[string]RunnerQueue

// RunnerQueue says what waits for one runner.
type RunnerQueue struct {
	// Tasks that could start if there were a place, and those that wait for others.
	Ready, Waiting int
	// Tasks that have a place.
	Active int
	// Age of the oldest that could start.
	Oldest time.Duration
}
